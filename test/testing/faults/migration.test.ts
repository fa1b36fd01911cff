/**
 * Goal: a fault of a plan happens to a real migration as it says, and the migration ends as
 * docs/failure-model.md says: the guest in one place, nothing of the migration left around it, and the next
 * one succeeds.
 *
 * Method: the real engine over the in-memory backend, in virtual time, once for each fault.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { type ErrorCode, type MigrationPolicy, recover } from '../../../src/index.ts';
import { FaultyWorld, type Plans, type Result } from './world.ts';

const worlds: FaultyWorld[] = [];
function newWorld(): FaultyWorld {
  const world = new FaultyWorld();
  worlds.push(world);
  return world;
}
afterEach(() => {
  for (const { vm, backend } of worlds.splice(0)) {
    vm.destroy();
    backend?.vm?.destroy();
  }
});

/** Migrates with the plans, and makes sure that something of them happened. */
async function migrateWith(world: FaultyWorld, plans: Plans, policy?: MigrationPolicy): Promise<Result> {
  const result = await world.migrate(plans, policy);
  expect(result.happened).not.toEqual([]);
  return result;
}

/** The guest runs at the source, unhindered, and can be migrated as if nothing had been. */
async function expectUntouched(world: FaultyWorld): Promise<void> {
  const { vm, environment } = world;
  expect(vm.state).toBe('running');
  expect(world.backend?.vm).toBeUndefined();
  await environment.run(vm.guest.writeDisk('data', 100, new Uint8Array(5000).fill(7)));
  const { source, destination, comparison } = await world.migrate();
  expect([source.error, destination.error]).toEqual([undefined, undefined]);
  expect(comparison).toMatchObject({ equal: true });
}

it('without a fault nothing happens', async () => {
  const { source, destination, comparison, happened } = await newWorld().migrate();
  expect([source.outcome, destination.outcome]).toEqual(['completed', 'completed']);
  expect(comparison).toMatchObject({ equal: true });
  expect(happened).toEqual([]);
});

/**
 * After a claim of `reclaimed` that does not stand the next migration has to know first what became of the
 * last one.
 */
async function settle({ vm, registers }: FaultyWorld): Promise<void> {
  const ask = async () => 'declined' as const;
  const register = registers.source;
  const report = await recover({ role: 'source', vmId: 'vm-1', register, vm: vm.source(), ask });
  expect(report).toMatchObject({ action: 'reclaimed', owner: 'source' });
}

interface Failure {
  readonly plans: Plans;
  /** What the source says. */
  readonly code: ErrorCode;
  /** What the destination says, if that is not about the source's end. */
  readonly there?: ErrorCode;
  readonly policy?: MigrationPolicy;
}

describe('a connection that fails is replaced, and nothing is lost', () => {
  const faults: Readonly<Record<string, Plans>> = {
    'a data connection breaks in the middle of a frame': {
      sourceTransport: [{ on: 'connection', nth: 2, do: 'drop', way: 'sent', atByte: 700_001 }],
    },
    'the control connection goes silent': {
      sourceTransport: [{ on: 'connection', nth: 1, do: 'stall', way: 'received', atByte: 1000 }],
    },
    'the control connection breaks': {
      sourceTransport: [{ on: 'connection', nth: 1, do: 'drop', way: 'received', atByte: 1000 }],
    },
    ...Object.fromEntries(
      [1000, 200_000, 700_001].map((atByte) => [
        `a bit is turned over on its way, in byte ${atByte}`,
        { destinationTransport: [{ on: 'connection', nth: 2, do: 'flip', way: 'received', atByte }] },
      ]),
    ),
  };
  for (const [name, plans] of Object.entries(faults)) {
    it(name, async () => {
      const world = newWorld();
      const { source, destination, comparison } = await migrateWith(world, plans, { stunMsMax: 60_000 });
      expect(comparison).toMatchObject({ equal: true });
      expect(source.error).toBeUndefined();
      expect(source).toMatchObject({ outcome: 'completed', owner: 'destination' });
      expect(destination).toMatchObject({ outcome: 'completed' });
    });
  }
});

describe('before commit, the source keeps its guest running', () => {
  const every = 'every';
  const failures: Readonly<Record<string, Failure>> = {
    'stun() fails': {
      plans: { vm: { vm: [{ on: 'stun', do: 'fail', code: 'hypervisor' }] } },
      code: 'hypervisor',
    },
    'stun() fails when it was done': {
      plans: { vm: { vm: [{ on: 'stun', do: 'fail-afterwards', code: 'hypervisor' }] } },
      code: 'hypervisor',
    },
    'stun() never ends': { plans: { vm: { vm: [{ on: 'stun', do: 'hang' }] } }, code: 'stun-timeout' },
    'stun() takes too long': {
      plans: { vm: { vm: [{ on: 'stun', do: 'delay', ms: 501 }] } },
      code: 'stun-timeout',
    },
    'the device state cannot be saved': {
      plans: { vm: { vm: [{ on: 'saveDeviceState', do: 'fail', code: 'device-state' }] } },
      code: 'device-state',
    },
    'the device state cannot be saved to its end': {
      plans: { vm: { vm: [{ on: 'saveDeviceState', do: 'fail-afterwards', code: 'device-state' }] } },
      code: 'device-state',
    },
    'the device state is saved wrong': {
      plans: { vm: { vm: [{ on: 'saveDeviceState', do: 'flip' }] } },
      code: 'device-state',
      there: 'device-state',
    },
    'seal() fails': {
      plans: { vm: { vm: [{ on: 'seal', do: 'fail', code: 'hypervisor' }] } },
      code: 'hypervisor',
    },
    'a round fails': {
      plans: { vm: { memory: [{ on: 'round', nth: 2, do: 'fail', code: 'memory' }] } },
      code: 'memory',
    },
    'a round fails half-way': {
      plans: { vm: { memory: [{ on: 'batch', nth: 2, do: 'fail', code: 'memory' }] } },
      code: 'memory',
    },
    'a disk cannot be read': {
      plans: { vm: { disks: { root: [{ on: 'read', nth: 3, do: 'fail', code: 'disk-read' }] } } },
      code: 'disk-read',
    },
    'a disk cannot be tapped': {
      plans: { vm: { disks: { data: [{ on: 'tap', do: 'fail', code: 'hypervisor' }] } } },
      code: 'hypervisor',
    },
    'a disk cannot be flushed': {
      plans: { vm: { disks: { root: [{ on: 'flush', do: 'fail', code: 'disk-write' }] } } },
      code: 'disk-write',
    },
    'a tap breaks': {
      plans: { vm: { disks: { root: [{ on: 'guest-write', nth: 5, do: 'break' }] } } },
      code: 'tap-gap',
    },
    'a tap does not finish': {
      plans: { vm: { disks: { root: [{ on: 'finish', do: 'fail', code: 'tap-gap' }] } } },
      code: 'tap-gap',
    },
    'the destination refuses': {
      plans: { backend: { backend: [{ on: 'prepare', do: 'fail', code: 'incompatible' }] } },
      code: 'incompatible',
      there: 'incompatible',
    },
    'the destination never prepares': {
      plans: { backend: { backend: [{ on: 'prepare', do: 'hang' }] } },
      code: 'timeout',
    },
    'memory cannot be written': {
      plans: { backend: { memory: [{ on: 'write', nth: 2, do: 'fail', code: 'memory' }] } },
      code: 'memory',
      there: 'memory',
    },
    'a disk cannot be written': {
      plans: { backend: { disks: { root: [{ on: 'write', nth: 4, do: 'fail', code: 'disk-write' }] } } },
      code: 'disk-write',
      there: 'disk-write',
    },
    'a write is torn': {
      plans: { backend: { disks: { root: [{ on: 'write', do: 'tear', bytes: 100 }] } } },
      code: 'disk-write',
      there: 'disk-write',
    },
    "the destination's disk cannot be flushed": {
      plans: { backend: { disks: { root: [{ on: 'flush', nth: every, do: 'fail', code: 'disk-write' }] } } },
      code: 'disk-write',
      there: 'disk-write',
    },
    'the device state cannot be loaded': {
      plans: { backend: { vm: [{ on: 'loadDeviceState', do: 'fail', code: 'device-state' }] } },
      code: 'device-state',
      there: 'device-state',
    },
    'the device state takes too long to load': {
      plans: { backend: { vm: [{ on: 'loadDeviceState', do: 'delay', ms: 600 }] } },
      code: 'stun-timeout',
    },
    "the source's register cannot be read": {
      plans: { sourceRegister: [{ on: 'read', do: 'fail', code: 'register' }] },
      code: 'register',
    },
    "the destination's register cannot be read": {
      plans: { destinationRegister: [{ on: 'read', do: 'fail', code: 'register' }] },
      code: 'register',
      there: 'register',
    },
    'no connection can be opened': {
      plans: { sourceTransport: [{ on: 'open', nth: every, do: 'fail', code: 'connect-failed' }] },
      code: 'connect-failed',
    },
    'a connection cannot be opened in time': {
      plans: { sourceTransport: [{ on: 'open', nth: 2, do: 'hang' }] },
      code: 'timeout',
    },
    'the control connection goes silent': {
      plans: {
        sourceTransport: [{ on: 'connection', nth: 1, do: 'stall', way: 'received', atByte: 300 }],
      },
      code: 'timeout',
      policy: { stunMsMax: 60_000, outageMsMax: 0 },
    },
    'the control connection breaks, and that is not to be outlasted': {
      plans: {
        sourceTransport: [{ on: 'connection', nth: 1, do: 'drop', way: 'received', atByte: 500 }],
      },
      code: 'connection-lost',
      policy: { outageMsMax: 0 },
    },
  };
  for (const [name, { plans, code, there, policy }] of Object.entries(failures)) {
    it(name, async () => {
      const world = newWorld();
      const { source, destination } = await migrateWith(world, plans, {
        switchoverAttemptsMax: 1,
        ...policy,
      });
      expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code, guest: 'running' } });
      expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
      if (there !== undefined) expect(destination.error?.code).toBe(there);
      expect(await world.claims('source')).toEqual([]);
      await expectUntouched(world);
    });
  }

  const mended = Object.entries(failures).filter(([name]) => /^stun\(\)|^the device state/.test(name));
  it.each(mended)('and another switchover does what the first could not: %s', async (_, { plans }) => {
    const world = newWorld();
    const { source, destination, comparison } = await migrateWith(world, plans);
    for (const report of [source, destination]) {
      expect(report.error).toBeUndefined();
      expect(report).toMatchObject({ outcome: 'completed', switchoverAttempts: 2 });
    }
    expect(comparison).toMatchObject({ equal: true });
  });

  it('and says that it does not know how the guest is when that cannot be resumed', async () => {
    const world = newWorld();
    const { source } = await migrateWith(world, {
      vm: { vm: [{ on: 'resume', nth: 'every', do: 'fail', code: 'hypervisor', message: 'no answer' }] },
      backend: { vm: [{ on: 'loadDeviceState', do: 'fail', code: 'device-state' }] },
    });
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'device-state', guest: 'unknown', message: expect.stringContaining('no answer') },
    });
  });
});

describe('what is late, or known not to be known, only takes longer', () => {
  const delays: Readonly<Record<string, Plans>> = {
    'a slow stun': { vm: { vm: [{ on: 'stun', do: 'delay', ms: 200 }] } },
    'slow reads': { vm: { disks: { root: [{ on: 'read', nth: 'every', do: 'delay', ms: 20 }] } } },
    'slow writes': { backend: { disks: { root: [{ on: 'write', nth: 'every', do: 'delay', ms: 10 }] } } },
    'a slow register': { destinationRegister: [{ on: 'claim', do: 'delay', ms: 300 }] },
    'slow dialling': { sourceTransport: [{ on: 'open', nth: 'every', do: 'delay', ms: 50 }] },
    'guest writes of which only the range is known': {
      vm: { disks: { root: [{ on: 'guest-write', nth: { from: 3 }, do: 'invalidate' }] } },
    },
  };
  for (const [name, plans] of Object.entries(delays)) {
    it(name, async () => {
      const { source, destination, comparison } = await migrateWith(newWorld(), plans);
      expect([source.error, destination.error]).toEqual([undefined, undefined]);
      expect(comparison).toMatchObject({ equal: true });
    });
  }

  it('a slow stun is in the downtime', async () => {
    const { source } = await migrateWith(newWorld(), delays['a slow stun'] ?? {});
    expect(source.downtimeMs).toBeGreaterThan(200);
  });
});

describe('what nobody can notice is seen by the comparison, and by an audit before it', () => {
  const silent: Readonly<Record<string, Plans>> = {
    'a tap that loses writes': {
      vm: { disks: { root: [{ on: 'guest-write', nth: { from: 2 }, do: 'drop' }] } },
    },
    'a memory source that loses pages': { vm: { memory: [{ on: 'batch', nth: 2, do: 'drop' }] } },
    'memory that is read wrong': { vm: { memory: [{ on: 'batch', nth: 'every', do: 'flip', atByte: 9 }] } },
    'a disk that is read wrong': {
      vm: { disks: { root: [{ on: 'read', nth: 2, do: 'flip', atByte: 99 }] } },
    },
    'a disk that loses a write': { backend: { disks: { root: [{ on: 'write', nth: 1, do: 'drop' }] } } },
    'memory that loses a write': { backend: { memory: [{ on: 'write', nth: 1, do: 'drop' }] } },
  };
  for (const [name, plans] of Object.entries(silent)) {
    it(name, async () => {
      const { source, comparison } = await migrateWith(newWorld(), plans, { audit: 'off' });
      expect(source.outcome).toBe('completed');
      expect(comparison).toMatchObject({ equal: false });
    });

    it(`${name}, and is audited`, async () => {
      const { source, comparison } = await migrateWith(newWorld(), plans, { audit: 'full' });
      expect(source.audit.differing).toBeGreaterThan(0);
      // What goes on going wrong ends it; what went wrong is put right.
      if (source.outcome === 'completed') expect(comparison).toMatchObject({ equal: true });
      else
        expect(source).toMatchObject({
          owner: 'source',
          error: { code: 'audit-mismatch', guest: 'running' },
        });
    });
  }
});

describe('around commit', () => {
  const declined: Readonly<Record<string, { plans: Plans; claims: readonly [string[], string[]] }>> = {
    'the claim given fails and does not stand': {
      plans: { sourceRegister: [{ on: 'claim', value: 'given', do: 'fail', code: 'register' }] },
      claims: [['reclaimed'], ['declined']],
    },
    'the claim given fails and stands': {
      plans: { sourceRegister: [{ on: 'claim', value: 'given', do: 'fail-afterwards', code: 'register' }] },
      claims: [['given', 'reclaimed'], ['declined']],
    },
    'the claim owner fails and does not stand': {
      plans: { destinationRegister: [{ on: 'claim', value: 'owner', do: 'fail', code: 'register' }] },
      claims: [['given', 'reclaimed'], ['declined']],
    },
    'the claim reclaimed fails': {
      plans: {
        sourceRegister: [{ on: 'claim', value: 'reclaimed', do: 'fail', code: 'register' }],
        destinationRegister: [{ on: 'claim', value: 'owner', do: 'fail', code: 'register' }],
      },
      claims: [['given'], ['declined']],
    },
    'the claim declined fails and stands': {
      plans: {
        destinationRegister: [
          { on: 'claim', value: 'owner', do: 'fail', code: 'register' },
          { on: 'claim', value: 'declined', do: 'fail-afterwards', code: 'register' },
        ],
      },
      claims: [['given', 'reclaimed'], ['declined']],
    },
  };
  for (const [name, { plans, claims }] of Object.entries(declined)) {
    it(`${name}: the destination declines, the guest runs on at the source`, async () => {
      const world = newWorld();
      const { source, destination } = await migrateWith(world, plans);
      expect(source).toMatchObject({
        outcome: 'failed',
        owner: 'source',
        error: { code: 'declined', guest: 'running' },
      });
      expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
      expect(await world.claims('source')).toEqual(claims[0]);
      expect(await world.claims('destination')).toEqual(claims[1]);
      if (!claims[0].includes('reclaimed')) await settle(world);
      await expectUntouched(world);
    });
  }

  it('the claim owner fails and stands: the destination finds that the VM is its own, and starts it', async () => {
    const world = newWorld();
    const { source, destination, comparison } = await migrateWith(world, {
      destinationRegister: [{ on: 'claim', value: 'owner', do: 'fail-afterwards', code: 'register' }],
    });
    for (const report of [source, destination]) {
      expect(report).toMatchObject({ outcome: 'completed', owner: 'destination' });
    }
    expect([await world.claims('source'), await world.claims('destination')]).toEqual([['given'], ['owner']]);
    expect(world.vm.state).toBe('released');
    expect(comparison).toMatchObject({ equal: true });
  });

  for (const how of ['fail', 'fail-afterwards'] as const) {
    it(`start() does ${how}: the destination owns it all the same, and the source lets go`, async () => {
      const world = newWorld();
      const { source, destination, started } = await migrateWith(world, {
        backend: { vm: [{ on: 'start', do: how, code: 'hypervisor' }] },
      });
      expect(source).toMatchObject({ outcome: 'completed', owner: 'destination' });
      expect(destination).toMatchObject({
        outcome: 'failed',
        owner: 'destination',
        error: { code: 'hypervisor', guest: 'unknown' },
      });
      expect(started === undefined).toBe(how === 'fail');
      expect(world.vm.state).toBe('released');
    });
  }

  it('release() fails: it has moved all the same', async () => {
    const { source, destination } = await migrateWith(newWorld(), {
      vm: { vm: [{ on: 'release', do: 'fail', code: 'hypervisor' }] },
    });
    expect(source).toMatchObject({ outcome: 'completed', owner: 'destination' });
    expect(destination).toMatchObject({ outcome: 'completed', owner: 'destination' });
  });
});
