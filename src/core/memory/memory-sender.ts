import type { SendStream } from '../../channel/send-stream.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type { MemorySource, PageBatch } from '../../interfaces/memory.ts';
import { raceAbort } from '../../util/promises.ts';
import type { RecentWrites } from '../audit/recent-writes.ts';
import { splitIntoItems } from '../split-into-items.ts';

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
    const ranges = batch.runs.map(({ region, ...range }) => ({ space: region, ...range }));
    const items = splitIntoItems(ranges, pageBytes, this.#stream.itemBytesMax);
    for (const range of items.flat()) {
      this.#offeredBytes += range.length;
      // The first round says nothing of what the guest writes.
      if (this.#rounds > 0) this.#recent.add(this.#stream.id, range.space, range.offset, range.length);
      if (range.content !== 'zero') this.#contentBytes += range.length;
    }
    this.#stream.pushAll('memory', items, () => batch.release());
  }
}
