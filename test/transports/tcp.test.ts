// Goal: the TCP transport keeps the transport contract over real sockets, and its own promises about
// addresses, errors and limits.
// Method: the contract runs over loopback, its part about breaking through a relay that can be cut; the rest
// is asked of real sockets too.
import { connect as connectSocket, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type TcpTransport, tcp } from '../../src/transports/tcp.ts';
import { breakContract, transportContract } from './transport-contract.ts';
import { type BreakablePair, collect, connect, rejectsWith, type TransportPair } from './transport-pair.ts';

const host = '127.0.0.1';

async function loopback(): Promise<TransportPair & { destination: TcpTransport; port: number }> {
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
async function relayed(): Promise<BreakablePair> {
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

describe('tcp keeps the contract', () => {
  transportContract(test, loopback);
  breakContract(test, relayed);
});

describe('tcp', () => {
  test('refuses options that make no sense', () => {
    const invalid = expect.objectContaining({ code: 'invalid-argument' });
    expect(() => tcp({})).toThrow(invalid);
    for (const port of [-1, 65536, 1.5, Number.NaN]) {
      expect(() => tcp({ listen: { host, port } })).toThrow(invalid);
      expect(() => tcp({ connect: { host, port } })).toThrow(invalid);
    }
    expect(() => tcp({ connect: { host, port: 0 } })).toThrow(invalid);
    expect(() => tcp({ connect: { host: '', port: 1 } })).toThrow(invalid);
    expect(() => tcp({ connect: { host, port: 1, localAddress: 'eth0' } })).toThrow(invalid);
  });

  test('declares what it was not given an address for', async () => {
    const dialler = tcp({ connect: { host, port: 1 } });
    const listener = tcp({ listen: { host, port: 0 } });
    expect(dialler.capabilities).toEqual({ open: true, accept: false });
    expect(listener.capabilities).toEqual({ open: false, accept: true });
    await rejectsWith(dialler.accept(), 'unsupported');
    await rejectsWith(dialler.listening(), 'unsupported');
    await rejectsWith(listener.open(), 'unsupported');
    await rejectsWith(dialler.open({ path: 1 }), 'invalid-argument');
    await Promise.all([dialler.close(), listener.close()]);
    await rejectsWith(dialler.open(), 'connect-failed');
    await rejectsWith(listener.listening(), 'connect-failed');
  });

  test('says where it could not connect to, and why, for one address and for several', async () => {
    const pair = await loopback();
    await pair.close();
    for (const name of [host, 'localhost']) {
      await expect(tcp({ connect: { host: name, port: pair.port } }).open()).rejects.toMatchObject({
        code: 'connect-failed',
        message: expect.stringMatching(new RegExp(`${name}:${pair.port}.*ECONNREFUSED`)),
      });
    }
  });

  test('says where it could not listen, and tries again', async () => {
    const first = await loopback();
    const second = tcp({ listen: { host, port: first.port } });
    await expect(second.accept()).rejects.toMatchObject({
      code: 'connect-failed',
      message: expect.stringMatching(new RegExp(`${host}:${first.port}.*EADDRINUSE`)),
    });
    await first.close();
    expect(await second.listening()).toEqual({ host, port: first.port });
    await second.close();
  });

  test('can be closed while it is about to listen', async () => {
    const listener = tcp({ listen: { host: 'localhost', port: 0 } });
    const listening = listener.listening();
    const refused = rejectsWith(listening, 'connect-failed');
    await listener.close();
    await refused;
  });

  test('frees its port with close(), although accepted connections live on', async () => {
    const pair = await loopback();
    const { near, far } = await connect(pair);
    await pair.close();
    const next = tcp({ listen: { host, port: pair.port } });
    expect((await next.listening()).port).toBe(pair.port);
    await Promise.all([next.close(), near.close(), collect(far)]);
  });

  test('starts to listen with the first accept()', async () => {
    const { port, close } = await loopback();
    await close();
    const destination = tcp({ listen: { host, port } });
    const accepting = destination.accept();
    expect((await destination.listening()).port).toBe(port);
    const near = await tcp({ connect: { host, port } }).open();
    await Promise.all([near.close(), collect(await accepting)]);
    await destination.close();
  });

  test('takes the local address that it is given, and names both ends', async () => {
    const { destination, port, close } = await loopback();
    const source = tcp({ connect: { host, port, localAddress: '127.0.0.2' } });
    const { near, far } = await connect({ ...(await loopback()), source, destination });
    expect(near.label).toBe(`tcp to ${host}:${port}`);
    expect(far.label).toMatch(/^tcp from 127\.0\.0\.2:\d+$/);
    await Promise.all([near.close(), collect(far)]);
    await close();
  });

  test('lets 64 connections wait and drops the others', async () => {
    const pair = await loopback();
    let lost = 0;
    const sixLost = new Promise<void>((resolve) => {
      const dial = async () => collect(await pair.source.open());
      for (let index = 0; index < 70; index++) {
        dial().catch(() => {
          lost += 1;
          if (lost === 6) resolve();
        });
      }
    });
    await sixLost;
    for (let index = 0; index < 64; index++) (await pair.destination.accept()).abort();
    await pair.close();
  });
});
