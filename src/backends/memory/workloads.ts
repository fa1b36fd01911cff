/** Small disk writes at random places, each at a multiple of its length. */
export interface RandomWriter {
  /** Which workload it is. */
  readonly kind: 'random-writer';
  /** The disk's id. */
  readonly disk: string;
  /** Length of each write. */
  readonly bytes: number;
  /** More than 0. */
  readonly writesPerSecond: number;
  /** Only the first bytes of the disk are written. Absent: all of it. */
  readonly hotBytes?: number;
}

/** Disk writes one behind the other, from the start again at the end. */
export interface SequentialWriter {
  /** Which workload it is. */
  readonly kind: 'sequential-writer';
  /** The disk's id. */
  readonly disk: string;
  /** Length of each write. */
  readonly bytes: number;
  /** More than 0. */
  readonly bytesPerSecond: number;
}

/** Memory writes of a few bytes each, to pages at random. */
export interface MemoryDirtier {
  /** Which workload it is. */
  readonly kind: 'memory-dirtier';
  /** Counted as 4 KiB for each write, whatever the page size. */
  readonly bytesPerSecond: number;
  /** Only the first bytes of the memory, all regions in order, are written. Absent: all of it. */
  readonly hotBytes?: number;
}

/** What a guest does by itself. Plain data: it travels in the device state. */
export type WorkloadSpec = RandomWriter | SequentialWriter | MemoryDirtier;

/** A {@link RandomWriter}; `bytes` 8192 by default. Checked when it is started. */
export function randomWriter(
  options: Omit<RandomWriter, 'kind' | 'bytes'> & { readonly bytes?: number },
): RandomWriter {
  return { kind: 'random-writer', bytes: 8192, ...options };
}

/** A {@link SequentialWriter}. Checked when it is started. */
export function sequentialWriter(options: Omit<SequentialWriter, 'kind'>): SequentialWriter {
  return { kind: 'sequential-writer', ...options };
}

/** A {@link MemoryDirtier}. Checked when it is started. */
export function memoryDirtier(options: Omit<MemoryDirtier, 'kind'>): MemoryDirtier {
  return { kind: 'memory-dirtier', ...options };
}
