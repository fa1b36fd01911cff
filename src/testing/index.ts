export {
  type BackendComplianceOptions,
  type BackendFixture,
  backendCompliance,
  type DestinationFixture,
} from './compliance/backend.ts';
export {
  type BlockDeviceComplianceOptions,
  type BlockDeviceFixture,
  blockDeviceCompliance,
} from './compliance/block-device.ts';
export type { GuestDisk, GuestMemoryControl, VmControl } from './compliance/guest-control.ts';
export {
  type MemorySourceComplianceOptions,
  type MemorySourceFixture,
  memorySourceCompliance,
} from './compliance/memory-source.ts';
export {
  type RegisterComplianceOptions,
  type RegisterFixture,
  registerCompliance,
} from './compliance/register.ts';
export {
  type SourceDiskComplianceOptions,
  type SourceDiskFixture,
  sourceDiskCompliance,
} from './compliance/source-disk.ts';
export type { Fixture, TestFunction } from './compliance/test-function.ts';
export {
  type BreakableTransportFixture,
  type TransportComplianceOptions,
  type TransportFixture,
  transportCompliance,
} from './compliance/transport.ts';
export type {
  AnyFault,
  CallDelay,
  CallFailure,
  CallFault,
  CallHang,
  DropFault,
  FaultOptions,
  FaultTrigger,
  FlipFault,
  FromNth,
  Nth,
} from './faults/fault-plan.ts';
export {
  type BackendPlan,
  type DestinationVmCallFault,
  type DestinationVmPlan,
  faultyBackend,
  faultyDestinationVm,
  type MemorySinkFault,
} from './faults/faulty-backend.ts';
export { type BlockDeviceFault, faultyBlockDevice, type TearFault } from './faults/faulty-block-device.ts';
export { faultyMemorySource, type MemorySourceFault } from './faults/faulty-memory-source.ts';
export { faultyRegister, type RegisterFault } from './faults/faulty-register.ts';
export {
  faultySourceDisk,
  type GuestWriteFault,
  type SourceDiskFault,
  type TapFault,
} from './faults/faulty-source-disk.ts';
export { faultySourceVm, type SourceVmCallFault, type SourceVmPlan } from './faults/faulty-source-vm.ts';
export { type ConnectionFault, faultyTransport, type TransportFault } from './faults/faulty-transport.ts';
