import type { ByteRange, CallOptions, Chunks, Content } from './content.ts';

/** One region of guest memory. Regions may be scattered over the guest's address space. */
export interface MemoryRegion {
  /** Its name, the same on both hosts, unique within the VM; 1 to 255 characters. */
  readonly name: string;
  /** Its size in bytes, a multiple of `pageBytes`. */
  readonly sizeBytes: number;
  /** The size of its pages: a power of two, 4096 or more. */
  readonly pageBytes: number;
}

/** Adjoining pages of one region with their content. */
export interface PageRun {
  /** Index into {@link MemorySource.regions}. */
  readonly region: number;
  /** Byte offset within the region, a multiple of its page size. */
  readonly offset: number;
  /** Length in bytes, a multiple of the page size, more than 0. */
  readonly length: number;
  /** What the pages hold. */
  readonly content: Content;
}

/** A stretch of one region: `offset` and `length` are multiples of 4096, and it lies within the region. */
export interface PageRange extends ByteRange {
  /** Index into {@link MemorySource.regions}. */
  readonly region: number;
}

/** What a round yields: some runs, 1 MiB of content together at most. No page twice within one batch. */
export interface PageBatch {
  /** In any order. */
  readonly runs: readonly PageRun[];
  /** The engine is done with the content, which did not change until now. Called exactly once. */
  release(): void;
}

/** The running VM's memory, as rounds of dirty pages. */
export interface MemorySource {
  /** As in the description. */
  readonly regions: readonly MemoryRegion[];

  /**
   * One round: the pages dirtied since the round before began; in the first round, all. A page's content is read after its
   * dirty mark was cleared, so a write that comes later is in a later round; should a page come twice, the later one wins. A round
   * is read to its end or ended early (`return()`, or the signal); what an unfinished round had taken, it gives back to the
   * next one, or, if {@link MemorySource.keepsUnsentPages} is false, the next round offers every page again. One round at a
   * time (`invalid-state`). With the guest stunned, a round ends when no page is dirty; the engine asks for rounds until one is
   * empty. Rejects with `memory`.
   */
  round(options?: CallOptions): AsyncIterable<PageBatch>;

  /** Whether pages of an unfinished round come again in the next. */
  readonly keepsUnsentPages: boolean;

  /** Bytes of pages that are dirty now, or undefined if that cannot be told without a round. */
  dirtyBytes(): number | undefined;

  /**
   * For the audit: what the hypervisor itself has in these ranges, not what rounds brought. Called with the guest stunned, its state saved and a round
   * empty, with some hundred small ranges at a time; it is a part of the downtime. For an estimate of a migration that may compress it is called too, once, with nothing
   * set up and the guest running: then what the guest writes meanwhile may be there in part. Resolves to the content of each, in their order; undefined for a
   * range that it cannot read, or where the ends may rightly differ. The content is the caller's: nothing changes it later. Rejects with `memory`, and then
   * no more of it is audited, and with `unsupported` without the capability `auditMemory`.
   */
  read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly (Chunks | undefined)[]>;

  /**
   * An audit found these pages to be other ones at the destination: they come again in a round that begins after the guest was resumed, whatever the
   * dirty log says of them. Called with the guest stunned, before it is resumed. Where every page comes again after a stun there is nothing to
   * do. Rejects with `memory`, and with `unsupported` without the capability `auditMemory`.
   */
  offer(ranges: readonly PageRange[], options?: CallOptions): Promise<void>;

  /** Ends all rounds and whatever dirty tracking costs. Idempotent. After it, a new migration may begin with a first round. */
  stop(): Promise<void>;
}

/** The destination VM's memory, before the guest runs. */
export interface MemorySink {
  /** As in the description. */
  readonly regions: readonly MemoryRegion[];
  /**
   * Puts pages into place. Calls do not overlap in time: the engine waits for one before the next. When the promise resolves the
   * content may be reused. Rejects with `memory`; then the migration fails.
   */
  write(runs: readonly PageRun[], options?: CallOptions): Promise<void>;
  /**
   * For the audit, as {@link MemorySource.read}: what the guest will find there. Called when all content was written, one call at a time, before
   * the device state is loaded. Rejects with `memory`, and with `unsupported` without the capability `auditMemory`.
   */
  read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly (Chunks | undefined)[]>;
}
