import { MigrationError } from '../../errors.ts';
import type { BlockDevice, Extent } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { DestinationVm, DestinationVmCapabilities } from '../../interfaces/hypervisor.ts';
import type { MemoryRegion, MemorySink, PageRange, PageRun } from '../../interfaces/memory.ts';
import { throwIfAborted } from '../../util/promises.ts';
import type { MemoryDisk } from './memory-disk.ts';
import type { MemoryVm } from './memory-vm.ts';

/** What a VM was prepared for, and what becomes of it. */
export interface DestinationHooks {
  /** Only these disks of it are filled, and handed over: those of a storage migration. Undefined: all of it. */
  readonly alone?: readonly MemoryDisk[] | undefined;
  /** Whether a VM that is started stays paused. */
  readonly startPaused: boolean;
  onStart(): void;
  onHandOver(): void;
  /** It was given up before it was started, or handed over. */
  onDiscard(): void;
}

type State = 'filling' | 'failed' | 'loaded' | 'started' | 'given' | 'discarded';

/**
 * A paused simulated VM that a migration fills, or its disks alone. Strict: what the contract says never comes (content after the
 * device state or the handing over, either of them before the disks were flushed) is refused with `invalid-state`.
 */
export class MemoryDestinationVm implements DestinationVm {
  readonly capabilities: DestinationVmCapabilities = { refill: true, disksAlone: true, auditMemory: true };
  readonly memory: MemorySink;
  readonly disks: readonly PreparedDisk[];
  readonly #vm: MemoryVm;
  readonly #hooks: DestinationHooks;
  #state: State = 'filling';

  constructor(vm: MemoryVm, hooks: DestinationHooks) {
    this.#vm = vm;
    this.#hooks = hooks;
    const requireFilling = () => this.#require('write', 'filling');
    this.memory = new PreparedMemory(vm, hooks.alone === undefined ? vm.memory.regions : [], requireFilling);
    this.disks = (hooks.alone ?? vm.disks).map((disk) => new PreparedDisk(disk, requireFilling));
  }

  async loadDeviceState(state: Chunks, options?: CallOptions): Promise<void> {
    throwIfAborted(options?.signal);
    this.#require('loadDeviceState', 'filling');
    this.#requireAlone('loadDeviceState', false);
    for (const disk of this.disks) disk.requireFlushed();
    this.#state = 'failed';
    this.#vm.loadDeviceState(state);
    this.#state = 'loaded';
  }

  async refill(): Promise<void> {
    this.#require('refill', 'filling', 'failed', 'loaded');
    this.#state = 'filling';
  }

  async handOver(): Promise<void> {
    this.#require('handOver', 'filling');
    this.#requireAlone('handOver', true);
    for (const disk of this.disks) disk.requireFlushed();
    this.#state = 'given';
    this.#hooks.onHandOver();
  }

  async start({ run }: { readonly run: boolean }): Promise<void> {
    this.#require('start', 'loaded');
    this.#state = 'started';
    this.#hooks.onStart();
    if (run && !this.#hooks.startPaused) this.#vm.run();
  }

  async discard(): Promise<void> {
    if (['started', 'given', 'discarded'].includes(this.#state)) return;
    this.#state = 'discarded';
    this.#hooks.onDiscard();
  }

  #requireAlone(action: string, alone: boolean): void {
    if ((this.#hooks.alone !== undefined) === alone) return;
    const what = alone ? 'a whole VM' : 'disks alone';
    throw new MigrationError('invalid-state', `${action}: this was prepared for ${what}`);
  }

  #require(action: string, ...states: readonly State[]): void {
    if (states.includes(this.#state)) return;
    const wanted = states.join(' or ');
    throw new MigrationError('invalid-state', `${action}: the prepared VM is ${this.#state}, not ${wanted}`);
  }
}

class PreparedMemory implements MemorySink {
  readonly regions: readonly MemoryRegion[];
  readonly #vm: MemoryVm;
  readonly #requireFilling: () => void;

  constructor(vm: MemoryVm, regions: readonly MemoryRegion[], requireFilling: () => void) {
    this.regions = regions;
    this.#vm = vm;
    this.#requireFilling = requireFilling;
  }

  async write(runs: readonly PageRun[], options?: CallOptions): Promise<void> {
    throwIfAborted(options?.signal);
    this.#requireFilling();
    for (const run of runs) {
      if (run.region >= this.regions.length)
        throw new MigrationError('memory', `there is no memory region ${run.region}`);
      this.#vm.memory.put(run);
    }
  }

  async read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly Chunks[]> {
    throwIfAborted(options?.signal);
    this.#requireFilling();
    return this.#vm.memory.readRanges(ranges);
  }
}

/**
 * A disk of a prepared VM: read-only for the guest alone, and closed to the engine once the device state is
 * loaded, or the disk handed over.
 */
class PreparedDisk implements BlockDevice {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly #disk: MemoryDisk;
  readonly #requireFilling: () => void;
  /** Changes that were completed, and how many of them a flush has covered. */
  #changes = 0;
  #flushed = 0;

  constructor(disk: MemoryDisk, requireFilling: () => void) {
    ({ id: this.id, sizeBytes: this.sizeBytes, blockBytes: this.blockBytes, readOnly: this.readOnly } = disk);
    this.#disk = disk;
    this.#requireFilling = requireFilling;
  }

  requireFlushed(): void {
    if (this.#flushed === this.#changes) return;
    throw new MigrationError('invalid-state', `disk ${this.id}: not everything that was written is flushed`);
  }

  read(offset: number, length: number, options?: CallOptions): Promise<Chunks> {
    return this.#disk.read(offset, length, options);
  }

  extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]> {
    return this.#disk.extents(offset, length, options);
  }

  async flush(options?: CallOptions): Promise<void> {
    const covered = this.#changes;
    await this.#disk.flush(options);
    this.#flushed = Math.max(this.#flushed, covered);
  }

  write(offset: number, content: Chunks, options?: CallOptions): Promise<void> {
    return this.#change(() => this.#disk.write(offset, content, options));
  }

  writeZeroes(offset: number, length: number, options?: CallOptions): Promise<void> {
    return this.#change(() => this.#disk.writeZeroes(offset, length, options));
  }

  discard(offset: number, length: number, options?: CallOptions): Promise<void> {
    return this.#change(() => this.#disk.discard(offset, length, options));
  }

  async #change(change: () => Promise<void>): Promise<void> {
    this.#requireFilling();
    await change();
    this.#changes += 1;
  }
}
