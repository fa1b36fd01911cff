/**
 * Goal: a destination disk that was slow to flush once delays the switchover and does not prevent it; one
 * that always is ends the migration rather than exceed the downtime. Method: migrations in virtual time whose
 * destination disks flush as slowly as they are told.
 */
import { expect, test } from 'vitest';
import type { DestinationVm } from '../../../src/index.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import { createWorld, withChanges } from '../../support/worlds.ts';

/** More than the downtime that is allowed by default. */
const slowMs = 400;

function slowFlushes(environment: VirtualEnvironment, vm: DestinationVm, howMany: number): DestinationVm {
  let left = howMany;
  const disks = vm.disks.map((disk) =>
    withChanges(disk, {
      flush: async (options) => {
        left -= 1;
        if (left >= 0) await new Promise<void>((resolve) => environment.setTimer(slowMs, resolve));
        await disk.flush(options);
      },
    }),
  );
  return withChanges<DestinationVm>(vm, { disks });
}

test('one slow flush costs a second or so', async () => {
  const environment = createVirtualEnvironment();
  const world = createWorld({
    environment,
    destinationVm: (vm) => slowFlushes(environment, vm, 1),
  });
  const { source } = await world.run();
  expect(source.error?.message).toBeUndefined();
  expect(source.outcome).toBe('completed');
  expect(source.downtimeMs).toBeLessThan(slowMs);
  expect(world.comparison()?.equal).toBe(true);
});

test('a disk that is always slow is not waited for with the guest stunned', async () => {
  const environment = createVirtualEnvironment();
  const world = createWorld({
    environment,
    policy: { roundsMax: 40 },
    destinationVm: (vm) => slowFlushes(environment, vm, Number.POSITIVE_INFINITY),
  });
  const { source } = await world.run();
  expect(source.error?.code).toBe('not-converging');
  expect(source.downtimeMs).toBe(0);
});
