import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  NbdClient,
  type NbdClientOptions,
  type NbdExtent,
  nbdErrorName,
} from '../../src/backends/nbd/nbd-client.ts';
import { type NbdExport, NbdServer, type NbdServerOptions } from '../../src/backends/nbd/nbd-server.ts';
import { MigrationError } from '../../src/errors.ts';
import { codeOf, MemoryDisk, pathOf, pattern, privateDirectory } from './nbd-fixtures.ts';

/**
 * Goal: our NBD client and our NBD server do together what their contracts say. Method: the server serves a
 * disk in memory whose calls take effect when they are made, so that a plain array, changed in the order in
 * which the client's calls were made, says what every read must return, also when nobody waited in between.
 * What each of them does with QEMU at the other end is in nbd-qemu.test.ts, and with a peer that breaks the
 * protocol in nbd-violations.test.ts.
 */

const MIB = 1024 * 1024;
let directory: ReturnType<typeof privateDirectory>;
let opened: (NbdClient | NbdServer)[] = [];
let sockets = 0;

beforeEach(() => {
  directory = privateDirectory();
  opened = [];
});

afterEach(async () => {
  for (const one of opened.reverse()) {
    if (one instanceof NbdClient) one.abort(new MigrationError('aborted', 'end of the test'));
    else await one.close();
  }
  directory.remove();
});

type ListenOptions = Partial<NbdExport & Omit<NbdServerOptions, 'exports'>>;

async function listen(disk: MemoryDisk, options: ListenOptions = {}): Promise<NbdServer> {
  sockets += 1;
  const address = { path: join(directory.path, `s${sockets}`) };
  const served = { sizeBytes: disk.bytes.length, handler: disk, ...options };
  const server = await NbdServer.listen({ address, exports: [served], ...options });
  opened.push(server);
  return server;
}

async function dial(server: NbdServer, options: Partial<NbdClientOptions> = {}): Promise<NbdClient> {
  const client = await NbdClient.connect({ path: pathOf(server), exportName: '', ...options });
  opened.push(client);
  return client;
}

async function pair(sizeBytes: number, options: ListenOptions = {}, inFlightMax = 16) {
  const disk = new MemoryDisk(sizeBytes);
  const server = await listen(disk, options);
  const client = await dial(server, { inFlightMax });
  return { disk, server, client };
}

/** Resolves when the condition holds; the test's own time limit ends it. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(1);
}

/** A promise to be settled by hand. */
function gate(): { readonly promise: Promise<void>; open(): void } {
  let open: () => void = () => {};
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

describe('what the handshake settles', () => {
  it('tells the client the size, the block sizes and what the export can do', async () => {
    const { client, disk } = await pair(3 * MIB + 17);
    expect(client.sizeBytes).toBe(3 * MIB + 17);
    expect(client.blockBytes).toEqual({ minimum: 1, preferred: 4096, maximum: MIB });
    const { readOnly, canFlush, canTrim, canWriteZeroes, canFua, canMultiConn, canFastZero, canBlockStatus } =
      client;
    expect({
      readOnly,
      canFlush,
      canTrim,
      canWriteZeroes,
      canFua,
      canMultiConn,
      canFastZero,
      canBlockStatus,
    }).toEqual({
      readOnly: false,
      canFlush: true,
      canTrim: true,
      canWriteZeroes: true,
      canFua: true,
      canMultiConn: true,
      canFastZero: false,
      canBlockStatus: true,
    });
    expect(disk.connects).toBe(1);
  });

  it('offers only what the handler has', async () => {
    const disk = new MemoryDisk(4096);
    const { write, writeZeroes, flush, disconnected } = disk;
    const handler = {
      write,
      writeZeroes,
      flush,
      disconnected,
      calls: disk.calls,
      bytes: disk.bytes,
      gone: disk.gone,
    };
    const client = await dial(await listen(disk, { handler, connectionsMax: 1 }));
    expect([client.canTrim, client.canBlockStatus, client.canMultiConn]).toEqual([false, false, false]);
    expect(await codeOf(client.trim(0, 4096))).toBe('unsupported');
    expect(await client.blockStatus(1, 9)).toEqual([{ offset: 1, length: 9, zero: false, hole: false }]);
    const refused = client.read(0, 1);
    expect(await codeOf(refused)).toBe('disk-read');
    expect(nbdErrorName(await refused.catch((error: unknown) => error))).toBe('EINVAL');
  });

  it('knows the export by its name and by none, and no other', async () => {
    const server = await listen(new MemoryDisk(4096), { exportName: 'disk0' });
    await dial(server, { exportName: 'disk0' });
    await dial(server, { exportName: '' });
    expect(await codeOf(dial(server, { exportName: 'disk1' }))).toBe('hypervisor');
    await until(() => server.connections === 2);
  });

  it('lets nobody write to a read-only export', async () => {
    const { client } = await pair(4096, { readOnly: true });
    expect([client.readOnly, client.canWriteZeroes, client.canTrim]).toEqual([true, false, false]);
    expect(await codeOf(client.write(0, [pattern(8, 1)]))).toBe('disk-write');
    expect(await codeOf(client.writeZeroes(0, 8))).toBe('disk-write');
    expect((await client.read(0, 8)).length).toBe(8);
  });
});

describe('reads and writes', () => {
  const SIZE = 20_000;
  const range = fc
    .tuple(fc.nat(SIZE), fc.nat(9_000))
    .map(([offset, length]) => ({ offset, length: Math.min(length, SIZE - offset) }));
  const operation = fc.record({
    kind: fc.constantFrom('read', 'write', 'write', 'zeroes', 'trim', 'status', 'flush', 'settle'),
    range,
    seed: fc.nat(1_000_000),
    cuts: fc.array(fc.nat(9_000), { maxLength: 4 }),
    fua: fc.boolean(),
  });

  function cutUp(bytes: Buffer, cuts: readonly number[]): Buffer[] {
    const edges = [
      0,
      ...[...cuts].sort((a, b) => a - b).map((cut) => Math.min(cut, bytes.length)),
      bytes.length,
    ];
    return edges.slice(1).map((edge, index) => bytes.subarray(edges[index], edge));
  }

  it('do what a plain array does, whatever overlaps and whoever waits for what', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(operation, { maxLength: 40 }),
        fc.constantFrom(1, 3, 16),
        fc.constantFrom(1024, 4096, MIB),
        fc.constantFrom(1, 4, 128),
        async (operations, clientMax, maximum, serverMax) => {
          const blockBytes = { minimum: 1, preferred: 1024, maximum };
          const { client, disk, server } = await pair(
            SIZE,
            { blockBytes, inFlightMax: serverMax },
            clientMax,
          );
          const model = Buffer.alloc(SIZE);
          const checks: Promise<void>[] = [];
          for (const { kind, range, seed, cuts, fua } of operations) {
            const { offset, length } = range;
            const end = offset + length;
            if (kind === 'read') {
              const expected = Buffer.from(model.subarray(offset, end));
              checks.push(client.read(offset, length).then((got) => expect(expected.equals(got)).toBe(true)));
            } else if (kind === 'write') {
              const bytes = pattern(length, seed);
              bytes.copy(model, offset);
              checks.push(client.write(offset, cutUp(bytes, cuts), { fua }));
            } else if (kind === 'zeroes') {
              model.fill(0, offset, end);
              checks.push(client.writeZeroes(offset, length, { punchHole: fua }));
            } else if (kind === 'trim') {
              model.fill(0, offset, end);
              checks.push(client.trim(offset, length));
            } else if (kind === 'status') {
              const isZero = (extent: NbdExtent): boolean =>
                model.subarray(extent.offset, extent.offset + extent.length).every((byte) => byte === 0);
              await Promise.all(checks.splice(0));
              const extents = await client.blockStatus(offset, length);
              expect(extents.reduce((sum, extent) => sum + extent.length, 0)).toBe(length);
              for (const extent of extents) if (extent.zero) expect(isZero(extent)).toBe(true);
            } else if (kind === 'flush') checks.push(client.flush());
            else await Promise.all(checks.splice(0));
          }
          await Promise.all(checks);
          expect(disk.bytes.equals(model)).toBe(true);
          await client.disconnect();
          await server.close();
        },
      ),
      { numRuns: 60 },
    );
  });

  it('are split where the server takes less at once', async () => {
    const { client, disk } = await pair(8 * MIB, {}, 4);
    const bytes = pattern(5 * MIB + 5, 3);
    await client.write(7, [bytes.subarray(0, 1), bytes.subarray(1, 3 * MIB), bytes.subarray(3 * MIB)]);
    expect(disk.calls.filter((call) => call.startsWith('write'))).toHaveLength(6);
    expect(disk.bytes.subarray(7, 7 + bytes.length).equals(bytes)).toBe(true);
    expect(bytes.equals(await client.read(7, bytes.length))).toBe(true);
    expect(disk.calls.filter((call) => call.startsWith('read'))).toHaveLength(6);
  });

  it('leave zeros allocated unless they may be punched', async () => {
    const { client, disk } = await pair(8192);
    await client.writeZeroes(0, 4096);
    await client.writeZeroes(4096, 10, { punchHole: true });
    await client.writeZeroes(5000, 10, { punchHole: false, fua: true });
    expect(disk.calls).toEqual(['zeroes 0+4096', 'zeroes 4096+10 punch', 'zeroes 5000+10', 'flush']);
  });

  it('refuse ranges that are not within the disk, and send nothing', async () => {
    const { client, disk } = await pair(8192, {
      blockBytes: { minimum: 512, preferred: 4096, maximum: 4096 },
    });
    for (const [offset, length] of [
      [-512, 512],
      [0, 8704],
      [8192, 512],
      [1, 512],
      [512, 7],
      [0.5, 512],
      [Number.NaN, 0],
    ]) {
      expect(await codeOf(client.read(offset ?? 0, length ?? 0))).toBe('invalid-argument');
      expect(await codeOf(client.writeZeroes(offset ?? 0, length ?? 0))).toBe('invalid-argument');
    }
    expect(await codeOf(client.write(8192, [Buffer.alloc(512)]))).toBe('invalid-argument');
    expect((await client.read(8192, 0)).length).toBe(0);
    await client.write(0, []);
    await client.trim(8192, 0);
    expect(await client.blockStatus(512, 0)).toEqual([]);
    expect(disk.calls).toEqual([]);
  });

  it('leave a written payload alone for ever', async () => {
    const { client, disk } = await pair(MIB);
    disk.keepPayloads = true;
    const writes = Array.from({ length: 300 }, (_, index) =>
      client.write((index * 2711) % (MIB - 5000), [pattern(1 + ((index * 97) % 5000), index)]),
    );
    await Promise.all(writes);
    await client.read(0, MIB);
    expect(disk.payloads).toHaveLength(300);
    expect(disk.payloads.every(({ given, copy }) => copy.equals(given))).toBe(true);
    expect(new Set(disk.payloads.map(({ given }) => given.buffer)).size).toBe(300);
  });

  it('describe the disk in extents that cover it and differ from their neighbours', async () => {
    const { client, disk } = await pair(MIB);
    disk.bytes.fill(1, 8192, 12288);
    disk.bytes.fill(1, 16384, 24576);
    expect(await client.blockStatus(0, 32768)).toEqual([
      { offset: 0, length: 8192, zero: true, hole: true },
      { offset: 8192, length: 4096, zero: false, hole: false },
      { offset: 12288, length: 4096, zero: true, hole: true },
      { offset: 16384, length: 8192, zero: false, hole: false },
      { offset: 24576, length: 8192, zero: true, hole: true },
    ]);
  });

  it('get extents that take several replies', async () => {
    const disk = new MemoryDisk(9 * MIB);
    const client = await dial(await listen(disk));
    for (let block = 0; block < 9 * 256; block += 2) disk.bytes[block * 4096] = 1;
    const extents = await client.blockStatus(0, 9 * MIB);
    expect(extents).toHaveLength(9 * 256);
    expect(extents.every((extent, index) => extent.zero === (index % 2 === 1))).toBe(true);
  });
});

describe('the order of things', () => {
  it('calls the handler as requests arrive, and answers each when its own promise settles', async () => {
    const disk = new MemoryDisk(4096);
    const gates = [gate(), gate(), gate()];
    const called: number[] = [];
    disk.write = (offset) => {
      called.push(offset);
      return gates[offset]?.promise ?? Promise.resolve();
    };
    const client = await dial(await listen(disk));
    const answered: number[] = [];
    const writes = [0, 1, 2].map((offset) =>
      client.write(offset, [Buffer.alloc(1)]).then(() => {
        answered.push(offset);
      }),
    );
    await until(() => called.length === 3);
    expect(called).toEqual([0, 1, 2]);
    expect(answered).toEqual([]);
    gates[2]?.open();
    await writes[2];
    expect(answered).toEqual([2]);
    gates[0]?.open();
    gates[1]?.open();
    await Promise.all(writes);
  });

  it('flushes a FUA write before it answers', async () => {
    const { client, disk } = await pair(4096);
    const flushed = gate();
    disk.flush = () => {
      disk.calls.push('flush');
      return flushed.promise;
    };
    let answered = false;
    const write = client.write(0, [Buffer.alloc(8)], { fua: true }).then(() => {
      answered = true;
    });
    await until(() => disk.calls.length === 2);
    expect(disk.calls).toEqual(['write 0+8', 'flush']);
    await sleep(20);
    expect(answered).toBe(false);
    flushed.open();
    await write;
  });

  it('stops reading a client that has too much under way, and loses nothing', async () => {
    for (const [limits, most] of [
      [{ inFlightMax: 5 }, 5],
      [{ inFlightBytesMax: 7 * 1000 }, 7],
    ] as const) {
      const disk = new MemoryDisk(MIB);
      const open = gate();
      let under = 0;
      let peak = 0;
      disk.write = async (offset, data) => {
        under += 1;
        peak = Math.max(peak, under);
        await open.promise;
        disk.bytes.set(data, offset);
        under -= 1;
      };
      const client = await dial(await listen(disk, limits), { inFlightMax: 200 });
      const writes = Array.from({ length: 200 }, (_, index) =>
        client.write(index * 1000, [pattern(1000, index)]),
      );
      await until(() => under === most);
      await sleep(50);
      expect(peak).toBe(most);
      open.open();
      await Promise.all(writes);
      expect(peak).toBe(most);
      for (let index = 0; index < 200; index += 1) {
        expect(disk.bytes.subarray(index * 1000, (index + 1) * 1000).equals(pattern(1000, index))).toBe(true);
      }
    }
  });

  it('never has more of one client under way than it asked for', async () => {
    const disk = new MemoryDisk(MIB);
    let under = 0;
    let peak = 0;
    disk.read = async (_offset, length) => {
      under += 1;
      peak = Math.max(peak, under);
      await sleep(1);
      under -= 1;
      return Buffer.alloc(length);
    };
    const client = await dial(await listen(disk), { inFlightMax: 3 });
    await Promise.all(Array.from({ length: 40 }, (_, index) => client.read(index, 100)));
    expect(peak).toBe(3);
  });
});

describe('what fails', () => {
  it('reaches the caller with its error number, and the connection goes on', async () => {
    const { client, disk } = await pair(4096);
    const failures: [unknown, string][] = [
      [Object.assign(new Error('full'), { code: 'ENOSPC' }), 'ENOSPC'],
      [Object.assign(new Error('quota'), { code: 'EDQUOT' }), 'ENOSPC'],
      [
        new MigrationError('disk-write', 'no', { cause: Object.assign(new Error(), { code: 'EROFS' }) }),
        'EPERM',
      ],
      [new Error('anything'), 'EIO'],
      ['not even an error', 'EIO'],
    ];
    for (const [failure, name] of failures) {
      disk.write = () => Promise.reject(failure);
      const error = await client.write(0, [Buffer.alloc(8)]).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: name === 'ENOSPC' ? 'disk-full' : 'disk-write' });
      expect(nbdErrorName(error)).toBe(name);
    }
    disk.read = () => {
      throw new Error('thrown, not rejected: ünïcödé'.repeat(40));
    };
    expect(await codeOf(client.read(0, 8))).toBe('disk-read');
    disk.read = async () => Buffer.alloc(7);
    expect(await codeOf(client.read(0, 8))).toBe('disk-read');
    disk.extents = async () => [{ offset: 5, length: 8, zero: true, hole: true }];
    expect(await codeOf(client.blockStatus(0, 8))).toBe('disk-read');
    disk.flush = () => Promise.reject(new Error('no'));
    expect(await codeOf(client.flush())).toBe('disk-write');
    expect(await codeOf(client.trim(0, 8))).toBe('resolved');
  });

  it('by an aborted signal ends that call alone', async () => {
    const { client, disk } = await pair(MIB, {}, 1);
    const open = gate();
    const bytes = pattern(MIB, 9);
    disk.bytes.set(bytes);
    const read = disk.read.bind(disk);
    disk.read = async (offset, length) => {
      await open.promise;
      return await read(offset, length);
    };
    const [sent, waiting] = [new AbortController(), new AbortController()];
    const first = client.read(0, MIB, { signal: sent.signal });
    const second = client.read(0, 10, { signal: waiting.signal });
    const third = client.read(0, MIB);
    waiting.abort();
    expect(await codeOf(second)).toBe('aborted');
    sent.abort();
    expect(await codeOf(first)).toBe('aborted');
    open.open();
    expect(bytes.equals(await third)).toBe(true);
    expect(disk.calls).toEqual([`read 0+${MIB}`, `read 0+${MIB}`]);
    expect(await codeOf(client.write(0, [bytes], { signal: sent.signal }))).toBe('aborted');
  });

  it('by a signal that many calls share ends them all, and until then nobody warns of a leak', async () => {
    const { client, disk } = await pair(4096, {}, 40);
    const shared = new AbortController();
    const warnings: Error[] = [];
    const onWarning = (warning: Error): number => warnings.push(warning);
    process.on('warning', onWarning);
    await Promise.all(Array.from({ length: 80 }, (_, at) => client.read(at, 8, { signal: shared.signal })));
    disk.read = () => new Promise(() => {});
    const calls = Array.from({ length: 80 }, (_, at) =>
      codeOf(client.read(at, 8, { signal: shared.signal })),
    );
    await sleep(20);
    shared.abort();
    expect(new Set(await Promise.all(calls))).toEqual(new Set(['aborted']));
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  });

  it('by an aborted signal ends a connecting', async () => {
    const server = await listen(new MemoryDisk(4096));
    expect(await codeOf(dial(server, { signal: AbortSignal.abort() }))).toBe('aborted');
    expect(await codeOf(dial(server, { inFlightMax: 0 }))).toBe('invalid-argument');
    expect(await codeOf(NbdClient.connect({ path: join(directory.path, 'none'), exportName: '' }))).toBe(
      'connect-failed',
    );
  });

  it('by abort() rejects everything under way with the reason', async () => {
    const { client, disk } = await pair(4096, {}, 2);
    disk.read = () => new Promise(() => {});
    const calls = [client.read(0, 8), client.read(8, 8), client.read(16, 8)].map(codeOf);
    await until(() => disk.connects === 1);
    client.abort(new MigrationError('timeout', 'too slow'));
    client.abort(new MigrationError('internal', 'the second reason is not used'));
    expect(await Promise.all(calls)).toEqual(['timeout', 'timeout', 'timeout']);
    expect(await codeOf(client.flush())).toBe('timeout');
    expect(await client.closed).toMatchObject({ code: 'timeout' });
    await client.disconnect();
    await until(() => disk.gone.length === 1);
    expect(disk.gone[0]).toMatchObject({ code: 'hypervisor' });
  });

  it('by a server that hangs up rejects everything under way, each with the code of its kind', async () => {
    const { client, disk, server } = await pair(4096, {}, 2);
    disk.read = () => new Promise(() => {});
    disk.write = () => {
      server.dropConnections(new MigrationError('tap-gap', 'the tap was taken away'));
      return new Promise(() => {});
    };
    const calls = [client.read(0, 8), client.write(0, [Buffer.alloc(8)]), client.flush()].map(codeOf);
    expect(await Promise.all(calls)).toEqual(['disk-read', 'disk-write', 'disk-write']);
    expect(await client.closed).toMatchObject({ code: 'hypervisor' });
    expect(disk.gone).toMatchObject([{ code: 'tap-gap' }]);
    const again = await dial(server);
    expect(await codeOf(again.trim(0, 8))).toBe('resolved');
  });
});

describe('how it ends', () => {
  it('disconnect() lets calls under way finish, and tells the server', async () => {
    const { client, disk, server } = await pair(4096, {}, 1);
    const calls = [client.read(0, 8), client.read(8, 8), client.flush()].map(codeOf);
    await Promise.all([client.disconnect(), client.disconnect()]);
    expect(await Promise.all(calls)).toEqual(['resolved', 'resolved', 'resolved']);
    expect(await codeOf(client.read(0, 8))).toBe('invalid-state');
    expect(await client.closed).toBeUndefined();
    await until(() => server.connections === 0);
    expect(disk.gone).toEqual([undefined]);
  });

  it('close() removes the socket, and hangs up on everybody', async () => {
    const { client, disk, server } = await pair(4096);
    disk.read = () => new Promise(() => {});
    const call = codeOf(client.read(0, 8));
    expect(existsSync(pathOf(server))).toBe(true);
    await Promise.all([server.close(), server.close()]);
    expect(existsSync(pathOf(server))).toBe(false);
    expect(await call).toBe('disk-read');
    expect(disk.gone).toMatchObject([{ code: 'aborted' }]);
    expect(await codeOf(NbdClient.connect({ path: pathOf(server), exportName: '' }))).toBe('connect-failed');
  });

  it('one client too many is hung up on, and there is room again when another has left', async () => {
    const server = await listen(new MemoryDisk(4096), { connectionsMax: 2 });
    const first = await dial(server);
    await dial(server);
    expect(await codeOf(dial(server))).toBe('hypervisor');
    await first.disconnect();
    await until(() => server.connections === 1);
    await dial(server);
  });

  it('has several exports, each with a disk and limits of its own', async () => {
    const disks = [new MemoryDisk(8192), new MemoryDisk(MIB)];
    const address = { path: join(directory.path, 'several') };
    const exports: readonly NbdExport[] = [
      { exportName: 'a', sizeBytes: 8192, handler: disks[0] ?? new MemoryDisk(0) },
      { exportName: 'b', sizeBytes: MIB, handler: disks[1] ?? new MemoryDisk(0), readOnly: true },
    ];
    const server = await NbdServer.listen({ address, exports });
    opened.push(server);
    const [a, b, first] = [
      await dial(server, { exportName: 'a' }),
      await dial(server, { exportName: 'b' }),
      await dial(server),
    ];
    expect([a, b, first].map(({ sizeBytes, readOnly }) => [sizeBytes, readOnly])).toEqual([
      [8192, false],
      [MIB, true],
      [8192, false],
    ]);
    await a.write(0, [pattern(512, 1)]);
    expect(pattern(512, 1).equals(await first.read(0, 512))).toBe(true);
    expect(Buffer.alloc(512).equals(await b.read(0, 512))).toBe(true);
    expect(await codeOf(dial(server, { exportName: 'c' }))).toBe('hypervisor');
    await b.disconnect();
    await until(() => disks[1]?.gone.length === 1);
    expect(disks.map(({ connects, gone }) => [connects, gone])).toEqual([
      [2, []],
      [1, [undefined]],
    ]);
    const handler = new MemoryDisk(0);
    for (const wrong of [
      [],
      [
        { sizeBytes: 0, handler },
        { exportName: '', sizeBytes: 0, handler },
      ],
    ]) {
      const other = { path: join(directory.path, 'other') };
      expect(await codeOf(NbdServer.listen({ address: other, exports: wrong }))).toBe('invalid-argument');
      expect(existsSync(other.path)).toBe(false);
    }
  });

  it('listen() leaves what is there alone, and checks its options', async () => {
    const disk = new MemoryDisk(4096);
    const path = join(directory.path, 'taken');
    writeFileSync(path, 'mine');
    expect(await codeOf(listen(disk, { address: { path } }))).toBe('connect-failed');
    expect(existsSync(path)).toBe(true);
    expect(await codeOf(listen(disk, { address: { path: join(directory.path, 'missing', 's') } }))).toBe(
      'connect-failed',
    );
    for (const options of [
      { sizeBytes: -1 },
      { sizeBytes: 0.5 },
      { sizeBytes: 100, blockBytes: { minimum: 512, preferred: 4096, maximum: MIB } },
      { blockBytes: { minimum: 3, preferred: 4096, maximum: MIB } },
      { blockBytes: { minimum: 1, preferred: 4096, maximum: 64 * MIB } },
      { inFlightMax: 0 },
      { connectionsMax: 1.5 },
      { inFlightBytesMax: -1 },
      { exportName: 'x'.repeat(4097) },
    ]) {
      expect(await codeOf(listen(disk, options))).toBe('invalid-argument');
    }
  });
});
