/**
 * Goal: our NBD client works with servers that we did not write, also where they are slow, fail or hang up.
 * Method: nbdkit, whose filters do just that, with its disks of memory and of files; the file, or nbdcopy, is
 * the witness. qemu-nbd and QEMU itself are in nbd-qemu.test.ts.
 */
import type { ChildProcess } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NbdClient, nbdErrorName } from '../../src/backends/nbd/nbd-client.ts';
import { codeOf, pattern, privateDirectory, run, stop } from './nbd-fixtures.ts';
import { hasNbdTools, nbdkit, type ServedByNbdkit, uriOf } from './nbd-tools.ts';

const MIB = 1024 * 1024;
let directory: ReturnType<typeof privateDirectory>;
let processes: ChildProcess[] = [];
let proxies: Server[] = [];
let clients: NbdClient[] = [];

beforeEach(() => {
  directory = privateDirectory();
  processes = [];
  proxies = [];
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.abort('end of the test');
  for (const child of processes) await stop(child);
  for (const proxy of proxies) await new Promise((resolve) => proxy.close(resolve));
  directory.remove();
});

const file = (name: string): string => join(directory.path, name);

async function serve(...args: readonly string[]): Promise<ServedByNbdkit> {
  const served = await nbdkit(directory.path, ...args);
  processes.push(served.child);
  return served;
}

async function dial(path: string, exportName = ''): Promise<NbdClient> {
  const client = await NbdClient.connect({ path, exportName });
  clients.push(client);
  return client;
}

/** A client of an nbdkit with these arguments. */
async function clientOf(...args: readonly string[]): Promise<NbdClient> {
  return await dial((await serve(...args)).path);
}

/** The name of the server's error with which a call is rejected. */
async function errorNameOf(promise: Promise<unknown>): Promise<string | undefined> {
  return await promise.then(
    () => 'resolved',
    (error: unknown) => nbdErrorName(error),
  );
}

/** In front of a server: hangs up on each client after so many bytes of the server's. */
async function cutProxy(path: string, bytesMax: number): Promise<string> {
  const cut = file(`cut-${bytesMax}`);
  const proxy = createServer((near) => {
    const far = connect({ path });
    let left = bytesMax;
    const end = (): void => {
      near.destroy();
      far.destroy();
    };
    for (const socket of [near, far]) socket.on('error', end).on('close', end);
    near.on('data', (chunk) => far.write(chunk));
    far.on('data', (chunk) => {
      const given = chunk.subarray(0, left);
      left -= given.length;
      near.write(given, () => left === 0 && end());
    });
    if (left === 0) near.destroy();
  });
  proxies.push(proxy);
  await new Promise<void>((resolve) => proxy.listen({ path: cut }, resolve));
  return cut;
}

// Skipped where the tools of others are not installed: these tests are about nothing else. CI requires them
// (required.test.ts).
describe.skipIf(!hasNbdTools)('our client with nbdkit', () => {
  it.each([
    ['a disk of odd size', ['memory', String(2 * MIB + 511)]],
    ['one with only simple replies', ['--no-sr', 'memory', String(2 * MIB)]],
    ['one that does one thing at a time', ['--filter=noparallel', 'memory', String(2 * MIB)]],
  ])('does what a plain array does: %s', async (_, args) => {
    const client = await clientOf(...args);
    const size = client.sizeBytes;
    expect(size).toBe(Number(args.at(-1)));
    expect(client.canBlockStatus).toBe(!args.includes('--no-sr'));
    const model = Buffer.alloc(size);
    const unit = client.blockBytes.minimum;
    const operation = fc.record({
      kind: fc.constantFrom('read', 'write', 'zeroes', 'trim', 'status', 'flush'),
      offset: fc.nat(Math.floor((size - 1) / unit)).map((block) => block * unit),
      length: fc.oneof(fc.nat(9000), fc.nat(MIB)),
      seed: fc.nat(1_000_000),
      flag: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 30 }), async (operations) => {
        for (const { kind, offset, length: wanted, seed, flag } of operations) {
          const fitting = Math.min(wanted, size - offset);
          const length = fitting - (fitting % unit);
          const end = offset + length;
          if (kind === 'read') {
            expect(model.subarray(offset, end).equals(await client.read(offset, length))).toBe(true);
          } else if (kind === 'write') {
            const bytes = pattern(length, seed);
            bytes.copy(model, offset);
            await client.write(offset, [bytes.subarray(0, length >> 1), bytes.subarray(length >> 1)], {
              fua: flag,
            });
          } else if (kind === 'zeroes') {
            model.fill(0, offset, end);
            await client.writeZeroes(offset, length, { punchHole: flag });
          } else if (kind === 'trim') {
            await client.trim(offset, length);
            // What it reads as now is the server's to say.
            Buffer.from(await client.read(offset, length)).copy(model, offset);
          } else if (kind === 'status') {
            for (const extent of await client.blockStatus(offset, length)) {
              const content = model.subarray(extent.offset, extent.offset + extent.length);
              if (extent.zero) expect(content.every((byte) => byte === 0)).toBe(true);
            }
          } else await client.flush();
        }
      }),
      { numRuns: 12, seed: 20 },
    );
    expect(model.equals(await client.read(0, size))).toBe(true);
  });

  it('writes a file that others read, and reads what others have written', async () => {
    writeFileSync(file('disk'), Buffer.alloc(4 * MIB));
    const { path } = await serve('file', file('disk'));
    const client = await dial(path);
    const content = Buffer.alloc(4 * MIB);
    pattern(MIB, 1).copy(content, 512 * 1025);
    await client.write(512 * 1025, [content.subarray(512 * 1025, 512 * 1025 + MIB)], { fua: client.canFua });
    await client.flush();
    expect(readFileSync(file('disk')).equals(content)).toBe(true);
    expect(await run('nbdcopy', [uriOf({ path }), file('out')])).toMatchObject({ status: 0 });
    expect(readFileSync(file('out')).equals(content)).toBe(true);
    pattern(4 * MIB, 2).copy(content);
    writeFileSync(file('in'), content);
    expect(await run('nbdcopy', [file('in'), uriOf({ path })])).toMatchObject({ status: 0 });
    expect(content.equals(await client.read(0, 4 * MIB))).toBe(true);
  });

  it.each([
    ['pwrite', 'ENOSPC', 'disk-full', 'ENOSPC'],
    ['pwrite', 'EIO', 'disk-write', 'EIO'],
    ['pwrite', 'EPERM', 'disk-write', 'EPERM'],
    ['zero', 'ENOSPC', 'disk-full', 'ENOSPC'],
    ['trim', 'EIO', 'disk-write', 'EIO'],
    ['pread', 'EIO', 'disk-read', 'EIO'],
    ['pread', 'ENOMEM', 'disk-read', 'ENOMEM'],
    // Reading finds no room in nothing: whatever the server means, nothing has to be made free.
    ['pread', 'ENOSPC', 'disk-read', 'ENOSPC'],
    ['extents', 'EIO', 'disk-read', 'EIO'],
  ])('an error of %s, %s, is %s, and of that call alone', async (call, errno, code, name) => {
    const trigger = file('trigger');
    const filter = [`error-${call}=${errno}`, `error-${call}-rate=100%`, `error-${call}-file=${trigger}`];
    const client = await clientOf('--filter=error', 'memory', '1M', ...filter);
    const calls: Readonly<Record<string, () => Promise<unknown>>> = {
      pwrite: () => client.write(4096, [pattern(4096, 1)]),
      zero: () => client.writeZeroes(4096, 4096),
      trim: () => client.trim(4096, 4096),
      pread: () => client.read(4096, 4096),
      extents: () => client.blockStatus(4096, 4096),
    };
    const failing = calls[call] ?? (() => Promise.resolve());
    await client.write(4096, [pattern(4096, 2)]);
    writeFileSync(trigger, '');
    const others = Object.entries(calls).filter(([other]) => other !== call && other !== 'trim');
    const results = await Promise.all([
      codeOf(failing()),
      errorNameOf(failing()),
      ...others.map(([, other]) => codeOf(other())),
    ]);
    expect(results).toEqual([code, name, ...others.map(() => 'resolved')]);
    expect(await codeOf(client.flush())).toBe('resolved');
  });

  it('half of all writes fail: those that did not are there, and those that did may be tried again', async () => {
    const filter = ['error=EIO', 'error-pwrite-rate=50%'];
    const client = await clientOf('--filter=error', 'memory', '1M', ...filter);
    const blocks = Array.from({ length: 256 }, (_, index) => pattern(4096, index));
    let tries = 0;
    const write = async (index: number): Promise<void> => {
      for (;;) {
        tries += 1;
        const code = await codeOf(client.write(index * 4096, [blocks[index] ?? Buffer.alloc(0)]));
        if (code === 'resolved') return;
        expect(code).toBe('disk-write');
      }
    };
    await Promise.all(blocks.map((_, index) => write(index)));
    expect(tries).toBeGreaterThan(256);
    expect(Buffer.concat(blocks).equals(await client.read(0, MIB))).toBe(true);
  });

  it('a server that takes its time is waited for, by each call as long as it takes', async () => {
    const delays = ['rdelay=400ms', 'wdelay=300ms', 'delay-extents=100ms', 'delay-open=200ms'];
    const client = await clientOf('--filter=delay', 'memory', '1M', ...delays);
    const bytes = pattern(65_536, 1);
    const settled: string[] = [];
    const note = async (name: string, promise: Promise<unknown>): Promise<void> => {
      await promise;
      settled.push(name);
    };
    await Promise.all([
      note('write', client.write(0, [bytes])),
      note('extents', client.blockStatus(524_288, 4096)),
      ...Array.from({ length: 40 }, (_, index) => note('read', client.read(131_072 + index * 512, 512))),
    ]);
    // A slow call holds up no quick one that came after it.
    expect(settled.indexOf('extents')).toBeLessThan(settled.indexOf('write'));
    expect(settled).toHaveLength(42);
    expect(bytes.equals(await client.read(0, 65_536))).toBe(true);
    // Nor does it hold a caller who does not want to wait any longer.
    const controller = new AbortController();
    const reading = codeOf(client.read(0, 512, { signal: controller.signal }));
    controller.abort();
    expect(await reading).toBe('aborted');
    expect(await codeOf(client.read(0, 512))).toBe('resolved');
  });

  it('a server that dies in the middle ends every call with its own code', async () => {
    const { child, path } = await serve('--filter=delay', 'memory', '1M', 'rdelay=60', 'wdelay=60');
    const client = await dial(path);
    // More than may be under way: some are sent, some wait for their turn.
    const calls = Array.from({ length: 40 }, (_, index) =>
      codeOf(index % 2 === 0 ? client.read(0, 4096) : client.write(0, [pattern(4096, 1)])),
    );
    await stop(child);
    expect(new Set(await Promise.all(calls))).toEqual(new Set(['disk-read', 'disk-write']));
    expect(await client.closed).toMatchObject({ code: 'hypervisor' });
    expect(await codeOf(client.flush())).toBe('disk-write');
  });

  it('a connection that is cut after any number of bytes is a clean error', async () => {
    // One thread: with several this nbdkit itself may fail, by an assertion, when it answers on a connection
    // that another one has closed.
    const { path } = await serve('--threads=1', 'memory', '1M');
    const whole = await dial(path);
    await whole.write(0, [pattern(65_536, 1)]);
    const session = async (through: string): Promise<string> => {
      try {
        const client = await dial(through);
        await Promise.all([client.read(0, 1000 * 512), client.blockStatus(0, MIB), client.read(0, 65_536)]);
        await client.write(65_536, [pattern(4096, 2)]);
        return 'resolved';
      } catch (error) {
        return await codeOf(Promise.reject(error));
      }
    };
    // All of the handshake, byte by byte, and then here and there.
    const cuts = [...Array(200).keys(), 250, 1000, 4096, 65_536, 200_001, 400_000, 577_000];
    const ends = new Map<number, string>();
    for (const cut of cuts) ends.set(cut, await session(await cutProxy(path, cut)));
    for (const [cut, end] of ends) {
      expect([cut, end]).toEqual([cut, expect.stringMatching(/^(hypervisor|disk-read|disk-write)$/)]);
    }
    expect(ends.get(0)).toBe('hypervisor');
    expect(ends.get(65_536)).toBe('disk-read');
    expect(await session(await cutProxy(path, 10 * MIB))).toBe('resolved');
    expect(await codeOf(whole.flush())).toBe('resolved');
  });

  it('an export that is not there, and one that only TLS leads to, are refused with the reason', async () => {
    const strict = ['--filter=exportname', 'exportname=disk0', 'exportname-strict=true'];
    const named = await serve(strict[0] ?? '', 'memory', '1M', ...strict.slice(1));
    expect((await dial(named.path, 'disk0')).sizeBytes).toBe(MIB);
    expect(await codeOf(dial(named.path, 'disk1'))).toBe('hypervisor');
    writeFileSync(file('psk'), 'user:00112233445566778899aabbccddeeff\n');
    const secure = await serve('--tls=require', `--tls-psk=${file('psk')}`, 'memory', '1M');
    await expect(dial(secure.path)).rejects.toMatchObject({
      code: 'hypervisor',
      message: expect.stringContaining('errTlsReqd'),
    });
  });

  it('one client at a time: the second is refused, and the first goes on', async () => {
    const { path } = await serve('--filter=limit', 'memory', '1M', 'limit=1');
    const first = await dial(path);
    expect(await codeOf(dial(path))).toBe('hypervisor');
    expect(await codeOf(first.write(0, [pattern(512, 1)]))).toBe('resolved');
  });

  it('what a server cannot do is known before, and not asked for', async () => {
    const readOnly = await clientOf('--read-only', 'memory', '1M');
    expect(readOnly.readOnly).toBe(true);
    expect(await codeOf(readOnly.write(0, [pattern(512, 1)]))).toBe('disk-write');
    expect(await codeOf(readOnly.trim(0, 512))).toBe('disk-write');
    expect(Buffer.alloc(512).equals(await readOnly.read(0, 512))).toBe(true);
    const less = ['--filter=nozero', '--filter=noextents', '--filter=fua'];
    const bare = await clientOf(...less, 'memory', '1M');
    expect([bare.canWriteZeroes, bare.canFua]).toEqual([false, false]);
    expect(await codeOf(bare.writeZeroes(0, 512))).toBe('unsupported');
    expect(await codeOf(bare.write(0, [pattern(512, 1)], { fua: true }))).toBe('unsupported');
    expect((await bare.blockStatus(0, MIB)).map(({ zero }) => zero)).toEqual([false]);
  });

  it('keeps to the block sizes that a server names', async () => {
    const policy = ['blocksize-minimum=4096', 'blocksize-preferred=4096', 'blocksize-maximum=64K'];
    const filter = ['--filter=blocksize-policy', 'memory', '1M', ...policy, 'blocksize-error-policy=error'];
    const client = await clientOf(...filter);
    expect(client.blockBytes).toEqual({ minimum: 4096, preferred: 4096, maximum: 65_536 });
    const bytes = pattern(MIB, 1);
    await client.write(0, [bytes]);
    await client.writeZeroes(8192, 524_288);
    bytes.fill(0, 8192, 8192 + 524_288);
    expect(bytes.equals(await client.read(0, MIB))).toBe(true);
    expect(await codeOf(client.read(0, 512))).toBe('invalid-argument');
    expect(await codeOf(client.write(4095, [pattern(4096, 1)]))).toBe('invalid-argument');
  });
});
