/**
 * Goal: the in-memory backend is what the engine takes a hypervisor for. Method: the compliance suites in
 * virtual time, on disks with latency; and again through the wrappers that bring about faults, without any.
 */
import { describe, test } from 'vitest';
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
        disks: { root: [{ on: 'guest-write', nth: 1e9, do: 'drop' }] },
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

    describe('a disk of a running VM', () => {
      sourceDiskCompliance({
        test: inVirtualTime,
        create: () => sourceDiskFixture(environment, wrapped),
      });
    });

    describe('the memory of a running VM', () => {
      memorySourceCompliance({
        test: inVirtualTime,
        create: () => memorySourceFixture(environment, wrapped),
      });
    });

    describe('the backend', () => {
      backendCompliance({ test: inVirtualTime, create: () => backendFixture(environment, wrapped) });
    });
  });
}
