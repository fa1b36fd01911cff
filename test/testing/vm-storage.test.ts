// Goal: the simulated disks of a storage migration do what their contracts say, and fail where they are told to. Method: a disk or a host by
// itself, in virtual time.
import { describe, expect, test } from 'vitest';
import type { ErrorCode } from '../../src/index.ts';
import type { SourceDisk, TapHandler } from '../../src/interfaces/block-device.ts';
import type { DestinationVm } from '../../src/interfaces/hypervisor.ts';
import type { SimulatedDiskOptions } from '../../src/testing/sim/disk.ts';
import { createSimulatedBackend, type SimulatedBackendOptions } from '../../src/testing/sim/hypervisor.ts';
import { createSimulatedVm, type SimulatedVm } from '../../src/testing/sim/vm.ts';
import type { VmFault } from '../../src/testing/sim/vm-faults.ts';
import { oltp } from '../../src/testing/sim/workloads.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';

const kibibyte = 1 << 10;
const sizeBytes = 300 * kibibyte + 100;

function world(disk: Partial<SimulatedDiskOptions> = {}, faults: readonly VmFault[] = []) {
  const environment = createVirtualEnvironment();
  const id = 'disk0';
  const vm = createSimulatedVm({ environment, vmId: 'vm', disks: [{ id, sizeBytes, ...disk }], faults });
  const source = vm.attachSource();
  const [first] = source.disks;
  if (first === undefined) throw new Error('the VM has no disk');
  return { environment, vm, source, disk: first };
}

const code = async (call: Promise<unknown>): Promise<ErrorCode | undefined> => {
  const error = await call.then(
    () => undefined,
    (thrown: { readonly code: ErrorCode }) => thrown,
  );
  return error?.code;
};

describe('a dirty log', () => {
  const log = { tap: 'extents', dirtyGrainBytes: 64 * kibibyte } as const;

  test('tells what was written since it was asked last, by whole grains, up to the end of the disk', async () => {
    const { vm, disk } = world(log);
    await vm.guest.writeDisk('disk0', 0, 4096);
    const tracker = await disk.track();
    expect(await tracker.take()).toEqual([]);
    await vm.guest.writeDisk('disk0', 68 * kibibyte, 4096);
    await vm.guest.zeroDisk('disk0', 130 * kibibyte - 2048, 4096);
    await vm.guest.writeDisk('disk0', 300 * kibibyte, 100);
    const expected = [
      { offset: 64 * kibibyte, length: 128 * kibibyte },
      { offset: 256 * kibibyte, length: sizeBytes - 256 * kibibyte },
    ];
    expect(await tracker.take()).toEqual(expected);
    expect(await tracker.take()).toEqual([]);
  });

  test('tells of a write that failed half-way', async () => {
    const { vm, disk } = world(log, [{ point: 'disk-write', by: 'guest', effect: 'tear' }]);
    const tracker = await disk.track();
    expect(await code(vm.guest.writeDisk('disk0', 0, 8192))).toBe('disk-write');
    expect(await tracker.take()).toEqual([{ offset: 0, length: 64 * kibibyte }]);
    expect(vm.disks[0]?.allocatedBytes).toBe(4096);
  });

  test('is one at a time, and stays when the guest is stunned and runs on', async () => {
    const { vm, source, disk } = world(log);
    const tracker = await disk.track();
    expect(await code(disk.track())).toBe('invalid-state');
    expect(vm.tappedDisks).toEqual(['disk0']);
    await source.stun();
    await source.resume();
    await vm.guest.writeDisk('disk0', 0, 4096);
    expect(await tracker.take()).toHaveLength(1);
    await tracker.remove();
    await tracker.remove();
    expect(vm.tappedDisks).toEqual([]);
    await disk.track();
    await source.detach();
    expect(vm.tappedDisks).toEqual([]);
  });

  test.each([
    ['disk-take', { point: 'disk-take', effect: 'fail' }],
    ['tap-write', { point: 'tap-write', effect: 'break-tap' }],
  ] as const)('that broke (%s) says so for ever', async (_, fault) => {
    const { vm, disk } = world(log, [fault]);
    const tracker = await disk.track();
    await vm.guest.writeDisk('disk0', 0, 4096);
    expect(await code(tracker.take())).toBe('tap-gap');
    expect(await code(tracker.take())).toBe('tap-gap');
  });

  test('that cannot be set leaves nothing set', async () => {
    const { vm, disk } = world(log, [{ point: 'disk-track', effect: 'fail' }]);
    expect(await code(disk.track())).toBe('hypervisor');
    expect(vm.tappedDisks).toEqual([]);
    await disk.track();
  });
});

const handler: TapHandler = { write: ({ release }) => release(), invalidate: () => {}, broken: () => {} };

test.each([
  ['ordered', undefined, 'unsupported'],
  ['extents', 'unsupported', undefined],
  ['none', 'unsupported', 'unsupported'],
] as const)('a disk whose tap is %s refuses what it is not', async (tap, tapped, tracked) => {
  const { disk } = world({ tap });
  expect(disk.tapCapability).toBe(tap);
  expect(await code(disk.tap(handler))).toBe(tapped);
  expect(await code(disk.track())).toBe(tracked);
});

test('what a handler holds counts in what writes take, and is told', async () => {
  const { environment, vm, disk } = world({ latencyMs: 2 });
  const holds: TapHandler = {
    ...handler,
    write: () => new Promise((resolve) => environment.setTimer(30, () => resolve())),
  };
  await environment.run(vm.guest.writeDisk('disk0', 0, 4096));
  expect([vm.longestHoldMs, await disk.writeTimes()]).toEqual([0, { writes: 1, totalMs: 2 }]);
  await disk.tap(holds);
  await environment.run(vm.guest.writeDisk('disk0', 0, 4096));
  expect([vm.longestHoldMs, await disk.writeTimes()]).toEqual([30, { writes: 2, totalMs: 34 }]);
  expect(await world({ tellsWriteTimes: false }).disk.writeTimes()).toBeUndefined();
});

test('writes that overlap in part end with the disk, and discards read as zeros', async () => {
  const { environment, vm, disk } = world({ blockBytes: 512 });
  const common = { disk: 'disk0', readFraction: 0, iops: 2000, ioBytes: 4096, queueDepth: 64 };
  const writes: { readonly offset: number; readonly length: number; readonly zero: boolean }[] = [];
  await disk.tap({
    ...handler,
    write: ({ offset, length, content }) => {
      writes.push({ offset, length, zero: content === 'zero' });
    },
  });
  vm.guest.startWorkload(oltp({ ...common, alignBytes: 512, discardFraction: 0.3 }));
  await environment.run(2000);
  const zeros = writes.filter(({ zero }) => zero).length;
  expect(zeros / writes.length).toBeCloseTo(0.3, 1);
  expect(writes.some(({ offset }) => offset % 4096 !== 0)).toBe(true);
  expect(writes.some(({ offset, length }) => offset + length === sizeBytes && length % 512 !== 0)).toBe(true);
  expect(writes.every(({ offset, length }) => offset + length <= sizeBytes)).toBe(true);
});

describe('a host', () => {
  function host(options: Partial<SimulatedBackendOptions> = {}, disk: Partial<SimulatedDiskOptions> = {}) {
    const { environment, vm, source } = world({ allocatedFraction: 0.5, tellsAllocated: true, ...disk });
    const backend = createSimulatedBackend({ environment, ...options });
    const alone = { ...source.description, memory: [], machine: 'any' };
    return { backend, vm, alone, prepare: () => backend.prepare(alone, { memory: 'none' }) };
  }
  const allocatedBytes = 152 * kibibyte;

  test('takes disks alone, of whatever machine, and hands over what is flushed', async () => {
    const { backend, prepare } = host();
    const there = await prepare();
    const [disk] = there.disks;
    await disk?.writeZeroes(0, 4096);
    expect(await code(there.handOver())).toBe('invalid-state');
    await disk?.flush();
    await there.handOver();
    await there.discard();
    expect(backend.vms.map(({ state }) => state)).toEqual(['handed-over']);
    expect(backend.vms[0]?.violations).toEqual(['handOver: disk disk0 is not flushed']);
    expect(await code(disk?.writeZeroes(0, 4096) ?? Promise.resolve())).toBe('invalid-state');
  });

  test('that takes none refuses them, and nothing is there', async () => {
    const { backend, prepare } = host({ takesDisksAlone: false });
    expect(await code(prepare())).toBe('unsupported');
    expect(backend.vms).toEqual([]);
  });

  test.each([
    [allocatedBytes, undefined],
    [allocatedBytes - 1, 'disk-full'],
  ] as const)('with room for %i bytes of a disk', async (capacityBytes, expected) => {
    const { backend, prepare, alone } = host({ disk: { capacityBytes } });
    expect(alone.disks[0]?.allocatedBytes).toBe(allocatedBytes);
    expect(await code(prepare())).toBe(expected);
    backend.setDisk({});
    expect(await code(prepare())).toBe(expected === undefined ? 'incompatible' : undefined);
  });

  test('that is not told how much is to come says so when there is no room for it', async () => {
    const { prepare, vm } = host({ disk: { capacityBytes: 64 * kibibyte } }, { tellsAllocated: false });
    const [disk] = (await prepare()).disks;
    const content = await contentOf(vm, 65 * kibibyte);
    expect(await code(disk?.write(0, content) ?? Promise.resolve())).toBe('disk-full');
  });

  test('tears a write in two: the first half is on the medium', async () => {
    const { backend, prepare, vm } = host();
    backend.addFault({ point: 'disk-write', effect: 'tear' });
    const there: DestinationVm = await prepare();
    const [disk] = there.disks;
    const content = await contentOf(vm, 16 * kibibyte);
    expect(await code(disk?.write(0, content) ?? Promise.resolve())).toBe('disk-write');
    expect(backend.vms[0]?.disks[0]?.allocatedBytes).toBe(8 * kibibyte);
  });

  async function contentOf(vm: SimulatedVm, bytes: number) {
    vm.detachProcess();
    const disk = vm.attachSource().disks[0] as SourceDisk;
    return disk.read(0, bytes);
  }
});
