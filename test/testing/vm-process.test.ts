// Goal: what a hypervisor keeps when the engine's process dies, and what it takes back by itself.
// Method: the process dies in every state of a VM; then a new one attaches.
import { expect, test } from 'vitest';
import type { GuestWrite, TapHandler } from '../../src/index.ts';
import type { SimulatedBackend } from '../../src/testing/sim/hypervisor.ts';
import type { SimulatedVm } from '../../src/testing/sim/vm.ts';
import type { VmState } from '../../src/testing/sim/vm-events.ts';
import { oltp } from '../../src/testing/sim/workloads.ts';
import { createVmWorld, mebibyte, type VmWorld } from './vm-world.ts';

const handler: TapHandler = { write: ({ release }) => release(), invalidate: () => {}, broken: () => {} };

async function settles(world: VmWorld, promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const note = () => {
    settled = true;
  };
  promise.then(note, note);
  await world.environment.run(world.environment.now() + 10_000);
  return settled;
}

/** Brings a VM as far as the state through a new engine's handle. */
async function bringTo(state: VmState, vm: SimulatedVm) {
  const source = vm.attachSource();
  for (const disk of source.disks) await disk.tap(handler);
  await source.setThrottle(0.5);
  const round = source.memory.round()[Symbol.asyncIterator]();
  await round.next();
  if (state === 'running') return source;
  await source.stun();
  if (state === 'stunned') return source;
  for await (const chunk of source.saveDeviceState()) expect(chunk.byteLength).toBeGreaterThan(0);
  await source.seal();
  return source;
}

test('a running VM runs on, without taps or throttle, and another engine finds it as new', async () => {
  const world = createVmWorld({ vm: { workloads: [oltp({ disk: 'disk0', iops: 500 })] } });
  const dead = await world.environment.run(bringTo('running', world.vm));
  expect([world.vm.tappedDisks, world.vm.throttle]).toEqual([['disk0', 'disk1'], 0.5]);
  expect(() => world.vm.attachSource()).toThrow(/already/);
  world.vm.detachProcess();
  expect([world.vm.state, world.vm.tappedDisks, world.vm.throttle]).toEqual(['running', [], 0]);
  expect(world.vm.dirtyBytes).toBe(16 * mebibyte);

  // The dead one's calls do nothing, and never settle.
  for (const call of [
    dead.stun(),
    dead.setThrottle(0.9),
    dead.memory.round()[Symbol.asyncIterator]().next(),
    dead.disks[0]?.read(0, 4096) ?? Promise.resolve(),
    dead.detach(),
  ]) {
    expect(await settles(world, call)).toBe(false);
  }
  expect([world.vm.state, world.vm.throttle]).toEqual(['running', 0]);
  const { source } = await world.migrate();
  expect(source.outcome).toBe('completed');
  expect(world.comparison()).toMatchObject({ equal: true });
});

test('a stunned guest resumes by itself, a paused one stays so, a sealed one waits to be told', async () => {
  const stunned = createVmWorld();
  await stunned.environment.run(bringTo('stunned', stunned.vm));
  stunned.vm.detachProcess();
  expect(stunned.vm.state).toBe('running');

  const paused = createVmWorld({ vm: { paused: true } });
  await paused.environment.run(bringTo('stunned', paused.vm));
  paused.vm.detachProcess();
  expect(paused.vm.state).toBe('paused');

  const resumed = createVmWorld();
  await resumed.environment.run(bringTo('sealed', resumed.vm));
  resumed.vm.detachProcess();
  await resumed.environment.run(60_000);
  expect(resumed.vm.state).toBe('sealed');
  await resumed.environment.run(resumed.vm.attachSource().resume());
  expect(resumed.vm.state).toBe('running');

  const released = createVmWorld();
  await released.environment.run(bringTo('sealed', released.vm));
  released.vm.detachProcess();
  await released.environment.run(released.vm.attachSource().release());
  expect(released.vm.state).toBe('released');
  await expect(released.vm.guest.writeDisk('disk0', 0, 4096)).rejects.toMatchObject({
    code: 'invalid-state',
  });
});

test('a stun that is under way when the process dies ends with the guest running', async () => {
  const world = createVmWorld({ vm: { timings: { stunMs: 50 } } });
  const stunning = world.vm.attachSource().stun();
  await world.environment.run(20);
  expect(world.vm.state).toBe('stunning');
  world.vm.detachProcess();
  expect(world.vm.state).toBe('running');
  expect(await settles(world, stunning)).toBe(false);
  expect(world.vm.state).toBe('running');
});

test('a guest write that the tap holds is let go when the process dies', async () => {
  const world = createVmWorld();
  const { vm } = world;
  const held: GuestWrite[] = [];
  const holding: TapHandler = { ...handler, write: (write) => new Promise<void>(() => held.push(write)) };
  await vm.attachSource().disks[0]?.tap(holding);
  const written = vm.guest.writeDisk('disk0', 0, 4096);
  expect(await settles(world, written)).toBe(false);
  expect(held).toMatchObject([{ offset: 0, length: 4096 }]);
  vm.detachProcess();
  expect(await settles(world, written)).toBe(true);
});

async function prepared(world: VmWorld): Promise<SimulatedBackend> {
  const { backend, environment, vm } = world;
  await environment.run(backend.attachProcess().prepare(vm.description));
  return backend;
}

test('a prepared VM stays, paused, for a new engine to start or to discard', async () => {
  const world = createVmWorld();
  const backend = await prepared(world);
  expect(() => backend.attachDestination('vm-1')).toThrow(/already/);
  await expect(backend.attachProcess().prepare(world.vm.description)).rejects.toMatchObject({
    code: 'incompatible',
  });
  backend.detachProcess();
  expect(backend.vms[0]?.state).toBe('prepared');
  await world.environment.run(backend.attachDestination('vm-1').discard());
  expect(backend.vms[0]?.state).toBe('discarded');
  expect(() => backend.attachDestination('vm-1')).toThrow(/no vm-1/);
});

test('what a dead engine left prepared makes room for the next; a VM that runs does not', async () => {
  const world = createVmWorld();
  const backend = await prepared(world);
  backend.detachProcess();
  const { source } = await world.migrate();
  expect(source.outcome).toBe('completed');
  expect(backend.vms.map(({ state }) => state)).toEqual(['discarded', 'running']);
  await expect(backend.prepare(world.vm.description)).rejects.toMatchObject({ code: 'incompatible' });
});

test('a VM that was moved moves on, and brings along what its guest noticed', async () => {
  const world = createVmWorld({ vm: { workloads: [oltp({ disk: 'disk0', iops: 500 })] } });
  await world.migrate();
  const there = world.backend.vm;
  if (there === undefined) throw new Error('nothing was started');
  const stays = there.attachSource();
  await world.environment.run(stays.stun());
  await world.environment.run(stays.resume());
  expect(there.state).toBe('running');
  expect(there.guest.statistics()[0]?.workloads['oltp-0']?.completed).toBeGreaterThan(20);
});
