/**
 * Goal: what the caller does around the start of a guest is done in its place, once, and is timed; and it can neither
 * keep the guest from running nor run it twice. Method: migrations in virtual time, in which every time is exact.
 */
import { afterEach, describe, expect, it } from 'vitest';
import type { MemoryVm } from '../../../src/backends/memory/index.ts';
import {
  createDestination,
  type DestinationVm,
  type HookCall,
  memoryLink,
  memoryRegister,
  type OwnershipRegister,
} from '../../../src/index.ts';
import { delay } from '../../../src/util/promises.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import { createWorld, type WorldOptions, withChanges } from '../../support/worlds.ts';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** A world, and everything that happens at its destination's handover, with the time of each. */
function watched(options: WorldOptions & { readonly startFails?: boolean } = {}) {
  const environment = createVirtualEnvironment();
  const happened: string[] = [];
  const at = new Map<string, number>();
  const note = (what: string) => {
    happened.push(what);
    at.set(what, environment.now());
  };
  const inner = options.registers?.destination ?? memoryRegister();
  const register: OwnershipRegister = {
    claim: async (...claim) => {
      const value = await inner.claim(...claim);
      note(`${value} stands`);
      return value;
    },
    read: (vmId) => inner.read(vmId),
  };
  const world = createWorld({
    idle: true,
    environment,
    ...options,
    registers: { source: options.registers?.source ?? memoryRegister(), destination: register },
    destinationVm: (vm) =>
      withChanges<DestinationVm>(vm, {
        start: async (how) => {
          note('start');
          if (options.startFails === true) throw new Error('no');
          await vm.start(how);
          note('started');
        },
      }),
  });
  vms.push(world.vm);
  const run = async (how: 'run' | 'rehearse' = 'run') => {
    const reports = await world[how]();
    if (world.backend.vm !== undefined) vms.push(world.backend.vm);
    return reports;
  };
  return { world, environment, happened, at, note, run };
}

/** Sums of fractions of a millisecond are off by less. */
const about = (ms: number) => expect.closeTo(ms, 3);
const never = () => new Promise<never>(() => {});

describe('hooks', () => {
  it('are called before and after the start, with what the migration is', async () => {
    const calls: Record<string, HookCall> = {};
    const w = watched({
      hooks: {
        beforeStart: (call) => {
          calls.beforeStart = call;
          w.note('beforeStart');
        },
        afterStart: (call) => {
          calls.afterStart = call;
          w.note('afterStart');
        },
      },
    });
    const { source, destination } = await w.run();
    expect([source.outcome, destination.outcome]).toEqual(['completed', 'completed']);
    expect(destination.error).toBeUndefined();
    expect(w.happened).toEqual(['owner stands', 'beforeStart', 'start', 'started', 'afterStart']);
    for (const name of ['beforeStart', 'afterStart']) {
      expect(calls[name]).toMatchObject({ vmId: 'vm-1', epoch: source.epoch });
      expect(calls[name]?.signal.aborted).toBe(false);
    }
    expect(destination.hooks).toEqual({ beforeStartMs: about(0), afterStartMs: about(0) });
    expect(source.hooks).toBeUndefined();
  });

  it('are absent from the report if there are none', async () => {
    const { destination } = await watched().run();
    expect('hooks' in destination).toBe(false);
  });

  it('before the start are a part of the downtime, and told to the source as such', async () => {
    const plain = await watched().run();
    const w = watched({ hooks: { beforeStart: () => delay(w.environment, 40) } });
    const { source, destination } = await w.run();
    expect(source.downtimeMs - plain.source.downtimeMs).toBeCloseTo(40, 3);
    expect(destination.downtimeMs - plain.destination.downtimeMs).toBeCloseTo(40, 3);
    expect(destination.hooks).toEqual({ beforeStartMs: about(40) });
    expect(source.downtime?.hooksMs).toBeCloseTo(40, 3);
    expect(plain.source.downtime?.hooksMs).toBe(0);
  });

  it('after the start are waited for by run() alone', async () => {
    const plain = await watched().run();
    const w = watched({ hooks: { afterStart: () => delay(w.environment, 3000) } });
    const { source, destination } = await w.run();
    expect(source.downtimeMs).toBeCloseTo(plain.source.downtimeMs, 3);
    expect(source.totalMs).toBeCloseTo(plain.source.totalMs, 3);
    expect(destination.hooks).toEqual({ afterStartMs: about(3000) });
    expect(destination.phases.release).toBeCloseTo(3000, 3);
  });

  it('that take their time in both places are not cut short', async () => {
    const w = watched({
      hookMsMax: 1000,
      hooks: {
        beforeStart: () => delay(w.environment, 999),
        afterStart: () => delay(w.environment, 999),
      },
    });
    const { destination } = await w.run();
    expect(destination.error).toBeUndefined();
    expect(destination.hooks).toEqual({ beforeStartMs: about(999), afterStartMs: about(999) });
  });
});

describe('a hook that is late', () => {
  it.each(['beforeStart', 'afterStart'] as const)('%s is not waited for', async (name) => {
    let abortedAt: number | undefined;
    let calledAt = 0;
    const w = watched({
      hookMsMax: 250,
      hooks: {
        [name]: ({ signal }: HookCall) => {
          calledAt = w.environment.now();
          signal.addEventListener('abort', () => {
            abortedAt = w.environment.now();
          });
          return never();
        },
      },
    });
    const { source, destination } = await w.run();
    expect(source).toMatchObject({ outcome: 'completed' });
    expect(destination).toMatchObject({ outcome: 'completed', owner: 'destination' });
    expect(destination.error).toMatchObject({
      code: 'hook-failed',
      message: `${name} took more than 250 ms`,
      owner: 'destination',
      guest: 'running',
      cause: { code: 'timeout' },
    });
    expect(destination.hooks).toEqual({ [`${name}Ms`]: about(250) });
    expect((abortedAt ?? Number.NaN) - calledAt).toBeCloseTo(250, 3);
    expect(w.world.backend.vm?.state).toBe('running');
  });

  it('has five seconds unless it is said otherwise', async () => {
    const { destination } = await watched({ hooks: { beforeStart: never } }).run();
    expect(destination.hooks).toEqual({ beforeStartMs: about(5000) });
  });

  it('starts nothing again when it ends after all', async () => {
    const w = watched({ hookMsMax: 100, hooks: { beforeStart: () => delay(w.environment, 150) } });
    const { destination } = await w.run();
    await w.environment.run(w.environment.now() + 1000);
    expect(destination.outcome).toBe('completed');
    expect(w.happened).toEqual(['owner stands', 'start', 'started']);
  });

  it('fails unheard when it rejects after all', async () => {
    const late = async () => {
      await delay(w.environment, 150);
      throw new Error('too late');
    };
    const w = watched({ hookMsMax: 100, hooks: { beforeStart: late, afterStart: late } });
    const { destination } = await w.run();
    await w.environment.run(w.environment.now() + 1000);
    expect(destination.error?.message).toBe(
      'beforeStart took more than 100 ms; afterStart took more than 100 ms',
    );
  });
});

describe('a hook that fails', () => {
  const failures: Readonly<Record<string, () => Promise<void>>> = {
    'throws at once': () => {
      throw new Error('no route');
    },
    rejects: () => Promise.reject(new Error('no route')),
  };
  for (const [how, hook] of Object.entries(failures)) {
    it.each(['beforeStart', 'afterStart'] as const)(
      `and ${how} as %s leaves the guest running`,
      async (name) => {
        const w = watched({ hooks: { [name]: hook } });
        const { source, destination } = await w.run();
        expect(source).toMatchObject({ outcome: 'completed' });
        expect(source.error).toBeUndefined();
        expect(destination).toMatchObject({ outcome: 'completed', hooks: { [`${name}Ms`]: 0 } });
        expect(destination.error).toMatchObject({
          code: 'hook-failed',
          message: `${name} failed: no route`,
          cause: { message: 'no route' },
        });
        expect(w.happened).toEqual(['owner stands', 'start', 'started']);
        expect(w.world.backend.vm?.state).toBe('running');
        expect(w.world.comparison()?.equal).toBe(true);
      },
    );
  }

  it('without a word has failed all the same', async () => {
    const { destination } = await watched({
      hooks: { beforeStart: () => Promise.reject(Object.create(null)) },
    }).run();
    expect(destination).toMatchObject({ outcome: 'completed', error: { code: 'hook-failed' } });
  });

  it('does not keep the other from being called, and both are told of', async () => {
    const fail = () => Promise.reject(new Error('no route'));
    const { destination } = await watched({ hooks: { beforeStart: fail, afterStart: fail } }).run();
    expect(destination.error?.message).toBe('beforeStart failed: no route; afterStart failed: no route');
  });

  it('of a guest that was paused leaves it paused', async () => {
    const w = watched({ hooks: { beforeStart: failures.rejects } });
    await w.world.vm.pause();
    const { destination } = await w.run();
    expect(destination).toMatchObject({
      outcome: 'completed',
      error: { code: 'hook-failed', guest: 'paused' },
    });
    expect(w.world.backend.vm?.state).toBe('paused');
  });
});

describe('no hook is called', () => {
  function counted(options: Parameters<typeof watched>[0] = {}) {
    const hooks = { beforeStart: () => w.note('beforeStart'), afterStart: () => w.note('afterStart') };
    const w = watched({ ...options, hooks });
    return w;
  }
  const called = ({ happened }: { readonly happened: readonly string[] }) =>
    happened.filter((what) => what === 'beforeStart' || what === 'afterStart');

  it('for a VM that was declined', async () => {
    const destination = memoryRegister();
    // The claim is found no sooner than GO is here.
    const hidden: OwnershipRegister = {
      claim: async (vmId, epoch, role, value) => {
        await destination.claim(vmId, epoch, 'destination', 'declined');
        return destination.claim(vmId, epoch, role, value);
      },
      read: destination.read,
    };
    const w = counted({ registers: { source: memoryRegister(), destination: hidden } });
    const reports = await w.run();
    expect(reports.source).toMatchObject({ outcome: 'failed', error: { code: 'declined' } });
    expect(called(w)).toEqual([]);
    expect(w.world.vm.state).toBe('running');
  });

  it('in a rehearsal', async () => {
    const w = counted();
    const { destination } = await w.run('rehearse');
    expect(destination.outcome).toBe('rehearsed');
    expect(called(w)).toEqual([]);
  });

  it('for disks alone', async () => {
    const w = counted({ policy: { memory: 'none' } });
    const { destination } = await w.run();
    expect(destination.outcome).toBe('copied');
    expect(called(w)).toEqual([]);
  });

  it('after a start that failed, which is what the report tells of', async () => {
    const w = counted({ startFails: true });
    const { destination } = await w.run();
    expect(called(w)).toEqual(['beforeStart']);
    expect(destination).toMatchObject({
      outcome: 'failed',
      owner: 'destination',
      hooks: { beforeStartMs: 0 },
    });
    expect(destination.error?.code).toBe('internal');
  });

  it('a second time, where the claim of owner stands though its call failed', async () => {
    const inner = memoryRegister();
    let failed = false;
    const destination: OwnershipRegister = {
      read: inner.read,
      claim: async (...claim) => {
        const value = await inner.claim(...claim);
        if (failed) return value;
        failed = true;
        throw new Error('the answer was lost');
      },
    };
    const w = counted({ registers: { source: memoryRegister(), destination } });
    const reports = await w.run();
    expect(reports.destination.outcome).toBe('completed');
    expect(called(w)).toEqual(['beforeStart', 'afterStart']);
  });
});

describe('createDestination refuses', () => {
  const environment = createVirtualEnvironment();
  const destination = (options: object) => () =>
    createDestination({
      backend: { name: 'none', prepare: never },
      transport: memoryLink({ environment }).destination,
      register: memoryRegister(),
      environment,
      ...options,
    });

  it.each([0, -1, 60_001, Number.NaN, '5'])('a hookMsMax of %s', (hookMsMax) => {
    expect(destination({ hookMsMax })).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it('a hook that cannot be called', () => {
    expect(destination({ hooks: { beforeStart: 'ifup' } })).toThrow('hooks.beforeStart must be a function');
  });

  it('nothing within the range', () => {
    for (const hookMsMax of [1, 60_000]) expect(destination({ hookMsMax })).not.toThrow();
  });
});
