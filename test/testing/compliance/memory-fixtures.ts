/** Fixtures of the compliance suites over the in-memory backend, with each part open to be wrapped. */
import {
  compareVms,
  createMemoryBackend,
  createMemoryDisk,
  createMemoryVm,
  type MemoryBackend,
  type MemoryVm,
} from '../../../src/backends/memory/index.ts';
import type {
  BlockDevice,
  Environment,
  HypervisorBackend,
  SourceDisk,
  SourceVm,
  TapCapability,
} from '../../../src/interfaces/index.ts';
import type {
  BackendFixture,
  BlockDeviceFixture,
  DestinationFixture,
  GuestDisk,
  GuestMemoryControl,
  MemorySourceFixture,
  SourceDiskFixture,
} from '../../../src/testing/index.ts';
import { delay } from '../../../src/util/promises.ts';

const mebibyte = 1024 * 1024;
/** Around a step in which memory is taken, so that a discard of it frees something. */
const scratch = { offset: mebibyte - 65_536, length: mebibyte + 131_072 };

/** What is put around the parts before the suite sees them. */
export interface Wrappers {
  /** How the writes of the VM's disk can be seen. Default `ordered`. */
  readonly tap?: TapCapability;
  readonly sourceVm?: (vm: SourceVm) => SourceVm;
  readonly backend?: (backend: HypervisorBackend) => HypervisorBackend;
  readonly device?: (disk: BlockDevice) => BlockDevice;
  readonly disk?: (disk: SourceDisk) => SourceDisk;
}

function makeVm(environment: Environment, { tap = 'ordered' }: Wrappers = {}): MemoryVm {
  return createMemoryVm({
    environment,
    vmId: 'vm',
    regions: [
      { name: 'low', sizeBytes: 3 * mebibyte + 8192, pageBytes: 4096 },
      { name: 'high', sizeBytes: 2 * mebibyte, pageBytes: 65_536 },
    ],
    fill: 0.4,
    diskLatencyMs: 4,
    disks: [
      { id: 'root', sizeBytes: 3 * mebibyte + 512, allocatedFraction: 0.7, tap },
      { id: 'cd', sizeBytes: mebibyte, blockBytes: 2048, readOnly: true, allocatedFraction: 1 },
    ],
    seed: 5,
  });
}

function guestDisk(vm: MemoryVm, id: string): GuestDisk {
  return {
    scratch,
    concurrent: true,
    write: (offset, length, fill) => vm.guest.writeDisk(id, offset, new Uint8Array(length).fill(fill)),
    zero: (offset, length) => vm.guest.writeZeroes(id, offset, length),
    discard: (offset, length) => vm.guest.discard(id, offset, length),
    failWrite: async (offset, length) => {
      vm.disk(id).failNextWrite(1000);
      await vm.guest.writeDisk(id, offset, new Uint8Array(length).fill(1));
    },
  };
}

function guestMemory(vm: MemoryVm): GuestMemoryControl {
  let writes = 0;
  return {
    dirty: async () => {
      writes += 1;
      const region = writes % 2;
      const offset = (writes * 7919 * 64) % (2 * mebibyte - 64);
      await vm.guest.writeMemory(region, offset, new Uint8Array(64).fill(writes));
    },
    write: (region, offset, bytes) => vm.guest.writeMemory(region, offset, bytes),
    read: async (region, offset, length) => vm.memory.read(region, offset, length),
  };
}

export async function blockDeviceFixture(
  environment: Environment,
  { device = (disk) => disk }: Wrappers = {},
): Promise<BlockDeviceFixture> {
  const made = createMemoryDisk({
    environment,
    id: 'disk',
    sizeBytes: 3 * mebibyte + 12_345,
    allocatedFraction: 0.5,
    latencyMs: 2,
  });
  return { disk: device(made), close: async () => made.free() };
}

/** A prepared disk of a destination. */
export async function preparedDiskFixture(
  environment: Environment,
  { backend: wrap = (backend) => backend }: Wrappers = {},
): Promise<BlockDeviceFixture> {
  const vm = makeVm(environment);
  const prepared = await wrap(createMemoryBackend({ environment, diskLatencyMs: 1 })).prepare(vm.description);
  const [disk] = prepared.disks;
  if (disk === undefined) throw new Error('no disk was prepared');
  return {
    disk,
    close: async () => {
      await prepared.discard();
      vm.destroy();
    },
  };
}

export async function sourceDiskFixture(
  environment: Environment,
  wrappers: Wrappers = {},
): Promise<SourceDiskFixture> {
  const { sourceVm = (vm) => vm, disk: wrapDisk = (disk) => disk } = wrappers;
  const memoryVm = makeVm(environment, wrappers);
  const vm = sourceVm(memoryVm.source());
  const [disk] = vm.disks;
  if (disk === undefined) throw new Error('the VM has no disk');
  return {
    vm,
    disk: wrapDisk(disk),
    guest: guestDisk(memoryVm, 'root'),
    breakTap: async () => memoryVm.breakTap('root'),
    settle: () => delay(environment, 1000),
    close: async () => memoryVm.destroy(),
  };
}

export async function memorySourceFixture(
  environment: Environment,
  { sourceVm = (vm) => vm }: Wrappers = {},
): Promise<MemorySourceFixture> {
  const vm = makeVm(environment);
  return { vm: sourceVm(vm.source()), guest: guestMemory(vm), close: async () => vm.destroy() };
}

export async function backendFixture(
  environment: Environment,
  wrappers: Wrappers = {},
): Promise<BackendFixture> {
  const { sourceVm = (vm) => vm, backend: wrap = (backend) => backend } = wrappers;
  const vm = makeVm(environment, wrappers);
  return {
    source: async () => sourceVm(vm.source()),
    control: {
      pause: () => vm.pause(),
      run: async () => vm.run(),
      powerOff: () => vm.guest.powerOff(),
      kill: async () => vm.destroy(),
    },
    destination: async () =>
      destination(vm, createMemoryBackend({ environment, accept: vm.description }), wrap),
    fullDestination: async () => {
      const { id, sizeBytes } = vm.disk('root');
      const disk = createMemoryDisk({ environment, id, sizeBytes, capacityBytes: mebibyte });
      return destination(vm, createMemoryBackend({ environment, disks: [disk] }), wrap);
    },
    settle: () => delay(environment, 1000),
    close: async () => vm.destroy(),
  };
}

function destination(
  vm: MemoryVm,
  backend: MemoryBackend,
  wrap: (backend: HypervisorBackend) => HypervisorBackend,
): DestinationFixture {
  const runState = async () => {
    if (backend.vm === undefined || backend.vm.state === 'gone') return 'none';
    return backend.vm.state === 'running' ? 'running' : 'paused';
  };
  return {
    backend: wrap(backend),
    runState,
    verify: async () => {
      if (backend.vm === undefined) throw new Error('nothing was started');
      const { memory, disks } = compareVms(vm, backend.vm);
      // What the guest may only read is not moved by the suite.
      const changed = disks.filter(({ disk }) => disk !== 'cd');
      if (memory.length + changed.length > 0)
        throw new Error(`different: ${JSON.stringify([memory, changed])}`);
    },
    handedOver: async (id, offset, length) => {
      const disk = backend.disks.find((candidate) => candidate.id === id);
      if (disk === undefined) throw new Error(`${id} was not handed over`);
      return disk.medium.read(offset, length);
    },
    close: async () => backend.vm?.destroy(),
  };
}
