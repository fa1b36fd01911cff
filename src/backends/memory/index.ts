export { compareVms, type DiskDifference, type MemoryDifference, type VmComparison } from './compare-vms.ts';
export type { Offer } from './description-differences.ts';
export type { Guest } from './guest.ts';
export type { GuestMemory, MemoryFill } from './guest-memory.ts';
export type { GuestStatistics } from './guest-statistics.ts';
export { createMemoryBackend, type MemoryBackend, type MemoryBackendOptions } from './memory-backend.ts';
export { createMemoryDisk, type MemoryDisk, type MemoryDiskOptions } from './memory-disk.ts';
export { createMemoryVm, type MemoryVm, type MemoryVmOptions } from './memory-vm.ts';
export type { LifeState } from './vm-lifecycle.ts';
export type { WorkloadState } from './workload-runner.ts';
export {
  type MemoryDirtier,
  memoryDirtier,
  type RandomWriter,
  randomWriter,
  type SequentialWriter,
  sequentialWriter,
  type WorkloadSpec,
} from './workloads.ts';
