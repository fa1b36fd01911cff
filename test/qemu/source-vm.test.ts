/**
 * What a VM in a running QEMU does beside being moved. Goal: it is throttled as asked, read only when asked, offers the disks that are
 * asked for, and tells of every stop that nobody here asked for, the end of its QEMU included.
 *
 * Method: real Linux guests; what happens to them comes over the harness's own monitor.
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openQemuSource } from '../../src/backends/qemu/index.ts';
import type { UnexpectedStop } from '../../src/interfaces/hypervisor.ts';
import { deferred } from '../../src/util/promises.ts';
import { readRound } from './support/drive.ts';
import { bootGuest, type Guest, qemuAvailable } from './support/guest.ts';
import { HeldMonitor } from './support/held-monitor.ts';
import { SourceFixture, tapDisk } from './support/source-fixture.ts';

const qemu = qemuAvailable();
const suite = qemu.available ? 'a VM in a QEMU' : `a VM in a QEMU (skipped: ${qemu.why})`;

// A machine without QEMU 9 or the built guest cannot run these: setup-qemu.sh gets both where it is root on Debian or
// Ubuntu, and elsewhere QEMU may well be missing. The suite's name says what was.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const fixture = new SourceFixture();

  it('is throttled, in either direction, while rounds are read', async () => {
    const vm = await fixture.open();
    const percentage = async (): Promise<number> => {
      const { 'cpu-throttle-percentage': percent = 0 } = (await fixture.guest.qmp('query-migrate')) as Record<
        string,
        number
      >;
      return percent;
    };
    await fixture.guest.setLoad(200, 64);
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
    await fixture.guest.setLoad(200, 8);
    await vm.detach();
    await fixture.expectUnharmed();
  });

  it('is not read between rounds, and does not make any', async () => {
    const vm = await fixture.open();
    await readRound(vm);
    await readRound(vm);
    const syncs = async (): Promise<number> => {
      const { ram } = (await fixture.guest.qmp('query-migrate')) as { ram: { 'dirty-sync-count': number } };
      return ram['dirty-sync-count'];
    };
    // What is in the sockets' buffers already may still come to be full.
    let before = await syncs();
    for (let same = 0; same < 3; ) {
      await fixture.guest.stats();
      const now = await syncs();
      same = now === before ? same + 1 : 0;
      before = now;
    }
    const { pagesDirtied } = await fixture.guest.stats();
    while ((await fixture.guest.stats()).pagesDirtied < pagesDirtied + 2000);
    expect(await syncs()).toBe(before);
    expect(await readRound(vm)).toBeGreaterThan(0);
    await vm.detach();
    await fixture.expectUnharmed();
  });

  it('is stunned once QEMU says that it stands still, and not when its last page has come', async () => {
    const path = join(fixture.path, 'held');
    await using monitor = await HeldMonitor.before(fixture.guest.qmpPath, path, '"STOP"');
    const vm = await fixture.open({ qmp: path });
    let stunned = false;
    const stunning = vm.stun().then(() => {
      stunned = true;
      return vm.runState();
    });
    while ((await fixture.guest.runState()) === 'running') await fixture.guest.qmp('query-migrate');
    // Its last pass comes while its word for that is held back; QEMU, which must be read for it, answers here only after it.
    for (let turn = 0; turn < 20; turn++) await fixture.guest.runState();
    expect(stunned).toBe(false);
    monitor.release();
    expect(await stunning).toBe('paused');
    await vm.resume();
    await vm.detach();
    await fixture.expectUnharmed();
  });

  it('offers the disks that are asked for, by any of their names', async () => {
    const vm = await fixture.open({ disks: ['disk1', 'vd0'], vmId: 'mine' });
    expect(vm.description.vmId).toBe('mine');
    expect(vm.disks.map(({ id }) => id)).toEqual(['vd1', 'vd0']);
    await vm.detach();
    await expect(fixture.open({ disks: ['vd7'] })).rejects.toMatchObject({
      code: 'invalid-argument',
      message: 'the guest has no disk vd7; it has vd0, vd1',
    });
    await expect(fixture.open({ disks: ['vd1', 'disk1'] })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
    await expect(fixture.open({ runtimeDir: `/tmp/${'x'.repeat(90)}` })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
    await expect(fixture.open({ runtimeDir: join(fixture.path, 'none') })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
    await fixture.expectUnharmed();
  });

  it('is not the destination', async () => {
    const other = await fixture.destination();
    await expect(openQemuSource({ qmp: other.qmpPath })).rejects.toMatchObject({ code: 'invalid-state' });
    await expect(openQemuSource({ qmp: join(fixture.path, 'nobody') })).rejects.toMatchObject({
      code: 'connect-failed',
    });
    await other.kill();
  });

  it('fails with what it was doing when its QEMU dies, and can be let go of all the same', async () => {
    const own = await bootGuest({ name: 'dying', dir: fixture.path, disks: await fixture.disks('e') });
    try {
      const vm = await openQemuSource({ qmp: own.qmpPath, runtimeDir: fixture.path });
      const told: string[] = [];
      vm.onUnexpectedStop(({ kind }) => told.push(kind));
      const { tap: set, broken } = await tapDisk(vm, 0, () => told.push('broken'));
      await vm.disks[0]?.read(0, 4096);
      const reading = (async () => {
        for await (const batch of vm.memory.round()) {
          batch.release();
          await own.kill();
        }
      })();
      await expect(reading).rejects.toMatchObject({ code: 'memory' });
      await expect(vm.disks[0]?.read(0, 4096)).rejects.toMatchObject({ code: 'disk-read' });
      await expect(vm.setThrottle(0.5)).resolves.toBeUndefined();
      await expect(vm.stun()).rejects.toMatchObject({
        code: expect.stringMatching(/hypervisor|disk-write|memory/),
      });
      await expect(vm.resume()).rejects.toMatchObject({ code: 'hypervisor' });
      expect(broken).toMatchObject([{ code: 'tap-gap' }]);
      expect(told).toEqual(['gone', 'broken']);
      await set.remove();
      await vm.release();
      await vm.detach();
      await expect(vm.resume()).rejects.toMatchObject({ code: 'invalid-state' });
    } finally {
      await own.kill();
    }
  });

  describe('tells of stops that nobody here asked for', () => {
    /** Opens a guest of its own, does something to it, and resolves to what was told. */
    async function stops(act: (own: Guest) => Promise<unknown>): Promise<UnexpectedStop[]> {
      const own = await bootGuest({ name: fixture.name(), dir: fixture.path, disks: [] });
      try {
        const vm = await openQemuSource({ qmp: own.qmpPath, runtimeDir: fixture.path });
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
