import type {
  DirtyTracker,
  Extent,
  ReadableDisk,
  SourceDisk,
  Tap,
  TapCapability,
  TapHandler,
  WriteTimes,
} from '../../interfaces/block-device.ts';
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
import type { MemoryRegion, MemorySource, PageBatch, PageRange } from '../../interfaces/memory.ts';
import { isZero } from '../../util/chunks.ts';
import { unitBytesOfRing } from './content.ts';
import type { ProcessTie } from './engine-process.ts';
import type { GuestDisk } from './guest-disk.ts';
import type { VmCore } from './vm-core.ts';

/** A simulated VM as one engine's process sees it at the source. Of no effect once that process is dead. */
export class SimulatedSourceVm implements SourceVm {
  readonly capabilities: SourceVmCapabilities = {
    throttle: true,
    throttleAlone: true,
    measure: true,
    auditMemory: true,
  };
  readonly description: VmDescription;
  readonly memory: MemorySource;
  readonly disks: readonly SourceDisk[];
  readonly #core: VmCore;
  readonly #tie: ProcessTie;

  constructor(core: VmCore, tie: ProcessTie) {
    this.#core = core;
    this.#tie = tie;
    this.description = { ...core.description, disks: core.describeDisks() };
    this.memory = new TiedMemory(core.memory, tie);
    this.disks = core.disks.map((disk) => new TiedDisk(disk, tie));
  }

  runState(): RunState {
    return this.#core.state === 'running' ? 'running' : 'paused';
  }

  onUnexpectedStop(listener: (stop: UnexpectedStop) => void): () => void {
    return this.#tie.dead ? () => {} : this.#core.onUnexpectedStop(listener);
  }

  measure(options: MeasureOptions): Promise<GuestMeasurement> {
    return this.#tie.call(() => this.#core.measure(options));
  }

  setThrottle(fraction: number): Promise<void> {
    return this.#tie.call(() => this.#core.setThrottle(fraction));
  }

  stun(options?: CallOptions): Promise<void> {
    return this.#tie.call(() => this.#core.stun(options?.signal));
  }

  saveDeviceState(options?: CallOptions): AsyncIterable<Uint8Array> {
    return this.#tie.iterate(() => this.#core.save(options?.signal));
  }

  seal(): Promise<void> {
    return this.#tie.call(() => this.#core.seal());
  }

  resume(): Promise<void> {
    return this.#tie.call(() => this.#core.resume());
  }

  release(): Promise<void> {
    return this.#tie.call(async () => {
      await this.#core.release();
      this.#core.leave(this.#tie);
    });
  }

  detach(): Promise<void> {
    return this.#tie.call(() => {
      this.#core.tidyUp();
      this.#core.leave(this.#tie);
    });
  }
}

class TiedMemory implements MemorySource {
  readonly regions: readonly MemoryRegion[];
  readonly keepsUnsentPages: boolean;
  readonly #memory: MemorySource;
  readonly #tie: ProcessTie;

  constructor(memory: MemorySource, tie: ProcessTie) {
    this.regions = memory.regions;
    this.keepsUnsentPages = memory.keepsUnsentPages;
    this.#memory = memory;
    this.#tie = tie;
  }

  round(options?: CallOptions): AsyncIterable<PageBatch> {
    return this.#tie.iterate(() => this.#memory.round(options));
  }

  dirtyBytes(): number | undefined {
    return this.#memory.dirtyBytes();
  }

  read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly (Chunks | undefined)[]> {
    return this.#tie.call(() => this.#memory.read(ranges, options));
  }

  offer(ranges: readonly PageRange[], options?: CallOptions): Promise<void> {
    return this.#tie.call(() => this.#memory.offer(ranges, options));
  }

  stop(): Promise<void> {
    return this.#tie.call(() => this.#memory.stop());
  }
}

class TiedDisk implements SourceDisk {
  readonly tapCapability: TapCapability;
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly #disk: GuestDisk;
  readonly #medium: ReadableDisk;
  readonly #tie: ProcessTie;

  constructor(disk: GuestDisk, tie: ProcessTie) {
    const { medium } = disk;
    ({ id: this.id, sizeBytes: this.sizeBytes, blockBytes: this.blockBytes } = medium);
    this.readOnly = medium.readOnly;
    this.tapCapability = medium.tapCapability;
    this.#disk = disk;
    this.#medium = medium;
    this.#tie = tie;
  }

  read(offset: number, length: number, options?: CallOptions): Promise<Chunks> {
    return this.#tie.call(() => this.#medium.read(offset, length, options));
  }

  /** Who looks at it all the same finds something else, but where zeros are, or a ring's content, which others look at, too. */
  recycle(content: Chunks): void {
    for (const chunk of content)
      if (!isZero(chunk) && unitBytesOfRing(chunk.buffer) === undefined) chunk.fill(0xdb);
  }

  extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]> {
    return this.#tie.call(() => this.#medium.extents(offset, length, options));
  }

  flush(options?: CallOptions): Promise<void> {
    return this.#tie.call(() => this.#medium.flush(options));
  }

  track(options?: CallOptions): Promise<DirtyTracker> {
    return this.#tie.call(async () => {
      const log = await this.#disk.track(options);
      return {
        take: (call?: CallOptions) => this.#tie.call(() => log.take(call)),
        remove: () => this.#tie.call(() => log.remove()),
      };
    });
  }

  writeTimes(): Promise<WriteTimes | undefined> {
    return this.#tie.call(() => (this.#disk.medium.tellsWriteTimes ? this.#disk.writeTimes : undefined));
  }

  tap(handler: TapHandler, options?: CallOptions): Promise<Tap> {
    return this.#tie.call(() => {
      const tap = this.#disk.setTap(handler, options);
      return {
        finish: (call?: CallOptions) => this.#tie.call(() => tap.finish(call)),
        remove: () => this.#tie.call(() => tap.remove()),
      };
    });
  }
}
