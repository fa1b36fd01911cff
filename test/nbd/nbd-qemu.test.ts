import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NbdClient, type NbdClientOptions } from '../../src/backends/nbd/nbd-client.ts';
import { NbdServer } from '../../src/backends/nbd/nbd-server.ts';
import { QmpClient } from '../../src/backends/qemu/qmp.ts';
import { spawnQemu } from '../qemu/qmp-fixtures.ts';
import {
  codeOf,
  hasQemu,
  MemoryDisk,
  pathOf,
  pattern,
  privateDirectory,
  qemuNbd,
  run,
  stop,
  untilListening,
} from './nbd-fixtures.ts';

/**
 * Goal: our NBD client and server understand QEMU, and QEMU them. Method: our client against qemu-nbd, with
 * the image file as the witness; our server against qemu-io and qemu-img, with the disk in memory as the
 * witness; and all three of QMP client, NBD client and NBD server around a running QEMU that mirrors one
 * disk's writes, as a tap does.
 */

const MIB = 1024 * 1024;
let directory: ReturnType<typeof privateDirectory>;
let processes: ChildProcess[] = [];
let cleanups: (() => Promise<void> | void)[] = [];

beforeEach(() => {
  directory = privateDirectory();
  processes = [];
  cleanups = [];
});

afterEach(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
  for (const child of processes) await stop(child);
  directory.remove();
});

async function image(format: 'raw' | 'qcow2', sizeBytes: number): Promise<string> {
  const path = join(directory.path, `disk.${format}`);
  expect((await run('qemu-img', ['create', '-q', '-f', format, path, String(sizeBytes)])).output).toBe('');
  return path;
}

async function serve(format: 'raw' | 'qcow2', path: string, ...args: readonly string[]): Promise<string> {
  const socket = join(directory.path, `n${processes.length}`);
  processes.push(await qemuNbd(socket, [`--format=${format}`, ...args, path]));
  return socket;
}

async function dial(path: string, options: Partial<NbdClientOptions> = {}): Promise<NbdClient> {
  const client = await NbdClient.connect({ path, exportName: '', ...options });
  cleanups.push(() => client.abort('end of the test'));
  return client;
}

// Skipped where QEMU is not installed: these tests are about nothing else.
describe.skipIf(!hasQemu)('our client with qemu-nbd', () => {
  it.each(['raw', 'qcow2'] as const)('does what a plain array does (%s)', async (format) => {
    const size = 4 * MIB;
    const path = await image(format, size);
    const client = await dial(await serve(format, path, '--discard=unmap'));
    expect(client.sizeBytes).toBe(size);
    expect(client.blockBytes.minimum).toBe(1);
    expect([
      client.canFlush,
      client.canFua,
      client.canTrim,
      client.canWriteZeroes,
      client.canBlockStatus,
    ]).toEqual(Array(5).fill(true));
    const model = Buffer.alloc(size);
    const operation = fc.record({
      kind: fc.constantFrom('read', 'write', 'zeroes', 'status', 'flush'),
      offset: fc.nat(size - 1),
      length: fc.oneof(fc.nat(9000), fc.nat(2 * MIB)),
      seed: fc.nat(1_000_000),
      fua: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 30 }), async (operations) => {
        for (const { kind, offset, length: wanted, seed, fua } of operations) {
          const length = Math.min(wanted, size - offset);
          const end = offset + length;
          if (kind === 'read')
            expect(model.subarray(offset, end).equals(await client.read(offset, length))).toBe(true);
          else if (kind === 'write') {
            const bytes = pattern(length, seed);
            bytes.copy(model, offset);
            const half = length >>> 1;
            await client.write(offset, [bytes.subarray(0, half), bytes.subarray(half)], { fua });
          } else if (kind === 'zeroes') {
            model.fill(0, offset, end);
            await client.writeZeroes(offset, length, { punchHole: fua });
          } else if (kind === 'status') {
            for (const extent of await client.blockStatus(offset, length)) {
              const content = model.subarray(extent.offset, extent.offset + extent.length);
              if (extent.zero) expect(content.every((byte) => byte === 0)).toBe(true);
            }
          } else await client.flush();
        }
      }),
      { numRuns: 15 },
    );
    expect(model.equals(await client.read(0, size))).toBe(true);
    await client.flush();
    await client.disconnect();
    expect(await client.closed).toBeUndefined();
    const raw = join(directory.path, 'witness.raw');
    await run('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', path, raw]);
    expect(readFileSync(raw).equals(model)).toBe(true);
  });

  it('has many requests of one client under way', async () => {
    const path = await image('raw', 32 * MIB);
    const client = await dial(await serve('raw', path));
    const parts = Array.from({ length: 512 }, (_, index) => pattern(65536, index));
    await Promise.all(parts.map((part, index) => client.write(index * 65536, [part])));
    const back = await Promise.all(parts.map((_, index) => client.read(index * 65536, 65536)));
    expect(back.every((bytes, index) => parts[index]?.equals(bytes))).toBe(true);
    await client.flush();
    expect(readFileSync(path).equals(Buffer.concat(parts))).toBe(true);
  });

  it.each(['raw', 'qcow2'] as const)('sees holes, and makes them (%s)', async (format) => {
    const path = await image(format, 64 * MIB);
    const client = await dial(await serve(format, path, '--discard=unmap'));
    await client.write(16 * MIB, [pattern(MIB, 1)]);
    await client.write(32 * MIB, [Buffer.alloc(MIB)]);
    await client.writeZeroes(40 * MIB, MIB);
    const kinds = (await client.blockStatus(0, 64 * MIB)).map(
      ({ offset, length, zero }) => `${offset / MIB}+${length / MIB} ${zero ? 'zero' : 'data'}`,
    );
    expect(kinds).toContain('16+1 data');
    expect(kinds).toContain('32+1 data');
    // qemu-img writes the first block of a raw image, so what comes before the data is zero but for that.
    expect(kinds[kinds.indexOf('16+1 data') - 1]).toMatch(/zero$/);
    await client.writeZeroes(16 * MIB, MIB, { punchHole: true });
    await client.trim(32 * MIB, MIB);
    expect((await client.blockStatus(MIB, 63 * MIB)).every(({ zero }) => zero)).toBe(true);
    expect(Buffer.alloc(64 * MIB).equals(await client.read(0, 64 * MIB))).toBe(true);
  });

  it('finds an export by its name, and hears why it cannot have another', async () => {
    const socket = await serve('raw', await image('raw', MIB), '--export-name=disk0');
    const client = await dial(socket, { exportName: 'disk0' });
    expect(client.sizeBytes).toBe(MIB);
    const refused = dial(socket, { exportName: 'disk1' });
    expect(await codeOf(refused)).toBe('hypervisor');
    await expect(refused).rejects.toThrow(/disk1.*not present/);
  });

  it('knows a read-only export', async () => {
    const client = await dial(await serve('raw', await image('raw', MIB), '--read-only'));
    expect(client.readOnly).toBe(true);
    expect(await codeOf(client.write(0, [Buffer.alloc(512)]))).toBe('disk-write');
    expect(await codeOf(client.read(0, MIB))).toBe('resolved');
    expect(await codeOf(client.flush())).toBe('resolved');
  });

  it('fails what is under way when the server is killed', async () => {
    const client = await dial(await serve('raw', await image('raw', 64 * MIB)));
    const reads = Array.from({ length: 64 }, (_, index) => codeOf(client.read(index * MIB, MIB)));
    processes[0]?.kill('SIGKILL');
    const codes = new Set(await Promise.all(reads));
    expect([...codes].every((code) => code === 'disk-read' || code === 'resolved')).toBe(true);
    expect((await client.closed)?.code).toBe('hypervisor');
  });
});

async function listen(
  disk: MemoryDisk,
  exportName = '',
): Promise<{ readonly server: NbdServer; readonly url: string }> {
  const path = join(directory.path, 'tap');
  const server = await NbdServer.listen({
    address: { path },
    exports: [{ exportName, sizeBytes: disk.bytes.length, handler: disk }],
  });
  cleanups.push(() => server.close());
  return { server, url: `nbd+unix:///${exportName}?socket=${path}` };
}

// Skipped where QEMU is not installed: these tests are about nothing else.
describe.skipIf(!hasQemu)('our server with QEMU', () => {
  const qemuIo = (url: string, ...commands: readonly string[]) =>
    run('qemu-io', ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), url]);

  it('serves qemu-io: patterns, zeros, discards, FUA, ranges of odd sizes', async () => {
    const disk = new MemoryDisk(8 * MIB);
    const { url } = await listen(disk);
    const first = await qemuIo(
      url,
      'write -P 0x11 0 1M',
      'write -P 0x22 3000 517',
      'write -P 0x33 -f 2M 4k',
      'write -z 256k 64k',
      'write -z -u 512k 64k',
      'discard 768k 64k',
      'flush',
      'read -P 0x22 3000 517',
      'read -P 0x11 3517 100',
      'read -P 0 256k 64k',
      'map',
    );
    expect(first.output).not.toMatch(/fail|error/i);
    expect(first.status).toBe(0);
    const expected = Buffer.alloc(8 * MIB);
    expected
      .fill(0x11, 0, MIB)
      .fill(0x22, 3000, 3517)
      .fill(0x33, 2 * MIB, 2 * MIB + 4096);
    for (const start of [256, 512, 768]) expected.fill(0, start * 1024, (start + 64) * 1024);
    expect(disk.bytes.equals(expected)).toBe(true);
    const { calls } = disk;
    expect(calls).toContain(`write 3000+517`);
    expect(calls).toContain(`zeroes ${256 * 1024}+${64 * 1024}`);
    expect(calls).toContain(`zeroes ${512 * 1024}+${64 * 1024} punch`);
    expect(calls).toContain(`trim ${768 * 1024}+${64 * 1024}`);
    expect(calls[calls.indexOf(`write ${2 * MIB}+4096`) + 1]).toBe('flush');
    while (disk.gone.length === 0) await sleep(1);
    expect(disk.gone).toEqual([undefined]);
  });

  it('tells qemu-io of errors by their numbers', async () => {
    const disk = new MemoryDisk(MIB);
    disk.write = () => Promise.reject(Object.assign(new Error('the medium is full'), { code: 'ENOSPC' }));
    disk.read = () => Promise.reject(new Error('scratched'));
    const { url } = await listen(disk);
    expect((await qemuIo(url, 'write 0 4k')).output).toMatch(/No space left on device/);
    const read = await qemuIo(url, 'read 8k 4k');
    expect(read.output).toMatch(/Input\/output error/);
  });

  it('takes and gives whole images: qemu-img convert and compare', async () => {
    const disk = new MemoryDisk(16 * MIB + 512);
    const { url } = await listen(disk, 'disk0');
    const source = Buffer.alloc(16 * MIB + 512);
    for (let index = 0; index < 40; index += 1) pattern(70_000, index).copy(source, index * 400_000);
    const path = join(directory.path, 'source.raw');
    writeFileSync(path, source);
    for (const parallel of ['1', '16']) {
      disk.bytes.fill(0xff);
      const convert = ['convert', '-n', '-W', '-m', parallel, '-f', 'raw', '-O', 'raw', path, url];
      expect(await run('qemu-img', convert)).toEqual({ status: 0, output: '' });
      expect(disk.bytes.equals(source)).toBe(true);
    }
    const compare = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', path, url]);
    expect(compare).toEqual({ status: 0, output: 'Images are identical.\n' });
    const back = join(directory.path, 'back.qcow2');
    expect(await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', url, back])).toEqual({
      status: 0,
      output: '',
    });
    expect((await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', path, back])).status).toBe(0);
    const map = JSON.parse((await run('qemu-img', ['map', '--output=json', '-f', 'raw', url])).output);
    expect(map.some((extent: { zero: boolean }) => extent.zero)).toBe(true);
    const info = JSON.parse((await run('qemu-img', ['info', '--output=json', '-f', 'raw', url])).output);
    expect(info['virtual-size']).toBe(16 * MIB + 512);
    disk.bytes[5 * MIB] = (disk.bytes[5 * MIB] ?? 0) ^ 1;
    expect((await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', path, url])).status).toBe(1);
  });

  it('is a tap: every write to a mirrored disk of a QEMU comes by before it is answered', async () => {
    const size = 16 * MIB;
    const path = await image('raw', size);
    const { child, socket } = spawnQemu(directory.path);
    processes.push(child);
    await untilListening(socket, child);
    const qmp = await QmpClient.connect(socket);
    cleanups.push(() => qmp.abort('end of the test'));
    const disk = new MemoryDisk(size);
    const open: (() => void)[] = [];
    let hold = false;
    const write = disk.write.bind(disk);
    disk.write = async (offset, data) => {
      await write(offset, data);
      if (hold) await new Promise<void>((resolve) => open.push(resolve));
    };
    const { server } = await listen(disk);

    const unix = (socketPath: string) => ({ type: 'unix', path: socketPath });
    const file = { driver: 'file', filename: path };
    await qmp.execute('blockdev-add', { driver: 'raw', 'node-name': 'disk0', file });
    const exported = join(directory.path, 'guest');
    await qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: exported } } });
    const guestExport = { type: 'nbd', id: 'guest', 'node-name': 'disk0', name: 'disk0', writable: true };
    await qmp.execute('block-export-add', guestExport);
    await qmp.execute('blockdev-add', { driver: 'nbd', 'node-name': 'tap', server: unix(pathOf(server)) });
    const ready = qmp.waitFor('BLOCK_JOB_READY', (event) => event.data.device === 'm');
    await qmp.execute('blockdev-mirror', {
      'job-id': 'm',
      device: 'disk0',
      target: 'tap',
      sync: 'none',
      'copy-mode': 'write-blocking',
      granularity: 4096,
      'on-target-error': 'report',
    });
    await ready;
    disk.calls.length = 0;

    const guest = await dial(exported, { exportName: 'disk0' });
    const model = Buffer.alloc(size);
    for (let index = 0; index < 100; index += 1) {
      const offset = (index * 1_234_567) % (size - 3 * MIB);
      const bytes = pattern(1 + ((index * 7919) % 20_000), index);
      bytes.copy(model, offset);
      await guest.write(offset, [bytes]);
      expect(disk.calls.at(-1)).toMatch(/^write/);
      expect(disk.bytes.subarray(offset, offset + bytes.length).equals(bytes)).toBe(true);
    }
    expect(disk.calls.filter((call) => call.startsWith('read'))).toEqual([]);
    await guest.writeZeroes(5, 1_000_000);
    model.fill(0, 5, 1_000_005);
    await guest.write(8 * MIB, [pattern(3 * MIB, 77)]);
    pattern(3 * MIB, 77).copy(model, 8 * MIB);
    expect(disk.bytes.equals(model)).toBe(true);
    expect(model.equals(await guest.read(0, size))).toBe(true);

    hold = true;
    let answered = false;
    const held = guest.write(0, [Buffer.alloc(4096, 9)]).then(() => {
      answered = true;
    });
    while (open.length === 0) await sleep(1);
    await sleep(50);
    expect(answered).toBe(false);
    hold = false;
    open[0]?.();
    await held;

    const gone = qmp.waitFor('BLOCK_JOB_COMPLETED', (event) => event.data.device === 'm');
    server.dropConnections('the tap is taken away');
    await guest.write(4096, [Buffer.alloc(10)]);
    expect((await gone).data.error).toMatch(/Input\/output error/);
    await qmp.execute('blockdev-del', { 'node-name': 'tap' });
    await guest.write(8192, [Buffer.alloc(10)]);
    await guest.disconnect();
    await qmp.execute('quit');
    await server.close();
    expect(existsSync(pathOf(server))).toBe(false);
  });
});
