import type { BlockDevice } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type {
  DestinationVm,
  DestinationVmCapabilities,
  HypervisorBackend,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import type { MemoryRegion, MemorySink, PageRange, PageRun } from '../../interfaces/memory.ts';
import { requireDisks } from './disk-plans.ts';
import {
  type CallFault,
  type DropFault,
  type FaultOptions,
  FaultSchedule,
  type FlipFault,
} from './fault-plan.ts';
import { type BlockDeviceFault, faultyBlockDevice } from './faulty-block-device.ts';
import { flippedContents } from './faulty-memory-source.ts';

/**
 * What can go wrong with a prepared VM itself. A `start` that fails with `fail-afterwards` did start the
 * guest.
 */
export type DestinationVmCallFault = CallFault<
  'loadDeviceState' | 'refill' | 'handOver' | 'start' | 'discard'
>;

/**
 * What can go wrong with the memory of a prepared VM. A `write` that is `drop`ped is lost, and nobody
 * notices; `flip` turns a bit over of what a `read` brings.
 */
export type MemorySinkFault = CallFault<'write' | 'read'> | DropFault<'write'> | FlipFault<'read'>;

/** What can go wrong with a VM at the destination, part by part. */
export interface DestinationVmPlan {
  /** Of the VM itself. */
  readonly vm?: readonly DestinationVmCallFault[];
  /** Of its memory. */
  readonly memory?: readonly MemorySinkFault[];
  /** By the disks' ids. */
  readonly disks?: Readonly<Record<string, readonly BlockDeviceFault[]>>;
}

/** What can go wrong with a backend, and with each VM that it prepares. */
export interface BackendPlan extends DestinationVmPlan {
  /** Of the backend itself. */
  readonly backend?: readonly CallFault<'prepare'>[];
}

/**
 * A backend with faults; the plan of its VMs begins anew with each of them. Throws `invalid-argument` for a
 * plan that makes no sense; `prepare` rejects with it for one that names a disk that is not there.
 */
export function faultyBackend(
  inner: HypervisorBackend,
  plan: BackendPlan,
  options?: FaultOptions,
): HypervisorBackend {
  const faults = new FaultSchedule(plan.backend ?? [], ['prepare'], options);
  return {
    name: inner.name,
    prepare: (description: VmDescription, call?: CallOptions) =>
      faults.call('prepare', call?.signal, async () => {
        requireDisks(description.disks, plan.disks);
        return faultyDestinationVm(await inner.prepare(description, call), plan, options);
      }),
  };
}

/**
 * A prepared VM with faults. Throws `invalid-argument` for a plan that makes no sense, or names a disk that
 * is not there.
 */
export function faultyDestinationVm(
  inner: DestinationVm,
  plan: DestinationVmPlan,
  options?: FaultOptions,
): DestinationVm {
  return new FaultyDestinationVm(inner, plan, options);
}

class FaultyDestinationVm implements DestinationVm {
  readonly memory: MemorySink;
  readonly disks: readonly BlockDevice[];
  readonly #inner: DestinationVm;
  readonly #faults: FaultSchedule<DestinationVmCallFault>;

  constructor(inner: DestinationVm, plan: DestinationVmPlan, options: FaultOptions | undefined) {
    requireDisks(inner.disks, plan.disks);
    this.#inner = inner;
    this.#faults = new FaultSchedule(
      plan.vm ?? [],
      ['loadDeviceState', 'refill', 'handOver', 'start', 'discard'],
      options,
    );
    this.memory = new FaultyMemorySink(inner.memory, plan.memory ?? [], options);
    this.disks = inner.disks.map((disk) => faultyBlockDevice(disk, plan.disks?.[disk.id] ?? [], options));
  }

  get capabilities(): DestinationVmCapabilities {
    return this.#inner.capabilities;
  }

  loadDeviceState(state: Chunks, options?: CallOptions): Promise<void> {
    const load = () => this.#inner.loadDeviceState(state, options);
    return this.#faults.call('loadDeviceState', options?.signal, load);
  }

  refill(): Promise<void> {
    return this.#faults.call('refill', undefined, () => this.#inner.refill());
  }

  handOver(): Promise<void> {
    return this.#faults.call('handOver', undefined, () => this.#inner.handOver());
  }

  start(options: { readonly run: boolean }): Promise<void> {
    return this.#faults.call('start', undefined, () => this.#inner.start(options));
  }

  discard(): Promise<void> {
    return this.#faults.call('discard', undefined, () => this.#inner.discard());
  }
}

class FaultyMemorySink implements MemorySink {
  readonly #inner: MemorySink;
  readonly #faults: FaultSchedule<MemorySinkFault>;

  constructor(inner: MemorySink, plan: readonly MemorySinkFault[], options: FaultOptions | undefined) {
    this.#inner = inner;
    this.#faults = new FaultSchedule(plan, ['write', 'read'], options);
  }

  get regions(): readonly MemoryRegion[] {
    return this.#inner.regions;
  }

  write(runs: readonly PageRun[], options?: CallOptions): Promise<void> {
    const met = this.#faults.meets('write');
    const write = () => this.#inner.write(runs, options);
    if (met.length === 0) return write();
    const dropped = met.some((fault) => fault.do === 'drop');
    return this.#faults.around(met, options?.signal, dropped ? async () => {} : write);
  }

  read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly (Chunks | undefined)[]> {
    const met = this.#faults.meets('read');
    const reading = () => this.#inner.read(ranges, options);
    if (met.length === 0) return reading();
    return this.#faults.around(met, options?.signal, async () => flippedContents(met, await reading()));
  }
}
