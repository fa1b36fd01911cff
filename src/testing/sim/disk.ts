import { isPowerOfTwo, requireArgument, requireRange } from '../../backends/memory/arguments.ts';
import { MigrationError } from '../../errors.ts';
import type { BlockDevice, Extent, TapCapability } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks, Content } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { chunksLength } from '../../util/chunks.ts';
import { delay, throwIfAborted } from '../../util/promises.ts';
import {
  ContentRing,
  type ContentSource,
  FreshContent,
  foreignGeneration,
  reusedTooEarly,
} from './content.ts';
import { type ContentCheck, UnitSpace } from './unit-space.ts';
import { type VmFault, VmFaultPlan } from './vm-faults.ts';

/** How fast a simulated disk is. May be changed while it works. */
export interface DiskLimits {
  /** From when the disk takes up an operation until it is done, in ms. Default 0. */
  readonly latencyMs?: number;
  /** Operations a second; more have to wait. Default: no limit. */
  readonly iops?: number;
  /** Bytes a second, read and written together; more have to wait. Default: no limit. */
  readonly bytesPerSecond?: number;
  /** What a flush takes beside the latency, in ms. Default 0. */
  readonly flushMs?: number;
}

/** A simulated disk, as {@link createSimulatedDisk} makes it. */
export interface SimulatedDiskOptions extends DiskLimits {
  /** 1 to 255 characters. */
  readonly id: string;
  /** 1 or more. A last block that is not whole has 8 bytes at least. */
  readonly sizeBytes: number;
  /** A power of two from 512 to 65536; also the unit in which its content is told apart. Default 4096. */
  readonly blockBytes?: number;
  /** Whether the guest cannot write it. Default false. */
  readonly readOnly?: boolean;
  /** How much of it holds something, from the start: 0 to 1. Default 0. */
  readonly allocatedFraction?: number;
  /** Writes that would take what it holds beyond this fail: the disk is full. Default: no limit. */
  readonly capacityBytes?: number;
  /** Whether it can tell where it is zero. Default true; if false it says data everywhere. */
  readonly tellsZeros?: boolean;
  /** At the source: how its writes can be seen. Default `ordered`. */
  readonly tap?: TapCapability;
  /** At the source: the grain of its dirty log, where it keeps one; a power of two from its blocks' size up. Default 64 KiB. */
  readonly dirtyGrainBytes?: number;
  /** At the source: whether it can tell what guest writes take. Default true. */
  readonly tellsWriteTimes?: boolean;
  /** At the source: whether its description says how much of it holds something. Default false. */
  readonly tellsAllocated?: boolean;
  /**
   * Holds something else from end to end that is no guest's, as a reused destination disk does. Default
   * false.
   */
  readonly foreign?: boolean;
}

/** Where a disk works. */
export interface DiskHost {
  /** Time and chance. */
  readonly environment: Environment;
  /** Names the content: the same wherever the VM is. */
  readonly vmId: string;
  /** Default: none. */
  readonly faults?: VmFaultPlan;
  /** Called when a fault strikes whose effect is not the disk's own: `break-tap`, `power-off`, `die`. */
  readonly onFault?: (fault: VmFault) => void;
  /** Default `full`. */
  readonly check?: ContentCheck;
  /** Reads go into a `ContentRing` of so many bytes. Default: each into bytes of its own. */
  readonly ringBytes?: number;
}

type Operation = 'disk-read' | 'disk-write' | 'disk-flush' | 'disk-extents';

/** What an operation is to be. */
interface Job {
  readonly point: Operation;
  readonly by: 'guest' | 'engine';
  readonly bytes: number;
  readonly extraMs: number;
  readonly signal: AbortSignal | undefined;
}

/**
 * A disk's medium: generations instead of bytes, and limits as a real one has. What an operation does, it
 * does at one moment half its latency before it is done.
 */
export class SimulatedDisk implements BlockDevice {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  /** How its writes can be seen at the source. */
  readonly tapCapability: TapCapability;
  /** The grain of its dirty log. */
  readonly dirtyGrainBytes: number;
  /** Whether it can tell what guest writes take. */
  readonly tellsWriteTimes: boolean;
  /** Whether its description says how much of it holds something. */
  readonly tellsAllocated: boolean;
  /** What is on it, block by block. */
  readonly space: UnitSpace;
  readonly #host: DiskHost;
  readonly #faults: VmFaultPlan;
  readonly #content: ContentSource;
  readonly #tellsZeros: boolean;
  #capacityBytes: number;
  #limits: DiskLimits;
  /** When it will have served everything that was given to it. */
  #freeAt = 0;
  #lost = false;

  /** Throws `invalid-argument`. */
  constructor(options: SimulatedDiskOptions, host: DiskHost) {
    const { id, sizeBytes, blockBytes = 4096, allocatedFraction = 0 } = options;
    requireArgument(id.length >= 1 && id.length <= 255, `disk ${id}: its id has not 1 to 255 characters`);
    requireArgument(Number.isSafeInteger(sizeBytes) && sizeBytes >= 1, `disk ${id}: ${sizeBytes} bytes`);
    requireArgument(isPowerOfTwo(blockBytes, 512, 65536), `disk ${id}: blocks of ${blockBytes} bytes`);
    requireArgument(allocatedFraction >= 0 && allocatedFraction <= 1, `disk ${id}: allocatedFraction`);
    this.id = id;
    this.sizeBytes = sizeBytes;
    this.blockBytes = blockBytes;
    this.readOnly = options.readOnly ?? false;
    this.tapCapability = options.tap ?? 'ordered';
    this.dirtyGrainBytes = options.dirtyGrainBytes ?? Math.max(blockBytes, 64 << 10);
    const fits = isPowerOfTwo(this.dirtyGrainBytes, blockBytes, 1 << 26);
    requireArgument(fits, `disk ${id}: a dirty log of ${this.dirtyGrainBytes} bytes`);
    this.tellsWriteTimes = options.tellsWriteTimes ?? true;
    this.tellsAllocated = options.tellsAllocated ?? false;
    this.space = new UnitSpace({
      name: `${host.vmId}/disk/${id}`,
      sizeBytes,
      unitBytes: blockBytes,
      generation: options.foreign === true ? foreignGeneration : 0,
      errorCode: 'disk-write',
      check: host.check ?? 'full',
    });
    const allocated = Math.floor(this.space.generations.size * allocatedFraction);
    if (allocated > 0) this.space.generations.setRange(0, allocated, 1);
    this.#host = host;
    this.#faults = host.faults ?? new VmFaultPlan(host.environment, () => {});
    this.#content =
      host.ringBytes === undefined
        ? new FreshContent(blockBytes)
        : new ContentRing(blockBytes, host.ringBytes);
    this.#capacityBytes = options.capacityBytes ?? Number.POSITIVE_INFINITY;
    this.#tellsZeros = options.tellsZeros ?? true;
    this.#limits = options;
  }

  /** Other limits from now on; what is left out keeps its value. */
  setLimits(limits: DiskLimits): void {
    this.#limits = { ...this.#limits, ...limits };
  }

  /** A new capacity; what it holds beyond it stays. */
  setCapacity(bytes: number): void {
    this.#capacityBytes = bytes;
  }

  /** Bytes that it holds, in whole blocks; zeros are not held. */
  get allocatedBytes(): number {
    return this.space.generations.nonZero * this.blockBytes;
  }

  /** Puts what it holds now onto another disk of its size and its blocks, at once, as a copy of the file would. */
  copyTo(disk: SimulatedDisk): void {
    disk.space.generations.copy(this.space.generations);
  }

  /** The host is gone: every operation fails from now on. */
  lose(): void {
    this.#lost = true;
  }

  read(offset: number, length: number, options?: CallOptions): Promise<Chunks> {
    return this.readBy('engine', offset, length, options);
  }

  /** {@link SimulatedDisk.read}, and on whose behalf. */
  async readBy(
    by: 'guest' | 'engine',
    offset: number,
    length: number,
    options?: CallOptions,
  ): Promise<Chunks> {
    this.#requireRange(offset, length);
    const job = { point: 'disk-read', by, bytes: length, extraMs: 0, signal: options?.signal } as const;
    return this.#operate(job, (fault) => {
      if (fault?.effect === 'fail') throw this.#error(job.point, `a read at ${offset} failed`);
      return by === 'guest' ? [] : this.space.read(offset, length, this.#content);
    });
  }

  async extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]> {
    this.#requireRange(offset, length);
    throwIfAborted(options?.signal);
    if (this.#lost) throw this.#error('disk-read', 'is gone');
    const fault = this.#faults.take('disk-extents', { disk: this.id, by: 'engine' });
    if (fault !== undefined) {
      this.#host.onFault?.(fault);
      if (fault.delayMs !== undefined) await delay(this.#host.environment, fault.delayMs, options?.signal);
      if (fault.effect === 'fail') throw this.#error('disk-extents', `extents at ${offset} failed`);
    }
    return this.#tellsZeros ? this.space.extents(offset, length) : [{ offset, length, zero: false }];
  }

  flush(options?: CallOptions): Promise<void> {
    return this.flushBy('engine', options);
  }

  /** {@link SimulatedDisk.flush}, and on whose behalf. */
  async flushBy(by: 'guest' | 'engine', options?: CallOptions): Promise<void> {
    const extraMs = this.#limits.flushMs ?? 0;
    const job = { point: 'disk-flush', by, bytes: 0, extraMs, signal: options?.signal } as const;
    return this.#operate(job, (fault) => {
      if (fault?.effect === 'fail') throw this.#error(job.point, 'a flush failed');
    });
  }

  async write(offset: number, content: Chunks, options?: CallOptions): Promise<void> {
    const length = chunksLength(content);
    // An engine has no reason to write nothing.
    if (length === 0 && this.#host.ringBytes !== undefined) throw this.#error('disk-write', reusedTooEarly);
    await this.#put(offset, length, content, options);
  }

  async writeZeroes(offset: number, length: number, options?: CallOptions): Promise<void> {
    await this.#put(offset, length, 'zero', options);
  }

  async discard(offset: number, length: number, options?: CallOptions): Promise<void> {
    this.#requireRange(offset, length);
    const job = { point: 'disk-write', by: 'engine', bytes: 0, extraMs: 0, signal: options?.signal } as const;
    await this.#operate(job, (fault) => {
      if (fault?.effect === 'fail') throw this.#error(job.point, `a discard at ${offset} failed`);
      // Whole blocks may read as anything afterwards; so that nobody relies on it, not as zeros.
      const first = Math.ceil(offset / this.blockBytes);
      const end = Math.floor((offset + length) / this.blockBytes);
      if (end > first) this.space.generations.setRange(first, end, foreignGeneration);
    });
  }

  /** The guest's write of whole blocks, all of one generation; 0: of zeros. Rejects with `disk-write`. */
  async guestWrite(offset: number, length: number, generation: number): Promise<void> {
    this.#requireRange(offset, length);
    const bytes = generation === 0 ? 0 : length;
    const job = { point: 'disk-write', by: 'guest', bytes, extraMs: 0, signal: undefined } as const;
    await this.#operate(job, (fault) => {
      if (generation !== 0) this.#requireRoom('disk-write', offset, length);
      if (fault?.effect === 'drop') return;
      if (fault?.effect !== 'fail' && fault?.effect !== 'tear') {
        this.space.set(offset, length, generation);
        return;
      }
      const torn =
        fault.effect === 'tear' ? this.#half(length) : this.#wholeBlocks(fault.tornBytes ?? 0, length);
      if (torn > 0) this.space.set(offset, torn, generation);
      throw this.#error(job.point, `a write at ${offset} failed after ${torn} bytes`);
    });
  }

  async #put(
    offset: number,
    length: number,
    content: Content,
    options: CallOptions | undefined,
  ): Promise<void> {
    this.#requireRange(offset, length);
    // Looked at now: when its turn comes, whoever owns the bytes may have changed them.
    const decoded = this.space.decode({ offset, length }, content);
    const torn = this.#half(length);
    const bytes = content === 'zero' ? 0 : length;
    const job = { point: 'disk-write', by: 'engine', bytes, extraMs: 0, signal: options?.signal } as const;
    await this.#operate(job, (fault) => {
      if (content !== 'zero') this.#requireRoom('disk-full', offset, length);
      if (fault?.effect === 'tear') this.space.put(decoded, offset + torn);
      if (fault?.effect === 'fail' || fault?.effect === 'tear') {
        throw this.#error(job.point, `a write at ${offset} failed`);
      }
      if (fault?.effect !== 'drop') this.space.put(decoded);
    });
  }

  #operate<T>(job: Job, effect: (fault: VmFault | undefined) => T): Promise<T> {
    const { environment } = this.#host;
    throwIfAborted(job.signal);
    if (this.#lost) return Promise.reject(this.#error(job.point, 'is gone'));
    const fault = this.#faults.take(job.point, { disk: this.id, by: job.by });
    if (fault !== undefined) this.#host.onFault?.(fault);
    const { latencyMs = 0 } = this.#limits;
    const now = environment.now();
    this.#freeAt = Math.max(now, this.#freeAt) + this.#serviceMs(job);
    const untilDone = this.#freeAt - now + latencyMs + job.extraMs + (fault?.delayMs ?? 0);
    if (untilDone === 0) {
      try {
        return Promise.resolve(effect(fault));
      } catch (error) {
        return Promise.reject(error);
      }
    }
    return this.#later(job, untilDone, latencyMs / 2, () => effect(fault));
  }

  async #later<T>(job: Job, untilDone: number, halfMs: number, effect: () => T): Promise<T> {
    const { environment } = this.#host;
    if (untilDone > halfMs) await delay(environment, untilDone - halfMs, job.signal);
    if (this.#lost) throw this.#error(job.point, 'is gone');
    const result = effect();
    if (halfMs > 0) await delay(environment, halfMs, job.signal);
    return result;
  }

  #serviceMs({ bytes, point }: Job): number {
    const { iops, bytesPerSecond } = this.#limits;
    const operationMs = iops === undefined || point === 'disk-flush' ? 0 : 1000 / iops;
    const transferMs = bytesPerSecond === undefined ? 0 : (bytes / bytesPerSecond) * 1000;
    return Math.max(operationMs, transferMs);
  }

  #requireRoom(code: 'disk-full' | 'disk-write', offset: number, length: number): void {
    if (this.#capacityBytes === Number.POSITIVE_INFINITY) return;
    const [from, to] = this.space.unitsOf(offset, length);
    let added = 0;
    for (let at = from; at < to; ) {
      const end = this.space.generations.kindEnd(at, to);
      if (this.space.generations.get(at) === 0) added += (end - at) * this.blockBytes;
      at = end;
    }
    if (added > 0 && this.allocatedBytes + added > this.#capacityBytes) {
      throw new MigrationError(code, `disk ${this.id}: no space is left`);
    }
  }

  #half(length: number): number {
    return this.#wholeBlocks(Math.floor(length / 2), length);
  }

  #wholeBlocks(bytes: number, bytesMax: number): number {
    return Math.min(bytesMax, Math.floor(bytes / this.blockBytes) * this.blockBytes);
  }

  #requireRange(offset: number, length: number): void {
    requireRange(`disk ${this.id}`, offset, length, this.sizeBytes);
  }

  #error(point: Operation, message: string): MigrationError {
    return new MigrationError(
      point === 'disk-read' || point === 'disk-extents' ? 'disk-read' : 'disk-write',
      `disk ${this.id}: ${message}`,
    );
  }
}

/** A disk that stands by itself, for example to be shared by VMs on two hosts. Throws `invalid-argument`. */
export function createSimulatedDisk(options: SimulatedDiskOptions, host: DiskHost): SimulatedDisk {
  return new SimulatedDisk(options, host);
}
