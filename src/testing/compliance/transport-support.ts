/** What the tests of transports do again and again. */
import type { Connection, Transport } from '../../interfaces/transport.ts';
import { joinChunks } from '../../util/chunks.ts';
import { watch } from './check.ts';
import type { TransportFixture } from './transport.ts';

/** More than any transport may take for a peer that does not read. */
const bufferedBytesMax = 64 * 1024 * 1024;

/** All that arrives until the end. */
export async function collect(connection: Connection): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of connection.receive()) chunks.push(chunk);
  return joinChunks(chunks);
}

/** The next `length` bytes and what came with them; the connection is not received from again. */
export async function receiveBytes(connection: Connection, length: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of connection.receive()) {
    chunks.push(chunk);
    bytes += chunk.byteLength;
    if (bytes >= length) break;
  }
  return joinChunks(chunks);
}

/** Sends until `send()` does not resolve any more; the send that waits, and the bytes that were taken. */
export async function fill(
  connection: Connection,
  pair: TransportFixture,
): Promise<{ readonly waiting: Promise<void>; readonly bytes: number }> {
  const chunk = new Uint8Array(64 * 1024).fill(1);
  for (let bytes = chunk.byteLength; bytes <= bufferedBytesMax; bytes += chunk.byteLength) {
    const sending = watch(connection.send([chunk]));
    // A send that need not wait resolves within a few turns, also through a wrapper or two.
    for (let turn = 0; turn < 20 && !sending.settled; turn += 1) await Promise.resolve();
    if (!sending.settled) await pair.settle();
    if (!sending.settled) return { waiting: sending.promise, bytes };
  }
  throw new Error(`send() took ${bufferedBytesMax} bytes for a peer that reads nothing: it never holds back`);
}

/** A connection, both ends of it. */
export async function connect(
  pair: TransportFixture,
): Promise<{ readonly near: Connection; readonly far: Connection }> {
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
