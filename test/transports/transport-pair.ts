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
