import { constants } from 'node:buffer';
import { MigrationError } from '../../errors.ts';
import type { Chunks } from '../../interfaces/content.ts';
import type { MemoryRegion, PageBatch, PageRange, PageRun } from '../../interfaces/memory.ts';
import { chunksLength } from '../../util/chunks.ts';
import type { Prng } from '../../util/prng.ts';
import { isPowerOfTwo, requireArgument, requireRange } from './arguments.ts';
import { CHUNK_BYTES, type Loan, MemoryChunks } from './memory-chunks.ts';
import { PageBitmap } from './page-bitmap.ts';

/** The content of one batch at most, and so the largest page: what the contract of `PageBatch` allows. */
const BATCH_BYTES_MAX = CHUNK_BYTES;

/** Zero pages in one batch at most: they cost nothing to send, but time to look at. */
const BATCH_ZERO_BYTES_MAX = 16 * 1024 * 1024;

/** Runs in one batch at most, should zero and other pages alternate. */
const BATCH_RUNS_MAX = 512;

/**
 * How the memory of a new VM is filled: `random`, `zero`, or the fraction of its pages, 0 to 1, that are
 * zero.
 */
export type MemoryFill = 'random' | 'zero' | number;

/** Where a round stands: the next page to look at. */
export interface RoundCursor {
  region: number;
  page: number;
}

/** Some of the pages: those that are marked in each region's bitmap, or those that are not. */
export interface Part {
  readonly of: readonly PageBitmap[];
  readonly marked: boolean;
}

/** A run while it is being put together. */
interface OpenRun {
  readonly region: number;
  readonly offset: number;
  length: number;
  readonly zero: boolean;
}

interface Region {
  readonly description: MemoryRegion;
  readonly bytes: MemoryChunks;
  readonly dirty: PageBitmap;
}

/**
 * A simulated guest's memory: real bytes, and a dirty mark for every page. All pages are dirty at first.
 */
export class GuestMemory {
  /** As they were given. */
  readonly regions: readonly MemoryRegion[];
  readonly #regions: Region[];
  /** Whoever looks at what is written, with a mark for each page that was. */
  readonly #looks = new Set<readonly PageBitmap[]>();
  #freed = false;

  /**
   * Zero-filled. Throws `invalid-argument` if a region's sizes, or its name, are not as {@link MemoryRegion}
   * says.
   */
  constructor(regions: readonly MemoryRegion[]) {
    const problem = regionProblems(regions)[0];
    requireArgument(problem === undefined, problem ?? '');
    this.regions = regions.map((region) => Object.freeze({ ...region }));
    this.#regions = this.regions.map((description) => {
      const bytes = new MemoryChunks(description.sizeBytes);
      return { description, bytes, dirty: new PageBitmap(pageCount(description)) };
    });
    this.markAllDirty();
  }

  /** A copy of some bytes. Throws `invalid-argument`, and `memory` once they were freed. */
  read(region: number, offset: number, length: number): Buffer {
    const { bytes, description } = this.#region(region);
    requireRange(`memory region ${description.name}`, offset, length, bytes.sizeBytes);
    return bytes.read(offset, length);
  }

  /** A copy of each range. Throws `memory` for one that does not lie within its region, and once the bytes were freed. */
  readRanges(ranges: readonly PageRange[]): readonly Chunks[] {
    return ranges.map((range) => {
      this.#requirePlace(range);
      return [this.read(range.region, range.offset, range.length)];
    });
  }

  /** Every page that the ranges touch counts as written. Throws `memory` for one that does not lie within its region. */
  markDirty(ranges: readonly PageRange[]): void {
    for (const range of ranges) {
      this.#requirePlace(range);
      const { dirty, description } = this.#region(range.region);
      const first = Math.floor(range.offset / description.pageBytes);
      const end = Math.ceil((range.offset + range.length) / description.pageBytes);
      for (let page = first; page < end; page += 1) dirty.set(page);
    }
  }

  /** Fills all pages as `fill` says. Leaves no dirty mark. */
  fill(fill: MemoryFill, prng: Prng): void {
    if (fill === 'zero') return;
    const zeroFraction = fill === 'random' ? 0 : fill;
    requireArgument(zeroFraction >= 0 && zeroFraction <= 1, `fill: ${fill} is not a fraction from 0 to 1`);
    for (const { bytes, description } of this.#regions) {
      for (let offset = 0; offset < bytes.sizeBytes; offset += description.pageBytes) {
        if (zeroFraction > 0 && prng.fraction() < zeroFraction) continue;
        bytes.change(offset, description.pageBytes, (page) => prng.fill(page));
      }
    }
  }

  /**
   * A guest's write: bytes into place, then the dirty marks. Returns how many pages it touched. Throws
   * `invalid-argument`.
   */
  write(region: number, offset: number, content: Uint8Array): number {
    const { bytes, dirty, description } = this.#region(region);
    requireRange(`memory region ${description.name}`, offset, content.byteLength, bytes.sizeBytes);
    if (content.byteLength === 0) return 0;
    bytes.write(offset, content);
    const first = Math.floor(offset / description.pageBytes);
    const last = Math.floor((offset + content.byteLength - 1) / description.pageBytes);
    for (let page = first; page <= last; page += 1) dirty.set(page);
    for (const looks of this.#looks) for (let page = first; page <= last; page += 1) looks[region]?.set(page);
    return last - first + 1;
  }

  /**
   * Puts a run that came from elsewhere into place, without dirty marks. Throws `memory` if it does not fit.
   */
  put(run: PageRun): void {
    const { bytes, description } = this.#region(run.region);
    const { offset, length, content } = run;
    const whole = offset % description.pageBytes === 0 && length % description.pageBytes === 0;
    const fits = whole && length > 0 && offset >= 0 && offset + length <= bytes.sizeBytes;
    if (!fits || (content !== 'zero' && chunksLength(content) !== length)) {
      throw new MigrationError(
        'memory',
        `a run of ${length} bytes at ${offset} of ${description.name} is not one of whole pages`,
      );
    }
    if (content === 'zero') {
      putZeros(bytes, offset, length, description.pageBytes);
      return;
    }
    let at = offset;
    for (const chunk of content) {
      bytes.write(at, chunk);
      at += chunk.byteLength;
    }
  }

  /** Bytes of pages that are dirty. */
  dirtyBytes(): number {
    let total = 0;
    for (const { dirty, description } of this.#regions) total += dirty.count * description.pageBytes;
    return total;
  }

  /**
   * Notes which pages are written from now on, beside the rounds, until the function is called that it returns: it says of how many bytes they are. Throws
   * `memory` once the bytes were freed.
   */
  look(): () => number {
    const marks = this.newMarks();
    this.#looks.add(marks);
    return () => {
      this.#looks.delete(marks);
      return this.#regions.reduce(
        (sum, { description }, index) => sum + (marks[index]?.count ?? 0) * description.pageBytes,
        0,
      );
    };
  }

  /** About how many bytes of pages hold something other than zeros: by looking at so many of them, evenly spread. */
  usedBytes(samples: number): number {
    const totalBytes = this.regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    let used = 0;
    for (const { bytes, description } of this.#regions) {
      const { pageBytes, sizeBytes } = description;
      const pages = sizeBytes / pageBytes;
      const looks = Math.min(pages, Math.max(1, Math.round((samples * sizeBytes) / totalBytes)));
      let nonZero = 0;
      for (let look = 0; look < looks; look += 1) {
        if (!bytes.isZero(Math.floor(((look + 0.5) * pages) / looks) * pageBytes, pageBytes)) nonZero += 1;
      }
      used += (sizeBytes * nonZero) / looks;
    }
    return Math.round(used);
  }

  /** Every page counts as written. */
  markAllDirty(): void {
    for (const { dirty } of this.#regions) dirty.setAll();
  }

  /** A bitmap for each region, all clear: what {@link GuestMemory.take} writes into. */
  newMarks(): readonly PageBitmap[] {
    this.#requireThere();
    return this.#regions.map(({ dirty }) => new PageBitmap(dirty.size));
  }

  /** Marks pages dirty again that a round had taken. */
  giveBack(taken: readonly PageBitmap[]): void {
    this.#regions.forEach(({ dirty }, index) => {
      const marks = taken[index];
      if (marks !== undefined) dirty.setFrom(marks);
    });
  }

  /**
   * Takes dirty pages from `cursor` on, as one batch: clears their marks, notes them in `taken`, and lends their content, adjoining
   * pages as one run. Moves the cursor. Of all pages, or of those alone that are marked in `part.of`, or are not. Undefined when no such page is dirty
   * from the cursor on.
   */
  take(cursor: RoundCursor, taken: readonly PageBitmap[], part?: Part): PageBatch | undefined {
    this.#requireThere();
    const open = this.#open(cursor, taken, part);
    if (open.length === 0) return undefined;
    const loans: Loan[] = [];
    const runs = open.map(({ region, offset, length, zero }): PageRun => {
      if (zero) return { region, offset, length, content: 'zero' };
      const loan = this.#region(region).bytes.lend(offset, length);
      loans.push(loan);
      return { region, offset, length, content: loan.pieces };
    });
    // Once: a loan that ended twice would end somebody else's, too.
    return {
      runs,
      release: () => {
        for (const loan of loans.splice(0)) loan.end();
      },
    };
  }

  /** The pages of the next batch as runs. */
  #open(cursor: RoundCursor, taken: readonly PageBitmap[], part?: Part): readonly OpenRun[] {
    const open: OpenRun[] = [];
    let room = BATCH_BYTES_MAX;
    let zeroRoom = BATCH_ZERO_BYTES_MAX;
    let last: OpenRun | undefined;
    for (; cursor.region < this.#regions.length; cursor.region += 1, cursor.page = 0) {
      const { description, bytes, dirty } = this.#region(cursor.region);
      const { pageBytes } = description;
      const marks = taken[cursor.region];
      for (let page = dirty.nextSet(cursor.page); page !== -1; page = dirty.nextSet(page + 1)) {
        cursor.page = page;
        if (part !== undefined && part.of[cursor.region]?.has(page) !== part.marked) continue;
        if (room < pageBytes || zeroRoom < pageBytes) return open;
        const offset = page * pageBytes;
        const zero = bytes.isZero(offset, pageBytes);
        if (last?.region === cursor.region && last.zero === zero && last.offset + last.length === offset) {
          last.length += pageBytes;
        } else {
          if (open.length === BATCH_RUNS_MAX) return open;
          last = { region: cursor.region, offset, length: pageBytes, zero };
          open.push(last);
        }
        dirty.clear(page);
        marks?.set(page);
        if (zero) zeroRoom -= pageBytes;
        else room -= pageBytes;
      }
    }
    return open;
  }

  /** Whether {@link GuestMemory.free} was called. */
  get freed(): boolean {
    return this.#freed;
  }

  /**
   * Lets go of the bytes: everything that needs them throws `memory` from now on. What is on loan stays.
   */
  free(): void {
    this.#freed = true;
    this.#regions.length = 0;
  }

  #requirePlace({ region, offset, length }: PageRange): void {
    this.#requireThere();
    const sizeBytes = this.regions[region]?.sizeBytes ?? 0;
    if (offset >= 0 && length >= 0 && offset + length <= sizeBytes) return;
    throw new MigrationError('memory', `memory region ${region} has no ${length} bytes at ${offset}`);
  }

  #requireThere(): void {
    if (this.#freed) throw new MigrationError('memory', 'the memory was freed', { guest: 'lost' });
  }

  #region(index: number): Region {
    const region = this.#regions[index];
    if (region !== undefined) return region;
    this.#requireThere();
    throw new MigrationError('invalid-argument', `there is no memory region ${index}`);
  }
}

/** Everything about the regions that a {@link GuestMemory} cannot have; empty if all is well. */
export function regionProblems(regions: readonly MemoryRegion[]): readonly string[] {
  const problems: string[] = [];
  const names = new Set<string>();
  for (const { name, sizeBytes, pageBytes } of regions) {
    if (name.length < 1 || name.length > 255)
      problems.push(`memory region ${name}: its name has not 1 to 255 characters`);
    if (names.has(name)) problems.push(`memory region ${name}: named twice`);
    names.add(name);
    if (!isPowerOfTwo(pageBytes, 4096, BATCH_BYTES_MAX)) {
      problems.push(
        `memory region ${name}: pages of ${pageBytes} bytes, not a power of two from 4096 to ${BATCH_BYTES_MAX}`,
      );
    } else if (!(sizeBytes > 0 && sizeBytes <= constants.MAX_LENGTH && sizeBytes % pageBytes === 0)) {
      problems.push(
        `memory region ${name}: ${sizeBytes} bytes, not whole pages of ${pageBytes} up to ${constants.MAX_LENGTH} together`,
      );
    }
  }
  return problems;
}

function pageCount(region: MemoryRegion): number {
  return region.sizeBytes / region.pageBytes;
}

/** Looks before it writes: memory that was never touched stays unallocated by the host. */
function putZeros(bytes: MemoryChunks, offset: number, length: number, pageBytes: number): void {
  for (let at = offset; at < offset + length; at += pageBytes) {
    if (!bytes.isZero(at, pageBytes)) bytes.change(at, pageBytes, (page) => page.fill(0));
  }
}
