/**
 * Goal: with `memory: 'none'` the disks arrive as they were at one moment, the guest stays and runs on, and nothing is claimed. Method: the
 * real engine over a simulated link in virtual time, its guest writing all the while; what is on the source's disks is looked at while the guest is stunned.
 */
import { expect, it } from 'vitest';
import { createMemoryDisk } from '../../src/backends/memory/index.ts';
import {
  type DestinationVm,
  MigrationError,
  memoryRegister,
  type OwnershipRegister,
  type SourceVm,
} from '../../src/index.ts';
import { delay } from '../../src/util/promises.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte, type WorldOptions, withChanges } from '../support/worlds.ts';

interface Outlook {
  destinationVm?: WorldOptions['destinationVm'];
  policy?: WorldOptions['policy'];
  link?: WorldOptions['link'];
  registers?: WorldOptions['registers'];
}

/** A world whose destination has a disk of its own, and what the source's held while its guest was stunned. */
function diskWorld({ destinationVm, policy, link, registers }: Outlook = {}) {
  const environment = createVirtualEnvironment();
  const disk = createMemoryDisk({ id: 'disk0', sizeBytes: 12 * mebibyte + 512, environment });
  const stunned: Uint8Array[] = [];
  const world = createWorld({
    environment,
    disks: [disk],
    policy: { memory: 'none', disks: { disk1: 'leave' }, ...policy },
    ...(link === undefined ? {} : { link }),
    ...(registers === undefined ? {} : { registers }),
    sourceVm: (vm) =>
      withChanges<SourceVm>(vm, {
        stun: async (options) => {
          await vm.stun(options);
          stunned.push(world.vm.disk('disk0').medium.read(0, disk.sizeBytes));
        },
      }),
    ...(destinationVm === undefined ? {} : { destinationVm }),
  });
  return { ...world, disk, stunned };
}

it('copies the disk as it was at one moment; the guest runs on, and nothing is claimed', async () => {
  const w = diskWorld();
  const { source, destination } = await w.run();
  for (const report of [source, destination]) {
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'copied', owner: 'source', bytes: { memory: 0, state: 0 } });
  }
  expect(w.vm.state).toBe('running');
  expect(source.guestWrites.mirrored).toBeGreaterThan(0);
  expect(source.downtimeMs).toBeGreaterThan(0);
  expect(Buffer.compare(w.disk.medium.read(0, w.disk.sizeBytes), w.stunned[0] ?? new Uint8Array())).toBe(0);
  for (const register of [w.registers.source, w.registers.destination]) {
    expect(await register.read(w.vm.description.vmId)).toEqual([]);
  }
  w.vm.destroy();
});

it('has no register made ready for a claim, before it and on its way', async () => {
  const prepared: string[] = [];
  const watched = (): OwnershipRegister => ({
    ...memoryRegister(),
    prepare: async (vmId) => {
      prepared.push(vmId);
    },
  });
  const w = diskWorld({ registers: { source: watched(), destination: watched() } });
  const receiving = w.destination.run();
  await w.environment.run(w.source.estimate({ durationMs: 500 }));
  const reports = await w.environment.run(Promise.all([w.source.run(), receiving]));
  expect(reports.map(({ outcome }) => outcome)).toEqual(['copied', 'copied']);
  expect(prepared).toEqual([]);
  w.vm.destroy();
});

it('cannot be estimated where the register cannot be read, which the migration has to', async () => {
  const broken = (): OwnershipRegister => ({
    ...memoryRegister(),
    read: () => Promise.reject(new MigrationError('register', 'no such directory')),
  });
  const w = diskWorld({ registers: { source: broken(), destination: memoryRegister() } });
  const stop = new AbortController();
  const receiving = w.destination.run({ signal: stop.signal });
  await expect(w.environment.run(w.source.estimate({ durationMs: 500 }))).rejects.toThrow(
    /no such directory/,
  );
  stop.abort();
  await w.environment.run(receiving);
  w.vm.destroy();
});

it('a hand-over that fails leaves the guest running, and both ends say so', async () => {
  const w = diskWorld({
    destinationVm: (vm) =>
      withChanges<DestinationVm>(vm, {
        handOver: async () => {
          throw new MigrationError('disk-write', 'no such directory');
        },
      }),
  });
  const { source, destination } = await w.run();
  expect(source).toMatchObject({
    outcome: 'failed',
    owner: 'source',
    error: { code: 'disk-write', guest: 'running' },
  });
  expect(destination).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'disk-write' } });
  expect(w.vm.state).toBe('running');
  w.vm.destroy();
});

it('a guest that takes its time to run on keeps nobody from handing over', async () => {
  const environment = createVirtualEnvironment();
  const disk = createMemoryDisk({ id: 'disk0', sizeBytes: 12 * mebibyte + 512, environment });
  const w = createWorld({
    environment,
    disks: [disk],
    policy: { memory: 'none', disks: { disk1: 'leave' }, decideMsMax: 1000 },
    sourceVm: (vm) =>
      withChanges<SourceVm>(vm, {
        resume: async () => {
          await vm.resume();
          await delay(environment, 3000);
        },
      }),
  });
  const { source, destination } = await w.run();
  expect(source).toMatchObject({ outcome: 'copied', owner: 'source' });
  expect(destination.outcome).toBe('copied');
  expect(w.vm.state).toBe('running');
  w.vm.destroy();
});

it('refuses where no disk is copied', async () => {
  const none = { memory: 'none', disks: { disk0: 'leave', disk1: 'shared' } } as const;
  expect(() => createWorld({ policy: none })).toThrow(/nothing to copy/);
});
