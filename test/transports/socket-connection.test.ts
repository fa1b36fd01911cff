// Goal: what waits for a consumer is bounded however a peer cuts it.
// Method: a socket of our own making, fed until it is paused.
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { expect, test } from 'vitest';
import { BlockPool, ReadBlocks } from '../../src/transports/read-blocks.ts';
import { SocketConnection } from '../../src/transports/socket-connection.ts';
import { SocketReader } from '../../src/transports/socket-reader.ts';

for (const [size, chunksMax] of [
  [64 * 1024, 4],
  [1, 1100],
] as const) {
  test(`holds ${chunksMax} chunks of ${size} bytes at most, and goes on later`, async () => {
    const socket = new Duplex({ read: () => {}, write: (_chunk, _encoding, done) => done() });
    // It cannot be made to read into blocks, and is read all the same.
    const reader = new SocketReader(new ReadBlocks(new BlockPool()), true);
    const connection = new SocketConnection(socket as unknown as Socket, 'a socket', undefined, reader);
    // A stream begins to flow in the turn after it was asked to.
    await new Promise((resolve) => setImmediate(resolve));
    let chunks = 0;
    for (; !socket.isPaused() && chunks <= chunksMax; chunks++) socket.push(Buffer.alloc(size));
    expect(socket.isPaused()).toBe(true);
    expect(chunks).toBeLessThanOrEqual(chunksMax);
    let taken = 0;
    for await (const chunk of connection.receive()) {
      taken += chunk.byteLength;
      if (taken === chunks * size) break;
    }
    expect(socket.isPaused()).toBe(false);
  });
}
