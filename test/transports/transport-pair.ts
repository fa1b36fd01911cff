/** What is done in tests of transports again and again. */
import assert from 'node:assert/strict';
import type { ErrorCode } from '../../src/errors.ts';
import type { Connection, Transport } from '../../src/interfaces/transport.ts';
import { joinChunks } from '../../src/util/chunks.ts';

export type { TestFunction } from '../../src/testing/compliance/test-function.ts';
export type { BreakablePair, TransportPair } from './transport-contract.ts';

export const rejectsWith = (promise: Promise<unknown>, code: ErrorCode) =>
  assert.rejects(promise, { name: 'MigrationError', code });

/** Bytes that are different everywhere, and the same for the same seed. */
export function randomBytes(length: number, seed: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed >>> 0 || 1;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

/** All that arrives until the end. */
export async function collect(connection: Connection): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of connection.receive()) chunks.push(chunk);
  return joinChunks(chunks);
}

/** A connection, both ends of it. */
export async function connect(pair: {
  readonly source: Transport;
  readonly destination: Transport;
}): Promise<{ near: Connection; far: Connection }> {
  const [near, far] = await Promise.all([pair.source.open(), pair.destination.accept()]);
  return { near, far };
}

/**
 * Carries 32 MiB each way, at the same time. Each end keeps the last three chunks, checks that they are still what was sent, and only then gives them back. Resolves to the number of
 * buffers that each end read into.
 */
export async function memoriesReadInto(pair: Parameters<typeof connect>[0]): Promise<number[]> {
  const { near, far } = await connect(pair);
  const content = randomBytes(1 << 20, 7);
  const total = 32 * content.byteLength;
  const send = async (connection: Connection) => {
    for (let sent = 0; sent < total; sent += content.byteLength) await connection.send([content]);
  };
  const receive = async (connection: Connection) => {
    const memories = new Set<ArrayBufferLike>();
    const kept: Uint8Array[] = [];
    let received = 0;
    let checked = 0;
    const giveBackOne = () => {
      const chunk = kept.shift() ?? assert.fail('nothing is kept');
      for (let at = 0; at < chunk.byteLength; ) {
        const from = checked % content.byteLength;
        const length = Math.min(chunk.byteLength - at, content.byteLength - from);
        const piece = chunk.subarray(at, at + length);
        assert.equal(Buffer.compare(piece, content.subarray(from, from + length)), 0, `${checked} bytes on`);
        at += length;
        checked += length;
      }
      chunk.fill(0);
      connection.recycle?.(chunk);
    };
    for await (const chunk of connection.receive()) {
      memories.add(chunk.buffer);
      received += chunk.byteLength;
      kept.push(chunk);
      if (kept.length > 3) giveBackOne();
      if (received === total) break;
    }
    while (kept.length > 0) giveBackOne();
    return memories.size;
  };
  const [, , ...sizes] = await Promise.all([send(near), send(far), receive(near), receive(far)]);
  near.abort();
  far.abort();
  return sizes;
}
