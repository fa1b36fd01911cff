/**
 * Goal: our NBD server serves whoever speaks NBD. Method: clients that we did not write (nbdinfo and nbdcopy
 * of libnbd, fio, qemu-io, and nbdkit, which passes our export on) read and write a disk in memory, which is
 * the witness, over a unix socket and over TCP. What QEMU as a hypervisor does with the server is in
 * nbd-qemu.test.ts.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NbdClient } from '../../src/backends/nbd/nbd-client.ts';
import {
  type NbdAddress,
  type NbdExport,
  NbdServer,
  type NbdServerHandler,
} from '../../src/backends/nbd/nbd-server.ts';
import { MemoryDisk, pathOf, pattern, privateDirectory, run, stop } from './nbd-fixtures.ts';
import { hasNbdTools, nbdkit, uriOf } from './nbd-tools.ts';

const MIB = 1024 * 1024;
/** No multiple of anything. */
const ODD_BYTES = 3 * MIB + 511;
let directory: ReturnType<typeof privateDirectory>;
let servers: NbdServer[] = [];
let processes: ChildProcess[] = [];

beforeEach(() => {
  directory = privateDirectory();
  servers = [];
  processes = [];
});

afterEach(async () => {
  for (const child of processes) await stop(child);
  for (const server of servers) await server.close();
  directory.remove();
});

const file = (name: string): string => join(directory.path, name);

async function listen(address: NbdAddress, ...exports: readonly NbdExport[]): Promise<NbdServer> {
  const server = await NbdServer.listen({ address, exports });
  servers.push(server);
  return server;
}

/** Of what `nbdinfo --json` says of one export. */
interface NbdInfo {
  readonly structured: boolean;
  readonly exports: readonly Record<string, unknown>[];
}

async function nbdinfo(uri: string, ...options: readonly string[]): Promise<NbdInfo> {
  const { status, output } = await run('nbdinfo', ['--json', ...options, uri]);
  expect({ status, output }).toMatchObject({ status: 0 });
  return JSON.parse(output) as NbdInfo;
}

/** Runs qemu-io's commands one after the other; its complaints, if it has any, are the result. */
async function qemuIo(uri: string, ...commands: readonly string[]): Promise<string> {
  const args = commands.flatMap((command) => ['-c', command]);
  const { output } = await run('qemu-io', ['-f', 'raw', uri, ...args]);
  return output
    .split('\n')
    .filter((line) => /fail|error|verification|denied|read-only|space/i.test(line))
    .join('\n');
}

async function expectDone(command: string, ...args: readonly string[]): Promise<void> {
  expect(await run(command, args)).toMatchObject({ status: 0 });
}

function fioArguments(uri: string, ...more: readonly string[]): readonly string[] {
  const job = [
    '--name=job',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--randrepeat=1',
    '--minimal',
    '--verify_state_save=0',
  ];
  return [...job, ...more];
}

const addresses: readonly (readonly [string, () => NbdAddress])[] = [
  ['a unix socket', () => ({ path: file('socket') })],
  ['TCP', () => ({ host: '127.0.0.1', port: 0 })],
];

// Skipped where the tools of others are not installed: these tests are about nothing else. CI requires them
// (required.test.ts).
describe.skipIf(!hasNbdTools).each(addresses)('our server on %s', (_, address) => {
  async function serve(disk: MemoryDisk, options: Partial<NbdExport> = {}): Promise<string> {
    const server = await listen(address(), { sizeBytes: disk.bytes.length, handler: disk, ...options });
    return uriOf(server.address, options.exportName);
  }

  it('tells nbdinfo what it has', async () => {
    const disk = new MemoryDisk(ODD_BYTES);
    disk.bytes.fill(1, 8192, 12_288);
    disk.bytes.fill(1, 2 * MIB);
    const exports = [
      { exportName: 'root disk', sizeBytes: ODD_BYTES, handler: disk },
      { exportName: 'medium', sizeBytes: MIB, handler: new MemoryDisk(MIB), readOnly: true },
    ];
    const server = await listen(address(), ...exports);
    const { structured, exports: listed } = await nbdinfo(uriOf(server.address), '--list');
    expect(structured).toBe(true);
    expect(listed.map((one) => one['export-name'])).toEqual(['root disk', 'medium']);
    const common = { can_flush: true, can_fua: true, can_multi_conn: true, block_size_minimum: 1 };
    const [first, second] = listed;
    expect(first).toMatchObject({ ...common, 'export-size': ODD_BYTES, is_read_only: false, can_zero: true });
    expect(first).toMatchObject({ can_trim: true, can_df: true, contexts: ['base:allocation'] });
    expect(second).toMatchObject({ ...common, 'export-size': MIB, is_read_only: true, can_trim: false });
    const map = await run('nbdinfo', ['--map', '--json', uriOf(server.address, 'root%20disk')]);
    const extents = JSON.parse(map.output) as { offset: number; length: number; type: number }[];
    expect(extents.map(({ offset, length, type }) => [offset, length, type])).toEqual([
      [0, 8192, 3],
      [8192, 4096, 0],
      [12_288, 2 * MIB - 12_288, 3],
      [2 * MIB, MIB + 511, 0],
    ]);
    const none = await run('nbdinfo', [uriOf(server.address, 'none')]);
    expect(none).toMatchObject({ status: 1 });
    expect(none.output).toContain('No such file or directory');
  });

  it('takes and gives whole disks: nbdcopy, with holes, over several connections', async () => {
    const disk = new MemoryDisk(ODD_BYTES);
    disk.bytes.fill(7);
    const uri = await serve(disk);
    const content = Buffer.alloc(ODD_BYTES);
    pattern(MIB, 1).copy(content, 300_001);
    pattern(1000, 2).copy(content, ODD_BYTES - 1000);
    writeFileSync(file('in'), content);
    await expectDone('nbdcopy', '--connections=4', '--flush', file('in'), uri);
    expect(disk.bytes.equals(content)).toBe(true);
    expect(disk.calls.some((call) => call.startsWith('zeroes'))).toBe(true);
    expect(disk.calls).toContain('flush');
    await expectDone('nbdcopy', '--connections=4', uri, file('out'));
    expect(readFileSync(file('out')).equals(content)).toBe(true);
    // From one of our servers to the other.
    const second = new MemoryDisk(ODD_BYTES);
    const other = await listen({ path: file('other') }, { sizeBytes: ODD_BYTES, handler: second });
    await expectDone('nbdcopy', uri, uriOf(other.address));
    expect(second.bytes.equals(content)).toBe(true);
  });

  it('takes and gives patterns at any offset: qemu-io', async () => {
    const disk = new MemoryDisk(2 * MIB);
    const uri = await serve(disk);
    const model = Buffer.alloc(2 * MIB);
    const complaints = await qemuIo(
      uri,
      'write -P 0xab 0 64k',
      'write -P 0xcd 12345 6789',
      'write -z 1000 511',
      'write -z -u 65536 65536',
      'write -P 0x11 1M 1M',
      'discard 1M 64k',
      'aio_write -P 0x22 1536k 4k',
      'aio_write -P 0x33 1540k 4k',
      'aio_flush',
      'flush',
      'read -P 0xab 1511 1000',
      'read -P 0 1000 511',
      'read -P 0xcd 12345 6789',
    );
    expect(complaints).toBe('');
    model
      .fill(0xab, 0, 65_536)
      .fill(0xcd, 12_345, 12_345 + 6789)
      .fill(0, 1000, 1511);
    model.fill(0x11, MIB).fill(0, MIB, MIB + 65_536);
    model.fill(0x22, 1536 * 1024, 1540 * 1024).fill(0x33, 1540 * 1024, 1544 * 1024);
    expect(disk.bytes.equals(model)).toBe(true);
    // The other way: written here, read by it.
    disk.bytes.fill(0x5a, 777, 99_999);
    expect(await qemuIo(uri, 'read -P 0x5a 777 99222', 'read -P 0x11 1200k 100k')).toBe('');
    expect(await qemuIo(uri, 'read -P 0x5a 776 99222')).toContain('verification failed');
  });

  it('keeps what fio writes and verifies, at many depths and sizes', async () => {
    const disk = new MemoryDisk(8 * MIB);
    const uri = await serve(disk);
    const verify = ['--size=8M', '--verify=crc32c', '--verify_fatal=1', '--do_verify=1'];
    const writes = ['--rw=randwrite', '--bsrange=512-128k', '--blockalign=512', '--iodepth=32', '--fsync=16'];
    await expectDone('fio', ...fioArguments(uri, ...verify, ...writes));
    // What it verifies in a run of its own was on the disk, and not in its memory.
    await expectDone('fio', ...fioArguments(uri, ...verify, ...writes, '--verify_only=1'));
    await expectDone('fio', ...fioArguments(uri, '--rw=randtrim', '--size=1M', '--bs=4k', '--iodepth=8'));
    expect(disk.calls.some((call) => call.startsWith('trim'))).toBe(true);
    const damaged = disk.bytes.findIndex((byte, at) => at > MIB && byte !== 0);
    disk.bytes[damaged] = (disk.bytes[damaged] ?? 0) ^ 1;
    const found = await run('fio', fioArguments(uri, ...verify, ...writes, '--verify_only=1'));
    expect(found.status).not.toBe(0);
  });

  it('is passed on by nbdkit to a client of ours, and what that writes comes through', async () => {
    const disk = new MemoryDisk(ODD_BYTES);
    disk.bytes.fill(3, 0, MIB);
    const uri = await serve(disk, { exportName: 'inner' });
    const { child, path } = await nbdkit(directory.path, 'nbd', `uri=${uri}`);
    processes.push(child);
    const client = await NbdClient.connect({ path, exportName: '' });
    expect(client.sizeBytes).toBe(ODD_BYTES);
    expect((await client.blockStatus(0, ODD_BYTES)).map(({ length, zero }) => [length, zero])).toEqual([
      [MIB, false],
      [2 * MIB + 511, true],
    ]);
    const bytes = pattern(MIB, 3);
    await client.write(MIB - 17, [bytes], { fua: true });
    await client.writeZeroes(1, 4095, { punchHole: true });
    await client.trim(8192, 4096);
    await client.flush();
    expect(Buffer.from(await client.read(0, ODD_BYTES)).equals(disk.bytes)).toBe(true);
    expect(disk.bytes.subarray(MIB - 17, 2 * MIB - 17).equals(bytes)).toBe(true);
    expect(disk.bytes.subarray(1, 4096).every((byte) => byte === 0)).toBe(true);
    await client.disconnect();
  });

  it('refuses writes to what is read-only, and gives it all the same', async () => {
    const disk = new MemoryDisk(MIB);
    pattern(MIB, 4).copy(disk.bytes);
    const before = Buffer.from(disk.bytes);
    const uri = await serve(disk, { readOnly: true });
    await expectDone('nbdcopy', uri, file('out'));
    expect(readFileSync(file('out')).equals(before)).toBe(true);
    writeFileSync(file('in'), Buffer.alloc(MIB));
    const copied = await run('nbdcopy', [file('in'), uri]);
    expect(copied.status).not.toBe(0);
    expect(copied.output).toContain('read-only');
    const fio = await run('fio', fioArguments(uri, '--rw=write', '--size=64k', '--bs=4k'));
    expect(fio.status).not.toBe(0);
    expect(disk.bytes.equals(before)).toBe(true);
  });

  it("tells a client of its handler's errors, each by its name, and goes on", async () => {
    const disk = new MemoryDisk(MIB);
    const fail = (code: string): Promise<never> => Promise.reject(Object.assign(new Error(code), { code }));
    const handler: NbdServerHandler = {
      read: (offset, length) => (offset >= 65_536 ? fail('EIO') : disk.read(offset, length)),
      write: (offset, data) => (offset >= 65_536 ? fail('ENOSPC') : disk.write(offset, data)),
      writeZeroes: () => fail('EDQUOT'),
      flush: async () => {},
      disconnected: () => {},
    };
    const server = await listen(address(), { sizeBytes: MIB, handler });
    const uri = uriOf(server.address);
    expect(await qemuIo(uri, 'write -P 1 64k 4k')).toContain('No space left on device');
    expect(await qemuIo(uri, 'write -z 0 4k')).toContain('No space left on device');
    expect(await qemuIo(uri, 'read 64k 4k')).toContain('Input/output error');
    expect(await qemuIo(uri, 'read 64k 4k', 'write -P 1 0 4k', 'read -P 1 0 4k')).not.toContain(
      'verification',
    );
    expect(disk.bytes.subarray(0, 4096).equals(Buffer.alloc(4096, 1))).toBe(true);
    writeFileSync(file('in'), pattern(MIB, 5));
    const copied = await run('nbdcopy', [file('in'), uri]);
    expect(copied.status).not.toBe(0);
    expect(copied.output).toContain('No space left on device');
  });

  it('outlives clients that are killed in the middle', async () => {
    const disk = new MemoryDisk(8 * MIB);
    const gone: unknown[] = [];
    let wrote: () => void = () => {};
    const writing = new Promise<void>((resolve) => {
      wrote = resolve;
    });
    const handler: NbdServerHandler = {
      read: (offset, length) => disk.read(offset, length),
      write: (offset, data) => {
        wrote();
        return disk.write(offset, data);
      },
      writeZeroes: (offset, length, options) => disk.writeZeroes(offset, length, options),
      flush: () => disk.flush(),
      disconnected: (reason) => gone.push(reason),
    };
    const server = await listen(address(), { sizeBytes: 8 * MIB, handler });
    const uri = uriOf(server.address);
    const endless = fioArguments(
      uri,
      '--rw=randwrite',
      '--bs=4k',
      '--size=8M',
      '--time_based',
      '--runtime=60',
    );
    const child = spawn('fio', [...endless, '--thread', '--iodepth=8'], { stdio: 'ignore' });
    processes.push(child);
    await writing;
    await stop(child);
    while (server.connections > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    // The first connection only asked for the size; fio says goodbye on neither.
    const hungUp = expect.objectContaining({ code: 'hypervisor' });
    expect(gone).toEqual([hungUp, hungUp]);
    await expectDone('nbdcopy', uri, file('out'));
    expect(statSync(file('out')).size).toBe(8 * MIB);
    expect(readFileSync(file('out')).equals(disk.bytes)).toBe(true);
  });
});

// Skipped where the tools of others are not installed, as above.
it.skipIf(!hasNbdTools)('an export of no bytes at all is one', async () => {
  const server = await listen({ path: file('empty') }, { sizeBytes: 0, handler: new MemoryDisk(0) });
  const { exports } = await nbdinfo(uriOf({ path: pathOf(server) }));
  expect(exports[0]).toMatchObject({ 'export-size': 0 });
});
