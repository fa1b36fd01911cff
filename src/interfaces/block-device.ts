import type { MigrationError } from '../errors.ts';
import type { ByteRange, CallOptions, Chunks, Content } from './content.ts';

/** One stretch of a disk, as {@link ReadableDisk.extents} describes it. */
export interface Extent extends ByteRange {
  /** True only if the stretch reads as zeros. A hole whose content is undefined is not zero. */
  readonly zero: boolean;
}

/** What both ends can do with a disk. All offsets and lengths are in bytes and lie within the disk. */
export interface ReadableDisk {
  /** The disk's name, the same on both hosts, unique within the VM; 1 to 255 characters. */
  readonly id: string;
  /** Its size in bytes. Does not change during a migration; need not be a multiple of anything. */
  readonly sizeBytes: number;
  /** The logical block size that the guest sees, a power of two from 512 to 65536. */
  readonly blockBytes: number;
  /** True if the guest cannot write it. */
  readonly readOnly: boolean;

  /**
   * Reads a range as it is on the medium now. Several reads may be in flight. The chunks are the caller's: nothing
   * changes them later. Any offset and length are allowed. Rejects with `disk-read`; a failed read changes nothing.
   */
  read(offset: number, length: number, options?: CallOptions): Promise<Chunks>;

  /**
   * The stretches of a range, in order, without gaps, covering all of it. May say data where zeros are, never zeros
   * where data is. On a disk that is being written, a stretch may have changed by the time the caller looks.
   */
  extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]>;

  /** Makes every write that completed before the call durable. Rejects with `disk-write`; then nothing is known to be durable. */
  flush(options?: CallOptions): Promise<void>;
}

/**
 * A disk that the engine fills at the destination, while no guest runs on it. What it holds at first may be anything. With the policy's `seed: 'compare'`
 * the engine reads it, also beside writes to the very range (what comes of that counts for nothing), and leaves in place what is as it should
 * be; a disk that can be written only rejects {@link ReadableDisk.read} with `unsupported`, and is written all over. A flush covers what was there before, too.
 */
export interface BlockDevice extends ReadableDisk {
  /**
   * Writes the chunks one after the other from `offset`. Writes that overlap are never in flight together (the engine
   * sees to it); others may be. When the promise resolves the content may be written over: a disk that needs it longer copies it. After a rejection (`disk-write`, or `disk-full` where there is no room) the range's content is undefined and the migration fails.
   */
  write(offset: number, content: Chunks, options?: CallOptions): Promise<void>;
  /** Makes a range read as zeros; may deallocate it. Ordering and failure as for {@link BlockDevice.write}. */
  writeZeroes(offset: number, length: number, options?: CallOptions): Promise<void>;
  /** Says that a range's content is of no interest any more; it may read as anything afterwards. */
  discard(offset: number, length: number, options?: CallOptions): Promise<void>;
}

/**
 * How a source disk lets the engine see guest writes. `ordered`: each write, in order, before the guest is told (see
 * {@link SourceDisk.tap}). `extents`: only which extents changed (see {@link SourceDisk.track}); they are read again, in passes, the last one with the
 * guest stunned. `none`: not at all; such a disk is copied while the guest is stunned, if the policy's `copyWhileStunned` allows it.
 */
export type TapCapability = 'ordered' | 'extents' | 'none';

/** A guest write that has reached the source's medium. */
export interface GuestWrite extends ByteRange {
  /** What was written. It does not change until {@link GuestWrite.release}. */
  readonly content: Content;
  /** The engine is done with the content. Called exactly once for each write handed to the handler. */
  release(): void;
}

/** The engine's side of a tap. */
export interface TapHandler {
  /**
   * Called once for each guest write after it is on the source's medium and before the guest is told; the guest's
   * completion waits for the promise. Of two overlapping writes the second is held back from the medium until the
   * first one's handler was called. Never throws or rejects. The write's place in the order is fixed when it is called.
   */
  write(write: GuestWrite): Promise<void> | void;
  /** A guest write to this range failed or was torn: what the medium holds there must be read again. */
  invalidate(range: ByteRange): void;
  /** The tap cannot vouch for every write any more (`tap-gap`). Called at most once. The guest goes on unhindered. */
  broken(error: MigrationError): void;
}

/** A tap that is set. */
export interface Tap {
  /**
   * With the guest stunned: resolves once every write since the tap was set has been handed to the handler, and rejects
   * with `tap-gap` if one may be missing. The tap stays until {@link Tap.remove}: a guest that is resumed goes on writing through
   * it, from its first write on, and when it is stunned again the tap can be finished again.
   */
  finish(options?: CallOptions): Promise<void>;
  /**
   * Takes the tap away; the guest's writes go on without it. Never leaves a guest write unanswered. May be called at any time, in any
   * state, also twice (the second call resolves with the first).
   */
  remove(): Promise<void>;
}

/** A dirty log of one disk that is kept. */
export interface DirtyTracker {
  /**
   * The ranges that the guest has written, has zeroed or discarded, or has tried to write, since the tracker was set or the last call, and clears their
   * marks: in any order, they may overlap, and may be wider than what was written. A read that begins after it resolved brings what those
   * writes left; a write is marked after it is on the medium, and before the guest is told, so none falls between two calls. With the guest
   * stunned: all that is left. Rejects with `tap-gap` if a write may be missing; then nothing is known of any of them.
   */
  take(options?: CallOptions): Promise<readonly ByteRange[]>;
  /** Ends it. May be called at any time, also twice. */
  remove(): Promise<void>;
}

/** What guest writes took, added up since some moment that stays the same. */
export interface WriteTimes {
  /** How many were completed. */
  readonly writes: number;
  /** How long they took altogether, in ms: each from when the guest issued it until it was told, what a tap's handler held included. */
  readonly totalMs: number;
}

/** A disk of a running VM at the source. */
export interface SourceDisk extends ReadableDisk {
  /** How its writes can be seen. */
  readonly tapCapability: TapCapability;
  /**
   * Optional. Takes back what one {@link ReadableDisk.read} resolved to, the same chunks: nobody looks at it any more, and it may be read into again. The engine calls it at most once for each
   * read, and not for every one. For disks whose reads would make a new buffer each, for which the collector runs all the time; not for those whose chunks are views of what others look at, too.
   */
  recycle?(content: Chunks): void;
  /**
   * Sets the tap. From when the promise resolves every guest write reaches the handler. One tap at a time (`invalid-state`
   * otherwise). Rejects with `unsupported` unless `tapCapability` is `ordered`; after a rejection no tap is set.
   */
  tap(handler: TapHandler, options?: CallOptions): Promise<Tap>;
  /**
   * Keeps a dirty log: every guest write from when the promise resolves is marked. One at a time (`invalid-state` otherwise). Rejects with
   * `unsupported` unless `tapCapability` is `extents`; after a rejection nothing is kept.
   */
  track(options?: CallOptions): Promise<DirtyTracker>;
  /**
   * What the guest's writes to this disk took so far; the bulk copy goes by it, and yields before the guest suffers. Undefined where the
   * hypervisor cannot tell: then the copy goes by nothing but its own bounds. Rejects with `hypervisor`.
   */
  writeTimes(options?: CallOptions): Promise<WriteTimes | undefined>;
}
