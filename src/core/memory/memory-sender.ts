import type { SendStream } from '../../channel/send-stream.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type { MemorySource, PageBatch, PageRun } from '../../interfaces/memory.ts';
import { sliceChunks } from '../../util/chunks.ts';
import { raceAbort } from '../../util/promises.ts';
import type { ItemRange } from '../../wire/item.ts';
import { itemContentBytesMax, itemRangesMax } from '../../wire/limits.ts';
import type { RecentWrites } from '../audit/recent-writes.ts';

export interface RoundOptions extends CallOptions {
  /** Pages that may wait to be sent when more are read. Default: what a stream holds. */
  readonly queueBytesMax?: () => number;
}

/** Sends rounds of dirty pages. */
export class MemorySender {
  readonly #source: MemorySource;
  readonly #stream: SendStream;
  readonly #recent: RecentWrites;
  #contentBytes = 0;
  #offeredBytes = 0;
  #rounds = 0;

  /** `recent` is told what was sent last. */
  constructor(source: MemorySource, stream: SendStream, recent: RecentWrites) {
    this.#source = source;
    this.#stream = stream;
    this.#recent = recent;
  }

  /** Page content sent so far; zero pages do not count. */
  get contentBytes(): number {
    return this.#contentBytes;
  }

  /** All pages sent so far, zero pages counted in full. */
  get offeredBytes(): number {
    return this.#offeredBytes;
  }

  /** Rounds that were sent to their end. */
  get rounds(): number {
    return this.#rounds;
  }

  /**
   * Sends one round, and resolves to its size in bytes when all of it is queued. Pages are read when less than `queueBytesMax` waits, and no earlier: what the guest
   * writes to them until then is in what is read, and they are sent once.
   */
  async sendRound({ queueBytesMax, ...options }: RoundOptions): Promise<number> {
    const before = this.#offeredBytes;
    for await (const batch of this.#source.round(options)) {
      this.#push(batch);
      await raceAbort(this.#stream.room(queueBytesMax?.()), options.signal);
    }
    this.#rounds++;
    return this.#offeredBytes - before;
  }

  /** Pages of the source that are dirty now: see {@link MemorySource.dirtyBytes}. */
  dirtyBytes(): number | undefined {
    return this.#source.dirtyBytes();
  }

  /** Resolves when less than `bytes` of pages wait to be sent, whatever waits of the disks. */
  queueBelow(bytes: number): Promise<void> {
    return this.#stream.room(bytes);
  }

  #push(batch: PageBatch): void {
    const pageBytes = this.#source.regions.map((region) => region.pageBytes);
    const items = splitIntoItems(batch.runs, pageBytes, this.#stream.itemBytesMax);
    let holders = items.length;
    if (holders === 0) batch.release();
    const release = () => {
      if (--holders === 0) batch.release();
    };
    for (const item of items) {
      for (const range of item) {
        this.#offeredBytes += range.length;
        // The first round says nothing of what the guest writes.
        if (this.#rounds > 0) this.#recent.add(this.#stream.id, range.space, range.offset, range.length);
        if (range.content !== 'zero') this.#contentBytes += range.length;
      }
      this.#stream.push('memory', item, release);
    }
  }
}

/** The runs of a batch in as few items as there can be of so much content each, or of one page: pages stay whole, if an item can hold them. `pageBytes`: of each region. */
export function splitIntoItems(
  runs: readonly PageRun[],
  pageBytes: readonly number[],
  contentBytesMax: number,
): readonly (readonly ItemRange[])[] {
  const items: ItemRange[][] = [];
  let item: ItemRange[] = [];
  let contentBytes = 0;
  const add = (range: ItemRange, bytes: number) => {
    const full = item.length === itemRangesMax || contentBytes + bytes > contentBytesMax;
    if (full && item.length > 0) {
      items.push(item);
      item = [];
      contentBytes = 0;
    }
    item.push(range);
    contentBytes += bytes;
  };
  for (const { region: space, offset, length, content } of runs) {
    if (content === 'zero') {
      add({ space, offset, length, content }, 0);
      continue;
    }
    const page = pageBytes[space] ?? contentBytesMax;
    const step = Math.min(itemContentBytesMax, Math.max(1, Math.floor(contentBytesMax / page)) * page);
    for (let at = 0; at < length; at += step) {
      const bytes = Math.min(step, length - at);
      const part = bytes === length ? content : sliceChunks(content, at, bytes);
      add({ space, offset: offset + at, length: bytes, content: part }, bytes);
    }
  }
  if (item.length > 0) items.push(item);
  return items;
}
