// Goal: each fault does what it says, and nothing that the engine cannot see goes unseen by the comparison.
// Method: whole migrations of a busy VM with one fault each; then the disk's model by itself.
import { expect, test } from 'vitest';
import type { AuditMode, ErrorCode } from '../../src/index.ts';
import { createSimulatedDisk } from '../../src/testing/sim/disk.ts';
import { type VmFault, VmFaultPlan } from '../../src/testing/sim/vm-faults.ts';
import { idle, oltp, simulatedDirtier } from '../../src/testing/sim/workloads.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createVmWorld, mebibyte, type VmWorld, type VmWorldOptions } from './vm-world.ts';

const workloads = [
  oltp({ disk: 'disk0', iops: 2000, readFraction: 0.3, hotBytes: 4 * mebibyte }),
  simulatedDirtier({ bytesPerSecond: 8 * mebibyte, hotBytes: 2 * mebibyte }),
  idle(),
];

/**
 * A link on which the migration takes some hundred milliseconds, so that much of it happens beside the guest.
 */
const link = { rateMbit: 400, rttMs: 4 };

interface Outcome {
  readonly world: VmWorld;
  readonly source: Awaited<ReturnType<VmWorld['migrate']>>['source'];
  readonly destination: Awaited<ReturnType<VmWorld['migrate']>>['destination'];
}

async function migrateWith(
  options: VmWorldOptions,
  switchoverAttemptsMax = 1,
  audit: AuditMode = 'sample',
): Promise<Outcome> {
  const world = createVmWorld({ link, ...options, vm: { workloads, ...options.vm } });
  const { source, destination } = await world.migrate({ stunMsMax: 2000, switchoverAttemptsMax, audit });
  return { world, source, destination };
}

/** The guest runs where it was, and nothing of ours is left around it. */
function expectUntouched({ vm }: VmWorld): void {
  expect([vm.state, vm.tappedDisks, vm.throttle, vm.violations]).toEqual(['running', [], 0, []]);
}

const atSource: readonly (readonly [string, VmFault, ErrorCode])[] = [
  ['a stun that fails', { point: 'stun', effect: 'fail' }, 'hypervisor'],
  ['a stun that takes too long', { point: 'stun', delayMs: 5000 }, 'stun-timeout'],
  ['a save that fails', { point: 'save', effect: 'fail' }, 'device-state'],
  ['a save that takes too long', { point: 'save', delayMs: 5000 }, 'stun-timeout'],
  ['a seal that fails', { point: 'seal', effect: 'fail' }, 'hypervisor'],
  ['a round that fails', { point: 'memory-batch', skip: 4, effect: 'fail' }, 'memory'],
  [
    'a disk that cannot be read',
    { point: 'disk-read', by: 'engine', disk: 'disk1', effect: 'fail' },
    'disk-read',
  ],
  ['a disk that cannot be flushed', { point: 'disk-flush', by: 'engine', effect: 'fail' }, 'disk-write'],
  ['a tap that breaks', { point: 'tap-write', skip: 20, effect: 'break-tap' }, 'tap-gap'],
  ['a tap that breaks at a time', { point: 'clock', fromMs: 300, effect: 'break-tap' }, 'tap-gap'],
];

test.each(atSource)('%s leaves the guest running at the source', async (_, fault, code) => {
  const { world, source } = await migrateWith({ vm: { faults: [fault] } });
  expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code, guest: 'running' } });
  expectUntouched(world);
  expect(world.events.filter(({ kind }) => kind === 'fault')).toHaveLength(1);
  expect(world.backend.vm).toBeUndefined();
  // And the next attempt is not any worse for it.
  const again = await world.migrate();
  expect(again.source.error).toBeUndefined();
  expect(world.comparison()).toMatchObject({ equal: true });
});

const inSwitchover: readonly (readonly [string, VmWorldOptions])[] = [
  ...atSource.slice(0, 4).map(([name, fault]) => [name, { vm: { faults: [fault] } }] as const),
  ['a state that cannot be loaded', { backend: { faults: [{ point: 'load', effect: 'fail' }] } }],
  ['a load that takes too long', { backend: { faults: [{ point: 'load', delayMs: 5000 }] } }],
];

test.each(inSwitchover)('%s, once, costs a pause and not the migration', async (_, faulty) => {
  const { world, source, destination } = await migrateWith(faulty, 2);
  expect(source.error).toBeUndefined();
  expect([source.switchoverAttempts, destination.switchoverAttempts]).toEqual([2, 2]);
  expect(world.comparison()).toMatchObject({ equal: true });
  expect(world.vm.violations).toEqual([]);
});

const atDestination: readonly (readonly [string, VmFault, ErrorCode])[] = [
  ['a prepare that fails', { point: 'prepare', effect: 'fail' }, 'hypervisor'],
  ['memory that cannot be written', { point: 'memory-write', skip: 3, effect: 'fail' }, 'memory'],
  ['a disk that cannot be written', { point: 'disk-write', skip: 5, effect: 'fail' }, 'disk-write'],
  ['a disk that cannot be flushed', { point: 'disk-flush', effect: 'fail' }, 'disk-write'],
  ['a state that cannot be loaded', { point: 'load', effect: 'fail' }, 'device-state'],
];

test.each(atDestination)(
  '%s at the destination leaves the guest running at the source',
  async (_, fault, code) => {
    const { world, source, destination } = await migrateWith({ backend: { faults: [fault] } });
    expect(destination).toMatchObject({ outcome: 'failed', error: { code } });
    expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
    expectUntouched(world);
    expect(world.backend.vms.map(({ state }) => state)).toEqual(code === 'hypervisor' ? [] : ['discarded']);
  },
);

test('a destination disk that runs full fails the migration', async () => {
  const { world, destination } = await migrateWith({ backend: { disk: { capacityBytes: 2 * mebibyte } } });
  expect(destination.error).toMatchObject({ code: 'disk-full' });
  expect(destination.error?.message).toMatch(/no space/);
  expectUntouched(world);
});

test('a load and a start that are slow are downtime, and all is well', async () => {
  const timings = { loadMs: 100, startMs: 50 };
  const { world, source } = await migrateWith({
    backend: { timings, faults: [{ point: 'load', delayMs: 300 }] },
    vm: { timings: { stunMs: 20, saveMs: 30, sealMs: 5 } },
  });
  expect(source.outcome).toBe('completed');
  expect(source.downtimeMs).toBeGreaterThan(500);
  expect(source.downtimeMs).toBeLessThan(700);
  expect(world.comparison()).toMatchObject({ equal: true });
  await world.environment.run(world.environment.now() + 100);
  const [window] = world.backend.vm?.guest.statistics() ?? [];
  // The guest's own watch says the same.
  expect(Math.abs((window?.longestPauseMs ?? 0) - source.downtimeMs)).toBeLessThan(3);
  expect(window?.workloads['idle-2']?.longestGapMs).toBeGreaterThanOrEqual(window?.longestPauseMs ?? 0);
});

test('a start that fails leaves the VM with the destination, to be started again', async () => {
  const { world, source, destination } = await migrateWith({
    backend: { faults: [{ point: 'start', effect: 'fail' }] },
  });
  expect(destination).toMatchObject({ outcome: 'failed', owner: 'destination' });
  expect(source.owner).toBe('destination');
  expect(world.vm.state).toBe('released');
  const [prepared] = world.backend.vms;
  expect(prepared?.state).toBe('loaded');
  world.backend.detachProcess();
  await world.environment.run(world.backend.attachDestination('vm-1').start({ run: true }));
  expect(prepared?.state).toBe('running');
  expect(world.comparison()).toMatchObject({ equal: true });
});

test('a resume that fails leaves the guest stunned, a release the VM sealed, for the next who asks', async () => {
  const stuck = await migrateWith({
    vm: { faults: [{ point: 'resume', effect: 'fail' }] },
    backend: { faults: [{ point: 'load', effect: 'fail' }] },
  });
  expect(stuck.source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'unknown' } });
  expect(stuck.world.vm.state).toBe('stunned');
  await stuck.world.environment.run(stuck.world.vm.attachSource().resume());
  expectUntouched(stuck.world);

  const sealed = await migrateWith({ vm: { faults: [{ point: 'release', effect: 'fail' }] } });
  expect([sealed.source.outcome, sealed.world.vm.state]).toEqual(['completed', 'sealed']);
  sealed.world.vm.detachProcess();
  await sealed.world.environment.run(sealed.world.vm.attachSource().release());
  expect(sealed.world.vm.state).toBe('released');
});

test('a save that dirties memory loses nothing', async () => {
  const { world, source } = await migrateWith({
    vm: { faults: [{ point: 'save', delayMs: 40, dirtyBytes: 3 * mebibyte }] },
  });
  expect(source.outcome).toBe('completed');
  expect(world.comparison()).toMatchObject({ equal: true });
});

const throttled = {
  workloads: [simulatedDirtier({ bytesPerSecond: 200 * mebibyte, hotBytes: 15 * mebibyte })],
};

test('a throttle that is refused fails it; one that is taken slows the guest', async () => {
  const fault: VmFault = { point: 'throttle', effect: 'fail' };
  const refused = await migrateWith({ vm: { ...throttled, faults: [fault] }, link: { rateMbit: 400 } });
  expect(refused.source.error).toMatchObject({ code: 'hypervisor' });
  expectUntouched(refused.world);
  const taken = await migrateWith({ vm: throttled, link: { rateMbit: 400 } });
  expect(taken.source.outcome).toBe('completed');
  expect(taken.source.throttleMax).toBeGreaterThan(0);
  const fractions = taken.world.events.flatMap((event) =>
    event.kind === 'throttle' ? [event.fraction] : [],
  );
  expect(Math.max(...fractions)).toBe(taken.source.throttleMax);
  expect(taken.world.backend.vm?.throttle).toBe(0);
  expect(taken.world.comparison()).toMatchObject({ equal: true });
});

test('a guest that powers off, and a hypervisor that dies, have their own codes', async () => {
  const off = await migrateWith({ vm: { faults: [{ point: 'clock', fromMs: 200, effect: 'power-off' }] } });
  expect(off.source).toMatchObject({ outcome: 'failed', error: { code: 'guest-stopped', guest: 'lost' } });
  expect([off.world.vm.state, off.world.vm.tappedDisks]).toEqual(['off', []]);
  for (const point of ['clock', 'stun', 'save', 'tap-write'] as const) {
    const faults = [{ point, effect: 'die', ...(point === 'clock' ? { fromMs: 200 } : {}) }] as const;
    const { world, source } = await migrateWith({ vm: { faults } });
    expect(source).toMatchObject({ outcome: 'failed', error: { code: 'hypervisor', guest: 'lost' } });
    expect([world.vm.state, world.vm.tappedDisks]).toEqual(['gone', []]);
  }
});

test('what no engine can see without an audit, the comparison shows: to the very block', async () => {
  const oneWrite = {
    disks: [{ id: 'disk0', sizeBytes: 4 * mebibyte, allocatedFraction: 1 }],
    workloads: [],
    timings: { stunMs: 1 },
  };
  const lost: VmFault = { point: 'tap-write', effect: 'drop' };
  const writing: VmWorldOptions['onEvent'] = (event, { vm }) => {
    // Once the disk has been copied, the tap is all that tells of a write.
    if (event.kind === 'state' && event.state === 'stunning') return;
    if (event.kind === 'tap' && event.set) {
      world.environment.setTimer(400, () => void vm.guest.writeDisk('disk0', 8192, 4096));
    }
  };
  const world = createVmWorld({
    link: { rateMbit: 400, rttMs: 4 },
    vm: { ...oneWrite, memory: { sizeBytes: 32 * mebibyte }, faults: [lost] },
    onEvent: writing,
  });
  expect((await world.migrate({ audit: 'off' })).source.outcome).toBe('completed');
  expect(world.comparison()).toMatchObject({
    equal: false,
    spaces: [{ kind: 'disk', name: 'disk0', bytes: 4096, ranges: [{ offset: 8192, length: 4096 }], bad: [] }],
    summary: 'disk disk0: 4096 bytes differ, first 4096 at 8192',
  });

  const page = await migrateWith(
    { vm: { workloads: [], faults: [{ point: 'memory-batch', skip: 2, effect: 'drop' }] } },
    1,
    'off',
  );
  expect(page.source.outcome).toBe('completed');
  expect(page.world.comparison()).toMatchObject({ equal: false, spaces: [{ kind: 'memory', bytes: 4096 }] });

  const block = await migrateWith(
    { vm: { workloads: [] }, backend: { faults: [{ point: 'disk-write', disk: 'disk1', effect: 'drop' }] } },
    1,
    'off',
  );
  expect(block.source.outcome).toBe('completed');
  expect(block.world.comparison()).toMatchObject({ equal: false, spaces: [{ kind: 'disk', name: 'disk1' }] });
});

test('guest writes that fail half-way are told to the guest, and what they left arrives', async () => {
  const fault: VmFault = {
    point: 'disk-write',
    by: 'guest',
    effect: 'fail',
    tornBytes: 4096,
    skip: 100,
    times: 40,
  };
  const { world, source } = await migrateWith({ vm: { faults: [fault] } });
  expect(source.outcome).toBe('completed');
  expect(world.comparison()).toMatchObject({ equal: true });
  expect(world.events.filter(({ kind }) => kind === 'fault')).toHaveLength(40);
  expect(world.backend.vm?.guest.statistics()[0]?.workloads['oltp-0']?.failed).toBe(40);
});

test('a destination whose disks hold something foreign, or tell nothing of zeros, ends up equal', async () => {
  for (const disk of [
    { foreign: true },
    { tellsZeros: false, foreign: true },
    { latencyMs: 2, iops: 5000 },
  ]) {
    const { world, source } = await migrateWith({ backend: { disk } });
    expect(source.outcome).toBe('completed');
    expect(world.comparison()).toMatchObject({ equal: true, summary: '' });
  }
});

test('a disk takes its time: latency, operations, bytes, flush', async () => {
  const environment = createVirtualEnvironment();
  const host = { environment, vmId: 'vm' };
  const at = async (work: Promise<unknown>) => {
    await work;
    return environment.now();
  };
  const run = (works: readonly Promise<unknown>[]) => environment.run(Promise.all(works.map(at)));
  const slow = createSimulatedDisk({ id: 'a', sizeBytes: mebibyte, latencyMs: 4, flushMs: 6 }, host);
  expect(await run([slow.read(0, 4096), slow.read(8192, 4096), slow.flush()])).toEqual([4, 4, 10]);
  const counted = createSimulatedDisk({ id: 'b', sizeBytes: mebibyte, iops: 500 }, host);
  expect(await run([1, 2, 3].map(() => counted.read(0, 4096)))).toEqual([12, 14, 16]);
  counted.setLimits({ iops: 1000 });
  expect(await run([1, 2].map(() => counted.read(0, 4096)))).toEqual([17, 18]);
  const narrow = createSimulatedDisk({ id: 'c', sizeBytes: mebibyte, bytesPerSecond: 4096 * 1000 }, host);
  expect(await run([narrow.read(0, 8192), narrow.writeZeroes(0, 4096), narrow.read(0, 4096)])).toEqual([
    20, 20, 21,
  ]);
});

test('a fault strikes at its operations only', async () => {
  const environment = createVirtualEnvironment();
  const struck: VmFault[] = [];
  const plan = new VmFaultPlan(environment, (fault) => struck.push(fault));
  const fault: VmFault = { point: 'disk-read', disk: 'a', by: 'guest', skip: 1, times: 2, fromMs: 10 };
  plan.add(fault);
  const take = (disk: string, by: 'guest' | 'engine') => plan.take('disk-read', { disk, by }) !== undefined;
  expect([take('a', 'guest'), take('a', 'guest')]).toEqual([false, false]);
  await environment.run(10);
  expect([take('b', 'guest'), take('a', 'engine'), plan.take('disk-write', { disk: 'a' })]).toEqual([
    false,
    false,
    undefined,
  ]);
  expect([1, 2, 3, 4].map(() => take('a', 'guest'))).toEqual([false, true, true, false]);
  expect(struck).toEqual([fault, fault]);
});
