/**
 * What every hypervisor owes the engine: a VM at the source, a backend at the destination, and a move between
 * them.
 */
import type { HypervisorBackend, RunState, SourceVm } from '../../interfaces/hypervisor.ts';
import { destinationVmTests } from './destination-vm.ts';
import { disksAloneTests } from './disks-alone.ts';
import type { VmControl } from './guest-control.ts';
import { moveTests } from './move.ts';
import { sourceVmTests } from './source-vm.ts';
import { eachWith, type Fixture, type TestFunction } from './test-function.ts';

/** Where a VM can be moved to, for one test. */
export interface DestinationFixture extends Fixture {
  /** Can take the fixture's VM as it is, and no other. Nothing was prepared with it. */
  readonly backend: HypervisorBackend;
  /** How the VM is here, as the hypervisor says; `none` if there is none, or none that was started. */
  runState(): Promise<RunState | 'none'>;
  /**
   * Whether the guest, after a whole move, is what left: throws if not. The guest may run. Left out if nobody
   * can tell.
   */
  verify?(): Promise<void>;
  /**
   * What a disk holds that came alone and was handed over, as its new owner reads it, and not the engine. Left out where disks alone are not taken.
   */
  handedOver?(id: string, offset: number, length: number): Promise<Uint8Array>;
}

/** A VM with memory and a disk or more, for one test. */
export interface BackendFixture extends Fixture {
  /**
   * Opens the VM for a migration; its guest runs. Called again after `detach()`, and after a `kill` never.
   */
  source(): Promise<SourceVm>;
  /**
   * Opens the VM for `recover()`: it may be sealed, and its engine gone. Left out where `source()` opens such a VM too.
   */
  recover?(): Promise<SourceVm>;
  /** What happens to the VM that no migration asks for. */
  readonly control: VmControl;
  /** Makes a destination, new each time. */
  destination(): Promise<DestinationFixture>;
  /** Makes a destination whose disks could take the VM but that there is not enough room. Left out if there is no such. */
  fullDestination?(): Promise<DestinationFixture>;
  /** Resolves when nothing has moved by itself for a while. */
  settle(): Promise<void>;
}

/** What {@link backendCompliance} and {@link disksAloneCompliance} take. */
export interface BackendComplianceOptions {
  /** The runner's test function. */
  readonly test: TestFunction;
  /** Called once for each test. */
  create(): Promise<BackendFixture>;
}

/** Declares the tests that every {@link HypervisorBackend}, with its {@link SourceVm}, passes. */
export function backendCompliance({ test, create }: BackendComplianceOptions): void {
  const withVm = eachWith(test, create);
  sourceVmTests(withVm);
  destinationVmTests(withVm);
  disksAloneTests(withVm);
  moveTests(withVm);
}

/** Declares those of the tests of {@link backendCompliance} that are about disks alone: for a {@link HypervisorBackend} that takes nothing else. */
export function disksAloneCompliance({ test, create }: BackendComplianceOptions): void {
  disksAloneTests(eachWith(test, create));
}
