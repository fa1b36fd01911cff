/** Two hosts on this machine, with TCP between them. */
import { connect as connectSocket, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BreakableTransportFixture, TransportFixture } from '../../src/testing/index.ts';
import { type TcpTransport, tcp } from '../../src/transports/tcp.ts';

export const host = '127.0.0.1';

export async function loopback(): Promise<TransportFixture & { destination: TcpTransport; port: number }> {
  const destination = tcp({ listen: { host, port: 0 } });
  const { port } = await destination.listening();
  const source = tcp({ connect: { host, port } });
  const close = async () => {
    await Promise.all([source.close(), destination.close()]);
  };
  // In small steps: one long sleep on a busy machine may leave no turn to what should have moved in it.
  const settle = async () => {
    for (let step = 0; step < 20; step++) await sleep(5);
  };
  return { source, destination, port, settle, close };
}

/** Loopback through a relay, which resets all that it carries when it is cut. */
export async function relayed(): Promise<BreakableTransportFixture> {
  const pair = await loopback();
  const sockets = new Set<Socket>();
  const relay = createServer({ allowHalfOpen: true }, (inbound) => {
    const outbound = connectSocket({ host, port: pair.port, allowHalfOpen: true });
    for (const [from, to] of [
      [inbound, outbound],
      [outbound, inbound],
    ] as const) {
      sockets.add(from);
      from.on('error', () => to.resetAndDestroy());
      from.on('close', () => sockets.delete(from));
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve) => relay.listen(0, host, resolve));
  const address = relay.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const source = tcp({ connect: { host, port: address.port } });
  return {
    ...pair,
    source,
    cut: () => {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    close: async () => {
      relay.close();
      for (const socket of sockets) socket.destroy();
      await Promise.all([source.close(), pair.close()]);
    },
  };
}
