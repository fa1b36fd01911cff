import type { SourceDisk } from '../../interfaces/block-device.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type {
  GuestMeasurement,
  MeasureOptions,
  RunState,
  SourceVm,
  SourceVmCapabilities,
  StunOptions,
  UnexpectedStop,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import type { MemorySource } from '../../interfaces/memory.ts';
import { requireDisks } from './disk-plans.ts';
import { type CallFault, type FaultOptions, FaultSchedule, type FlipFault } from './fault-plan.ts';
import { flipped } from './faulty-block-device.ts';
import { faultyMemorySource, type MemorySourceFault } from './faulty-memory-source.ts';
import { faultySourceDisk, type SourceDiskFault } from './faulty-source-disk.ts';

const calls = [
  'measure',
  'setThrottle',
  'stun',
  'saveDeviceState',
  'seal',
  'resume',
  'release',
  'detach',
] as const;

/**
 * What can go wrong with the VM itself. `saveDeviceState` with `fail` fails before its first chunk, with
 * `fail-afterwards` behind its last one; `flip` turns a bit over of its first chunk.
 */
export type SourceVmCallFault = CallFault<(typeof calls)[number]> | FlipFault<'saveDeviceState'>;

/** What can go wrong with a VM at the source, part by part. */
export interface SourceVmPlan {
  /** Of the VM itself. */
  readonly vm?: readonly SourceVmCallFault[];
  /** Of its memory. */
  readonly memory?: readonly MemorySourceFault[];
  /** By the disks' ids. */
  readonly disks?: Readonly<Record<string, readonly SourceDiskFault[]>>;
}

/**
 * A VM at the source with faults. Throws `invalid-argument` for a plan that makes no sense, or names a disk
 * that is not there.
 */
export function faultySourceVm(inner: SourceVm, plan: SourceVmPlan, options?: FaultOptions): SourceVm {
  return new FaultySourceVm(inner, plan, options);
}

class FaultySourceVm implements SourceVm {
  readonly memory: MemorySource;
  readonly disks: readonly SourceDisk[];
  readonly #inner: SourceVm;
  readonly #faults: FaultSchedule<SourceVmCallFault>;

  constructor(inner: SourceVm, plan: SourceVmPlan, options: FaultOptions | undefined) {
    requireDisks(inner.disks, plan.disks);
    this.#inner = inner;
    this.#faults = new FaultSchedule(plan.vm ?? [], calls, options);
    this.memory = faultyMemorySource(inner.memory, plan.memory ?? [], options);
    this.disks = inner.disks.map((disk) => faultySourceDisk(disk, plan.disks?.[disk.id] ?? [], options));
  }

  get description(): VmDescription {
    return this.#inner.description;
  }

  get deviceStateBytes(): number | undefined {
    return this.#inner.deviceStateBytes;
  }

  get capabilities(): SourceVmCapabilities {
    return this.#inner.capabilities;
  }

  runState(): RunState {
    return this.#inner.runState();
  }

  onUnexpectedStop(listener: (stop: UnexpectedStop) => void): () => void {
    return this.#inner.onUnexpectedStop(listener);
  }

  measure(options: MeasureOptions): Promise<GuestMeasurement> {
    return this.#faults.call('measure', options.signal, () => this.#inner.measure(options));
  }

  setThrottle(fraction: number): Promise<void> {
    return this.#faults.call('setThrottle', undefined, () => this.#inner.setThrottle(fraction));
  }

  stun(options?: StunOptions): Promise<void> {
    return this.#faults.call('stun', options?.signal, () => this.#inner.stun(options));
  }

  saveDeviceState(options?: CallOptions): AsyncIterable<Uint8Array> {
    const met = this.#faults.meets('saveDeviceState');
    return met.length === 0 ? this.#inner.saveDeviceState(options) : this.#save(met, options);
  }

  seal(): Promise<void> {
    return this.#faults.call('seal', undefined, () => this.#inner.seal());
  }

  resume(): Promise<void> {
    return this.#faults.call('resume', undefined, () => this.#inner.resume());
  }

  release(): Promise<void> {
    return this.#faults.call('release', undefined, () => this.#inner.release());
  }

  detach(): Promise<void> {
    return this.#faults.call('detach', undefined, () => this.#inner.detach());
  }

  async *#save(
    met: readonly SourceVmCallFault[],
    options: CallOptions | undefined,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    await this.#faults.before(met, options?.signal);
    let first = true;
    for await (const chunk of this.#inner.saveDeviceState(options)) {
      yield* first ? flipped(met, [chunk]) : [chunk];
      first = false;
    }
    this.#faults.after(met);
  }
}
