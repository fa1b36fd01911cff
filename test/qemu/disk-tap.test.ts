/**
 * Taps of a real guest's disks. Goal: every write of the guest is shown, the guest waits only as long as the handler
 * wants, and a tap that may have missed a write says so, once, and lets nobody finish with it.
 *
 * Method: a guest that writes all the time; connections and jobs are ended from outside, over the harness's own monitor.
 */
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { NbdServer } from '../../src/backends/nbd/nbd-server.ts';
import { openQemuSource } from '../../src/backends/qemu/index.ts';
import type { SourceVm } from '../../src/interfaces/hypervisor.ts';
import { deferred } from '../../src/util/promises.ts';
import { bootGuest, qemuAvailable } from './support/guest.ts';
import { SourceFixture, tapDisk } from './support/source-fixture.ts';

const MIB = 1024 * 1024;

const qemu = qemuAvailable();
const suite = qemu.available ? "a disk's tap" : `a disk's tap (skipped: ${qemu.why})`;

// A machine without QEMU 9 or the built guest cannot run these: setup-qemu.sh gets both where it is root on Debian or
// Ubuntu, and elsewhere QEMU may well be missing. The suite's name says what was.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  // The first pieces of a disk have the first bits of QEMU's bitmaps, where a write after they were freed does most harm.
  const fixture = new SourceFixture({ hotMiB: 4 });

  describe('a tap', () => {
    let vm: SourceVm;
    beforeEach(async () => {
      vm = await fixture.open();
      return async () => {
        await vm.detach();
        await fixture.expectUnharmed();
      };
    });

    it('shows what the guest writes, and delays the guest for as long as the handler likes', async () => {
      const answer = deferred<void>();
      const seen = deferred<void>();
      const source = vm.disks[0];
      const before = await fixture.guest.stats();
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
      let stats = await fixture.guest.stats();
      while (stats.longestMs < 300) stats = await fixture.guest.stats();
      expect(stats.uptimeMs).toBeGreaterThan(before.uptimeMs);
      // Taken away, it leaves no write of the guest without an answer.
      await set?.remove();
      const { writes } = await fixture.guest.stats();
      while ((await fixture.guest.stats()).writes <= writes + 10);
      answer.resolve();
      await fixture.guest.reset();
    });

    it.each(['the connection is cut', 'its job is cancelled'])('says so once when %s', async (how) => {
      const { tap: set, broken, writes } = await tapDisk(vm);
      const other = await tapDisk(vm, 1);
      while (writes.length === 0) await fixture.guest.stats();
      const ended = how.includes('cut')
        ? fixture.guest.qmp('yank', { instances: [{ type: 'block-node', 'node-name': 'longhaul-tap-0' }] })
        : fixture.guest.qmp('block-job-cancel', { device: 'longhaul-tap-0' });
      await ended;
      while (broken.length === 0) await fixture.guest.stats();
      expect(broken).toMatchObject([{ code: 'tap-gap', message: expect.stringMatching(/vd0/) }]);

      await vm.stun();
      await expect(set.finish()).rejects.toMatchObject({ code: 'tap-gap' });
      await other.tap.finish();
      await vm.resume();
      await set.remove();
      expect(broken.length).toBe(1);
      // And then it can be set again.
      const again = await tapDisk(vm);
      await vm.stun();
      await again.tap.finish();
      await vm.resume();
      expect(again.broken).toEqual([]);
    });

    it('can be taken away in the middle of writes, again and again, and QEMU lives', async () => {
      await fixture.guest.setLoad(4000, 0);
      for (let time = 0; time < 100; time++) {
        const { tap: set, writes } = await tapDisk(vm);
        while (writes.length < 3) await fixture.guest.nextTick();
        await set.remove();
      }
      await fixture.guest.setLoad(200, 8);
    });

    it('cannot be finished while the guest runs', async () => {
      const { tap: set } = await tapDisk(vm);
      await expect(set.finish()).rejects.toMatchObject({ code: 'invalid-state' });
    });
  });

  it("says so when a disk whose device has no name fails a guest's write", async () => {
    // A disk of ours under the guest's, that fails when it is told to.
    const medium = Buffer.alloc(32 * MIB);
    let fails = false;
    const written = (write: () => void): void => {
      if (fails) throw new Error('the medium is broken');
      write();
    };
    const path = join(fixture.path, 'medium');
    const server = await NbdServer.listen({
      address: { path },
      exports: [
        {
          sizeBytes: medium.length,
          handler: {
            read: async (offset, length) => medium.subarray(offset, offset + length),
            write: async (offset, data) => written(() => medium.set(data, offset)),
            writeZeroes: async (offset, length) => written(() => medium.fill(0, offset, offset + length)),
            flush: async () => {},
            disconnected: () => {},
          },
        },
      ],
    });
    const blockdev = { driver: 'nbd', 'node-name': 'medium', server: { type: 'unix', path } };
    const own = await bootGuest({
      name: fixture.name(),
      dir: fixture.path,
      disks: [],
      load: { memoryMiB: 4, memoryHotMiB: 4, fillMiB: 1, hotMiB: 4 },
      extraArguments: ['-blockdev', JSON.stringify(blockdev), '-device', 'virtio-blk-pci,drive=medium'],
    });
    try {
      const source = await openQemuSource({ qmp: own.qmpPath, runtimeDir: fixture.path });
      expect(source.disks.map(({ id }) => id)).toEqual(['medium']);
      const { tap: set, broken, writes } = await tapDisk(source);
      while (writes.length === 0) await own.nextTick();
      expect(broken).toEqual([]);
      fails = true;
      while (broken.length === 0) await own.nextTick();
      fails = false;
      expect(broken).toMatchObject([
        { code: 'tap-gap', message: expect.stringMatching(/a write of the guest failed/) },
      ]);
      expect((await own.stats()).writeErrors).toBeGreaterThan(0);
      await source.stun();
      await expect(set.finish()).rejects.toMatchObject({ code: 'tap-gap' });
      await source.resume();
      await source.detach();
    } finally {
      await own.kill();
      await server.close();
    }
  });
});
