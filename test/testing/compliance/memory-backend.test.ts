/**
 * Goal: the in-memory backend is what the engine takes a hypervisor for. Method: the compliance suites in
 * virtual time, on disks with latency; and again through the wrappers that bring about faults, without any.
 */
import { describe, test } from 'vitest';
import type { TapCapability } from '../../../src/interfaces/index.ts';
import {
  backendCompliance,
  blockDeviceCompliance,
  faultyBackend,
  faultyBlockDevice,
  faultySourceDisk,
  faultySourceVm,
  memorySourceCompliance,
  sourceDiskCompliance,
  type TestFunction,
} from '../../../src/testing/index.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import {
  backendFixture,
  blockDeviceFixture,
  memorySourceFixture,
  preparedDiskFixture,
  sourceDiskFixture,
  type Wrappers,
} from './memory-fixtures.ts';

let environment = createVirtualEnvironment();
const inVirtualTime: TestFunction = (name, run) =>
  test(name, async () => {
    environment = createVirtualEnvironment();
    await environment.run(run());
  });

/** The suites that look at how writes are seen are run for every way of it. */
const taps: readonly TapCapability[] = ['ordered', 'extents', 'none'];

const wrappers: Readonly<Record<string, Wrappers>> = {
  bare: {},
  'through wrappers without faults': {
    sourceVm: (vm) => faultySourceVm(vm, {}),
    backend: (backend) => faultyBackend(backend, {}),
    device: (disk) => faultyBlockDevice(disk, []),
    disk: (disk) => faultySourceDisk(disk, []),
  },
  // As busy as a wrapper can be without doing anything: its faults are due at a call that never comes.
  'through wrappers whose faults never come': {
    sourceVm: (vm) =>
      faultySourceVm(vm, {
        vm: [{ on: 'saveDeviceState', nth: 1e9, do: 'hang' }],
        memory: [{ on: 'batch', nth: 1e9, do: 'drop' }],
        disks: {
          root: [
            { on: 'guest-write', nth: 1e9, do: 'drop' },
            { on: 'dirty-range', nth: 1e9, do: 'drop' },
          ],
        },
      }),
    backend: (backend) =>
      faultyBackend(backend, { disks: { root: [{ on: 'write', nth: 1e9, do: 'drop' }] } }),
    device: (disk) => faultyBlockDevice(disk, [{ on: 'read', nth: 1e9, do: 'flip' }]),
  },
};

for (const [how, wrapped] of Object.entries(wrappers)) {
  describe(how, () => {
    describe('a disk in memory', () => {
      blockDeviceCompliance({
        test: inVirtualTime,
        create: () => blockDeviceFixture(environment, wrapped),
      });
    });

    describe('a disk of a prepared VM', () => {
      blockDeviceCompliance({
        test: inVirtualTime,
        create: () => preparedDiskFixture(environment, wrapped),
      });
    });

    describe.each(taps)('a disk of a running VM, its tap %s', (tap) => {
      sourceDiskCompliance({
        test: inVirtualTime,
        create: () => sourceDiskFixture(environment, { ...wrapped, tap }),
      });
    });

    describe('the memory of a running VM', () => {
      memorySourceCompliance({
        test: inVirtualTime,
        create: () => memorySourceFixture(environment, wrapped),
      });
    });

    describe.each(taps)('the backend, the tap of its disk %s', (tap) => {
      backendCompliance({
        test: inVirtualTime,
        create: () => backendFixture(environment, { ...wrapped, tap }),
      });
    });
  });
}
