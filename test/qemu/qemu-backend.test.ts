/**
 * Real Linux guests, moved by the QEMU backend alone. Goal: what arrives is what left, to the last page and block, whatever the
 * disks are made of, and whether the guest ran; and what cannot arrive is refused before anything has happened.
 *
 * Method: the guest at the destination reads again everything that it ever wrote, at either end, and compares. In place of
 * the engine there is the shortest loop that calls the contracts in their order (support/drive.ts).
 */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createQemuBackend, openQemuSource, type QemuSourceOptions } from '../../src/backends/qemu/index.ts';
import { expectClean } from './support/clean.ts';
import { Drive } from './support/drive.ts';
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

const qemu = qemuAvailable();
const suite = qemu.available ? 'the QEMU backend' : `the QEMU backend (skipped: ${qemu.why})`;

// A machine without QEMU 9 or the built guest cannot run these: setup-qemu.sh gets both where it is root on Debian or
// Ubuntu, and elsewhere QEMU may well be missing. The suite's name says what was.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
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

  async function boot(name: string, options: Partial<GuestOptions> = {}): Promise<Guest> {
    const guest = await bootGuest({ disks: [], ...options, name, dir: directory.path });
    guests.push(guest);
    return guest;
  }

  function disk(name: string, format: DiskSpec['format'] = 'raw', sizeBytes = 128 * MIB): Promise<DiskSpec> {
    return createDisk({ file: join(directory.path, name), format, sizeBytes });
  }

  async function drive(
    source: Guest,
    destination: Guest,
    options: Partial<QemuSourceOptions> = {},
  ): Promise<Drive> {
    const vm = await openQemuSource({ qmp: source.qmpPath, runtimeDir: directory.path, ...options });
    const backend = createQemuBackend({ qmp: destination.qmpPath, runtimeDir: directory.path });
    return new Drive(vm, await backend.prepare(vm.description));
  }

  it('moves a guest with a raw and a qcow2 disk under load, and ends the source', async () => {
    const load = { writesPerSecond: 400, dirtyMiBPerSecond: 16 };
    const source = await boot('a', { disks: [await disk('a0'), await disk('a1', 'qcow2')], load, smp: 2 });
    const disks = [await disk('b0'), await disk('b1', 'qcow2')];
    const destination = await boot('b', { disks, load, smp: 2, incoming: true });
    // It was made ready for a migration of another kind.
    const capabilities = ['multifd', 'pause-before-switchover'].map((capability) => ({
      capability,
      state: true,
    }));
    await destination.qmp('migrate-set-capabilities', { capabilities });
    await destination.qmp('migrate-set-parameters', { 'tls-creds': 'nobody' });
    const move = await drive(source, destination);
    expect(move.source.description).toMatchObject({
      vmId: 'a',
      name: 'a',
      machine: expect.stringMatching(/^pc-i440fx-\d+\.\d+$/),
      cpus: 2,
      disks: [
        { id: 'vd0', sizeBytes: 128 * MIB, blockBytes: 512, readOnly: false },
        { id: 'vd1', sizeBytes: 128 * MIB, blockBytes: 512, readOnly: false },
      ],
    });
    expect(move.source.memory.regions).toContainEqual({
      name: 'pc.ram',
      sizeBytes: 256 * MIB,
      pageBytes: 4096,
    });
    expect(move.source.runState()).toBe('running');

    await move.run();
    expect(await source.exited).toEqual({ code: 0, signal: null });
    expect(await destination.runState()).toBe('running');
    expect(move.rounds[0]).toBeGreaterThanOrEqual(256 * MIB);
    expect(move.rounds[1]).toBeLessThan(128 * MIB);
    expect(move.rounds.at(-1)).toBe(0);
    for (const { mirrored, broken } of move.disks) {
      expect(mirrored).toBeGreaterThan(0);
      expect(broken).toBeUndefined();
    }

    const { writes } = await destination.stats();
    expect(await destination.verify()).toMatchObject({ badPages: 0, badBlocks: 0, firstBad: '' });
    const after = await destination.stats();
    expect(after.writes).toBeGreaterThan(writes);
    expect(after.writeErrors).toBe(0);
    await expectClean(destination);
  });

  it('moves a guest on, from where it arrived, with drives that nobody gave a name', async () => {
    const drives = async (name: string, alignBytes = 512): Promise<Partial<GuestOptions>> => {
      const { file } = await disk(name);
      const drive = `if=virtio,driver=blkdebug,align=${alignBytes},image.driver=file,image.filename=${file}`;
      return { extraArguments: ['-drive', drive], machine: 'q35' };
    };
    const first = await boot('a', await drives('a0'));
    // The guest goes on writing blocks of 512 bytes, which is not what this one is made of.
    const second = await boot('b', { ...(await drives('b0', 4096)), incoming: true });
    const third = await boot('c', { ...(await drives('c0')), incoming: true });
    const once = await drive(first, second, { vmId: 'vm', quitOnRelease: false });
    expect(once.source.description).toMatchObject({ vmId: 'vm', name: 'a', disks: [{ id: 'virtio0' }] });
    await once.run();
    expect(await first.runState()).toBe('postmigrate');
    await expectClean(first);

    const again = await drive(second, third, { vmId: 'vm' });
    await again.run();
    expect(await third.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
    await expectClean(third);
  });

  it('leaves a guest paused that was paused', async () => {
    const source = await boot('a', { disks: [await disk('a0')] });
    const destination = await boot('b', { disks: [await disk('b0')], incoming: true });
    await source.qmp('stop');
    const move = await drive(source, destination);
    expect(move.source.runState()).toBe('paused');
    await move.approach();
    // QEMU waits for nobody with a guest that stands still: it has let go of its disks already.
    while (((await source.qmp('query-migrate')) as { status: string }).status !== 'device');
    const [tapped] = move.source.disks;
    await tapped?.flush();
    expect(await tapped?.extents(0, 128 * MIB)).toEqual([{ offset: 0, length: 128 * MIB, zero: false }]);
    await move.switchOver(false);
    await move.source.release();
    await move.destination.discard();
    expect(await destination.runState()).toBe('paused');
    expect(destination.ticks.count).toBe(0);
    await destination.qmp('cont');
    await destination.nextTick();
    expect(await destination.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
  });

  it('refuses a destination that differs, with everything in which it does, and leaves it as it was', async () => {
    const source = await boot('a', { disks: [await disk('a0'), await disk('a1'), await disk('a2')] });
    const vm = await openQemuSource({ qmp: source.qmpPath });
    const disks = [await disk('b0'), await disk('b1', 'raw', 64 * MIB)];
    const other = { disks, machine: 'q35', memoryMiB: 128, smp: 2, extraArguments: ['-device', 'VGA'] };
    const destination = await boot('b', { ...other, incoming: true });
    const prepared = createQemuBackend({ qmp: destination.qmpPath }).prepare(vm.description);
    const refusal: unknown = await prepared.then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(refusal).toMatchObject({ code: 'incompatible' });
    const message = refusal instanceof Error ? refusal.message : '';
    expect(message).toMatch(/the machine is pc-i440fx-[\d.]+ at the source, pc-q35-[\d.]+ here/);
    expect(message).toContain('the number of CPUs is 1 at the source, 2 here');
    expect(message).toContain('memory pc.ram has 268435456 bytes at the source, 134217728 here');
    expect(message).toMatch(/memory \S*vga.vram is here, but not at the source/);
    expect(message).toContain('the size of disk vd1 is 134217728 at the source, 67108864 here');
    expect(message).toContain('disk vd2 is missing here');
    expect(message).not.toContain('vd0');

    expect(await destination.runState()).toBe('inmigrate');
    expect(await destination.qmp('query-migrate')).toEqual({});
    await expectClean(destination);
    // Its monitor is free for the next one, too.
    await expect(
      createQemuBackend({ qmp: destination.qmpPath }).prepare(vm.description),
    ).rejects.toMatchObject({
      code: 'incompatible',
    });
    await vm.detach();
    await expect(createQemuBackend({ qmp: source.qmpPath }).prepare(vm.description)).rejects.toThrow(
      /not started with -incoming defer/,
    );
    expect(await source.runState()).toBe('running');
  });

  it('does not run a guest whose state was cut short, and takes no second migration', async () => {
    const source = await boot('a', { disks: [await disk('a0')] });
    const destination = await boot('b', { disks: [await disk('b0')], incoming: true });
    const move = await drive(source, destination);
    await move.approach(1);
    await move.source.stun();
    await move.collect();
    const short = move.state.map((piece, index) =>
      index === move.state.length - 1 ? piece.subarray(0, -1) : piece,
    );
    await expect(move.destination.loadDeviceState(short)).rejects.toMatchObject({ code: 'device-state' });
    await expect(move.destination.start({ run: true })).rejects.toMatchObject({ code: 'invalid-state' });
    await move.source.resume();
    await source.nextTick();
    await move.destination.discard();
    await move.destination.discard();
    expect(destination.ticks.count).toBe(0);
    await expectClean(destination);
    const backend = createQemuBackend({ qmp: destination.qmpPath });
    await expect(backend.prepare(move.source.description)).rejects.toThrow(/takes only one: start a new one/);
    await move.source.detach();
    expect(await source.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
  });

  it('says what QEMU makes of device state that it cannot load', async () => {
    const source = await boot('a');
    const destination = await boot('b', { incoming: true });
    const move = await drive(source, destination);
    await move.approach(1);
    await move.source.stun();
    await move.collect();
    const bad = Buffer.concat(move.state);
    bad.fill(0xff, 100, 200);
    await expect(move.destination.loadDeviceState([bad])).rejects.toMatchObject({
      code: 'device-state',
      message: expect.stringMatching(/QEMU/),
    });
    await move.destination.discard();
    expect(destination.ticks.count).toBe(0);
    await move.source.resume();
    await source.nextTick();
    await move.source.detach();
  });

  it('refuses pages that do not fit the guest', async () => {
    const source = await boot('a');
    const destination = await boot('b', { incoming: true });
    const { destination: vm, source: from } = await drive(source, destination);
    const region = from.memory.regions.findIndex(({ name }) => name === 'pc.ram');
    const content = [Buffer.alloc(4096)];
    for (const run of [
      { region: 99, offset: 0, length: 4096, content },
      { region, offset: 256 * MIB, length: 4096, content },
      { region, offset: 256 * MIB - 4096, length: 8192, content: 'zero' as const },
      { region, offset: 1, length: 4096, content },
      { region, offset: 0, length: 8192, content },
      { region, offset: 0, length: 0, content: [] },
    ]) {
      await expect(vm.memory.write([run])).rejects.toMatchObject({ code: 'memory' });
    }
    await vm.memory.write([{ region, offset: 0, length: 4096, content }]);
    await vm.discard();
    await from.detach();
  });

  it('tells at once that somebody else uses the only NBD server of a QEMU', async () => {
    const guest = await boot('a', { disks: [await disk('a0')] });
    const addr = { type: 'unix', data: { path: join(directory.path, 'theirs') } };
    await guest.qmp('nbd-server-start', { addr });
    await expect(openQemuSource({ qmp: guest.qmpPath })).rejects.toMatchObject({
      code: 'invalid-state',
      message: expect.stringMatching(/NBD server already/),
    });
    // It is still theirs.
    await expect(guest.qmp('nbd-server-start', { addr })).rejects.toThrow(/already running/);
    await guest.qmp('nbd-server-stop');
  });
});
