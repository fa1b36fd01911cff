/**
 * Goal: whatever goes wrong late, around commit and after it, each end comes to its end, and the guest runs where
 * it is owned and nowhere else. Method: plug points that hang, throw at once, or throw what says nothing of
 * itself, in virtual time.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { createMemoryBackend, type MemoryVm } from '../../src/backends/memory/index.ts';
import {
  createDestination,
  createSource,
  MigrationError,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type OwnershipRegister,
  recover,
  type SourceVm,
  type Transport,
} from '../../src/index.ts';
import { dialBy } from '../channel/pair.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { busyVm, createWorld, type World, type WorldOptions, withChanges } from '../support/worlds.ts';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

function idleWorld(options: WorldOptions): World {
  const made = createWorld({ idle: true, ...options });
  vms.push(made.vm);
  return made;
}

/** What both ends have reported when so much time has passed. */
async function reportsAfter(
  w: World,
  ms: number,
): Promise<{ source?: MigrationReport; destination?: MigrationReport }> {
  const reports: { source?: MigrationReport; destination?: MigrationReport } = {};
  w.source.run().then((report) => {
    reports.source = report;
  });
  w.destination.run().then((report) => {
    reports.destination = report;
  });
  await w.environment.run(w.environment.now() + ms);
  return reports;
}

const never = <T>() => new Promise<T>(() => {});
const saysNothing = () => Promise.reject(Object.create(null));

describe('after commit', () => {
  it('a register that cannot be read any more, behind the link that is lost, is not waited for', async () => {
    const inner = memoryRegister();
    let hangs = false;
    const source: OwnershipRegister = {
      claim: inner.claim,
      read: (vmId) => (hangs ? never() : inner.read(vmId)),
    };
    const w = idleWorld({
      registers: { source, destination: memoryRegister() },
      policy: { outageMsMax: 0 },
    });
    w.destination.on('phase', (phase) => {
      if (phase !== 'release') return;
      hangs = true;
      w.link.cut();
    });
    const reports = await reportsAfter(w, 120_000);
    expect(reports.source?.outcome).toBe('undecided');
    expect(reports.destination?.outcome).toBe('completed');
    expect(w.vm.state).toBe('sealed');
    w.backend.vm?.destroy();
  });

  it('a release that fails without a word does not run the guest here again', async () => {
    const w = idleWorld({ sourceVm: (vm) => withChanges<SourceVm>(vm, { release: saysNothing }) });
    const { source, destination } = await w.run();
    expect([source.outcome, source.owner]).toEqual(['completed', 'destination']);
    expect(source.error?.code).toBe('hypervisor');
    expect(destination.outcome).toBe('completed');
    expect(w.vm.state).not.toBe('running');
    expect(w.backend.vm?.state).toBe('running');
    w.backend.vm?.destroy();
  });

  it('a start that hangs is reported, and nobody else starts it', async () => {
    const w = idleWorld({ destinationVm: (vm) => withChanges(vm, { start: never }) });
    const reports = await reportsAfter(w, 120_000);
    expect(reports.destination).toMatchObject({
      outcome: 'failed',
      owner: 'destination',
      error: { code: 'timeout', guest: 'unknown' },
    });
    expect(reports.source?.owner).toBe('destination');
    expect(w.vm.state).not.toBe('running');
  });

  it.each([0, 100])(
    'a claim of owner that hangs, and one of declined that takes %i ms, come to declined in time',
    async (ms) => {
      const inner = memoryRegister();
      const environment = createVirtualEnvironment();
      const destination: OwnershipRegister = {
        read: inner.read,
        claim: async (vmId, epoch, role, value) => {
          if (value === 'owner') return never();
          await new Promise<void>((resolve) => environment.setTimer(ms, resolve));
          return inner.claim(vmId, epoch, role, value);
        },
      };
      const registers = { source: memoryRegister(), destination };
      const w = idleWorld({ environment, registers, policy: { decideMsMax: 30_000 } });
      const reports = await reportsAfter(w, 120_000);
      expect(reports.source).toMatchObject({
        outcome: 'failed',
        owner: 'source',
        error: { code: 'declined' },
      });
      expect(w.vm.state).toBe('running');
    },
  );
});

describe('before commit', () => {
  it('a seal that fails without a word leaves the guest running', async () => {
    const w = idleWorld({ sourceVm: (vm) => withChanges<SourceVm>(vm, { seal: saysNothing }) });
    const reports = await reportsAfter(w, 60_000);
    expect(reports.source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
    expect(w.vm.state).toBe('running');
  });

  it('a flush that throws at once is a failure like any other', async () => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown) => unhandled.push(reason);
    process.on('unhandledRejection', note);
    const flush = () => {
      throw new Error('at once');
    };
    const sourceVm = (vm: SourceVm) =>
      withChanges<SourceVm>(vm, { disks: vm.disks.map((disk) => withChanges(disk, { flush })) });
    const w = idleWorld({ sourceVm });
    const { source } = await w.run();
    await new Promise((resolve) => setImmediate(resolve));
    process.off('unhandledRejection', note);
    expect(source.error?.message).toContain('at once');
    expect(unhandled).toEqual([]);
    expect(w.vm.state).toBe('running');
  });

  it('an abort whose reason speaks of another VM leaves this one as it was', async () => {
    const w = idleWorld({});
    const controller = new AbortController();
    w.source.on('phase', (phase) => {
      if (phase !== 'verify') return;
      controller.abort(new MigrationError('owner-undecided', 'another VM', { owner: 'undecided' }));
    });
    const { source } = await w.run({ source: controller.signal });
    expect([source.outcome, source.owner]).toEqual(['failed', 'source']);
    expect(w.vm.state).toBe('running');
  });
});

describe('before the first word', () => {
  it('a session that greets and is silent leaves its place to the next', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ environment });
    const vm = busyVm(environment, { idle: true });
    vms.push(vm);
    const backend = createMemoryBackend({ environment });
    const register = memoryRegister();
    const receiving = createDestination({
      backend,
      transport: link.destination,
      register,
      environment,
    }).run();
    await environment.run(dialBy({ environment, link }, 'control', 3));
    await environment.run(environment.now() + 20_000);
    const source = createSource({
      vm: vm.source(),
      transport: link.source,
      register: memoryRegister(),
      environment,
    });
    const [sent, received] = await environment.run(Promise.all([source.run(), receiving]));
    expect([sent.outcome, received.outcome]).toEqual(['completed', 'completed']);
    backend.vm?.destroy();
  });

  it('a source of which one path is dark has the time to take the other', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ environment });
    const vm = busyVm(environment, { idle: true });
    vms.push(vm);
    const transport = withChanges<Transport>(link.source, {
      paths: 2,
      open: (options) => (options?.path === 1 ? never() : link.source.open({ ...options, path: 0 })),
    });
    const backend = createMemoryBackend({ environment });
    const register = memoryRegister();
    const receiving = createDestination({
      backend,
      transport: link.destination,
      register,
      environment,
    }).run();
    const source = createSource({ vm: vm.source(), transport, register: memoryRegister(), environment });
    const [sent] = await environment.run(Promise.all([source.run(), receiving]));
    expect(sent.error?.message).toBeUndefined();
    expect(sent.outcome).toBe('completed');
    backend.vm?.destroy();
  });
});

it('recover() does not take a mistyped attempt for one', async () => {
  const register = memoryRegister();
  const epoch = Number.MAX_SAFE_INTEGER;
  await expect(recover({ role: 'destination', vmId: 'vm-1', register, epoch })).rejects.toMatchObject({
    code: 'invalid-argument',
  });
  expect(await register.read('vm-1')).toEqual([]);
});
