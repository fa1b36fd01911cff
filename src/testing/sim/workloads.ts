/** A database: small random reads and writes of a disk. */
export interface OltpWorkload {
  /** Which workload it is. */
  readonly kind: 'oltp';
  /** The disk's id. */
  readonly disk: string;
  /** How many of the operations are reads: 0 to 1. */
  readonly readFraction: number;
  /** Operations a second, offered. */
  readonly iops: number;
  /** Operations that are offered at once. */
  readonly burst: number;
  /** Length of each, in whole blocks of the disk. */
  readonly ioBytes: number;
  /**
   * Operations in flight at most; what is offered beyond waits, for half a second's worth, and is lost then.
   */
  readonly queueDepth: number;
  /** Only the first bytes of the disk are used. Absent: all of it. */
  readonly hotBytes?: number;
  /** How many of the writes put back what an allocated block held when the disk was made: 0 to 1. Absent: none. */
  readonly undoFraction?: number;
  /** How many of the writes are discards instead, after which the range reads as zeros: 0 to 1. Absent: none. */
  readonly discardFraction?: number;
  /**
   * Operations begin at multiples of this, in whole blocks, so that they may overlap in part, and end with the disk, or the hot bytes, at the latest. Absent:
   * of `ioBytes`, so that they overlap in full or not at all.
   */
  readonly alignBytes?: number;
}

/** Memory that is written all over: in a hot part mostly, in a cold part sometimes. */
export interface MemoryDirtierWorkload {
  /** Which workload it is. */
  readonly kind: 'memory-dirtier';
  /** Whole pages, each touch counted by itself. */
  readonly bytesPerSecond: number;
  /** The first bytes of the memory, in which `hotFraction` of the touches are. */
  readonly hotBytes: number;
  /** 0 to 1. */
  readonly hotFraction: number;
  /** The bytes behind the hot ones, in which the others are. */
  readonly coldBytes: number;
}

/** Writes one behind the other, from the start again at the end. */
export interface SequentialWriterWorkload {
  /** Which workload it is. */
  readonly kind: 'sequential-writer';
  /** The disk's id. */
  readonly disk: string;
  /** Offered, in whole operations. */
  readonly bytesPerSecond: number;
  /** Length of each write, in whole blocks of the disk. */
  readonly ioBytes: number;
  /** Operations in flight at most. */
  readonly queueDepth: number;
}

/** Does nothing but look at the clock a hundred times a second, so that it notices when it stood still. */
export interface IdleWorkload {
  /** Which workload it is. */
  readonly kind: 'idle';
}

/** What a simulated guest does by itself. Plain data: it travels in the device state. */
export type SimulatedWorkload =
  | OltpWorkload
  | MemoryDirtierWorkload
  | SequentialWriterWorkload
  | IdleWorkload;

/**
 * An {@link OltpWorkload}: 1000 operations a second, 70 % reads, of 8 KiB, one by one, 32 in flight at most.
 * Checked when started.
 */
export function oltp(options: Partial<OltpWorkload> & { readonly disk: string }): OltpWorkload {
  const defaults = { readFraction: 0.7, iops: 1000, burst: 1, ioBytes: 8192, queueDepth: 32 };
  return { ...defaults, ...options, kind: 'oltp' };
}

/**
 * A {@link MemoryDirtierWorkload}; by default all of its touches are in the hot part. Checked when started.
 */
export function simulatedDirtier(
  options: Partial<MemoryDirtierWorkload> & { readonly bytesPerSecond: number; readonly hotBytes: number },
): MemoryDirtierWorkload {
  return { hotFraction: 1, coldBytes: 0, ...options, kind: 'memory-dirtier' };
}

/** A {@link SequentialWriterWorkload}: writes of 64 KiB, 4 in flight at most. Checked when started. */
export function simulatedWriter(
  options: Partial<SequentialWriterWorkload> & { readonly disk: string; readonly bytesPerSecond: number },
): SequentialWriterWorkload {
  return { ioBytes: 65_536, queueDepth: 4, ...options, kind: 'sequential-writer' };
}

/** An {@link IdleWorkload}. */
export function idle(): IdleWorkload {
  return { kind: 'idle' };
}
