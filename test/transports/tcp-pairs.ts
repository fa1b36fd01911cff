/** Two hosts on this machine, with TCP between them. */
import { connect as connectSocket, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BreakableTransportFixture, TransportFixture } from '../../src/testing/index.ts';
import type { TcpTransport } from '../../src/transports/socket-transport.ts';
import { tcp } from '../../src/transports/tcp.ts';

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

/** A relay to a port of this machine, which resets all that it carries when it is cut. */
export async function relayTo(port: number): Promise<{ port: number; cut(): void; close(): void }> {
  const sockets = new Set<Socket>();
  const relay = createServer({ allowHalfOpen: true }, (inbound) => {
    const outbound = connectSocket({ host, port, allowHalfOpen: true });
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
  return {
    port: address.port,
    cut: () => {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    close: () => {
      relay.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Loopback through a relay. */
export async function relayed(): Promise<BreakableTransportFixture> {
  const pair = await loopback();
  const relay = await relayTo(pair.port);
  const source = tcp({ connect: { host, port: relay.port } });
  return {
    ...pair,
    source,
    cut: relay.cut,
    close: async () => {
      relay.close();
      await Promise.all([source.close(), pair.close()]);
    },
  };
}
