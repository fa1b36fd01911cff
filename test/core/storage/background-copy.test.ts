/**
 * Goal: the bulk copy is background work. The guest's writes take hardly longer beside it, it comes to its end all the same, and it goes
 * as fast as the disk allows when nobody minds; what the guest writes again and again is copied last, and so is sent once.
 *
 * Method: simulated disks with limits, which guest and copy share, in virtual time; the same beside a hypervisor that
 * does not tell what writes take, where the copy goes by nothing but its own bounds.
 */
import { describe, expect, it } from 'vitest';
import type { DiskLimits } from '../../../src/testing/sim/disk.ts';
import { oltp } from '../../../src/testing/sim/workloads.ts';
import { copied, mebibyte, type PlacedWriter } from './copied-world.ts';

const full = (limits: DiskLimits, sizeMiB = 256) => ({
  id: 'disk',
  sizeBytes: sizeMiB * mebibyte,
  allocatedFraction: 1,
  ...limits,
});
const fastLink = { rttMs: 1, rateMbit: 20_000 };

describe('the bulk copy of a disk that the guest needs', () => {
  const slow = full({ latencyMs: 0.2, bytesPerSecond: 100 * mebibyte });
  const few = full({ latencyMs: 1, iops: 500, bytesPerSecond: 60 * mebibyte });

  it.each([
    ['is slow', slow, 200, 0],
    ['does few operations a second', few, 100, 0],
    ['is slow, by a guest that reads, too', slow, 400, 0.5],
  ])(
    'leaves the writes as fast as they were where it %s',
    async (_, disk, iops, readFraction) => {
      const workloads = [oltp({ disk: 'disk', iops, readFraction })];
      const watched = await copied({ disks: [disk], workloads, link: fastLink });
      const unwatched = await copied({ disks: [disk], workloads, link: fastLink, tells: false });
      for (const { source, equal } of [watched, unwatched]) {
        expect(source.outcome).toBe('completed');
        expect(equal).toBe(true);
      }
      // Half as long again and a millisecond, and how far a share goes up and down around that.
      expect(watched.duringMs).toBeLessThan(2 * watched.beforeMs + 1.5);
      expect(unwatched.duringMs).toBeGreaterThan(5 * watched.duringMs);
      // It has its end before long.
      expect(watched.copyMs).toBeLessThan(6 * unwatched.copyMs);
    },
    120_000,
  );

  it('yields on a disk that the guest does not write to one that it does', async () => {
    const disks = [slow, { ...full({ latencyMs: 0.2, bytesPerSecond: 100 * mebibyte }, 128), id: 'other' }];
    const workloads = [oltp({ disk: 'disk', iops: 200, readFraction: 0 })];
    const { source, equal, beforeMs, duringMs } = await copied({ disks, workloads, link: fastLink });
    expect(source.outcome).toBe('completed');
    expect(equal).toBe(true);
    expect(duringMs).toBeLessThan(2 * beforeMs + 1.5);
  }, 120_000);

  it('goes at full speed beside a guest that writes nothing', async () => {
    const watched = await copied({ disks: [slow], link: fastLink });
    const unwatched = await copied({ disks: [slow], link: fastLink, tells: false });
    expect(watched.copyMs).toBeLessThan(1.01 * unwatched.copyMs);
  }, 120_000);

  it('reads further ahead where a read takes long, and the guest does not feel it', async () => {
    const far = full({ latencyMs: 10, bytesPerSecond: 1000 * mebibyte }, 1024);
    const workloads = [oltp({ disk: 'disk', iops: 100, readFraction: 0 })];
    const watched = await copied({ disks: [far], workloads, link: fastLink });
    const unwatched = await copied({ disks: [far], workloads, link: fastLink, tells: false });
    expect(watched.equal).toBe(true);
    expect(watched.copyMs).toBeLessThan(0.5 * unwatched.copyMs);
    expect(watched.duringMs).toBeLessThan(1.1 * watched.beforeMs);
  }, 120_000);
});

describe('what the guest writes again and again', () => {
  const disk = full({ latencyMs: 0.2, bytesPerSecond: 500 * mebibyte });
  const move = (writes: readonly PlacedWriter[]) =>
    copied({ disks: [disk], writes, link: { rttMs: 1, rateMbit: 400 } });

  it.each([10, 50, 90])(
    'is copied last, at %i per cent of the disk',
    async (percent) => {
      const offset = (disk.sizeBytes * percent) / 100;
      const result = await move([
        { offset: offset - (offset % mebibyte), bytes: 16 * mebibyte, perSecond: 1000 },
      ]);
      expect(result.source.outcome).toBe('completed');
      expect(result.equal).toBe(true);
      expect(result.writes).toBeGreaterThan(4500);
      expect(result.source.bytes.disk).toBe(disk.sizeBytes);
      // Of five seconds in which it writes, those count in which it was copied itself: a third of one. All writes of
      // the memory phase are mirrored, too, one each ms: it lasts until what waits for the link has gone out, for
      // which the guest would stand still else.
      const { guestWrites, phases } = result.source;
      expect(guestWrites.mirrored - (phases.copyMemory ?? 0)).toBeLessThan(0.1 * result.writes);
    },
    120_000,
  );

  it('is copied in its turn if it is written in one go', async () => {
    const writes: PlacedWriter[] = [{ offset: 0, bytes: disk.sizeBytes, perSecond: 4000, once: true }];
    const result = await move(writes);
    expect(result.source.outcome).toBe('completed');
    expect(result.equal).toBe(true);
    expect(result.source.bytes.disk).toBe(disk.sizeBytes);
  }, 120_000);

  it('is copied all the same where the guest writes nothing else, and everywhere', async () => {
    const result = await move([{ offset: 0, bytes: disk.sizeBytes, perSecond: 4000 }]);
    expect(result.source.outcome).toBe('completed');
    expect(result.equal).toBe(true);
  }, 120_000);
});
