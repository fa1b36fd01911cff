import { MigrationError } from '../../errors.ts';
import { ReturnMessage } from './migration-stream.ts';

/** What a destination QEMU says on its incoming socket. */
export type ReturnPathMessage =
  /** It is done: `error` is 0 if everything was loaded. */
  | { readonly kind: 'shut'; readonly error: number }
  /** It has applied everything up to the PING with this value. */
  | { readonly kind: 'pong'; readonly value: number }
  /** Its devices are ready for a switchover; comes only if that capability is set there. */
  | { readonly kind: 'switchoverAck' };

/** QEMU itself takes no longer ones. */
const PAYLOAD_BYTES_MAX = 512;

/** Reads the return path out of chunks that are cut anywhere. */
export class ReturnPathParser {
  #held: Buffer = Buffer.alloc(0);

  /** The messages that are complete with this chunk. Throws `hypervisor` if it is none that QEMU sends. */
  push(chunk: Uint8Array): ReturnPathMessage[] {
    let bytes = this.#held.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#held, chunk]);
    const messages: ReturnPathMessage[] = [];
    while (bytes.length >= 4) {
      const type = bytes.readUInt16BE(0);
      const length = bytes.readUInt16BE(2);
      if (length > PAYLOAD_BYTES_MAX) throw unknown(type, length);
      if (bytes.length < 4 + length) break;
      messages.push(messageOf(type, bytes.subarray(4, 4 + length)));
      bytes = bytes.subarray(4 + length);
    }
    this.#held = bytes;
    return messages;
  }
}

function messageOf(type: number, payload: Buffer): ReturnPathMessage {
  if (type === ReturnMessage.shut && payload.length === 4) {
    return { kind: 'shut', error: payload.readUInt32BE(0) };
  }
  if (type === ReturnMessage.pong && payload.length === 4) {
    return { kind: 'pong', value: payload.readUInt32BE(0) };
  }
  if (type === ReturnMessage.switchoverAck && payload.length === 0) return { kind: 'switchoverAck' };
  throw unknown(type, payload.length);
}

function unknown(type: number, length: number): MigrationError {
  return new MigrationError('hypervisor', `QEMU's return path: unknown message ${type} of ${length} bytes`);
}
