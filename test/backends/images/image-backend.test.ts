/**
 * Goal: disks that move alone become files that are whole or not there, sparse where they are zero, durable
 * once handed over, and served if that was asked for. Method: the backend is driven by hand, as the engine
 * would; files, their sizes on the file system, and clients of the export are the witnesses.
 */
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createImageBackend, type ImageExport } from '../../../src/backends/images/index.ts';
import { NbdClient, nbdErrorName } from '../../../src/backends/nbd/nbd-client.ts';
import { codeOf, pattern, run } from '../../nbd/nbd-fixtures.ts';
import { hasNbdTools, uriOf } from '../../nbd/nbd-tools.ts';
import { canMount, mountSmall } from '../../support/small-file-system.ts';
import { descriptionOf, diskOf, MIB, prepareFor, soleDisk, temporaryDirectory } from './fixtures.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let exported: ImageExport | undefined;

beforeEach(() => {
  directory = temporaryDirectory();
});

afterEach(async () => {
  await exported?.close();
  exported = undefined;
  directory.remove();
});

const file = (name: string): string => join(directory.path, name);
const files = (): string[] => readdirSync(directory.path).sort();
const allocatedBytes = (path: string): number => 512 * statSync(path).blocks;

describe('images', () => {
  it('are written beside their place, and get their names when all of them are whole', async () => {
    const backend = createImageBackend({ images: { disk0: file('root.raw') }, directory: directory.path });
    expect(backend.images.size).toBe(0);
    const vm = await prepareFor(backend, diskOf('disk0'), diskOf('a/b', { sizeBytes: MIB + 511 }));
    expect(vm.disks.map(({ id, sizeBytes }) => [id, sizeBytes])).toEqual([
      ['disk0', 4 * MIB],
      ['a/b', MIB + 511],
    ]);
    const partial = expect.stringMatching(/^(a%2Fb\.img|root\.raw)\.[0-9a-f]{8}\.partial$/);
    expect(files()).toEqual([partial, partial]);
    const bytes = pattern(100_000, 1);
    for (const disk of vm.disks) {
      await disk.write(700_001, [bytes.subarray(0, 1), bytes.subarray(1)]);
      await disk.flush();
    }
    await vm.handOver();
    expect(files()).toEqual(['a%2Fb.img', 'root.raw']);
    expect([...backend.images]).toEqual([
      ['disk0', file('root.raw')],
      ['a/b', file('a%2Fb.img')],
    ]);
    for (const { id, sizeBytes } of vm.disks) {
      const path = backend.images.get(id) ?? '';
      const whole = Buffer.alloc(sizeBytes);
      bytes.copy(whole, 700_001);
      expect(readFileSync(path).equals(whole)).toBe(true);
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect(allocatedBytes(path)).toBeLessThan(256 * 1024);
    }
    expect(await codeOf(vm.handOver())).toBe('invalid-state');
    // To let go of helpers: what was handed over stays.
    await vm.discard();
    await vm.discard();
    expect(files()).toEqual(['a%2Fb.img', 'root.raw']);
    expect(backend.exported).toBeUndefined();
  });

  it('that are given up leave nothing behind', async () => {
    const vm = await prepareFor(createImageBackend({ directory: directory.path }), diskOf('a'), diskOf('b'));
    await vm.disks[0]?.write(0, [pattern(MIB, 1)]);
    const writing = vm.disks[1]?.write(0, [pattern(MIB, 2)]);
    await vm.discard();
    await writing;
    expect(files()).toEqual([]);
    expect(await codeOf(vm.handOver())).toBe('invalid-state');
  });

  it('take disks alone, and only those that are copied', async () => {
    const backend = createImageBackend({ images: { disk0: file('disk0') } });
    expect(await codeOf(backend.prepare(descriptionOf(diskOf('disk0'))))).toBe('unsupported');
    expect(await codeOf(backend.prepare(descriptionOf(), { memory: 'copy' }))).toBe('unsupported');
    const shared = new Set(['cd0']);
    const description = descriptionOf(diskOf('disk0'), diskOf('cd0'));
    const vm = await backend.prepare(description, { memory: 'none', shared });
    expect(vm.disks.map(({ id }) => id)).toEqual(['disk0']);
    for (const call of [vm.loadDeviceState([]), vm.start({ run: true }), vm.refill(), vm.memory.write([])]) {
      expect(await codeOf(call)).toBe('unsupported');
    }
    await vm.discard();
    expect(() => createImageBackend({})).toThrow(/neither/);
  });

  it('are refused with every reason at once, and then nothing has changed', async () => {
    writeFileSync(file('there'), 'x');
    symlinkSync(file('nowhere'), file('dangling'));
    symlinkSync('loop', file('loop'));
    mkdirSync(file('directory'));
    const images = {
      a: file('there'),
      b: file('dangling'),
      c: file('missing/c'),
      // The file's own name is short enough, and the one beside it is not.
      d: file('x'.repeat(250)),
    };
    const before = files();
    const backend = createImageBackend({ images });
    const disks = ['a', 'b', 'c', 'd', 'e'].map((id) => diskOf(id));
    const refused = prepareFor(backend, ...disks);
    await expect(refused).rejects.toMatchObject({ code: 'incompatible' });
    await refused.catch(({ message }) => {
      for (const [id, why] of [
        ['a', 'there is there already'],
        ['b', 'dangling is there already'],
        ['c', 'missing is no directory'],
        ['d', 'ENAMETOOLONG'],
        ['e', 'there is no file for it here'],
      ] as const) {
        expect(message).toMatch(new RegExp(`disk ${id}: [^;]*${why}`));
      }
    });
    const named = { a: file('there'), b: file('directory'), c: file('dangling'), d: file('loop') };
    const used = createImageBackend({ images: named, existing: 'use' });
    const refusedToo = prepareFor(used, ...Object.keys(named).map((id) => diskOf(id)));
    await expect(refusedToo).rejects.toMatchObject({
      code: 'incompatible',
      message: expect.stringMatching(
        /there has 1 bytes, and 4194304 are needed; .*directory is not a file; .*dangling is not a file; .*ELOOP/,
      ),
    });
    expect(files()).toEqual(before);
  });

  it('do not push aside what has come into their place meanwhile', async () => {
    const vm = await prepareFor(createImageBackend({ images: { a: file('a') } }), diskOf('a'));
    writeFileSync(file('a'), 'of somebody else');
    await expect(vm.handOver()).rejects.toMatchObject({
      code: 'disk-write',
      message: expect.stringContaining('is there by now'),
    });
    await vm.discard();
    expect(files()).toEqual(['a']);
    expect(readFileSync(file('a'), 'utf8')).toBe('of somebody else');
  });

  it('replace what is there when they are whole, and not before', async () => {
    writeFileSync(file('a'), 'the old one');
    const backend = createImageBackend({ images: { a: file('a') }, existing: 'replace' });
    const failed = await prepareFor(backend, diskOf('a'));
    await failed.disks[0]?.write(0, [pattern(MIB, 1)]);
    await failed.discard();
    expect(files()).toEqual(['a']);
    expect(readFileSync(file('a'), 'utf8')).toBe('the old one');
    const vm = await prepareFor(backend, diskOf('a'));
    // Nothing of the one that failed is in it.
    expect(await vm.disks[0]?.extents(0, 4 * MIB)).toEqual([{ offset: 0, length: 4 * MIB, zero: true }]);
    expect(readFileSync(file('a'), 'utf8')).toBe('the old one');
    await vm.handOver();
    expect(files()).toEqual(['a']);
    expect(readFileSync(file('a')).equals(Buffer.alloc(4 * MIB))).toBe(true);
  });

  it('that are used are written in place, and stay as they are whatever comes', async () => {
    const content = pattern(4 * MIB, 1);
    writeFileSync(file('a'), content);
    chmodSync(file('a'), 0o640);
    const backend = createImageBackend({
      directory: directory.path,
      images: { a: file('a') },
      existing: 'use',
    });
    const failed = await prepareFor(backend, diskOf('a'), diskOf('b'));
    for (const disk of failed.disks) await disk.write(MIB, [Buffer.alloc(MIB, 7)]);
    await failed.discard();
    expect(files()).toEqual(['a', 'b.img']);
    content.fill(7, MIB, 2 * MIB);
    expect(readFileSync(file('a')).equals(content)).toBe(true);
    // The next attempt finds what the first one has left.
    const vm = await prepareFor(backend, diskOf('a'), diskOf('b'));
    const [a, b] = vm.disks;
    expect(content.equals(Buffer.concat((await a?.read(0, 4 * MIB)) ?? []))).toBe(true);
    expect(Buffer.concat((await b?.read(MIB, 3)) ?? []).toString('hex')).toBe('070707');
    await vm.handOver();
    expect(files()).toEqual(['a', 'b.img']);
    expect(statSync(file('a')).mode & 0o777).toBe(0o640);
  });

  it('in a directory are refused for an id that cannot be a name', async () => {
    const backend = createImageBackend({ directory: directory.path, existing: 'use' });
    for (const id of ['\ud800', 'ä'.repeat(50)]) {
      expect(await codeOf(prepareFor(backend, diskOf('a'), diskOf(id)))).toBe('incompatible');
      expect(files()).toEqual([]);
    }
  });

  it('are not taken twice at a time, under whatever names', async () => {
    mkdirSync(file('real'));
    symlinkSync('real', file('link'));
    writeFileSync(file('one'), '');
    linkSync(file('one'), file('two'));
    symlinkSync('one', file('three'));
    const before = files();
    for (const [existing, a, b] of [
      ['refuse', 'real/x', 'real/x'],
      ['refuse', 'real/x', 'link/x'],
      ['replace', 'real/x', 'link/x'],
      ['use', 'real/x', 'link/x'],
      ['use', 'one', 'two'],
      ['use', 'one', 'three'],
    ] as const) {
      // Two disks of one migration, and then two migrations.
      const both = createImageBackend({ images: { a: file(a), b: file(b) }, existing });
      const [first, second] = [diskOf('a'), diskOf('b')];
      await expect(prepareFor(both, first, second)).rejects.toMatchObject({
        code: 'incompatible',
        message: expect.stringMatching(/^disk b: .* is taken already/),
      });
      expect([files(), readdirSync(file('real'))]).toEqual([before, []]);
      // Also what was there, and empty, is as it was.
      expect(statSync(file('one')).size).toBe(0);
      const vm = await prepareFor(both, first);
      expect(await codeOf(prepareFor(both, second))).toBe('incompatible');
      await vm.discard();
      await (await prepareFor(both, second)).discard();
      for (const name of readdirSync(file('real'))) rmSync(file(`real/${name}`));
      writeFileSync(file('one'), '');
    }
  });

  it('touch no file beside their place that another attempt may have made', async () => {
    for (const existing of ['refuse', 'replace', 'use'] as const) {
      const theirs = ['.partial', '.01234567.partial'].map((end) => `${existing}${end}`);
      for (const name of theirs) writeFileSync(file(name), 'theirs');
      const backend = createImageBackend({ images: { a: file(existing) }, existing });
      await (await prepareFor(backend, diskOf('a'))).handOver();
      for (const name of theirs) expect(readFileSync(file(name), 'utf8')).toBe('theirs');
    }
  });

  it('that have replaced another stay, also if the next one cannot', async () => {
    for (const name of ['a', 'b']) writeFileSync(file(name), 'the old one');
    const images = { a: file('a'), b: file('b') };
    const backend = createImageBackend({ images, existing: 'replace' });
    const vm = await prepareFor(backend, diskOf('a'), diskOf('b'));
    rmSync(file('b'));
    mkdirSync(file('b'));
    expect(await codeOf(vm.handOver())).toBe('disk-write');
    await vm.discard();
    expect(files()).toEqual(['a', 'b']);
    expect(readFileSync(file('a')).equals(Buffer.alloc(4 * MIB))).toBe(true);
  });

  it('know what is zero, and allocate nothing for it', async () => {
    const sizeBytes = 64 * MIB + 100;
    writeFileSync(file('used'), '');
    for (const existing of ['replace', 'use'] as const) {
      const backend = createImageBackend({ images: { a: file('used') }, existing });
      const vm = await prepareFor(backend, diskOf('a', { sizeBytes }));
      const disk = soleDisk(vm);
      const partial = files().find((found) => found.endsWith('.partial'));
      const name = file(existing === 'use' ? 'used' : (partial ?? ''));
      // What is used was handed over by the round before, with holes that nobody knows of any more.
      const known = existing === 'replace';
      expect((await disk.extents(0, sizeBytes)).map(({ zero }) => zero)).toEqual([known]);
      const before = allocatedBytes(name);
      await disk.writeZeroes(0, sizeBytes);
      expect((await disk.extents(0, sizeBytes)).map(({ zero }) => zero)).toEqual([true]);
      expect(allocatedBytes(name)).toBe(before);
      await disk.write(MIB + 5, [Buffer.of(1)]);
      await disk.write(sizeBytes - 1, [Buffer.of(1)]);
      expect((await disk.extents(0, sizeBytes)).map(({ zero }) => zero)).toEqual([true, false, true, false]);
      // Zeros over what is written are written, in part of a granule too.
      await disk.writeZeroes(MIB + 5, 1);
      await disk.writeZeroes(sizeBytes - 70_000, 70_000);
      expect(Buffer.concat(await disk.read(MIB, 100)).every((byte) => byte === 0)).toBe(true);
      expect((await disk.extents(32 * MIB, sizeBytes - 32 * MIB)).map(({ zero }) => zero)).toEqual([true]);
      expect(allocatedBytes(name)).toBeLessThan(256 * 1024);
      if (existing === 'replace') await vm.handOver();
      else await vm.discard();
    }
    expect(readFileSync(file('used')).every((byte) => byte === 0)).toBe(true);
  });
});

describe('the export of images', () => {
  it.each([
    ['a unix socket', () => ({ path: file('nbd') })],
    ['TCP', () => ({ host: '127.0.0.1', port: 0 })],
  ] as const)('on %s serves them when they are whole, until it is closed', async (_, address) => {
    const backend = createImageBackend({ directory: directory.path, export: address() });
    const vm = await prepareFor(backend, diskOf('a'), diskOf('b', { sizeBytes: MIB + 1 }));
    const bytes = pattern(MIB, 1);
    for (const disk of vm.disks) await disk.write(0, [bytes]);
    expect(backend.exported).toBeUndefined();
    await vm.handOver();
    await vm.discard();
    exported = backend.exported;
    expect(exported?.address).toMatchObject('path' in address() ? address() : { host: '127.0.0.1' });
    if (hasNbdTools && exported !== undefined) {
      // With tools of others where they are; where they are required, required.test.ts sees to that.
      const uri = uriOf(exported.address, 'b');
      expect(await run('nbdcopy', [uri, file('copy')])).toMatchObject({ status: 0 });
      expect(readFileSync(file('copy')).equals(readFileSync(file('b.img')))).toBe(true);
      const more = pattern(MIB + 1, 2);
      writeFileSync(file('copy'), more);
      expect(await run('nbdcopy', ['--flush', file('copy'), uri])).toMatchObject({ status: 0 });
      expect(readFileSync(file('b.img')).equals(more)).toBe(true);
    }
    const at = exported?.address;
    if (at !== undefined && 'path' in at) {
      const client = await NbdClient.connect({ path: at.path, exportName: '' });
      expect(bytes.equals(await client.read(0, MIB))).toBe(true);
      await client.write(2 * MIB, [bytes], { fua: true });
      await client.writeZeroes(0, MIB, { punchHole: true });
      await client.trim(2 * MIB, 4096);
      await client.flush();
      const extents = await client.blockStatus(0, 4 * MIB);
      expect(extents.map(({ length, zero }) => [length, zero])).toEqual([
        [2 * MIB, true],
        [MIB, false],
        [MIB, true],
      ]);
      await exported?.close();
      expect(await client.closed).toMatchObject({ code: 'hypervisor' });
      const whole = Buffer.alloc(4 * MIB);
      bytes.copy(whole, 2 * MIB);
      expect(readFileSync(file('a.img')).equals(whole)).toBe(true);
    }
    await exported?.close();
    await exported?.close();
    expect(existsSync(file('nbd'))).toBe(false);
    expect(files().filter((name) => name.endsWith('.img'))).toEqual(['a.img', 'b.img']);
  });

  it('refuses everything before, and takes its address from the start', async () => {
    const path = file('nbd');
    const backend = createImageBackend({ images: { a: file('a') }, export: { path } });
    const vm = await prepareFor(backend, diskOf('a'));
    const client = await NbdClient.connect({ path, exportName: 'a' });
    const name = async (call: Promise<unknown>) => await call.then(() => 'resolved', nbdErrorName);
    for (const call of [
      client.read(0, 512),
      client.write(0, [pattern(512, 1)]),
      client.writeZeroes(0, 512),
      client.trim(0, 512),
      client.blockStatus(0, 512),
      client.flush(),
    ]) {
      expect(await name(call)).toBe('EIO');
    }
    // One that comes later is refused, and takes nothing from the first.
    const second = createImageBackend({ images: { b: file('b') }, export: { path } });
    expect(await codeOf(prepareFor(second, diskOf('b')))).toBe('connect-failed');
    expect(files()).toEqual([expect.stringMatching(/^a\.[0-9a-f]{8}\.partial$/), 'nbd']);
    await vm.discard();
    expect(await client.closed).toMatchObject({ code: 'hypervisor' });
    expect(files()).toEqual([]);
  });
});

// Skipped where no file system can be mounted: there is none then that could run full.
describe.skipIf(!canMount)('a file system that has no room', () => {
  it('is known before, all disks on it together, as far as the source can tell', async () => {
    using small = mountSmall(8 * MIB);
    const images = { a: join(small.path, 'a'), b: join(small.path, 'b'), c: file('c') };
    const disks = [
      diskOf('a', { sizeBytes: 64 * MIB, allocatedBytes: 5 * MIB }),
      diskOf('b', { sizeBytes: 64 * MIB, allocatedBytes: 4 * MIB }),
      diskOf('c', { sizeBytes: 64 * MIB, allocatedBytes: 64 * MIB }),
    ];
    const backend = createImageBackend({ images });
    await expect(prepareFor(backend, ...disks)).rejects.toMatchObject({
      code: 'disk-full',
      message: expect.stringMatching(
        /8388608 bytes are free, and 9437184 are needed \(disk a 5242880 bytes, disk b 4194304 bytes\)/,
      ),
    });
    expect(readdirSync(small.path)).toEqual([]);
    expect(files()).toEqual([]);
    // One of them alone fits, as does what nobody knows the size of; and a caller may know better.
    for (const chosen of [disks.slice(0, 1), disks.map(({ allocatedBytes: _, ...rest }) => rest)]) {
      await (await prepareFor(backend, ...chosen)).discard();
    }
    const ignoring = createImageBackend({ images, freeSpace: 'ignore' });
    await (await prepareFor(ignoring, ...disks)).discard();
  });

  it('counts for nothing what a file that is used takes up already', async () => {
    using small = mountSmall(8 * MIB);
    const path = join(small.path, 'a');
    writeFileSync(path, pattern(6 * MIB, 1));
    const disk = diskOf('a', { sizeBytes: 6 * MIB, allocatedBytes: 6 * MIB });
    expect(
      await codeOf(prepareFor(createImageBackend({ images: { a: path }, existing: 'replace' }), disk)),
    ).toBe('disk-full');
    await (await prepareFor(createImageBackend({ images: { a: path }, existing: 'use' }), disk)).discard();
  });

  it('is disk-full for the write that finds none, and for a client of the export', async () => {
    using small = mountSmall(4 * MIB);
    const path = join(small.path, 'a');
    const backend = createImageBackend({ images: { a: path }, export: { path: file('nbd') } });
    const vm = await prepareFor(backend, diskOf('a', { sizeBytes: 64 * MIB }));
    const disk = soleDisk(vm);
    await disk.write(0, [pattern(3 * MIB, 1)]);
    expect(await codeOf(disk.write(8 * MIB, [pattern(2 * MIB, 2)]))).toBe('disk-full');
    await vm.handOver();
    exported = backend.exported;
    const client = await NbdClient.connect({ path: file('nbd'), exportName: 'a' });
    expect(await codeOf(client.write(16 * MIB, [pattern(2 * MIB, 3)]))).toBe('disk-full');
    expect(pattern(3 * MIB, 1).equals(await client.read(0, 3 * MIB))).toBe(true);
    await client.disconnect();
    await exported?.close();
  });
});
