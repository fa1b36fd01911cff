/**
 * Goal: a register that was slow when it was first asked does not keep a migration from ever switching over, and one that stays slow counts, but no more than
 * waiting can make good. Method: the figure by itself, and migrations in virtual time whose source's register connects on first use, or is always slow.
 */
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';
import { claimsMsCounted, loadMsExpected } from '../../../src/core/expected.ts';
import { type MigrationPolicy, memoryRegister } from '../../../src/index.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import { createWorld, mebibyte, withChanges } from '../../support/worlds.ts';
import { runWithin } from '../support/settled-within.ts';

describe('what counts of the claims', () => {
  it('is all of it where that is little, and never above half of the downtime, nor all that is left of it', () => {
    expect(claimsMsCounted(2, 300)).toBe(2);
    expect(claimsMsCounted(400, 300)).toBe(140);
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 1e6, noNaN: true }),
        fc.double({ min: 30, max: 60_000, noNaN: true }),
        (claimsMs, downtimeMsMax) => {
          const counted = claimsMsCounted(claimsMs, downtimeMsMax);
          expect(counted).toBeLessThanOrEqual(Math.min(claimsMs, downtimeMsMax / 2));
          expect(loadMsExpected + counted).toBeLessThan(downtimeMsMax);
        },
      ),
    );
  });
});

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** An idle guest, whose state alone takes 6.6 ms. The source's register takes that long for one read after the other. */
async function migrate(readsMs: (read: number) => number, policy: MigrationPolicy) {
  const environment = createVirtualEnvironment();
  const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes: 8 * mebibyte, disks: [] });
  vms.push(vm);
  const inner = memoryRegister();
  let reads = 0;
  const slow = withChanges(inner, {
    read: async (vmId: string) => {
      const ms = readsMs(reads++);
      await new Promise<void>((resolve) => environment.setTimer(ms, resolve));
      return inner.read(vmId);
    },
  });
  const world = createWorld({
    environment,
    vm,
    link: { rttMs: 2, rateMbit: 200 },
    registers: { source: slow, destination: memoryRegister() },
    policy,
  });
  const { source } = await runWithin(world, 60_000);
  world.backend.vm?.destroy();
  return source;
}

describe('a destination whose register', () => {
  /** An idle guest again; reading takes no time. */
  async function migrateTo(readyMs: number) {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes: 8 * mebibyte, disks: [] });
    vms.push(vm);
    const slow = withChanges(memoryRegister(), {
      prepare: () => new Promise<void>((resolve) => environment.setTimer(readyMs, resolve)),
    });
    const world = createWorld({
      environment,
      vm,
      link: { rttMs: 2, rateMbit: 200 },
      registers: { source: memoryRegister(), destination: slow },
      policy: { downtimeMsMax: 30, roundsMax: 40 },
    });
    const { source } = await runWithin(world, 60_000);
    world.backend.vm?.destroy();
    return source;
  }

  it('is quickly made ready for a claim leaves room for the state', async () => {
    expect((await migrateTo(0)).outcome).toBe('completed');
  });

  it('takes long for that leaves too little of 30 ms for the state, though it is quickly read', async () => {
    expect((await migrateTo(200)).error?.code).toBe('not-converging');
  });
});

describe('a migration whose register', () => {
  it('connects on first use converges as any other', async () => {
    const source = await migrate((read) => (read === 0 ? 200 : 0.5), { downtimeMsMax: 30 });
    expect(source.error?.message).toBeUndefined();
    expect(source.rounds).toBeLessThan(50);
  });

  it('takes 200 ms for each read converges too', async () => {
    const source = await migrate(() => 200, { downtimeMsMax: 300 });
    expect(source.error?.message).toBeUndefined();
    expect(source.rounds).toBeLessThan(50);
  });

  it('takes long for each read leaves too little of 30 ms for the state', async () => {
    const source = await migrate(() => 200, { downtimeMsMax: 30, roundsMax: 40 });
    expect(source.error?.code).toBe('not-converging');
  });
});
