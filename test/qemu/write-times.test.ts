/**
 * What QEMU says of the times of a guest's writes. Goal: the engine's bulk copy can go by it.
 * Method: a real guest that writes, beside a tap that holds each of its writes for a while.
 */
import { describe, expect, it } from 'vitest';
import { nodeEnvironment } from '../../src/util/node-environment.ts';
import { delay } from '../../src/util/promises.ts';
import { qemuAvailable } from './support/guest.ts';
import { SourceFixture } from './support/source-fixture.ts';

const heldMs = 50;

const qemu = qemuAvailable();
const suite = qemu.available ? 'write times' : `write times (skipped: ${qemu.why})`;

describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const fixture = new SourceFixture();

  it('are counted for each disk, and what a tap held a write for is in them', async () => {
    const vm = await fixture.open();
    const [disk] = vm.disks;
    if (disk === undefined) throw new Error('the guest has a disk');
    /** Looks until so many more writes were counted, and returns what those took on the average. */
    const meanMs = async (writes: number): Promise<number> => {
      const first = await disk.writeTimes();
      let last = first;
      while ((last?.writes ?? 0) < (first?.writes ?? 0) + writes) last = await disk.writeTimes();
      if (first === undefined || last === undefined) throw new Error('QEMU counts writes');
      return (last.totalMs - first.totalMs) / (last.writes - first.writes);
    };
    expect(await meanMs(20)).toBeGreaterThan(0);
    const tap = await disk.tap({
      write: async (write) => {
        write.release();
        await delay(nodeEnvironment, heldMs);
      },
      invalidate: () => {},
      broken: () => {},
    });
    // Those that were issued before the tap was there.
    await meanMs(20);
    expect(await meanMs(20)).toBeGreaterThanOrEqual(heldMs);
    await tap.remove();
    await vm.detach();
    await fixture.expectUnharmed();
  });
});
