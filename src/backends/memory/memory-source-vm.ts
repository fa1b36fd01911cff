import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type {
  GuestMeasurement,
  MeasureOptions,
  RunState,
  SourceVm,
  SourceVmCapabilities,
  UnexpectedStop,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import type { MemorySource } from '../../interfaces/memory.ts';
import { throwIfAborted } from '../../util/promises.ts';
import { requireArgument } from './arguments.ts';
import type { TappedDisk } from './tapped-disk.ts';
import type { VmLifecycle } from './vm-lifecycle.ts';

const THROTTLE_MAX = 0.99;

/** What a source VM is made of. */
export interface SourceVmParts {
  readonly description: VmDescription;
  readonly lifecycle: VmLifecycle;
  readonly memory: MemorySource;
  readonly disks: readonly TappedDisk[];
  saveState(): Chunks;
  setThrottle(fraction: number): void;
  measure(options: MeasureOptions): Promise<GuestMeasurement>;
}

/**
 * A simulated VM as the engine sees it at the source. What the contract does not allow rejects with
 * `invalid-state`.
 */
export class MemorySourceVm implements SourceVm {
  readonly capabilities: SourceVmCapabilities = {
    throttle: true,
    throttleAlone: true,
    measure: true,
    auditMemory: true,
  };
  readonly description: VmDescription;
  readonly memory: MemorySource;
  readonly disks: readonly TappedDisk[];
  readonly #parts: SourceVmParts;

  constructor(parts: SourceVmParts) {
    this.#parts = parts;
    this.description = parts.description;
    this.memory = parts.memory;
    this.disks = parts.disks;
  }

  runState(): RunState {
    return this.#parts.lifecycle.state === 'running' ? 'running' : 'paused';
  }

  onUnexpectedStop(listener: (stop: UnexpectedStop) => void): () => void {
    return this.#parts.lifecycle.onUnexpectedStop(listener);
  }

  measure(options: MeasureOptions): Promise<GuestMeasurement> {
    return this.#parts.measure(options);
  }

  async setThrottle(fraction: number): Promise<void> {
    requireArgument(
      fraction >= 0 && fraction <= THROTTLE_MAX,
      `a throttle of ${fraction} is not from 0 to ${THROTTLE_MAX}`,
    );
    this.#parts.lifecycle.requireThrottleable();
    this.#parts.setThrottle(fraction);
  }

  stun(options?: CallOptions): Promise<void> {
    return this.#parts.lifecycle.stun(options?.signal);
  }

  async *saveDeviceState(options?: CallOptions): AsyncGenerator<Uint8Array, void, undefined> {
    this.#parts.lifecycle.requireSavable();
    for (const chunk of this.#parts.saveState()) {
      throwIfAborted(options?.signal);
      yield chunk;
    }
    this.#parts.lifecycle.saved();
  }

  async seal(): Promise<void> {
    this.#parts.lifecycle.seal();
  }

  async resume(): Promise<void> {
    this.#parts.lifecycle.resume();
  }

  async release(): Promise<void> {
    this.#parts.lifecycle.release();
  }

  async detach(): Promise<void> {
    this.#parts.setThrottle(0);
    await this.memory.stop();
    for (const disk of this.disks) await disk.removeTap();
  }
}
