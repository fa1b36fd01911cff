/** Two hosts for the tests of transports, and what is done with them again and again. */
import assert from 'node:assert/strict';
import type { ErrorCode } from '../../src/errors.ts';
import type { Connection, Transport } from '../../src/interfaces/transport.ts';
import { joinChunks } from '../../src/util/chunks.ts';

/** Two hosts and the network between them. */
export interface TransportPair {
  /** Opens connections. */
  readonly source: Transport;
  /** Accepts them. */
  readonly destination: Transport;
  /** Resolves when nothing has moved by itself for a while. */
  settle(): Promise<void>;
  /** Frees everything. */
  close(): Promise<void>;
}

/** Two hosts and a network that can be broken. */
export interface BreakablePair extends TransportPair {
  /** Breaks every connection, at both ends. */
  cut(): void;
}

/** The test function of any runner. */
export type TestFunction = (name: string, run: () => Promise<void>) => void;

/** More than any transport may take for a peer that does not read. */
const bufferedBytesMax = 64 * 1024 * 1024;

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

/** Cuts bytes into pieces of 0 to 200,000 bytes, most of them small. */
export function pieces(bytes: Uint8Array, seed: number): Uint8Array[] {
  const sizes = new Uint32Array(randomBytes(4096, seed).buffer);
  const parts: Uint8Array[] = [];
  for (let at = 0, turn = 0; at < bytes.byteLength; turn++) {
    const random = sizes[turn % sizes.length] ?? 0;
    const length = random % (random & 0x10000 ? 200_000 : 300);
    parts.push(bytes.subarray(at, at + length));
    at += length;
  }
  return parts;
}

/** All that arrives until the end. */
export async function collect(connection: Connection): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of connection.receive()) chunks.push(chunk);
  return joinChunks(chunks);
}

/** Sends until `send()` does not resolve any more; the send that waits, and the bytes that were taken. */
export async function fill(
  connection: Connection,
  pair: TransportPair,
): Promise<{ waiting: Promise<void>; bytes: number }> {
  const chunk = new Uint8Array(64 * 1024).fill(1);
  for (let bytes = 0; bytes < bufferedBytesMax; ) {
    let full = true;
    const waiting = connection.send([chunk]);
    bytes += chunk.byteLength;
    waiting.then(
      () => (full = false),
      () => {},
    );
    await Promise.resolve();
    if (full) await pair.settle();
    if (full) return { waiting, bytes };
  }
  return assert.fail('the sender was never held back');
}

/** A connection, both ends of it. */
export async function connect(pair: TransportPair): Promise<{ near: Connection; far: Connection }> {
  const [near, far] = await Promise.all([pair.source.open(), pair.destination.accept()]);
  return { near, far };
}

/** The transport, which notes each connection that it gives. */
export function remembering(transport: Transport, connections: Connection[]): Transport {
  const note = (connection: Connection) => {
    connections.push(connection);
    return connection;
  };
  return {
    capabilities: transport.capabilities,
    paths: transport.paths,
    open: (options) => transport.open(options).then(note),
    accept: (options) => transport.accept(options).then(note),
    close: () => transport.close(),
  };
}
