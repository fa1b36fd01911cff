import type { BlockDevice, Extent } from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions, Chunks } from '../../interfaces/content.ts';
import type { DestinationVm, DestinationVmCapabilities } from '../../interfaces/hypervisor.ts';
import type { MemoryRegion, MemorySink, PageRange, PageRun } from '../../interfaces/memory.ts';
import { chunksLength } from '../../util/chunks.ts';
import { throwIfAborted } from '../../util/promises.ts';
import type { SimulatedDisk } from './disk.ts';
import type { ProcessTie } from './engine-process.ts';
import type { VmCore } from './vm-core.ts';

/**
 * A prepared simulated VM as one engine's process sees it. What the contract says never comes (overlapping
 * writes in flight, content after the device state, a device state before the disks were flushed) is refused,
 * and noted as a violation.
 */
export class SimulatedDestinationVm implements DestinationVm {
  readonly capabilities: DestinationVmCapabilities;
  readonly memory: MemorySink;
  readonly disks: readonly BlockDevice[];
  readonly #core: VmCore;
  readonly #tie: ProcessTie;
  readonly #prepared: readonly PreparedDisk[];

  constructor(core: VmCore, tie: ProcessTie) {
    this.#core = core;
    this.#tie = tie;
    const { refills: refill, takesDisksAlone: disksAlone } = core.options;
    this.capabilities = { refill, disksAlone, auditMemory: true };
    this.memory = new PreparedMemory(core, tie);
    this.#prepared = core.disks.map(({ medium }) => new PreparedDisk(core, medium, tie));
    this.disks = this.#prepared;
  }

  loadDeviceState(state: Chunks, options?: CallOptions): Promise<void> {
    return this.#tie.call(async () => {
      throwIfAborted(options?.signal);
      this.#requireFlushed('loadDeviceState');
      await this.#core.load(state, options?.signal);
    });
  }

  refill(): Promise<void> {
    return this.#tie.call(async () => this.#core.refill());
  }

  handOver(): Promise<void> {
    return this.#tie.call(async () => {
      if (!this.capabilities.disksAlone)
        throw this.#core.violation('handOver: it was said that this cannot be');
      this.#requireFlushed('handOver');
      await this.#core.handOver();
    });
  }

  start({ run }: { readonly run: boolean }): Promise<void> {
    return this.#tie.call(() => this.#core.start(run));
  }

  discard(): Promise<void> {
    return this.#tie.call(() => {
      this.#core.discard();
      this.#core.leave(this.#tie);
    });
  }

  #requireFlushed(action: string): void {
    for (const { id, flushed } of this.#prepared) {
      if (!flushed) throw this.#core.violation(`${action}: disk ${id} is not flushed`);
    }
  }
}

class PreparedMemory implements MemorySink {
  readonly regions: readonly MemoryRegion[];
  readonly #core: VmCore;
  readonly #tie: ProcessTie;
  #writing = false;

  constructor(core: VmCore, tie: ProcessTie) {
    this.regions = core.memory.regions;
    this.#core = core;
    this.#tie = tie;
  }

  write(runs: readonly PageRun[], options?: CallOptions): Promise<void> {
    return this.#tie.call(async () => {
      throwIfAborted(options?.signal);
      this.#core.requireFilling('memory.write');
      if (this.#writing) throw this.#core.violation('memory.write: one is in flight already');
      this.#writing = true;
      try {
        await this.#core.step('memory-write', 0, 'memory', options?.signal);
        for (const run of runs) this.#core.memory.put(run);
      } finally {
        this.#writing = false;
      }
    });
  }

  read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly (Chunks | undefined)[]> {
    return this.#tie.call(() => {
      this.#core.requireFilling('memory.read');
      if (this.#writing) throw this.#core.violation('memory.read: a write is in flight');
      return this.#core.memory.read(ranges, options);
    });
  }
}

class PreparedDisk implements BlockDevice {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly #core: VmCore;
  readonly #medium: SimulatedDisk;
  readonly #tie: ProcessTie;
  readonly #inFlight = new Set<ByteRange>();
  /** Changes that were completed, and how many of them a flush has covered. */
  #changes = 0;
  #flushedChanges = 0;

  constructor(core: VmCore, medium: SimulatedDisk, tie: ProcessTie) {
    ({ id: this.id, sizeBytes: this.sizeBytes, blockBytes: this.blockBytes } = medium);
    this.readOnly = medium.readOnly;
    this.#core = core;
    this.#medium = medium;
    this.#tie = tie;
  }

  /** Whether every change is durable. */
  get flushed(): boolean {
    return this.#inFlight.size === 0 && this.#flushedChanges === this.#changes;
  }

  read(offset: number, length: number, options?: CallOptions): Promise<Chunks> {
    return this.#tie.call(() => this.#medium.read(offset, length, options));
  }

  extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]> {
    return this.#tie.call(() => this.#medium.extents(offset, length, options));
  }

  flush(options?: CallOptions): Promise<void> {
    return this.#tie.call(async () => {
      const covered = this.#changes;
      await this.#medium.flush(options);
      this.#flushedChanges = Math.max(this.#flushedChanges, covered);
    });
  }

  write(offset: number, content: Chunks, options?: CallOptions): Promise<void> {
    const range = { offset, length: chunksLength(content) };
    return this.#change(range, () => this.#medium.write(offset, content, options));
  }

  writeZeroes(offset: number, length: number, options?: CallOptions): Promise<void> {
    return this.#change({ offset, length }, () => this.#medium.writeZeroes(offset, length, options));
  }

  discard(offset: number, length: number, options?: CallOptions): Promise<void> {
    return this.#change({ offset, length }, () => this.#medium.discard(offset, length, options));
  }

  #change(range: ByteRange, change: () => Promise<void>): Promise<void> {
    return this.#tie.call(async () => {
      this.#core.requireFilling(`a write to disk ${this.id}`);
      const end = range.offset + range.length;
      for (const { offset, length } of this.#inFlight) {
        if (offset < end && range.offset < offset + length) {
          throw this.#core.violation(`disk ${this.id}: overlapping writes in flight at ${range.offset}`);
        }
      }
      this.#inFlight.add(range);
      try {
        await change();
        this.#changes++;
      } finally {
        this.#inFlight.delete(range);
      }
    });
  }
}
