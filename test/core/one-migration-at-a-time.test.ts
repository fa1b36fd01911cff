/**
 * Goal: a VM is in one migration at a time. A second one is refused before it touches anything, so that it
 * can neither take away the taps of the first nor, when it fails, resume a guest that the first has given
 * away. Method: a second source of the same VM, started while the first copies and while the first hands
 * over.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { createMemoryBackend, createMemoryVm, type MemoryVm } from '../../src/backends/memory/index.ts';
import {
  createDestination,
  createSource,
  type Migration,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type OwnershipRegister,
  type Phase,
} from '../../src/index.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../support/virtual-environment.ts';
import { busyVm, createWorld, mebibyte, type World } from '../support/worlds.ts';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/**
 * Another source of the VM, with a destination that would take it, and a register that knows nothing of the
 * first.
 */
function secondSource(environment: VirtualEnvironment, vm: MemoryVm): Migration {
  const link = memoryLink({ environment, rttMs: 2 });
  void createDestination({
    backend: createMemoryBackend({ environment }),
    transport: link.destination,
    register: memoryRegister(),
    environment,
  }).run();
  return createSource({ vm: vm.source(), transport: link.source, register: memoryRegister(), environment });
}

/** Runs a second migration when the first enters a phase; resolves when that one is over. */
function startIn(phase: Phase, { source, environment, vm }: World) {
  return new Promise<MigrationReport>((resolve) => {
    source.on('phase', (entered) => {
      if (entered === phase) resolve(secondSource(environment, vm).run());
    });
  });
}

const refused = { outcome: 'failed', owner: 'source', error: { code: 'invalid-state' } } as const;

/** Looks at both guests every millisecond, until the source's is gone for good. */
function watchForTwo({ environment, vm, backend }: World): { readonly seen: boolean } {
  const watch = { seen: false };
  const look = () => {
    if (vm.state === 'running' && backend.vm?.state === 'running') watch.seen = true;
    if (vm.state !== 'released' && vm.state !== 'gone') environment.setTimer(1, look);
  };
  look();
  return watch;
}

describe('a second migration of a VM', () => {
  it('does not disturb the first while that copies', async () => {
    const environment = createVirtualEnvironment();
    const vm = busyVm(environment);
    vms.push(vm);
    const world = createWorld({ environment, vm, link: { rateMbit: 200 } });
    const second = startIn('copyMemory', world);
    const { source } = await world.run();
    expect(await second).toMatchObject(refused);
    expect(source.error?.message).toBeUndefined();
    expect(source.outcome).toBe('completed');
    expect(world.comparison()?.equal).toBe(true);
    world.backend.vm?.destroy();
  });

  it('does not resume a guest that the first has given away', async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'small', memoryBytes: mebibyte });
    vms.push(vm);
    const registers = { source: memoryRegister(), destination: memoryRegister() };
    const { claim } = registers.destination;
    // The decision takes its time: enough for a second migration to come to its stun, and to fail there.
    const slow: OwnershipRegister = {
      read: registers.destination.read,
      claim: async (...args) => {
        await new Promise<void>((resolve) => environment.setTimer(800, resolve));
        return claim(...args);
      },
    };
    const world = createWorld({
      environment,
      vm,
      registers: { ...registers, destination: slow },
      policy: { decideMsMax: 4000 },
    });
    const second = startIn('handover', world);
    const two = watchForTwo(world);
    const { source, destination } = await world.run();
    expect(two.seen).toBe(false);
    expect(await second).toMatchObject(refused);
    expect([source.outcome, destination.outcome]).toEqual(['completed', 'completed']);
    expect(vm.state).toBe('released');
    expect(world.backend.vm?.state).toBe('running');
    world.backend.vm?.destroy();
  });

  it('may begin when the first is over', async () => {
    const environment = createVirtualEnvironment();
    const vm = busyVm(environment, { idle: true });
    vms.push(vm);
    const first = createWorld({ environment, vm });
    const stop = new AbortController();
    first.source.on('phase', (phase) => {
      if (phase === 'copyDisks') stop.abort();
    });
    const { source } = await first.run({ source: stop.signal });
    expect(source.outcome).toBe('failed');
    const second = createWorld({ environment, vm });
    const { source: report } = await second.run();
    expect(report.outcome).toBe('completed');
    second.backend.vm?.destroy();
  });
});
