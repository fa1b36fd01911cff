/**
 * Goal: when nobody knows who owns a VM, both ends say so, nothing new is begun with it, and once it is known
 * the guest is as it was. Method: registers that fail at the claims that decide, or just after them, and
 * destinations that vanish.
 */
import { afterEach, describe, expect, it } from 'vitest';
import type { MemoryVm } from '../../src/backends/memory/index.ts';
import {
  type ClaimValue,
  MigrationError,
  memoryRegister,
  type OwnershipRegister,
  recover,
  type SourceVm,
} from '../../src/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { busyVm, createWorld, type World, type WorldOptions, withChanges } from '../support/worlds.ts';
import { runWithin } from './support/settled-within.ts';

const vms: MemoryVm[] = [];
function world(options: WorldOptions): World {
  const made = createWorld(options);
  vms.push(made.vm);
  return made;
}
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

const limitMs = 60_000;
const failure = () => Promise.reject(new MigrationError('register', 'the disk of the register is full'));

async function expectMigrates(w: World): Promise<void> {
  const { source } = await runWithin(w, limitMs);
  expect(source.error?.message).toBeUndefined();
  expect(source.outcome).toBe('completed');
  expect(w.comparison()?.equal).toBe(true);
  w.backend.vm?.destroy();
}

describe('a VM that was given away, nobody knows to whom', () => {
  it('is not migrated, until recover() has settled it', async () => {
    const register = memoryRegister();
    await register.claim('vm-1', 1, 'source', 'given');
    const registers = { source: register, destination: memoryRegister() };
    const w = world({ registers });
    const { source, destination } = await runWithin(w, limitMs);
    expect(source).toMatchObject({
      outcome: 'undecided',
      owner: 'undecided',
      error: { code: 'owner-undecided', phase: 'connect', owner: 'undecided' },
    });
    expect(source.error?.message).toContain('recover()');
    expect(destination.outcome).toBe('failed');
    const vm = w.vm.source();
    const ask = async () => 'declined' as const;
    await recover({ role: 'source', vmId: 'vm-1', register, vm, ask });
    await expectMigrates(world({ environment: w.environment, vm: w.vm, registers }));
  });

  it('runs unhindered after recover() has taken it back, and can be migrated', async () => {
    const environment = createVirtualEnvironment();
    const register = memoryRegister();
    let gone = false;
    let vanish = () => {};
    const registers = {
      source: {
        read: register.read,
        claim: async (...args) => {
          const standing = await register.claim(...args);
          if (args[3] === 'given') vanish();
          return standing;
        },
      } satisfies OwnershipRegister,
      destination: { read: async () => (gone ? failure() : []), claim: failure } satisfies OwnershipRegister,
    };
    let throttle = 0;
    let tapped = 0;
    const watched = (vm: SourceVm) =>
      withChanges<SourceVm>(vm, {
        // The engine that set the throttle is gone by the time that the guest runs again.
        setThrottle: async (fraction) => {
          throttle = fraction;
          await vm.setThrottle(fraction);
        },
        detach: async () => {
          throttle = 0;
          await vm.detach();
        },
        disks: vm.disks.map((disk) =>
          withChanges(disk, {
            tap: (handler) =>
              disk.tap({
                write: (write) => {
                  tapped += 1;
                  return handler.write(write);
                },
                invalidate: handler.invalidate,
                broken: handler.broken,
              }),
          }),
        ),
      });
    const vm = busyVm(environment);
    const w = world({ environment, vm, registers, sourceVm: watched, policy: { decideMsMax: 600 } });
    w.source.on('round', (round) => {
      if (round.round === 1) void watchedVm.setThrottle(0.5);
    });
    const watchedVm = watched(vm.source());
    vanish = () => {
      gone = true;
      w.link.cut();
    };
    const { source } = await runWithin(w, limitMs);
    expect(source).toMatchObject({ outcome: 'undecided', error: { guest: 'paused' } });
    expect(source.downtimeMs).toBeGreaterThan(600);
    expect(throttle).toBe(0.5);

    const ask = async () => 'declined' as const;
    const report = await recover({ role: 'source', vmId: 'vm-1', register, vm: watchedVm, ask });
    expect(report).toMatchObject({ action: 'reclaimed', owner: 'source' });
    expect(vm.state).toBe('running');
    expect(throttle).toBe(0);
    tapped = 0;
    await environment.run(environment.now() + 100);
    expect(tapped).toBe(0);
    await expectMigrates(world({ environment, vm }));
  });
});

/** A register whose call of one claim fails, before or after the claim stands. */
function failsAt(value: ClaimValue, when: 'before' | 'after'): OwnershipRegister {
  const inner = memoryRegister();
  return {
    read: inner.read,
    claim: async (...args) => {
      if (args[3] === value && when === 'before') await failure();
      const standing = await inner.claim(...args);
      if (args[3] === value && when === 'after') await failure();
      return standing;
    },
  };
}

describe('a claim whose call fails', () => {
  it('counts if it stands: the destination that owns the VM runs it, and no operator is needed', async () => {
    const w = world({ registers: { source: memoryRegister(), destination: failsAt('owner', 'after') } });
    const { source, destination } = await runWithin(w, limitMs);
    expect([source.outcome, destination.outcome]).toEqual(['completed', 'completed']);
    expect([source.owner, destination.owner]).toEqual(['destination', 'destination']);
    expect(w.backend.vm?.state).toBe('running');
    expect(w.comparison()?.equal).toBe(true);
    w.backend.vm?.destroy();
  });

  it('does not if it does not: the source takes the VM back', async () => {
    const w = world({ registers: { source: memoryRegister(), destination: failsAt('owner', 'before') } });
    const { source, destination } = await runWithin(w, limitMs);
    expect([source.outcome, destination.outcome]).toEqual(['failed', 'failed']);
    expect([source.owner, destination.owner]).toEqual(['source', 'source']);
    expect(source.error).toMatchObject({ code: 'declined', guest: 'running' });
    await expectMigrates(world({ environment: w.environment, vm: w.vm }));
  });

  it('of a destination that can neither take nor decline says undecided in report and error', async () => {
    const destination = { read: memoryRegister().read, claim: failure } satisfies OwnershipRegister;
    const w = world({ idle: true, registers: { source: memoryRegister(), destination } });
    const stop = new AbortController();
    w.destination.on('phase', (phase) => {
      if (phase === 'handover') stop.abort();
    });
    const { destination: report } = await runWithin(w, limitMs, { destination: stop.signal });
    expect(report).toMatchObject({
      outcome: 'undecided',
      owner: 'undecided',
      error: { code: 'aborted', owner: 'undecided', guest: 'paused' },
    });
  });
});
