import type { MemoryRegion, PageBatch, PageRun } from '../../interfaces/memory.ts';
import { PAGE_BYTES } from './migration-stream.ts';

/** The most content that the contract allows in one batch. */
const BATCH_BYTES = 1024 * 1024;
/** Zero pages have no content to count: so many pages (64 MiB) and so many runs are a batch, too. */
const BATCH_PAGES_MAX = 16_384;
const BATCH_RUNS_MAX = 1024;
/** Content is gathered in pieces of this size, so that a round of a few pages does not take up a whole batch's memory. */
const SLAB_BYTES = 64 * 1024;
/** What is kept for reuse: as much as an engine has on its way at once by default. */
const FREE_SLABS_MAX = 1024;

interface OpenRun {
  readonly region: number;
  readonly offset: number;
  length: number;
  readonly content: Uint8Array[] | 'zero';
}

/** What comes out: batches, and where a round ends. */
export type AssembledItem = PageBatch | 'roundEnd';

/**
 * Makes rounds and batches of single pages.
 *
 * QEMU does not say where one of its passes over the dirty pages ends and the next begins. But a pass sends a page once at most, so a page
 * that comes again begins a new one; and a pass that has nothing to send shows as an empty part. When a round begins, a busy guest's QEMU stands where it could write no more, soon after
 * the round before ended: what lies in the socket, maybe several passes, and the part that it is in say nothing of what the guest dirtied since. From then on passes count ({@link RoundAssembler.count}): the one that
 * it is in may be of before, and what was dirty when the round began is in the next one at the latest. So a round ends with those two, but for the first, which is one over all
 * pages. A guest that goes through its memory in order repeats no page for a long time: whoever reads the round asks QEMU how many passes
 * there were, and ends it. That a round may be cut a little differently does not matter to what arrives: a page is sent
 * after its dirty mark was cleared, in either.
 */
export class RoundAssembler {
  readonly #seen: readonly Uint8Array[];
  readonly #items: AssembledItem[] = [];
  readonly #freeSlabs: Buffer[] = [];

  #runs: OpenRun[] = [];
  #slabs: Buffer[] = [];
  #slabUsed = SLAB_BYTES;
  /** Where in the last slab the content begins that no run has got yet. */
  #pieceFrom = SLAB_BYTES;
  #bytes = 0;
  #pages = 0;
  /** New passes that may still begin within the round that is assembled. */
  #passesLeft = 0;
  /** Whether passes count: others do not end a round. */
  #counts = true;

  constructor(regions: readonly MemoryRegion[]) {
    this.#seen = regions.map((region) => new Uint8Array(Math.ceil(region.sizeBytes / PAGE_BYTES / 8)));
  }

  /** Items that wait to be taken. */
  get length(): number {
    return this.#items.length;
  }

  /** Whether a round's end waits to be taken. */
  get ends(): boolean {
    return this.#items.includes('roundEnd');
  }

  /** Whether what comes in may end the round; from its end on nothing does, until {@link RoundAssembler.count}. */
  get counts(): boolean {
    return this.#counts;
  }

  /** From here on passes count: what comes was begun after the round was. */
  count(): void {
    if (this.#counts) return;
    this.#counts = true;
    this.#forgetSeen();
  }

  /** From here on no pass ends a round. */
  countNoMore(): void {
    this.#counts = false;
  }

  /** The next batch or round end, if there is one. */
  take(): AssembledItem | undefined {
    return this.#items.shift();
  }

  /** Takes a page in; the content is copied. */
  page(region: number, offset: number, content: Uint8Array | 'zero'): void {
    if (!this.#mark(region, offset / PAGE_BYTES)) {
      this.#newPass();
      this.#mark(region, offset / PAGE_BYTES);
    }
    const zero = content === 'zero';
    const last = this.#runs.at(-1);
    const adjoins = last?.region === region && last.offset + last.length === offset;
    if (last !== undefined && adjoins && (last.content === 'zero') === zero) last.length += PAGE_BYTES;
    else {
      this.#closePiece();
      this.#runs.push({ region, offset, length: PAGE_BYTES, content: zero ? 'zero' : [] });
    }
    if (!zero) this.#copy(content);
    this.#pages++;
    const full = this.#bytes === BATCH_BYTES || this.#pages === BATCH_PAGES_MAX;
    if (full || this.#runs.length === BATCH_RUNS_MAX) this.flush();
  }

  /** The round ends here, unless one has just ended: what was taken in so far belongs to it. */
  endRound(): void {
    this.#forgetSeen();
    if (this.#items.at(-1) !== 'roundEnd') this.#items.push('roundEnd');
    this.#passesLeft = 1;
    this.#counts = false;
  }

  #newPass(): void {
    if (this.#counts && this.#passesLeft === 0) {
      this.endRound();
      return;
    }
    if (this.#counts) this.#passesLeft -= 1;
    this.#forgetSeen();
  }

  /** No page may be twice within a batch. */
  #forgetSeen(): void {
    this.flush();
    for (const marks of this.#seen) marks.fill(0);
  }

  /** Makes a batch of what was taken in so far, if anything was. */
  flush(): void {
    if (this.#runs.length === 0) return;
    this.#closePiece();
    const runs: readonly PageRun[] = this.#runs;
    const slabs = this.#slabs;
    let released = false;
    this.#items.push({
      runs,
      release: () => {
        if (released) return;
        released = true;
        const room = FREE_SLABS_MAX - this.#freeSlabs.length;
        this.#freeSlabs.push(...slabs.slice(0, room));
      },
    });
    this.#runs = [];
    this.#slabs = [];
    this.#slabUsed = SLAB_BYTES;
    this.#pieceFrom = SLAB_BYTES;
    this.#bytes = 0;
    this.#pages = 0;
  }

  /** Remembers a page; false if it was there already. */
  #mark(region: number, page: number): boolean {
    const marks = this.#seen[region];
    if (marks === undefined) return true;
    const bit = 1 << (page & 7);
    const byte = marks[page >>> 3] ?? 0;
    if ((byte & bit) !== 0) return false;
    marks[page >>> 3] = byte | bit;
    return true;
  }

  #copy(content: Uint8Array): void {
    if (this.#slabUsed === SLAB_BYTES) {
      this.#closePiece();
      this.#slabs.push(this.#freeSlabs.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES));
      this.#slabUsed = 0;
      this.#pieceFrom = 0;
    }
    this.#slabs.at(-1)?.set(content, this.#slabUsed);
    this.#slabUsed += PAGE_BYTES;
    this.#bytes += PAGE_BYTES;
  }

  /** Gives the last run the content that has been copied for it since the last time. */
  #closePiece(): void {
    const content = this.#runs.at(-1)?.content;
    const slab = this.#slabs.at(-1);
    if (slab === undefined || this.#pieceFrom === this.#slabUsed) return;
    if (content !== undefined && content !== 'zero')
      content.push(slab.subarray(this.#pieceFrom, this.#slabUsed));
    this.#pieceFrom = this.#slabUsed;
  }
}
