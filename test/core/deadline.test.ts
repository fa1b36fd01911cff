/**
 * Goal: when a migration's time is over it ends, or, if that is wanted and can be, its guest is stunned; one that is stunned in time is
 * not ended by it. Method: the deadline by itself, and whole migrations in virtual time over links that are too slow.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { createMemoryVm, type MemoryVm, memoryDirtier } from '../../src/backends/memory/index.ts';
import { Deadline } from '../../src/core/deadline.ts';
import type { DestinationVm, MigrationError, MigrationPolicy, Phase } from '../../src/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte, withChanges } from '../support/worlds.ts';
import { runWithin } from './support/settled-within.ts';

describe('a deadline', () => {
  const start = (policy: { timeoutMs?: number; onTimeout?: 'cancel' | 'force' }) => {
    const environment = createVirtualEnvironment();
    const state = { phase: 'copyMemory' as Phase, unsentBytes: 0 };
    const errors: MigrationError[] = [];
    const deadline = new Deadline({
      environment,
      policy: { timeoutMs: undefined, onTimeout: 'cancel', stunMsMax: 2000, ...policy },
      phase: () => state.phase,
      unsentBytes: () => state.unsentBytes,
      bytesPerSecond: () => 1e6,
      onOver: (error) => errors.push(error),
    });
    return { environment, state, errors, deadline };
  };

  it('is none without a limit', async () => {
    const { environment, errors, deadline } = start({});
    await environment.run(1e9);
    deadline.look();
    expect([deadline.leftMs, errors, environment.firedTimers]).toEqual([undefined, [], 0]);
  });

  it('ends what is not stunned by then, once', async () => {
    const { environment, errors, deadline } = start({ timeoutMs: 5000 });
    await environment.run(4999);
    expect([deadline.leftMs, errors]).toEqual([1, []]);
    await environment.run(20_000);
    expect(deadline.leftMs).toBe(-15_000);
    expect(errors).toMatchObject([{ code: 'timeout', message: 'the guest was not stunned within 5000 ms' }]);
  });

  it.each(['stun', 'verify', 'handover', 'release'] as const)(
    'leaves a migration in %s alone',
    async (phase) => {
      const { environment, state, errors, deadline } = start({ timeoutMs: 5000 });
      state.phase = phase;
      await environment.run(6000);
      expect(errors).toEqual([]);
      state.phase = 'copyMemory';
      deadline.look();
      expect(errors).toHaveLength(1);
    },
  );

  it.each([
    ['copyMemory', 2e6, 0],
    ['copyMemory', 2.1e6, 1],
    ['copyDisks', 2e6, 0],
    ['copyDisks', 2.1e6, 1],
    ['prepare', 0, 1],
    ['connect', 0, 1],
  ] as const)(
    'that forces, in %s with %d bytes not sent once, ends it %d times',
    async (phase, bytes, times) => {
      const { environment, state, errors } = start({ timeoutMs: 5000, onTimeout: 'force' });
      Object.assign(state, { phase, unsentBytes: bytes });
      await environment.run(6000);
      expect(errors).toHaveLength(times);
    },
  );

  it('that forces looks again at disks of which little is missing, and that does not come', async () => {
    const { environment, state, errors } = start({ timeoutMs: 5000, onTimeout: 'force' });
    Object.assign(state, { phase: 'copyDisks', unsentBytes: 1e6 });
    await environment.run(6999);
    expect(errors).toEqual([]);
    await environment.run(7000);
    expect(errors).toMatchObject([{ code: 'timeout' }]);
    await environment.run(20_000);
    expect(errors).toHaveLength(1);
  });

  it('that forces leaves alone what has gone on to its rounds meanwhile', async () => {
    const { environment, state, errors } = start({ timeoutMs: 5000, onTimeout: 'force' });
    Object.assign(state, { phase: 'copyDisks', unsentBytes: 1e6 });
    await environment.run(6000);
    state.phase = 'copyMemory';
    await environment.run(20_000);
    expect([errors, environment.pendingTimers]).toEqual([[], 0]);
  });

  it('does nothing once it was stopped', async () => {
    const { environment, errors, deadline } = start({ timeoutMs: 5000 });
    deadline.stop();
    await environment.run(6000);
    expect([errors, environment.pendingTimers]).toEqual([[], 0]);
  });

  it('does not look again once it was stopped either', async () => {
    const { environment, state, errors, deadline } = start({ timeoutMs: 5000, onTimeout: 'force' });
    Object.assign(state, { phase: 'copyDisks', unsentBytes: 1e6 });
    await environment.run(6000);
    deadline.stop();
    await environment.run(9000);
    expect([errors, environment.pendingTimers]).toEqual([[], 0]);
  });
});

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** A guest that writes 16 MiB of its memory again and again, twice as fast as the link carries, and must not be slowed. */
function hot(policy: MigrationPolicy, disks: readonly { id: string; sizeBytes: number }[] = []) {
  const environment = createVirtualEnvironment();
  const vm = createMemoryVm({
    environment,
    vmId: 'hot',
    memoryBytes: 20 * mebibyte,
    disks: disks.map((disk) => ({ ...disk, allocatedFraction: 1 })),
  });
  vms.push(vm);
  vm.startWorkload(memoryDirtier({ bytesPerSecond: 50e6, hotBytes: 16 * mebibyte }));
  const link = { rttMs: 20, rateMbit: 200 };
  return createWorld({ environment, vm, link, policy: { throttleMax: 0, ...policy } });
}

describe('a migration whose time is over', () => {
  it('ends with the guest as it was', async () => {
    const world = hot({ timeoutMs: 5000 });
    const { source, destination } = await runWithin(world, 20_000);
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      downtimeMs: 0,
      error: { code: 'timeout', phase: 'copyMemory', guest: 'running' },
    });
    expect(source.totalMs).toBeGreaterThanOrEqual(5000);
    expect(source.totalMs).toBeLessThan(6500);
    expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(world.vm.state).toBe('running');
  });

  it('stuns it all the same where that is wanted', async () => {
    const world = hot({ timeoutMs: 5000, onTimeout: 'force' });
    const { source } = await runWithin(world, 20_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.outcome).toBe('completed');
    // Most of 16 MiB at 25 MB/s.
    expect(source.downtimeMs).toBeGreaterThan(400);
    expect(source.downtimeMs).toBeLessThan(900);
    expect(source.totalMs - source.downtimeMs).toBeLessThan(5500);
    expect(world.comparison()?.equal).toBe(true);
    world.backend.vm?.destroy();
  });

  it('does not where that would take longer than a stun may', async () => {
    const world = hot({ timeoutMs: 5000, onTimeout: 'force', stunMsMax: 500 });
    const { source } = await runWithin(world, 20_000);
    expect(source).toMatchObject({
      outcome: 'failed',
      downtimeMs: 0,
      error: { code: 'timeout', guest: 'running' },
    });
    expect(source.error?.message).toMatch(
      /not stunned within 5000 ms, and what is left does not fit 500 ms either/,
    );
  });

  it('forces nothing while disks have not been copied once', async () => {
    const disks = [{ id: 'disk0', sizeBytes: 96 * mebibyte }];
    const world = hot({ timeoutMs: 2000, onTimeout: 'force', stunMsMax: 1000 }, disks);
    const { source } = await runWithin(world, 20_000);
    expect(source).toMatchObject({ outcome: 'failed', error: { code: 'timeout', phase: 'copyDisks' } });
  });

  it('ends where the destination stops writing a disk', async () => {
    const environment = createVirtualEnvironment();
    const stalls = (inner: DestinationVm): DestinationVm =>
      withChanges<DestinationVm>(inner, {
        disks: inner.disks.map((disk) => withChanges(disk, { write: () => new Promise<void>(() => {}) })),
      });
    const world = createWorld({
      environment,
      idle: true,
      policy: { timeoutMs: 2000, onTimeout: 'force', stunMsMax: 5000 },
      destinationVm: stalls,
    });
    const { source } = await runWithin(world, 60_000);
    expect(source).toMatchObject({ outcome: 'failed', error: { code: 'timeout' } });
    expect(source.totalMs).toBeLessThan(8500);
    world.vm.destroy();
  });

  it('stuns it too when the rounds are used up', async () => {
    const world = hot({ roundsMax: 4, onTimeout: 'force' });
    const { source } = await runWithin(world, 20_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.downtimeMs).toBeGreaterThan(400);
    world.backend.vm?.destroy();
  });

  it('is none of the business of one that comes to its end before', async () => {
    const environment = createVirtualEnvironment();
    const world = createWorld({ environment, policy: { timeoutMs: 60_000 } });
    const { source } = await runWithin(world, 20_000);
    expect(source.outcome).toBe('completed');
    world.vm.stopWorkloads();
    world.backend.vm?.destroy();
    world.vm.destroy();
    expect(environment.pendingTimers).toBe(0);
  });
});
