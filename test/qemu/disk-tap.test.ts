/**
 * Taps of a real guest's disks. Goal: every write of the guest is shown, the guest waits only as long as the handler
 * wants, and a tap that may have missed a write says so, once, and lets nobody finish with it.
 *
 * Method: a guest that writes all the time; connections and jobs are ended from outside, over the harness's own monitor.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import type { SourceVm } from '../../src/interfaces/hypervisor.ts';
import { deferred } from '../../src/util/promises.ts';
import { qemuAvailable } from './support/guest.ts';
import { SourceFixture, tapDisk } from './support/source-fixture.ts';

const MIB = 1024 * 1024;

const qemu = qemuAvailable();
const suite = qemu.available ? "a disk's tap" : `a disk's tap (skipped: ${qemu.why})`;

// A machine without QEMU 9 or the built guest cannot run these: setup-qemu.sh gets both where it is root on Debian or
// Ubuntu, and elsewhere QEMU may well be missing. The suite's name says what was.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const fixture = new SourceFixture();

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
        : fixture.guest.qmp('block-job-cancel', { device: 'longhaul-tap-0', force: true });
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

    it('cannot be finished while the guest runs', async () => {
      const { tap: set } = await tapDisk(vm);
      await expect(set.finish()).rejects.toMatchObject({ code: 'invalid-state' });
    });
  });
});
