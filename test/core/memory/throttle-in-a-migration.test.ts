/**
 * Goal: a guest that dirties its memory three times faster than the link carries is moved within the downtime by being slowed, no harder than it takes, and
 * the report says by how much and for how long; one that idles is never slowed; and at the stun next to nothing is left to send, if the link can have it so.
 * Method: migrations in virtual time, of in-memory VMs over a memory link and of simulated VMs over the simulated network.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
} from '../../../src/backends/memory/index.ts';
import type { MigrationReport, SourceVm } from '../../../src/index.ts';
import { idle, simulatedDirtier } from '../../../src/testing/sim/workloads.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import { createWorld, mebibyte, withChanges } from '../../support/worlds.ts';
import { createVmWorld } from '../../testing/vm-world.ts';
import { runWithin } from '../support/settled-within.ts';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** 12.5 MB/s. */
const link = { rttMs: 20, rateMbit: 100 } as const;
const memoryBytes = 48 * mebibyte;
const threeTimes = 3 * 12.5e6;

/** Just enough is 1 - 12.5 / (2 * 37.5), 83 %, were no page written twice: between half of that and all that is allowed. */
function expectSlowed(report: MigrationReport): void {
  expect(report.error?.message).toBeUndefined();
  expect(report.throttleMax).toBeGreaterThan(0.4);
  expect(report.throttleMax).toBeLessThanOrEqual(0.8);
  expect(report.throttledMs).toBeGreaterThan(2000);
  expect(report.throttledMs).toBeLessThan(report.totalMs);
  expect(report.lost.throttleMs).toBeGreaterThan(0.2 * report.throttledMs);
  expect(report.lost.throttleMs).toBeLessThanOrEqual(report.throttleMax * report.throttledMs);
  expect(report.downtimeMs).toBeLessThanOrEqual(300 + 1.5 * 20 + 20);
}

describe('a guest that dirties three times faster than the link carries', () => {
  it.each([true, false])('converges by being slowed, with dirty pages that can be told: %s', async (told) => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes });
    vms.push(vm);
    vm.startWorkload(memoryDirtier({ bytesPerSecond: threeTimes }));
    const sourceVm = (inner: SourceVm) =>
      told
        ? inner
        : withChanges<SourceVm>(inner, {
            memory: withChanges(inner.memory, { dirtyBytes: () => undefined }),
          });
    const world = createWorld({ environment, vm, link, sourceVm });
    const { source } = await runWithin(world, 200_000);
    expectSlowed(source);
    expect(world.comparison()?.equal).toBe(true);
    world.backend.vm?.destroy();
  });

  it('converges in the simulator too', async () => {
    const dirtier = simulatedDirtier({ bytesPerSecond: threeTimes, hotBytes: memoryBytes });
    const world = createVmWorld({
      vm: { workloads: [dirtier], memory: { sizeBytes: memoryBytes, usedFraction: 1 }, disks: [] },
      link,
    });
    const { source } = await world.migrate();
    expectSlowed(source);
    expect(world.comparison()).toMatchObject({ equal: true });
    const throttles = world.events.flatMap((event) => (event.kind === 'throttle' ? [event.fraction] : []));
    expect(Math.max(...throttles)).toBe(source.throttleMax);
    for (const [index, fraction] of throttles.entries()) {
      const before = throttles[index - 1] ?? 0;
      if (fraction > 0) expect(fraction - before).toBeLessThanOrEqual(0.2 + 1e-9);
    }
  });
});

describe('a guest that dirties one MiB again and again, and three times faster than the link carries', () => {
  it('converges within 30 ms though its rounds are short, and each throttle has a second to work', async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes: 8 * mebibyte });
    vms.push(vm);
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 300e6, hotBytes: mebibyte }));
    const policy = { downtimeMsMax: 30, roundsMax: 100 };
    const world = createWorld({ environment, vm, link: { rttMs: 2, rateMbit: 800 }, policy });
    const { source } = await runWithin(world, 100_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.throttleMax).toBeGreaterThanOrEqual(0.6);
    expect(source.rounds).toBeGreaterThan(100);
    expect(world.comparison()?.equal).toBe(true);
    world.backend.vm?.destroy();
  });

  it('has an end all the same where no throttle is enough', async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes: 8 * mebibyte });
    vms.push(vm);
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 300e6, hotBytes: mebibyte }));
    const policy = { downtimeMsMax: 30, roundsMax: 100, throttleMax: 0.4 };
    const world = createWorld({ environment, vm, link: { rttMs: 2, rateMbit: 800 }, policy });
    const { source } = await runWithin(world, 100_000);
    expect(source.error?.code).toBe('not-converging');
    expect(source.rounds).toBeLessThan(400);
  });
});

describe('a guest that idles', () => {
  const never = { throttleMax: 0, throttledMs: 0, lost: { throttleMs: 0 } };

  it('is never slowed, however slow the link', async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes: 16 * mebibyte });
    vms.push(vm);
    const world = createWorld({ environment, vm, link: { rttMs: 200, rateMbit: 10 } });
    const { source } = await runWithin(world, 100_000);
    expect(source).toMatchObject({ outcome: 'completed', ...never });
    world.backend.vm?.destroy();
  });

  it('nor in the simulator, whose idle guests tick', async () => {
    const world = createVmWorld({ vm: { workloads: [idle()] }, link: { rttMs: 200, rateMbit: 20 } });
    const { source } = await world.migrate();
    expect(source).toMatchObject({ outcome: 'completed', ...never });
    expect(world.events.filter(({ kind }) => kind === 'throttle')).toEqual([]);
  });
});

describe('a guest that dirties a sixth of what the link carries', () => {
  it.each([0, 50, 100, 200])('stands still for little more than the handover at %d ms', async (rttMs) => {
    const environment = createVirtualEnvironment();
    const disks = [{ id: 'disk0', sizeBytes: 16 * mebibyte, allocatedFraction: 0.5 }];
    const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes, disks });
    vms.push(vm);
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 8e6, hotBytes: 32 * mebibyte }));
    vm.startWorkload(randomWriter({ disk: 'disk0', writesPerSecond: 300 }));
    const world = createWorld({ environment, vm, link: { rttMs, rateMbit: 400 } });
    const { source } = await runWithin(world, 60_000);
    expect(source).toMatchObject({ outcome: 'completed', throttleMax: 0 });
    expect(source.downtimeMs).toBeLessThan(1.5 * rttMs + 25);
    expect(world.comparison()?.equal).toBe(true);
    world.backend.vm?.destroy();
  });
});
