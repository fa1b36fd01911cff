import type { Socket } from 'node:net';
import { breakIfDue } from './breaks.ts';

/**
 * Has a connected socket read to where `room` says, as one does that was made with the option `onread`; `filled` is told how much. Node takes that of who connects, but neither for a socket that a server accepted
 * nor for TLS above a socket. So this does what the option would have done, in fields that Node's documentation does not name: where they are not there, the
 * socket stays as it is, and reads as Node likes.
 */
export function readInto(socket: Socket, room: () => Uint8Array, filled: (bytes: number) => void): void {
  const fields = Object.getOwnPropertySymbols(socket);
  const [buffer, bufferCb, bufferGen] = ['kBuffer', 'kBufferCb', 'kBufferGen'].map((name) =>
    fields.find(({ description }) => description === name),
  );
  const inner = socket as unknown as Record<symbol, unknown> & {
    readonly _handle?: { readonly useUserBuffer?: (room: Uint8Array) => void } | null;
  };
  const handle = inner._handle;
  if (buffer === undefined || bufferCb === undefined || bufferGen === undefined) return;
  if (typeof handle?.useUserBuffer !== 'function') return;
  const first = room();
  inner[buffer] = first;
  inner[bufferGen] = room;
  inner[bufferCb] = (bytes: number) => {
    breakIfDue();
    filled(bytes);
    return true;
  };
  handle.useUserBuffer(first);
}
