// Goal: the TCP transport keeps its own promises about addresses, errors and limits; those of every transport
// are tested in test/testing/compliance. Method: real sockets of this machine.
import { describe, expect, test } from 'vitest';
import { tcp } from '../../src/transports/tcp.ts';
import { host, loopback } from './tcp-pairs.ts';
import { collect, connect, memoriesReadInto, rejectsWith } from './transport-pair.ts';

describe('tcp', () => {
  test('refuses options that make no sense', () => {
    const invalid = expect.objectContaining({ code: 'invalid-argument' });
    expect(() => tcp({})).toThrow(invalid);
    for (const port of [-1, 65536, 1.5, Number.NaN]) {
      expect(() => tcp({ listen: { host, port } })).toThrow(invalid);
      expect(() => tcp({ connect: { host, port } })).toThrow(invalid);
    }
    expect(() => tcp({ connect: { host, port: 0 } })).toThrow(invalid);
    expect(() => tcp({ paths: [] })).toThrow(invalid);
    expect(() => tcp({ paths: [{ host, port: 1 }], connect: { host, port: 1 } })).toThrow(invalid);
    expect(() =>
      tcp({
        paths: [
          { host, port: 1 },
          { host, port: 0 },
        ],
      }),
    ).toThrow(invalid);
    expect(() => tcp({ connect: { host: '', port: 1 } })).toThrow(invalid);
    expect(() => tcp({ connect: { host, port: 1, localAddress: 'eth0' } })).toThrow(invalid);
  });

  test('reads into the same memory again and again when it is given back, at the end that connects and at the one that listens', async () => {
    const pair = await loopback();
    // Reads of 64 KiB would be 512.
    for (const memories of await memoriesReadInto(pair)) expect(memories).toBeLessThanOrEqual(12);
    await pair.close();
  });

  test('takes the path that it is told to, from the address that is its own', async () => {
    const listener = tcp({ listen: { host: '0.0.0.0', port: 0 } });
    const { port } = await listener.listening();
    const paths = [
      { host, port, localAddress: '127.0.0.1' },
      { host: '127.0.0.2', port, localAddress: '127.0.0.3' },
    ];
    const dialler = tcp({ paths });
    expect(dialler.paths).toBe(2);
    for (const [path, { localAddress }] of paths.entries()) {
      const [near, far] = await Promise.all([dialler.open({ path }), listener.accept()]);
      expect(near.label).toContain(`to ${paths[path]?.host}:${port}`);
      expect(far.label).toContain(`from ${localAddress}:`);
      near.abort();
      far.abort();
    }
    await rejectsWith(dialler.open({ path: 2 }), 'invalid-argument');
    await Promise.all([dialler.close(), listener.close()]);
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

  test('abort() settles a close() whenever it comes in a turn of the event loop', async () => {
    const pair = await loopback();
    const later: (() => Promise<void>)[] = [
      () => new Promise((resolve) => process.nextTick(() => process.nextTick(resolve))),
      () => new Promise((resolve) => setImmediate(resolve)),
    ];
    for (const wait of later) {
      const { near, far } = await connect(pair);
      await near.send([Uint8Array.of(1)]);
      const closing = near.close();
      await wait();
      near.abort();
      await closing;
      far.abort();
      await far.close();
    }
    await pair.close();
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
