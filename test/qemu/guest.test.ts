/**
 * The judge before the trials: every test of the QEMU backend ends by asking a guest whether it still has all
 * that it wrote. So this file shows that the guest notices, in memory and on disk, both a damaged unit and a
 * write that was lost; that time spent stopped is seen from outside; and that an ordinary QEMU migration
 * between two of these guests, which loses nothing, is found to lose nothing.
 */
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  bootGuest,
  createDisk,
  type DiskSpec,
  type Guest,
  type GuestOptions,
  guestDirectory,
  qemuAvailable,
} from './support/guest.ts';

const MIB = 1024 * 1024;
const PAGE_BYTES = 4096;
/** How each page and block begins that the workload has written, little-endian. */
const STAMP_MAGIC = Buffer.from('luahgnoL');

const qemu = qemuAvailable();
if (!qemu.available) process.stderr.write(`skipped: ${qemu.why}\n`);

// A machine without QEMU 9 or the built guest cannot run these: setup-qemu.sh gets both where it is root on
// Debian or Ubuntu, and elsewhere QEMU may well be missing.
describe.skipIf(!qemu.available)('the test guest', { timeout: 120_000 }, () => {
  let directory: ReturnType<typeof guestDirectory>;
  let guests: Guest[];

  beforeEach(() => {
    directory = guestDirectory();
    guests = [];
  });

  afterEach(async () => {
    await Promise.all(guests.map((guest) => guest.kill()));
    await directory[Symbol.asyncDispose]();
  });

  async function boot(options: Omit<GuestOptions, 'dir'>): Promise<Guest> {
    const guest = await bootGuest({ ...options, dir: directory.path });
    guests.push(guest);
    return guest;
  }

  function disk(name: string, format: DiskSpec['format'] = 'raw'): Promise<DiskSpec> {
    return createDisk({ file: join(directory.path, name), format, sizeBytes: 256 * MIB });
  }

  it('boots, changes memory and two disks, and finds nothing wrong with either', async () => {
    const disks = [await disk('a.raw'), await disk('b.qcow2', 'qcow2')];
    const guest = await boot({ name: 'vm', disks });
    const { pages, disks: seen } = await guest.ready;
    expect(pages).toBe((48 * MIB) / PAGE_BYTES);
    expect(seen).toEqual([
      { name: 'vda', blocks: 524_288 },
      { name: 'vdb', blocks: 524_288 },
    ]);
    expect(await guest.command('ping')).toBe('pong');
    await expect(guest.command('make tea')).rejects.toThrow('unknown command');

    const before = await guest.stats();
    await sleep(1000); // The load has to have had time: its rate is what is looked at.
    const after = await guest.stats();
    expect(after.writes - before.writes).toBeGreaterThan(50);
    expect(after.pagesDirtied - before.pagesDirtied).toBeGreaterThan(500);
    expect(after.writeErrors).toBe(0);
    expect(after.longestMs).toBeGreaterThan(0);
    expect(after.p50Ms).toBeGreaterThan(0);
    expect(after.p99Ms).toBeGreaterThanOrEqual(after.p50Ms);
    expect(guest.ticks.count).toBeGreaterThan(10);

    const verdict = await guest.verify();
    expect(verdict).toMatchObject({ pages, badPages: 0, badBlocks: 0, firstBad: '' });
    expect(verdict.blocks).toBeGreaterThan((2 * 16 * MIB) / 512);
    expect((await stat(join(directory.path, 'a.raw'))).blocks).toBeGreaterThan(0);

    await guest.quit();
    expect(await guest.exited).toEqual({ code: 0, signal: null });
    await expect(guest.stats()).rejects.toThrow();
  });

  it('finds a damaged block and a lost write on disk', async () => {
    const { file } = await disk('a.raw');
    const guest = await boot({ name: 'vm', disks: [{ file, format: 'raw', sizeBytes: 256 * MIB }] });
    await guest.pause();
    const image = await open(file, 'r+');
    try {
      const hot = Buffer.alloc(16 * MIB);
      await image.read(hot, 0, hot.length, 0);

      // Damage: one byte of one block.
      const [at] = stamps(hot, 512);
      const flipped = Buffer.from([~(hot[at + 300] ?? 0)]);
      await image.write(flipped, 0, 1, at + 300);
      expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 1, staleBlocks: 0 });
      await image.write(hot, at + 300, 1, at + 300);
      expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });

      // Loss: what was there a second ago, in perfect order.
      await guest.resume();
      await sleep(1000);
      await guest.pause();
      expect(await guest.verify()).toMatchObject({ badBlocks: 0 });
      await image.write(hot, 0, hot.length, 0);
      const verdict = await guest.verify();
      expect(verdict.badPages).toBe(0);
      expect(verdict.staleBlocks).toBeGreaterThan(0);
      expect(verdict.badBlocks).toBe(verdict.staleBlocks);
      expect(verdict.firstBad).toMatch(/^vda \d+: stale/);
    } finally {
      await image.close();
    }
  });

  it('finds a damaged block where all writers write, up to the end of a disk of odd size', async () => {
    const sharedBytes = 64 * 1024;
    const sizeBytes = 8 * MIB + 7 * 512;
    const drive = await createDisk({ file: join(directory.path, 'odd.raw'), format: 'raw', sizeBytes });
    const guest = await boot({
      name: 'vm',
      disks: [drive],
      load: { shared: true, writers: 8, writesPerSecond: 400 },
    });
    await sleep(1000); // Of the load, as above.
    await guest.pause();
    const image = await open(drive.file, 'r+');
    try {
      for (const start of [0, sizeBytes - sharedBytes]) {
        const area = Buffer.alloc(sharedBytes);
        await image.read(area, 0, area.length, start);
        const written = stamps(area, 512);
        const generations = new Set(written.map((at) => area.readUInt32LE(at + 24)));
        expect(generations.size).toBeGreaterThan(1);
        const at = written.at(-1) ?? Number.NaN;
        await image.write(Buffer.from([~(area[at + 300] ?? 0)]), 0, 1, start + at + 300);
        expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 1, staleBlocks: 0 });
        await image.write(area, at + 300, 1, start + at + 300);
        expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
      }
    } finally {
      await image.close();
    }
  });

  it('finds a damaged page and a lost write in memory', async () => {
    // The guest's memory is a file here, so that it can be changed behind its back.
    const file = join(directory.path, 'memory');
    const guest = await boot({
      name: 'vm',
      disks: [],
      machine: 'pc,memory-backend=ram',
      extraArguments: ['-object', `memory-backend-file,id=ram,size=256M,mem-path=${file},share=on`],
    });
    await guest.pause();
    const memory = await open(file, 'r+');
    try {
      const before = Buffer.alloc(256 * MIB);
      await memory.read(before, 0, before.length, 0);
      const pages = stamps(before, PAGE_BYTES);
      expect(pages.length).toBeGreaterThanOrEqual((48 * MIB) / PAGE_BYTES);

      const [at] = pages;
      await memory.write(Buffer.from([~(before[at + 4000] ?? 0)]), 0, 1, at + 4000);
      expect(await guest.verify()).toMatchObject({
        badPages: 1,
        stalePages: 0,
        firstBad: expect.stringMatching(/^memory/),
      });
      await memory.write(before, at + 4000, 1, at + 4000);
      expect(await guest.verify()).toMatchObject({ badPages: 0 });

      await guest.resume();
      await sleep(500);
      await guest.pause();
      const page = Buffer.alloc(PAGE_BYTES);
      let put = 0;
      for (const address of pages) {
        await memory.read(page, 0, PAGE_BYTES, address);
        if (page.equals(before.subarray(address, address + PAGE_BYTES))) continue;
        await memory.write(before, address, PAGE_BYTES, address);
        put++;
        if (put === 3) break;
      }
      expect(await guest.verify()).toMatchObject({ badPages: 3, stalePages: 3, badBlocks: 0 });
    } finally {
      await memory.close();
    }
  });

  it('shows a stun in the ticks, which the clock of the guest does not', async () => {
    const guest = await boot({ name: 'vm', disks: [await disk('a.raw')] });
    // A gap is between two ticks, so the first has to have come.
    await guest.nextTick();
    await guest.reset();
    await guest.qmp('stop');
    expect(await guest.runState()).toBe('paused');
    await sleep(1500);
    await guest.qmp('cont');
    await guest.nextTick();
    expect(guest.ticks.gapMaxMs).toBeGreaterThan(1450);
    expect((await guest.stats()).tickGapMaxMs).toBeLessThan(1000);
  });

  it('survives the migration that QEMU does by itself', async () => {
    const disks = [await disk('a.raw')];
    const source = await boot({ name: 'a', disks });
    const destination = await boot({ name: 'b', disks, incoming: true });
    expect(await destination.runState()).toBe('inmigrate');

    const uri = `unix:${join(directory.path, 'migrate')}`;
    await destination.qmp('migrate-incoming', { uri });
    await source.qmp('migrate', { uri });
    await destination.nextTick();
    expect(await source.runState()).toBe('postmigrate');
    await source.quit();

    expect(await destination.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
    const { writes } = await destination.stats();
    await sleep(500);
    expect((await destination.stats()).writes).toBeGreaterThan(writes);
    await destination.command('poweroff');
    expect(await destination.exited).toMatchObject({ code: 0 });
  });

  it('says why a guest does not come up, and leaves nothing running', async () => {
    const missing: DiskSpec = { file: join(directory.path, 'none.raw'), format: 'raw', sizeBytes: MIB };
    await expect(boot({ name: 'vm', disks: [missing] })).rejects.toThrow(/none\.raw/);
    // The workload ends at a parameter that it does not know, and the guest with it.
    const extraArguments = ['-append', 'console=ttyS1 quiet panic=-1 lh.tea=1'];
    await expect(boot({ name: 'vm2', disks: [], extraArguments })).rejects.toThrow('bad parameter lh.tea=1');
    const dir = join(directory.path, 'x'.repeat(100));
    await expect(bootGuest({ name: 'vm3', dir, disks: [] })).rejects.toThrow('path too long');
  });
});

/** Where the units of `bytes` begin that the workload has written. */
function stamps(bytes: Buffer, unitBytes: number): [number, ...number[]] {
  const found: number[] = [];
  for (let at = 0; at < bytes.length; at += unitBytes) {
    if (bytes.compare(STAMP_MAGIC, 0, 8, at, at + 8) === 0) found.push(at);
  }
  const [first, ...rest] = found;
  if (first === undefined) throw new Error('nothing in here was written by the workload');
  return [first, ...rest];
}
