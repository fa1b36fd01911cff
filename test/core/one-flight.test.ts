/**
 * Goal: handed over in one flight, a VM runs at the destination half a round trip after the stun, and whatever fails there leaves it at the source. Method: the real
 * engine over a simulated link in virtual time, its guest writing all the while.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  type DestinationVm,
  MigrationError,
  type MigrationReport,
  memoryRegister,
  type OwnershipRegister,
} from '../../src/index.ts';
import { simulate } from '../../src/testing/sim/simulate.ts';
import { createWorld, type World, type WorldOptions, withChanges } from '../support/worlds.ts';
import { cutLink } from './support/cut-link.ts';
import { runWithin } from './support/settled-within.ts';

const limitMs = 120_000;
const worlds: World[] = [];
function world(options: WorldOptions = {}): World {
  const made = createWorld({ ...options, policy: { handover: 'one-flight', ...options.policy } });
  worlds.push(made);
  return made;
}
afterEach(() => {
  for (const { vm, backend } of worlds.splice(0)) {
    vm.destroy();
    backend.vm?.destroy();
  }
});

const claims = async (register: OwnershipRegister) =>
  (await register.read('vm-1')).map(({ role, value }) => `${role} ${value}`);

/** The guest runs on at the source. */
function expectDeclined(w: World, source: MigrationReport): void {
  expect(source).toMatchObject({
    outcome: 'failed',
    owner: 'source',
    error: { code: 'declined', guest: 'running' },
  });
  expect(w.vm.state).toBe('running');
}

describe('a handover in one flight', () => {
  it.each([[20], [100], [200]])(
    'takes half a round trip of %i ms, where a confirmed one takes 1.5',
    async (rttMs) => {
      const link = { rttMs, rateMbit: 1000 };
      const w = world({ link, policy: { downtimeMsMax: 50 } });
      const { source, destination } = await runWithin(w, limitMs);
      expect(source.error?.message).toBeUndefined();
      expect([source.outcome, destination.outcome]).toEqual(['completed', 'completed']);
      expect(w.comparison()).toMatchObject({ equal: true });
      const confirmed = await runWithin(
        world({ link, policy: { downtimeMsMax: 50, handover: 'confirmed' } }),
        limitMs,
      );
      expect(source.downtimeMs).toBeGreaterThanOrEqual(rttMs / 2);
      expect(source.downtimeMs).toBeLessThan(rttMs / 2 + 60);
      expect(confirmed.source.downtimeMs - source.downtimeMs).toBeGreaterThan(0.9 * rttMs);
    },
  );

  it('has the claims in their order: given, owner', async () => {
    const order: string[] = [];
    const noting = (register: OwnershipRegister): OwnershipRegister => ({
      read: (vmId) => register.read(vmId),
      claim: async (...args) => {
        const stands = await register.claim(...args);
        order.push(stands);
        return stands;
      },
    });
    const registers = { source: noting(memoryRegister()), destination: noting(memoryRegister()) };
    await runWithin(world({ registers }), limitMs);
    expect(order).toEqual(['given', 'owner']);
  });

  it('that cannot be loaded is declined, and the guest runs on at the source', async () => {
    const w = world({
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          loadDeviceState: async () => {
            throw new MigrationError('device-state', 'as the test wants it');
          },
        }),
    });
    const { source, destination } = await runWithin(w, limitMs);
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'declined', owner: 'source', guest: 'running' },
    });
    expect(destination).toMatchObject({ outcome: 'failed', error: { code: 'device-state' } });
    expect(w.vm.state).toBe('running');
    expect(await claims(w.registers.source)).toEqual(['source given', 'return reclaimed']);
    expect(await claims(w.registers.destination)).toEqual(['destination declined']);
  });

  it('whose claim fails is given to nobody: the destination declines, and the guest runs on', async () => {
    const register = memoryRegister();
    let failures = 0;
    const w = world({
      registers: {
        source: {
          read: (vmId) => register.read(vmId),
          claim: async (...args) => {
            if (failures++ === 0) throw new MigrationError('register', 'as the test wants it');
            return register.claim(...args);
          },
        },
        destination: memoryRegister(),
      },
    });
    const { source } = await runWithin(w, limitMs);
    expectDeclined(w, source);
    expect(await claims(w.registers.destination)).toEqual(['destination declined']);
  });

  it('that fails before the claim is retreated from as any other', async () => {
    let seals = 0;
    const w = world({
      sourceVm: (vm) =>
        withChanges(vm, {
          seal: async () => {
            if (seals++ === 0) throw new MigrationError('hypervisor', 'as the test wants it');
            return vm.seal();
          },
        }),
    });
    const { source } = await runWithin(w, limitMs);
    expect(source).toMatchObject({ outcome: 'completed', switchoverAttempts: 2 });
    expect(w.comparison()).toMatchObject({ equal: true });
  });

  /** A register that calls back once *given* stands. */
  function whenGiven(callback: () => void): { source: OwnershipRegister; destination: OwnershipRegister } {
    const register = memoryRegister();
    const source: OwnershipRegister = {
      read: (vmId) => register.read(vmId),
      claim: async (...args) => {
        const stands = await register.claim(...args);
        if (args[3] === 'given') callback();
        return stands;
      },
    };
    return { source, destination: memoryRegister() };
  }

  it('that the destination gives up before it has heard of it is declined', async () => {
    const stop = new AbortController();
    const w = world({ link: { rttMs: 100, rateMbit: 1000 }, registers: whenGiven(() => stop.abort()) });
    const { source, destination } = await runWithin(w, limitMs, { destination: stop.signal });
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'declined', guest: 'running' },
    });
    expect(destination).toMatchObject({ outcome: 'failed', error: { code: 'aborted' } });
    expect(w.vm.state).toBe('running');
    expect(await claims(w.registers.destination)).toEqual(['destination declined']);
  });

  it('that the destination cannot put into place is declined', async () => {
    let given = false;
    const registers = whenGiven(() => {
      given = true;
    });
    const w = world({
      link: { rttMs: 100, rateMbit: 1000 },
      registers,
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          memory: withChanges(vm.memory, {
            write: async (runs, call) => {
              if (given) throw new MigrationError('memory', 'as the test wants it');
              await vm.memory.write(runs, call);
            },
          }),
        }),
    });
    const { source } = await runWithin(w, limitMs);
    expectDeclined(w, source);
  });

  it('that the destination does not come to an end with is called off, and declined', async () => {
    const w = world({
      policy: { decideMsMax: 2000, stunMsMax: 2000 },
      destinationVm: (vm) => withChanges<DestinationVm>(vm, { loadDeviceState: () => new Promise(() => {}) }),
    });
    const { source } = await runWithin(w, limitMs);
    expectDeclined(w, source);
    expect(await claims(w.registers.destination)).toEqual(['destination declined']);
  });

  it('is none for a rehearsal: nothing is given', async () => {
    const w = world();
    const { source, destination } = await w.rehearse();
    expect([source.outcome, destination.outcome]).toEqual(['rehearsed', 'rehearsed']);
    expect(await claims(w.registers.source)).toEqual([]);
    expect(w.vm.state).toBe('running');
  });
});

describe('a link that is cut', () => {
  const oneFlight = { handover: 'one-flight' } as const;

  it('as the guest is stunned, costs it no more than that stun', async () => {
    const cut = cutLink({ end: 'source', phase: 'stun' }, 20_000, oneFlight);
    // It takes longer to stop than the link's end takes to be noticed.
    const hosts = { source: { stunMs: 1500 } };
    const policy = { ...cut.policy, stunMsMax: 3000 };
    const { reports, violations } = await simulate({ seed: 1, scenario: { ...cut, hosts, policy } });
    expect(violations).toEqual([]);
    expect(reports.source).toMatchObject({ outcome: 'completed', switchoverAttempts: 2 });
  });

  it('as the VM is given, for long: the destination, which is asked, declines, and the source has it back', async () => {
    const cut = cutLink({ claim: 'given' }, 20_000, oneFlight);
    const { reports, recoveries, violations } = await simulate({ seed: 1, scenario: cut });
    expect(violations).toEqual([]);
    expect(reports.source).toMatchObject({ outcome: 'undecided', owner: 'undecided' });
    expect(reports.destination).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(recoveries.at(-1)).toMatchObject({ end: 'source', report: { action: 'reclaimed' } });
  });
});

describe('the parts of a downtime', () => {
  it.each([['confirmed'], ['one-flight']] as const)(
    'are what the guest stood still for: %s',
    async (handover) => {
      const w = world({ link: { rttMs: 80, rateMbit: 400 }, policy: { handover } });
      let stunnedMs = 0;
      let startedMs = 0;
      w.source.on('phase', (phase) => {
        if (phase === 'stun') stunnedMs = w.environment.now();
      });
      w.destination.on('phase', (phase) => {
        if (phase === 'release') startedMs = w.environment.now();
      });
      const { source } = await runWithin(w, limitMs);
      const { uncertaintyMs, ...parts } = source.downtime ?? { uncertaintyMs: 0 };
      const sum = Object.values(parts).reduce((total, ms) => total + ms, 0);
      expect(sum).toBeCloseTo(source.downtimeMs, 6);
      expect(Math.abs(startedMs - stunnedMs - source.downtimeMs)).toBeLessThanOrEqual(uncertaintyMs);
      expect(uncertaintyMs).toBeCloseTo(40, 0);
      expect(source.downtime?.flightMs).toBeGreaterThanOrEqual(handover === 'confirmed' ? 119 : 39);
    },
  );
});
