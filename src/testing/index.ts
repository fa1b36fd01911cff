export {
  type BackendComplianceOptions,
  type BackendFixture,
  backendCompliance,
  type DestinationFixture,
  disksAloneCompliance,
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
  type DirtyRangeFault,
  faultySourceDisk,
  type GuestWriteFault,
  type SourceDiskFault,
  type TapFault,
} from './faults/faulty-source-disk.ts';
export { faultySourceVm, type SourceVmCallFault, type SourceVmPlan } from './faults/faulty-source-vm.ts';
export { type ConnectionFault, faultyTransport, type TransportFault } from './faults/faulty-transport.ts';
export {
  type ComparisonOptions,
  compareSimulatedVms,
  type SimulatedComparison,
  type SpaceDifference,
} from './sim/compare.ts';
export {
  createSimulatedDisk,
  type DiskHost,
  type DiskLimits,
  type SimulatedDisk,
  type SimulatedDiskOptions,
} from './sim/disk.ts';
export type { RecoveryRecord } from './sim/end.ts';
export type { SimulationEvent } from './sim/event-log.ts';
export type { GuestWindow, OperationStatistics } from './sim/guest-meter.ts';
export type { ScenarioHook, ScenarioHooks } from './sim/hooks.ts';
export {
  createSimulatedBackend,
  type MadeDisk,
  type SimulatedBackend,
  type SimulatedBackendOptions,
} from './sim/hypervisor.ts';
export { useKnownChecksums } from './sim/known-checksums.ts';
export {
  createNetwork,
  type Network,
  type NetworkConnectionView,
  type NetworkEvent,
  type NetworkFault,
  type NetworkOptions,
  type NetworkPlace,
  type NetworkStatistics,
} from './sim/network.ts';
export type { CongestionName } from './sim/network-congestion.ts';
export type { FlowEvent } from './sim/network-flow.ts';
export type { LinkEvent, PathOptions } from './sim/network-path.ts';
export type { NetworkAddress, NetworkTransport, NetworkTransportOptions } from './sim/network-transport.ts';
export type { WireConditions, WireStatistics } from './sim/network-wire.ts';
export type { Violation } from './sim/oracle.ts';
export { repeatCodec } from './sim/repeat-codec.ts';
export {
  type Action,
  classOf,
  type EndName,
  type Scenario,
  type ScenarioHosts,
  type ScenarioRegisterFault,
  type ScenarioVm,
  type TimelineEntry,
  type Trigger,
} from './sim/scenario.ts';
export { type SimulateOptions, type SimulationResult, simulate } from './sim/simulate.ts';
export type { StepName } from './sim/steps.ts';
export type { BadReason, BadUnit, ContentCheck, UnitSpace } from './sim/unit-space.ts';
export {
  createSimulatedVm,
  type SimulatedMemorySize,
  type SimulatedVm,
  type SimulatedVmOptions,
} from './sim/vm.ts';
export type { VmEvent, VmEventDetail, VmState } from './sim/vm-events.ts';
export type { VmFault, VmFaultEffect, VmFaultPoint } from './sim/vm-faults.ts';
export type { VmHostOptions, VmTimings } from './sim/vm-options.ts';
export type { StateToken } from './sim/vm-state.ts';
export {
  type IdleWorkload,
  idle,
  type MemoryDirtierWorkload,
  type OltpWorkload,
  oltp,
  type SequentialWriterWorkload,
  type SimulatedWorkload,
  simulatedDirtier,
  simulatedWriter,
} from './sim/workloads.ts';
export { createVirtualEnvironment, type VirtualEnvironment } from './virtual-time.ts';
