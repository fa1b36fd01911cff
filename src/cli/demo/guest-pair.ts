import {
  createMemoryVm,
  type MemoryVm,
  type MemoryVmOptions,
  memoryDirtier,
  randomWriter,
} from '../../backends/memory/index.ts';

/** The two ends of the demonstration: a guest under load, and a paused VM like it with nothing in it. */
export interface GuestPair {
  readonly source: MemoryVm;
  readonly destination: MemoryVm;
}

const mib = 1024 * 1024;
const memoryBytes = 128 * mib;
const diskBytes = 256 * mib;
/** What a local flash disk takes for a write, with what a hypervisor adds. */
const diskLatencyMs = 1;

/** The demonstration's only disk. */
export const diskId = 'vda';

/** All that the guest ever writes: the first bytes of its memory, and of its disk. */
export const hotBytes = { memory: 16 * mib, disk: 16 * mib } as const;

const writer = randomWriter({ disk: diskId, bytes: 8192, writesPerSecond: 400, hotBytes: hotBytes.disk });
const dirtier = memoryDirtier({ bytesPerSecond: 4e6, hotBytes: hotBytes.memory });

/** What the guest is and does, for people. */
export const guestDescription =
  'a simulated VM: 128 MiB of memory dirtied at 4 MB/s, a disk of 256 MiB half full, ' +
  '400 random writes of 8 KiB a second';

/** Sized so that moving it takes some seconds at the demonstration's default rate. */
export function createGuestPair(): GuestPair {
  const shape = { vmId: 'demo', cpus: 2, memoryBytes, diskLatencyMs } as const satisfies MemoryVmOptions;
  const disk = { id: diskId, sizeBytes: diskBytes };
  const source = createMemoryVm({ ...shape, disks: [{ ...disk, allocatedFraction: 0.5 }], seed: 1 });
  source.startWorkload(writer);
  source.startWorkload(dirtier);
  const destination = createMemoryVm({ ...shape, disks: [disk], fill: 'zero', paused: true });
  return { source, destination };
}
