/**
 * Goal: both ends have flushed by the time the rest fits, where that is near, and nobody waits a round trip for it. Method: migrations in virtual time over a long link, whose destination
 * disks tell when they are flushed.
 */
import { expect, test } from 'vitest';
import { createMemoryVm, memoryDirtier } from '../../../src/backends/memory/index.ts';
import type { DestinationVm, MigrationPolicy } from '../../../src/index.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import { createWorld, mebibyte, withChanges } from '../../support/worlds.ts';
import { runWithin } from '../support/settled-within.ts';

interface Move {
  readonly rttMs: number;
  readonly rateMbit: number;
  readonly dirtyBytesPerSecond: number;
  readonly policy: MigrationPolicy;
}

/** When the destination's disk was flushed, and when it was first decided to switch over. */
async function moved({ rttMs, rateMbit, dirtyBytesPerSecond, policy }: Move) {
  const environment = createVirtualEnvironment();
  const disk = { id: 'disk0', sizeBytes: mebibyte };
  const vm = createMemoryVm({
    environment,
    vmId: 'vm-1',
    memoryBytes: 64 * mebibyte,
    disks: [disk],
    seed: 1,
  });
  if (dirtyBytesPerSecond > 0)
    vm.startWorkload(memoryDirtier({ bytesPerSecond: dirtyBytesPerSecond, hotBytes: 32 * mebibyte }));
  const flushedMs: number[] = [];
  let decidedMs = Number.POSITIVE_INFINITY;
  const world = createWorld({
    environment,
    vm,
    link: { rttMs, rateMbit },
    policy,
    destinationVm: (prepared) => {
      const disks = prepared.disks.map((one) =>
        withChanges(one, {
          flush: (options) => {
            flushedMs.push(environment.now());
            return one.flush(options);
          },
        }),
      );
      return withChanges<DestinationVm>(prepared, { disks });
    },
  });
  world.source.on('round', ({ decision }) => {
    if (decision === 'switchover') decidedMs = Math.min(decidedMs, environment.now());
  });
  const { source } = await runWithin(world, 300_000);
  return { source, flushedMs, decidedMs, comparison: world.comparison() };
}

test('a flush is asked for a round trip ahead', async () => {
  const rttMs = 200;
  const move = { rttMs, rateMbit: 200, dirtyBytesPerSecond: 8e6, policy: { downtimeMsMax: 100 } };
  const { source, flushedMs, decidedMs, comparison } = await moved(move);
  expect(source.outcome).toBe('completed');
  expect(comparison?.equal).toBe(true);
  expect((flushedMs[0] ?? Number.NaN) - decidedMs).toBeLessThan(rttMs / 4);
});

test('and once where it goes on and on not to fit', async () => {
  const policy = { downtimeMsMax: 30, roundsMax: 200 };
  const { source, flushedMs } = await moved({ rttMs: 400, rateMbit: 60, dirtyBytesPerSecond: 0, policy });
  expect(source.error?.code).toBe('not-converging');
  expect(source.totalMs).toBeGreaterThan(2500 + (flushedMs[0] ?? Number.NaN));
  expect(flushedMs).toHaveLength(1);
});
