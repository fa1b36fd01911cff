/**
 * A VM in a running QEMU as the source of migrations that do not come to their end. Goal: whatever is given up, and
 * wherever, the guest runs on unharmed, nothing of ours is left in its QEMU, and the next attempt succeeds; a tap that
 * lost a write says so; and a guest that stops is told of.
 *
 * Method: a real Linux guest under load, stopped half-way at each step, which then reads again all that it wrote. What
 * somebody else does to its QEMU goes over the harness's own monitor.
 */
import { readdir, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createQemuBackend, openQemuSource, type QemuSourceOptions } from '../../src/backends/qemu/index.ts';
import { NbdServer } from '../../src/backends/qemu/nbd-server.ts';
import type { MigrationError } from '../../src/errors.ts';
import type { GuestWrite, Tap } from '../../src/interfaces/block-device.ts';
import type { SourceVm, UnexpectedStop } from '../../src/interfaces/hypervisor.ts';
import { deferred } from '../../src/util/promises.ts';
import { expectClean, type MigrationSettingsSeen, migrationSettings } from './support/clean.ts';
import { collectState, Drive, readRound } from './support/drive.ts';
import {
  bootGuest,
  createDisk,
  type DiskSpec,
  type Guest,
  guestDirectory,
  qemuAvailable,
} from './support/guest.ts';

const MIB = 1024 * 1024;

const qemu = qemuAvailable();
const suite = qemu.available ? 'a QEMU as the source' : `a QEMU as the source (skipped: ${qemu.why})`;

// A machine without QEMU 9 or the built guest cannot run these: setup-qemu.sh gets both where it is root on Debian or
// Ubuntu, and elsewhere QEMU may well be missing. The suite's name says what was.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  let directory: ReturnType<typeof guestDirectory>;
  /** One guest for all, because it survives all of this: that is what is tested. */
  let guest: Guest;
  let settings: MigrationSettingsSeen;
  /** How often a destination was started, for its names. */
  let destinations = 0;

  const disk = (name: string, format: DiskSpec['format'] = 'raw'): Promise<DiskSpec> =>
    createDisk({ file: join(directory.path, name), format, sizeBytes: 128 * MIB });

  beforeAll(async () => {
    directory = guestDirectory();
    guest = await bootGuest({
      name: 'vm',
      dir: directory.path,
      disks: [await disk('a0'), await disk('a1', 'qcow2')],
    });
    settings = await migrationSettings(guest);
  });

  afterAll(async () => {
    await guest?.kill();
    await directory?.[Symbol.asyncDispose]();
  });

  const open = (options: Partial<QemuSourceOptions> = {}): Promise<SourceVm> =>
    openQemuSource({ qmp: guest.qmpPath, runtimeDir: directory.path, ...options });

  async function destination(): Promise<Guest> {
    const name = `d${destinations++}`;
    const disks = [await disk(`${name}-0`), await disk(`${name}-1`, 'qcow2')];
    return bootGuest({ name, dir: directory.path, disks, incoming: true });
  }

  /** The guest runs, has lost nothing, and its QEMU is as it was before anybody came. */
  async function expectUnharmed(): Promise<void> {
    await guest.nextTick();
    expect(await guest.runState()).toBe('running');
    expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
    expect((await guest.stats()).writeErrors).toBe(0);
    await expectClean(guest);
    expect(await migrationSettings(guest)).toEqual(settings);
    expect((await readdir(directory.path)).filter((name) => name.startsWith('longhaul-'))).toEqual([]);
  }

  /** Taps a disk, and takes in what comes. */
  async function tap(
    vm: SourceVm,
    index = 0,
  ): Promise<{ tap: Tap; writes: GuestWrite[]; broken: MigrationError[] }> {
    const writes: GuestWrite[] = [];
    const broken: MigrationError[] = [];
    const source = vm.disks[index];
    if (source === undefined) throw new Error('no such disk');
    const set = await source.tap({
      write: (write) => {
        writes.push(write);
      },
      invalidate: () => {},
      broken: (error) => broken.push(error),
    });
    return { tap: set, writes, broken };
  }

  describe('given up', () => {
    it('after it was opened', async () => {
      const vm = await open();
      const [made] = (await readdir(directory.path)).filter((name) => name.startsWith('longhaul-'));
      expect((await stat(join(directory.path, made ?? ''))).mode & 0o777).toBe(0o700);
      await vm.resume();
      await vm.detach();
      await vm.detach();
      await expectUnharmed();
    });

    it('with its disks tapped and read, and in the midst of a round', async () => {
      const vm = await open();
      await tap(vm);
      await tap(vm, 1);
      await expect(tap(vm)).rejects.toMatchObject({ code: 'invalid-state' });
      for (const source of vm.disks) {
        const extents = await source.extents(0, source.sizeBytes);
        expect(extents.reduce((sum, extent) => sum + extent.length, 0)).toBe(source.sizeBytes);
        expect(extents.some((extent) => extent.zero)).toBe(true);
        await source.read(0, 64 * 1024);
        await source.flush();
      }
      for await (const batch of vm.memory.round()) {
        batch.release();
        await expect(vm.memory.round()[Symbol.asyncIterator]().next()).rejects.toMatchObject({
          code: 'invalid-state',
        });
        break;
      }
      // Its pages are lost to QEMU's dirty log, so the next one has to bring all.
      expect(await readRound(vm)).toBeGreaterThanOrEqual(256 * MIB);
      expect(await readRound(vm)).toBeLessThan(256 * MIB);
      await vm.detach();
      await expectUnharmed();
    });

    it('by a signal in the midst of a round, and after stop()', async () => {
      const vm = await open();
      const controller = new AbortController();
      const reading = (async () => {
        for await (const batch of vm.memory.round({ signal: controller.signal })) {
          batch.release();
          controller.abort();
        }
      })();
      await expect(reading).rejects.toMatchObject({ code: 'aborted' });
      await vm.memory.stop();
      await vm.memory.stop();
      expect(await guest.qmp('query-migrate')).toMatchObject({
        status: expect.stringMatching(/cancelled|failed/),
      });
      expect(await readRound(vm)).toBeGreaterThanOrEqual(256 * MIB);
      await vm.memory.stop();
      await vm.detach();
      await expectUnharmed();
    });

    it('at each step of a switchover, over and over, with the same taps, and then not', async () => {
      const vm = await open();
      const taps = [await tap(vm), await tap(vm, 1)];
      const stun = async (): Promise<void> => {
        await readRound(vm);
        await vm.stun();
        expect(vm.runState()).toBe('paused');
      };
      const resume = async (): Promise<void> => {
        await vm.resume();
        expect(vm.runState()).toBe('running');
        await guest.nextTick();
      };
      const finish = async (): Promise<void> => {
        for (const set of taps) await set.tap.finish();
      };

      await stun();
      await resume();

      await stun();
      // Half-way through the state.
      for await (const _ of vm.saveDeviceState()) break;
      await finish();
      await resume();
      await resume();

      await stun();
      const state = collectState(vm);
      while ((await readRound(vm)) > 0);
      expect(Buffer.concat(await state).length).toBeGreaterThan(10_000);
      await finish();
      await resume();

      await stun();
      await Promise.all([collectState(vm), readRound(vm)]);
      await vm.seal();
      expect(await guest.runState()).toBe('postmigrate');
      await resume();

      const aborted = new AbortController();
      await readRound(vm);
      aborted.abort();
      await expect(vm.stun({ signal: aborted.signal })).rejects.toMatchObject({ code: 'aborted' });
      await guest.nextTick();
      expect(vm.runState()).toBe('running');

      for (const set of taps) {
        expect(set.broken).toEqual([]);
        await set.tap.remove();
        await set.tap.remove();
      }
      await vm.detach();
      await expectUnharmed();
    });

    it('after the destination has loaded everything', async () => {
      const other = await destination();
      try {
        const vm = await open();
        const backend = createQemuBackend({ qmp: other.qmpPath, runtimeDir: directory.path });
        const move = new Drive(vm, await backend.prepare(vm.description));
        await move.approach(2);
        await vm.stun();
        await move.collect();
        await move.destination.loadDeviceState(move.state);
        await move.destination.discard();
        await vm.resume();
        await vm.detach();
        await expectUnharmed();
        expect(other.ticks.count).toBe(0);
        await expectClean(other);
      } finally {
        await other.kill();
      }
    });
  });

  describe('left behind by an engine that died', () => {
    it('with a tap, an export and a migration', async () => {
      // An engine like ours, whose sockets then all close at once.
      const path = (name: string): string => join(directory.path, name);
      const server = await NbdServer.listen({
        path: path('tap'),
        sizeBytes: 128 * MIB,
        handler: {
          write: async () => {},
          writeZeroes: async () => {},
          flush: async () => {},
          disconnected: () => {},
        },
      });
      const node = 'longhaul-tap-0';
      await guest.qmp('blockdev-add', {
        driver: 'nbd',
        'node-name': node,
        server: { type: 'unix', path: path('tap') },
      });
      const mirror = { sync: 'none', 'copy-mode': 'write-blocking', 'on-target-error': 'report' };
      await guest.qmp('blockdev-mirror', { 'job-id': node, device: 'disk0', target: node, ...mirror });
      await guest.qmp('nbd-server-start', { addr: { type: 'unix', data: { path: path('nbd') } } });
      await guest.qmp('block-export-add', { type: 'nbd', id: 'longhaul-disk-0', 'node-name': 'disk0' });
      const migrated = deferred<void>();
      const reader = createServer((socket) => {
        socket.destroy();
        migrated.resolve();
      });
      await new Promise<void>((resolve) => reader.listen(path('migrate'), resolve));
      await guest.qmp('migrate', { uri: `unix:${path('migrate')}` });
      await migrated.promise;
      reader.close();
      await server.close();

      const vm = await open();
      await expectClean(guest);
      await readRound(vm);
      await vm.stun();
      await vm.resume();
      await vm.detach();
      await expectUnharmed();
    });

    it('sealed: the guest stays as it is until somebody who knows says that it may run', async () => {
      const vm = await open({ quitOnRelease: false });
      await readRound(vm);
      await vm.stun();
      await Promise.all([collectState(vm), readRound(vm)]);
      await vm.seal();
      await vm.detach();
      const { count } = guest.ticks;

      const again = await open();
      expect(again.runState()).toBe('paused');
      expect(await guest.runState()).toBe('postmigrate');
      expect(guest.ticks.count).toBe(count);
      await again.resume();
      expect(again.runState()).toBe('running');
      await guest.nextTick();
      await readRound(again);
      await again.detach();
      await expectUnharmed();
    });

    it("but takes somebody else's migration for what it is", async () => {
      const path = join(directory.path, 'theirs');
      const reader = createServer({ pauseOnConnect: true });
      await new Promise<void>((resolve) => reader.listen(path, resolve));
      const connected = new Promise<void>((resolve) => reader.once('connection', () => resolve()));
      await guest.qmp('migrate', { uri: `unix:${path}` });
      await connected;
      await expect(open()).rejects.toMatchObject({
        code: 'invalid-state',
        message: expect.stringMatching(/under way/),
      });
      expect(await guest.qmp('query-migrate')).toMatchObject({
        status: expect.stringMatching(/active|setup/),
      });
      await guest.qmp('migrate_cancel');
      reader.close();
      const vm = await open();
      await vm.detach();
      await expectUnharmed();
    });
  });

  describe('a tap', () => {
    let vm: SourceVm;
    beforeEach(async () => {
      vm = await open();
      return async () => {
        await vm.detach();
        await expectUnharmed();
      };
    });

    it('shows what the guest writes, and delays the guest for as long as the handler likes', async () => {
      const answer = deferred<void>();
      const seen = deferred<void>();
      const source = vm.disks[0];
      const before = await guest.stats();
      const set = await source?.tap({
        write: (write) => {
          expect(write.offset + write.length).toBeLessThanOrEqual(128 * MIB);
          if (write.content !== 'zero') expect(Buffer.concat(write.content).length).toBe(write.length);
          write.release();
          seen.resolve();
          return answer.promise;
        },
        invalidate: () => {},
        broken: () => {},
      });
      await seen.promise;
      // All of the guest's four writers come to a standstill, while its clock goes on.
      let stats = await guest.stats();
      while (stats.longestMs < 300) stats = await guest.stats();
      expect(stats.uptimeMs).toBeGreaterThan(before.uptimeMs);
      // Taken away, it leaves no write of the guest without an answer.
      await set?.remove();
      const { writes } = await guest.stats();
      while ((await guest.stats()).writes <= writes + 10);
      answer.resolve();
      await guest.reset();
    });

    it.each(['the connection is cut', 'its job is cancelled'])('says so once when %s', async (how) => {
      const { tap: set, broken, writes } = await tap(vm);
      const other = await tap(vm, 1);
      while (writes.length === 0) await guest.stats();
      const ended = how.includes('cut')
        ? guest.qmp('yank', { instances: [{ type: 'block-node', 'node-name': 'longhaul-tap-0' }] })
        : guest.qmp('block-job-cancel', { device: 'longhaul-tap-0', force: true });
      await ended;
      while (broken.length === 0) await guest.stats();
      expect(broken).toMatchObject([{ code: 'tap-gap', message: expect.stringMatching(/vd0/) }]);

      await vm.stun();
      await expect(set.finish()).rejects.toMatchObject({ code: 'tap-gap' });
      await other.tap.finish();
      await vm.resume();
      await set.remove();
      expect(broken.length).toBe(1);
      // And then it can be set again.
      const again = await tap(vm);
      await vm.stun();
      await again.tap.finish();
      await vm.resume();
      expect(again.broken).toEqual([]);
    });

    it('cannot be finished while the guest runs', async () => {
      const { tap: set } = await tap(vm);
      await expect(set.finish()).rejects.toMatchObject({ code: 'invalid-state' });
    });
  });

  it('is throttled, in either direction, while rounds are read', async () => {
    const vm = await open();
    const percentage = async (): Promise<number> => {
      const { 'cpu-throttle-percentage': percent = 0 } = (await guest.qmp('query-migrate')) as Record<
        string,
        number
      >;
      return percent;
    };
    await guest.setLoad(200, 64);
    await vm.setThrottle(0.6);
    for (const [fraction, percent] of [
      [0.6, 60],
      [0.9, 90],
      [0, 1],
    ] as const) {
      await vm.setThrottle(fraction);
      while ((await percentage()) !== percent) await readRound(vm);
    }
    await expect(vm.setThrottle(1)).rejects.toMatchObject({ code: 'invalid-argument' });
    await guest.setLoad(200, 8);
    await vm.detach();
    await expectUnharmed();
  });

  it('is not read between rounds, and does not make any', async () => {
    const vm = await open();
    await readRound(vm);
    await readRound(vm);
    const syncs = async (): Promise<number> => {
      const { ram } = (await guest.qmp('query-migrate')) as { ram: { 'dirty-sync-count': number } };
      return ram['dirty-sync-count'];
    };
    // What is in the sockets' buffers already may still come to be full.
    let before = await syncs();
    for (let same = 0; same < 3; ) {
      await guest.stats();
      const now = await syncs();
      same = now === before ? same + 1 : 0;
      before = now;
    }
    const { pagesDirtied } = await guest.stats();
    while ((await guest.stats()).pagesDirtied < pagesDirtied + 2000);
    expect(await syncs()).toBe(before);
    expect(await readRound(vm)).toBeGreaterThan(0);
    await vm.detach();
    await expectUnharmed();
  });

  it('offers the disks that are asked for, by any of their names', async () => {
    const vm = await open({ disks: ['disk1', 'vd0'], vmId: 'mine' });
    expect(vm.description.vmId).toBe('mine');
    expect(vm.disks.map(({ id }) => id)).toEqual(['vd1', 'vd0']);
    await vm.detach();
    await expect(open({ disks: ['vd7'] })).rejects.toMatchObject({
      code: 'invalid-argument',
      message: 'the guest has no disk vd7; it has vd0, vd1',
    });
    await expect(open({ disks: ['vd1', 'disk1'] })).rejects.toMatchObject({ code: 'invalid-argument' });
    await expect(open({ runtimeDir: `/tmp/${'x'.repeat(90)}` })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
    await expect(open({ runtimeDir: join(directory.path, 'none') })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
    await expectUnharmed();
  });

  it('is not the destination', async () => {
    const other = await destination();
    await expect(openQemuSource({ qmp: other.qmpPath })).rejects.toMatchObject({ code: 'invalid-state' });
    await expect(openQemuSource({ qmp: join(directory.path, 'nobody') })).rejects.toMatchObject({
      code: 'connect-failed',
    });
    await other.kill();
  });

  it('moves after all of this', async () => {
    const other = await destination();
    try {
      const vm = await open();
      const backend = createQemuBackend({ qmp: other.qmpPath, runtimeDir: directory.path });
      await new Drive(vm, await backend.prepare(vm.description)).run();
      await other.nextTick();
      expect(await other.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
      expect(await guest.exited).toMatchObject({ code: 0 });
    } finally {
      await other.kill();
    }
  });

  describe('tells of stops that nobody here asked for', () => {
    /** Opens a guest of its own, does something to it, and resolves to what was told. */
    async function stops(act: (own: Guest) => Promise<unknown>): Promise<UnexpectedStop[]> {
      const own = await bootGuest({ name: `s${destinations++}`, dir: directory.path, disks: [] });
      try {
        const vm = await openQemuSource({ qmp: own.qmpPath, runtimeDir: directory.path });
        const told: UnexpectedStop[] = [];
        const first = deferred<void>();
        const off = vm.onUnexpectedStop((stop) => {
          told.push(stop);
          first.resolve();
        });
        await readRound(vm);
        await act(own);
        await first.promise;
        expect(vm.runState()).toBe('paused');
        off();
        await vm.detach();
        return told;
      } finally {
        await own.kill();
      }
    }

    it('the guest powers off', async () => {
      expect(await stops((own) => own.command('poweroff'))).toMatchObject([{ kind: 'shutdown' }]);
    });

    it('somebody stops it', async () => {
      expect(await stops((own) => own.qmp('stop'))).toMatchObject([{ kind: 'paused' }]);
    });

    it('QEMU dies', async () => {
      expect(await stops((own) => own.kill())).toMatchObject([{ kind: 'gone' }]);
    });
  });
});
