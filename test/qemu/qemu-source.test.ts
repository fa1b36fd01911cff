/**
 * A VM in a running QEMU as the source of migrations that do not come to their end. Goal: whatever is given up, and
 * wherever, the guest runs on unharmed, nothing of ours is left in its QEMU, and the next attempt succeeds.
 *
 * Method: a real Linux guest under load, stopped half-way at each step, which then reads again all that it wrote. What
 * an engine that died leaves behind is made over the harness's own monitor.
 */
import { stat } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { NbdServer } from '../../src/backends/nbd/nbd-server.ts';
import { createQemuBackend } from '../../src/backends/qemu/index.ts';
import { deferred } from '../../src/util/promises.ts';
import { expectClean, migrationSettings } from './support/clean.ts';
import { collectState, Drive, readRound } from './support/drive.ts';
import { qemuAvailable } from './support/guest.ts';
import { SourceFixture, tapDisk } from './support/source-fixture.ts';

const MIB = 1024 * 1024;

/** Until QEMU does it: for a moment it may still be busy with what it is to let go of. */
async function removed(act: () => Promise<unknown>): Promise<void> {
  while (
    !(await act().then(
      () => true,
      () => false,
    ))
  );
}

const qemu = qemuAvailable();
const suite = qemu.available ? 'a QEMU as the source' : `a QEMU as the source (skipped: ${qemu.why})`;

// A machine without QEMU 9 or the built guest cannot run these: setup-qemu.sh gets both where it is root on Debian or
// Ubuntu, and elsewhere QEMU may well be missing. The suite's name says what was.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const fixture = new SourceFixture();

  describe('given up', () => {
    it('after it was opened', async () => {
      const vm = await fixture.open();
      const [made] = await fixture.privateDirectories();
      expect((await stat(join(fixture.path, made ?? ''))).mode & 0o777).toBe(0o700);
      // By which the next one would know that QEMU's NBD server is ours, should we die now.
      expect(await fixture.guest.qmp('query-block-exports')).toMatchObject([{ id: 'longhaul-disk-0' }]);
      await vm.resume();
      await vm.detach();
      await vm.detach();
      await fixture.expectUnharmed();
    });

    it('with its disks tapped and read, and in the midst of a round', async () => {
      const vm = await fixture.open();
      await tapDisk(vm);
      await tapDisk(vm, 1);
      await expect(tapDisk(vm)).rejects.toMatchObject({ code: 'invalid-state' });
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
      await fixture.expectUnharmed();
    });

    it('by a signal in the midst of a round, and after stop()', async () => {
      const vm = await fixture.open();
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
      expect(await fixture.guest.qmp('query-migrate')).toMatchObject({
        status: expect.stringMatching(/cancelled|failed/),
      });
      expect(await readRound(vm)).toBeGreaterThanOrEqual(256 * MIB);
      await vm.memory.stop();
      await vm.detach();
      await fixture.expectUnharmed();
    });

    it('at each step of a switchover, over and over, with the same taps, and then not', async () => {
      const vm = await fixture.open();
      const taps = [await tapDisk(vm), await tapDisk(vm, 1)];
      const stun = async (): Promise<void> => {
        await readRound(vm);
        await vm.stun();
        expect(vm.runState()).toBe('paused');
      };
      const resume = async (): Promise<void> => {
        await vm.resume();
        expect(vm.runState()).toBe('running');
        await fixture.guest.nextTick();
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
      expect(await fixture.guest.runState()).toBe('postmigrate');
      await resume();

      const aborted = new AbortController();
      await readRound(vm);
      aborted.abort();
      await expect(vm.stun({ signal: aborted.signal })).rejects.toMatchObject({ code: 'aborted' });
      await fixture.guest.nextTick();
      expect(vm.runState()).toBe('running');

      for (const set of taps) {
        expect(set.broken).toEqual([]);
        await set.tap.remove();
        await set.tap.remove();
      }
      await vm.detach();
      await fixture.expectUnharmed();
    });

    it('with a part of it taken away by somebody else: all the rest goes as well', async () => {
      const vm = await fixture.open();
      const { broken } = await tapDisk(vm);
      await tapDisk(vm, 1);
      await readRound(vm);
      await fixture.guest.qmp('block-job-cancel', { device: 'longhaul-tap-0' });
      while (broken.length === 0) await fixture.guest.stats();
      await removed(() => fixture.guest.qmp('blockdev-del', { 'node-name': 'longhaul-tap-0' }));
      await vm.detach();
      await fixture.expectUnharmed();
    });

    it('let go of in the midst of a switchover: the guest runs on', async () => {
      const vm = await fixture.open();
      const { tap: set } = await tapDisk(vm);
      await readRound(vm);
      await vm.stun();
      await set.finish();
      await vm.detach();
      await fixture.expectUnharmed();
    });

    it('after the destination has loaded everything', async () => {
      const other = await fixture.destination();
      try {
        const vm = await fixture.open();
        const backend = createQemuBackend({ qmp: other.qmpPath, runtimeDir: fixture.path });
        const move = new Drive(vm, await backend.prepare(vm.description));
        await move.approach(2);
        await vm.stun();
        await move.collect();
        await move.destination.loadDeviceState(move.state);
        await move.destination.discard();
        await vm.resume();
        await vm.detach();
        await fixture.expectUnharmed();
        expect(other.ticks.count).toBe(0);
        await expectClean(other);
      } finally {
        await other.kill();
      }
    });
  });

  describe('left behind by an engine that died', () => {
    it('with a tap, an export and a migration', async () => {
      const living = await fixture.open();
      await readRound(living);
      const { capabilities, parameters } = await migrationSettings(fixture.guest);
      await living.detach();
      await fixture.guest.qmp('migrate-set-parameters', Object(parameters));
      await fixture.guest.qmp('migrate-set-capabilities', { capabilities });
      // An engine like ours, whose sockets then all close at once.
      const path = (name: string): string => join(fixture.path, name);
      const server = await NbdServer.listen({
        address: { path: path('tap') },
        exports: [
          {
            sizeBytes: 128 * MIB,
            handler: {
              write: async () => {},
              writeZeroes: async () => {},
              flush: async () => {},
              disconnected: () => {},
            },
          },
        ],
      });
      const node = 'longhaul-tap-0';
      await fixture.guest.qmp('blockdev-add', {
        driver: 'nbd',
        'node-name': node,
        server: { type: 'unix', path: path('tap') },
      });
      const mirror = { sync: 'none', 'copy-mode': 'write-blocking', 'on-target-error': 'report' };
      await fixture.guest.qmp('blockdev-mirror', {
        'job-id': node,
        device: 'disk0',
        target: node,
        ...mirror,
      });
      await fixture.guest.qmp('nbd-server-start', { addr: { type: 'unix', data: { path: path('nbd') } } });
      await fixture.guest.qmp('block-export-add', {
        type: 'nbd',
        id: 'longhaul-disk-0',
        'node-name': 'disk0',
      });
      const migrated = deferred<void>();
      const reader = createServer((socket) => {
        socket.destroy();
        migrated.resolve();
      });
      await new Promise<void>((resolve) => reader.listen(path('migrate'), resolve));
      await fixture.guest.qmp('migrate', { uri: `unix:${path('migrate')}` });
      await migrated.promise;
      reader.close();
      await server.close();

      const recovered = await fixture.open({ recovery: true });
      await expectClean(fixture.guest);
      await recovered.detach();
      await fixture.expectUnharmed();
      const vm = await fixture.open();
      await readRound(vm);
      await vm.stun();
      await vm.resume();
      await vm.detach();
      await fixture.expectUnharmed();
    });

    it('sealed: the guest stays as it is until somebody who knows says that it may run', async () => {
      const vm = await fixture.open({ quitOnRelease: false });
      await readRound(vm);
      await vm.stun();
      await Promise.all([collectState(vm), readRound(vm)]);
      await vm.seal();
      await vm.detach();
      const { count } = fixture.guest.ticks;

      await expect(fixture.open()).rejects.toMatchObject({ code: 'invalid-state' });
      const again = await fixture.open({ recovery: true });
      expect(again.runState()).toBe('paused');
      expect(await fixture.guest.runState()).toBe('postmigrate');
      expect(fixture.guest.ticks.count).toBe(count);
      await again.resume();
      expect(again.runState()).toBe('running');
      await fixture.guest.nextTick();
      await readRound(again);
      await again.detach();
      await fixture.expectUnharmed();
    });

    it.each([
      ['active', false],
      // All is sent, and the destination may run the guest at any moment.
      ['device', true],
    ])("but takes somebody else's migration for what it is (%s)", async (state, read) => {
      const path = join(fixture.path, `theirs-${state}`);
      const reader = createServer({ pauseOnConnect: true });
      await new Promise<void>((resolve) => reader.listen(path, resolve));
      const connected = new Promise<Socket>((resolve) => reader.once('connection', resolve));
      const status = async (): Promise<unknown> =>
        ((await fixture.guest.qmp('query-migrate')) as { status: string }).status;
      const returnPath = (on: boolean): Promise<unknown> =>
        fixture.guest.qmp('migrate-set-capabilities', {
          capabilities: [{ capability: 'return-path', state: on }],
        });
      await returnPath(read);
      await fixture.guest.qmp('migrate-set-parameters', { 'downtime-limit': read ? 300_000 : 300 });
      await fixture.guest.qmp('migrate', { uri: `unix:${path}` });
      const socket = await connected;
      socket.on('error', () => {});
      if (read) socket.resume();
      while ((await status()) !== state) await fixture.guest.runState();
      await expect(fixture.open()).rejects.toMatchObject({
        code: 'invalid-state',
        message: expect.stringMatching(/under way/),
      });
      expect(await status()).toBe(state);
      await fixture.guest.qmp('migrate_cancel');
      reader.close();
      await fixture.guest.nextTick();
      await removed(() => returnPath(false));
      await fixture.guest.qmp('migrate-set-parameters', { 'downtime-limit': 300 });
      const vm = await fixture.open();
      await vm.detach();
      await fixture.expectUnharmed();
    });
  });

  it('moves after all of this', async () => {
    const other = await fixture.destination();
    try {
      const vm = await fixture.open();
      const backend = createQemuBackend({ qmp: other.qmpPath, runtimeDir: fixture.path });
      await new Drive(vm, await backend.prepare(vm.description)).run();
      await other.nextTick();
      expect(await other.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
      expect(await fixture.guest.exited).toMatchObject({ code: 0 });
    } finally {
      await other.kill();
    }
  });
});
