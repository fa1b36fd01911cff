import { type ErrorCode, MigrationError } from '../../errors.ts';
import type { BlockDevice, Extent, TapCapability } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks, Content } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { DiskDescription } from '../../interfaces/hypervisor.ts';
import { chunksLength } from '../../util/chunks.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import { createPrng } from '../../util/prng.ts';
import { delay, throwIfAborted } from '../../util/promises.ts';
import { isPowerOfTwo, requireArgument, requireRange } from './arguments.ts';
import { SparseBytes } from './sparse-bytes.ts';

/** A disk in memory, as {@link createMemoryDisk} makes it. */
export interface MemoryDiskOptions {
  /** 1 to 255 characters. */
  readonly id: string;
  /** 1 or more; memory is taken only for what was written, in steps of 1 MiB. */
  readonly sizeBytes: number;
  /** A power of two from 512 to 65536. Default 512. */
  readonly blockBytes?: number;
  /** Whether the guest may only read it. Default false. */
  readonly readOnly?: boolean;
  /** How much of it holds random data from the start, as far as `capacityBytes` allows: 0 to 1. Default 0. */
  readonly allocatedFraction?: number;
  /**
   * How much of it there is room for, counted in the steps in which memory is taken: a thin disk that runs full. A write that finds no room rejects with
   * `disk-full`, and has written nothing. 0 or more. Default: all of it.
   */
  readonly capacityBytes?: number;
  /** How a running guest's writes to it can be seen. Default `ordered`. */
  readonly tap?: TapCapability;
  /** What that data is drawn from; a safe integer. Default 0. */
  readonly seed?: number;
  /** How long each operation takes, in milliseconds, however many there are at once. Default 0. */
  readonly latencyMs?: number;
  /** Default: the running process. */
  readonly environment?: Environment;
}

const tapCapabilities: readonly TapCapability[] = ['ordered', 'extents', 'none'];

/**
 * A disk in memory. An operation takes effect in the middle of its latency: a write is on the medium some
 * time before it is completed, and what a read brings may be old by the time it arrives.
 */
export class MemoryDisk implements BlockDevice {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  /** How much of it there is room for. */
  readonly capacityBytes: number;
  /** How a running guest's writes to it can be seen. */
  readonly tapCapability: TapCapability;
  /** What is on the medium, without latency. For looking at, not for writing. */
  readonly medium: SparseBytes;
  readonly #environment: Environment;
  readonly #latencyMs: number;
  #tornBytes: number | undefined;
  #freed = false;

  /** Throws `invalid-argument`. */
  constructor(options: MemoryDiskOptions) {
    const { allocatedFraction = 0, seed = 0, latencyMs = 0 } = options;
    const { id, sizeBytes, blockBytes = 512, readOnly = false } = options;
    const { capacityBytes = sizeBytes, tap = 'ordered' } = options;
    const problem = diskProblems([{ id, sizeBytes, blockBytes, readOnly }])[0];
    requireArgument(problem === undefined, problem ?? '');
    requireArgument(
      allocatedFraction >= 0 && allocatedFraction <= 1,
      `disk ${id}: allocatedFraction is not from 0 to 1`,
    );
    requireArgument(latencyMs >= 0, `disk ${id}: latencyMs is negative`);
    requireArgument(capacityBytes >= 0, `disk ${id}: capacityBytes is negative`);
    requireArgument(
      tapCapabilities.includes(tap),
      `disk ${id}: tap is ${tap}, not ${tapCapabilities.join(', ')}`,
    );
    this.id = id;
    this.sizeBytes = sizeBytes;
    this.blockBytes = blockBytes;
    this.readOnly = readOnly;
    this.medium = new SparseBytes(sizeBytes);
    this.capacityBytes = capacityBytes;
    this.tapCapability = tap;
    this.medium.fill(allocatedFraction, createPrng(seed), capacityBytes);
    this.#environment = options.environment ?? nodeEnvironment;
    this.#latencyMs = latencyMs;
  }

  /** How much of it holds data now: what a copy of it takes. */
  get allocatedBytes(): number {
    return this.medium.allocatedBytes;
  }

  read(offset: number, length: number, options?: CallOptions): Promise<Chunks> {
    return this.#operate('disk-read', offset, length, options, () => [this.medium.read(offset, length)]);
  }

  extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]> {
    return this.#operate('disk-read', offset, length, options, () => this.medium.extents(offset, length));
  }

  flush(options?: CallOptions): Promise<void> {
    return this.#operate('disk-write', 0, 0, options, () => {});
  }

  write(offset: number, content: Chunks, options?: CallOptions): Promise<void> {
    return this.#put(offset, chunksLength(content), content, options);
  }

  writeZeroes(offset: number, length: number, options?: CallOptions): Promise<void> {
    return this.#put(offset, length, 'zero', options);
  }

  /** Frees what lies in the range in whole steps of 1 MiB; the rest keeps its content. */
  discard(offset: number, length: number, options?: CallOptions): Promise<void> {
    return this.#operate('disk-write', offset, length, options, () => this.medium.discard(offset, length));
  }

  /** The next write puts only its first `tornBytes` on the medium and rejects with `disk-write`. */
  failNextWrite(tornBytes = 0): void {
    this.#tornBytes = tornBytes;
  }

  /** Gives the memory back. Every operation rejects from now on. */
  free(): void {
    this.#freed = true;
    this.medium.clear();
  }

  #put(offset: number, length: number, content: Content, options: CallOptions | undefined): Promise<void> {
    return this.#operate('disk-write', offset, length, options, () => {
      const torn = this.#tornBytes;
      this.#tornBytes = undefined;
      let rest = torn ?? length;
      if (content === 'zero') {
        this.medium.zero(offset, Math.min(rest, length));
      } else {
        this.#requireRoom(offset, length);
        let at = offset;
        for (const chunk of content) {
          const part = chunk.byteLength <= rest ? chunk : chunk.subarray(0, rest);
          this.medium.write(at, part);
          at += part.byteLength;
          rest -= part.byteLength;
        }
      }
      if (torn !== undefined)
        throw this.#error('disk-write', `a write at ${offset} failed after ${torn} bytes`);
    });
  }

  #requireRoom(offset: number, length: number): void {
    if (this.capacityBytes >= this.sizeBytes) return;
    const wanted = this.allocatedBytes + this.medium.unallocatedBytes(offset, length);
    if (wanted <= this.capacityBytes) return;
    throw this.#error('disk-full', `a write at ${offset} finds no room in its ${this.capacityBytes} bytes`);
  }

  async #operate<T>(
    code: ErrorCode,
    offset: number,
    length: number,
    options: CallOptions | undefined,
    effect: () => T,
  ): Promise<T> {
    requireRange(`disk ${this.id}`, offset, length, this.sizeBytes);
    const signal = options?.signal;
    throwIfAborted(signal);
    const half = this.#latencyMs / 2;
    if (half > 0) await delay(this.#environment, half, signal);
    if (this.#freed) throw this.#error(code, 'is gone');
    const result = effect();
    if (half > 0) await delay(this.#environment, half, signal);
    return result;
  }

  #error(code: ErrorCode, message: string): MigrationError {
    return new MigrationError(code, `disk ${this.id}: ${message}`);
  }
}

/** A disk in memory, for a VM of its own or to be shared by two. Throws `invalid-argument`. */
export function createMemoryDisk(options: MemoryDiskOptions): MemoryDisk {
  return new MemoryDisk(options);
}

/** Everything about the disks that a VM cannot have; empty if all is well. */
export function diskProblems(disks: readonly DiskDescription[]): readonly string[] {
  const problems: string[] = [];
  const ids = new Set<string>();
  for (const { id, sizeBytes, blockBytes } of disks) {
    if (id.length < 1 || id.length > 255) problems.push(`disk ${id}: its id has not 1 to 255 characters`);
    if (ids.has(id)) problems.push(`disk ${id}: there twice`);
    ids.add(id);
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 1) problems.push(`disk ${id}: ${sizeBytes} bytes`);
    if (!isPowerOfTwo(blockBytes, 512, 65536)) {
      problems.push(`disk ${id}: blocks of ${blockBytes} bytes, not a power of two from 512 to 65536`);
    }
  }
  return problems;
}
