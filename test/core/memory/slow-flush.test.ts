/**
 * Goal: a destination disk that was slow to flush once delays the switchover and does not prevent it; one
 * that always is ends the migration rather than exceed the downtime. Method: migrations in virtual time whose
 * destination disks flush as slowly as they are told.
 */
import { describe, expect, it, test } from 'vitest';
import type { DestinationVm, MigrationPolicy } from '../../../src/index.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import { busyVm, createWorld, withChanges } from '../../support/worlds.ts';
import { runWithin } from '../support/settled-within.ts';

/** More than the downtime that is allowed by default. */
const slowMs = 400;

function slowFlushes(
  environment: VirtualEnvironment,
  vm: DestinationVm,
  howMany: number,
  ms = slowMs,
): DestinationVm {
  let left = howMany;
  const disks = vm.disks.map((disk) =>
    withChanges(disk, {
      flush: async (options) => {
        left -= 1;
        if (left >= 0) await new Promise<void>((resolve) => environment.setTimer(ms, resolve));
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

test('a first flush that is too long is followed by another one at once, and no guest is slowed for it', async () => {
  const environment = createVirtualEnvironment();
  const world = createWorld({
    environment,
    policy: { throttleMax: 0.99 },
    destinationVm: (vm) => slowFlushes(environment, vm, 1),
  });
  const { source } = await world.run();
  expect(source.error?.message).toBeUndefined();
  expect(source.throttleMax).toBe(0);
  // With the second for which it would count it were more than 1400 ms of rounds.
  expect(source.phases.copyMemory).toBeLessThan(slowMs + 600);
});

test('nor does a slower one cost more, where the guest is idle', async () => {
  const environment = createVirtualEnvironment();
  const world = createWorld({
    environment,
    idle: true,
    destinationVm: (vm) => slowFlushes(environment, vm, 1, 900),
  });
  const { source } = await runWithin(world, 10_000);
  expect(source.error?.message).toBeUndefined();
  expect(source.outcome).toBe('completed');
  expect(source.rounds).toBeLessThan(50);
});

describe('a flush that is too long by no more than some milliseconds', () => {
  /** With loading counted in, and an idle guest. */
  const world = (howMany: number) => {
    const environment = createVirtualEnvironment();
    return createWorld({
      environment,
      idle: true,
      policy: { roundsMax: 10 },
      destinationVm: (vm) => slowFlushes(environment, vm, howMany, 282),
    });
  };

  it('is measured again before the rounds are used up', async () => {
    const { source } = await runWithin(world(1), 10_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.outcome).toBe('completed');
  });

  it('fails each time where it always is, and is named', async () => {
    const { source } = await runWithin(world(Number.POSITIVE_INFINITY), 60_000);
    expect(source).toMatchObject({ outcome: 'failed', downtimeMs: 0, error: { code: 'not-converging' } });
    expect(source.error?.message).toMatch(
      / ms of downtime \(28\d ms of it to flush disks\), 300 ms allowed$/,
    );
    // Two rounds or three each time, and the flush with the second for which it counts.
    expect(source.totalMs).toBeGreaterThan(3 * 1282);
    expect(source.totalMs).toBeLessThan(6 * 1282);
  });
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

/** An idle guest, and a destination that never says that it has flushed. */
function neverFlushed(policy: MigrationPolicy) {
  const environment = createVirtualEnvironment();
  return createWorld({
    environment,
    idle: true,
    policy,
    destinationVm: (vm) => slowFlushes(environment, vm, Number.POSITIVE_INFINITY, 1e9),
  });
}

describe('a flush that does not end', () => {
  it('is waited for no longer than a stun may take once the guest is to be stunned', async () => {
    const world = neverFlushed({ timeoutMs: 3000, onTimeout: 'force', stunMsMax: 2000 });
    const { source } = await runWithin(world, 60_000);
    expect(source).toMatchObject({ outcome: 'failed', downtimeMs: 0, error: { code: 'timeout' } });
    expect(source.error?.message).toMatch(/^the disks are not flushed after \d+ ms: after round \d+ /);
    expect(source.totalMs).toBeGreaterThan(5000);
    expect(source.totalMs).toBeLessThan(6500);
    expect(world.vm.state).toBe('running');
  });

  it('nor where the rounds are used up', async () => {
    const environment = createVirtualEnvironment();
    const vm = busyVm(environment);
    const world = createWorld({
      environment,
      vm,
      link: { rateMbit: 100 },
      policy: { roundsMax: 4, throttleMax: 0, onTimeout: 'force', stunMsMax: 2000, downtimeMsMax: 30 },
      destinationVm: (inner) => slowFlushes(environment, inner, Number.POSITIVE_INFINITY, 1e9),
    });
    const { source } = await runWithin(world, 60_000);
    expect(source).toMatchObject({ outcome: 'failed', downtimeMs: 0, error: { code: 'not-converging' } });
    expect(source.error?.message).toMatch(/^the disks are not flushed after /);
    vm.destroy();
  });

  it('ends the migration after ten minutes where nothing hurries, and the link was there', async () => {
    const world = neverFlushed({});
    const { environment, link } = world;
    // Nobody who dials in between comes as far as a greeting.
    const cut = () => {
      link.cut();
      if (environment.now() < beganMs + 25_000) environment.setTimer(3, cut);
    };
    const beganMs = environment.now();
    environment.setTimer(5000, cut);
    const { source } = await runWithin(world, 900_000);
    expect(source).toMatchObject({ outcome: 'failed', downtimeMs: 0, error: { code: 'not-converging' } });
    expect(source.outages).toHaveLength(1);
    expect(source.totalMs).toBeGreaterThan(624_000);
    expect(source.totalMs).toBeLessThan(640_000);
  });
});
