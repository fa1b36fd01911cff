import { isPowerOfTwo, requireArgument } from '../../backends/memory/arguments.ts';
import { MigrationError } from '../../errors.ts';
import type { CallOptions, Chunks, Content } from '../../interfaces/content.ts';
import type { MemoryRegion, MemorySource, PageBatch, PageRange, PageRun } from '../../interfaces/memory.ts';
import { Bitmap } from '../../util/bitmap.ts';
import { throwIfAborted } from '../../util/promises.ts';
import { type ContentSource, contentBytesMax } from './content.ts';
import { type ContentCheck, UnitSpace } from './unit-space.ts';
import type { VmFaultPlan } from './vm-faults.ts';

/** Zero pages in one batch at most: they cost nothing, but the guest must get its turn. */
const batchZeroBytesMax = 1 << 30;
/** Runs in one batch at most, should zero and other pages alternate. */
const batchRunsMax = 512;

export interface SimulatedMemoryOptions {
  readonly vmId: string;
  readonly regions: readonly MemoryRegion[];
  readonly check: ContentCheck;
  readonly faults: VmFaultPlan;
  /** See {@link MemorySource.keepsUnsentPages}. */
  readonly keepsUnsentPages: boolean;
  /** Makes what a region's batches are put into. */
  readonly content: (unitBytes: number) => ContentSource;
}

interface Region {
  readonly space: UnitSpace;
  readonly dirty: Bitmap;
  readonly content: ContentSource;
}

/** A run while it is being put together. */
interface OpenRun {
  readonly region: number;
  readonly from: number;
  to: number;
  readonly zero: boolean;
}

/** Where a round stands: the next page to look at. */
interface Cursor {
  region: number;
  page: number;
}

/** A simulated guest's memory, and its rounds. */
export class SimulatedMemory implements MemorySource {
  readonly regions: readonly MemoryRegion[];
  readonly keepsUnsentPages: boolean;
  readonly #regions: readonly Region[];
  readonly #faults: VmFaultPlan;
  /** Whoever looks at what is written, with a mark for each page that was. */
  readonly #looks = new Set<readonly Bitmap[]>();
  /** The round that is being read; another object, or none, once it was ended. */
  #current: object | undefined;
  #lost = false;

  /** All zeros. Throws `invalid-argument` for regions that cannot be. */
  constructor(options: SimulatedMemoryOptions) {
    const { vmId, check } = options;
    for (const { name, sizeBytes, pageBytes } of options.regions) {
      requireArgument(name.length >= 1 && name.length <= 255, `memory region ${name}: a name of 1 to 255`);
      requireArgument(isPowerOfTwo(pageBytes, 4096, contentBytesMax), `memory region ${name}: its page size`);
      requireArgument(sizeBytes > 0 && sizeBytes % pageBytes === 0, `memory region ${name}: its size`);
    }
    this.regions = options.regions.map((region) => Object.freeze({ ...region }));
    this.keepsUnsentPages = options.keepsUnsentPages;
    this.#faults = options.faults;
    this.#regions = this.regions.map(({ name, sizeBytes, pageBytes }) => {
      const space = new UnitSpace({
        name: `${vmId}/memory/${name}`,
        sizeBytes,
        unitBytes: pageBytes,
        errorCode: 'memory',
        check,
      });
      const dirty = new Bitmap(space.generations.size);
      return { space, dirty, content: options.content(pageBytes) };
    });
    this.markAllDirty();
  }

  /** Each region's content. */
  get spaces(): readonly UnitSpace[] {
    return this.#regions.map(({ space }) => space);
  }

  get totalBytes(): number {
    return this.regions.reduce((sum, region) => sum + region.sizeBytes, 0);
  }

  /** Bytes of pages that hold something other than zeros. */
  get usedBytes(): number {
    let bytes = 0;
    for (const { space } of this.#regions) {
      const { generations, unitBytes } = space;
      for (let from = 0; from < generations.size; ) {
        const to = generations.kindEnd(from, generations.size);
        if (generations.get(from) !== 0) bytes += (to - from) * unitBytes;
        from = to;
      }
    }
    return bytes;
  }

  /** Notes which pages are written from now on, beside the rounds, until the function is called that it returns: it says of how many bytes they are. */
  look(): () => number {
    const marks = this.#regions.map(({ dirty }) => new Bitmap(dirty.size));
    this.#looks.add(marks);
    return () => {
      this.#looks.delete(marks);
      return this.#regions.reduce(
        (sum, { space }, index) => sum + (marks[index]?.count ?? 0) * space.unitBytes,
        0,
      );
    };
  }

  /**
   * A guest's write, from a byte of the memory on, all regions one behind the other. Whole pages become of
   * that generation.
   */
  write(address: number, length: number, generation: number): void {
    let start = address;
    let rest = length;
    for (const [index, { space, dirty }] of this.#regions.entries()) {
      if (rest <= 0) return;
      if (start < space.sizeBytes) {
        const part = Math.min(rest, space.sizeBytes - start);
        space.set(start, part, generation);
        dirty.setRange(...space.unitsOf(start, part));
        for (const marks of this.#looks) marks[index]?.setRange(...space.unitsOf(start, part));
        rest -= part;
        start = 0;
      } else {
        start -= space.sizeBytes;
      }
    }
  }

  /** Puts a run that came from elsewhere into place. Throws `memory` if it does not fit. */
  put({ region, offset, length, content }: PageRun): void {
    const space = this.#regions[region]?.space;
    const fits =
      space !== undefined &&
      offset % space.unitBytes === 0 &&
      length % space.unitBytes === 0 &&
      length > 0 &&
      offset >= 0 &&
      offset + length <= space.sizeBytes;
    if (!fits) throw new MigrationError('memory', `region ${region} has no run of ${length} at ${offset}`);
    space.put(space.decode({ offset, length }, content));
  }

  async *round(options: CallOptions = {}): AsyncGenerator<PageBatch, void, undefined> {
    if (this.#current !== undefined) {
      throw new MigrationError('invalid-state', 'a memory round is being read already');
    }
    const round = {};
    this.#current = round;
    const taken = this.#regions.map(({ dirty }) => new Bitmap(dirty.size));
    const cursor: Cursor = { region: 0, page: 0 };
    let complete = false;
    try {
      for (;;) {
        throwIfAborted(options.signal);
        await this.#meetFault(cursor, options.signal);
        if (this.#lost) throw new MigrationError('memory', 'the guest and its memory are gone');
        if (this.#current !== round) throw new MigrationError('aborted', 'the memory source was stopped');
        const batch = this.#takeBatch(cursor, taken);
        if (batch === undefined) {
          complete = true;
          return;
        }
        yield batch;
      }
    } finally {
      if (this.#current === round) {
        this.#current = undefined;
        if (!complete) this.#giveBack(taken);
      }
    }
  }

  dirtyBytes(): number {
    return this.#regions.reduce((sum, { dirty, space }) => sum + dirty.count * space.unitBytes, 0);
  }

  async read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly Chunks[]> {
    throwIfAborted(options?.signal);
    if (this.#lost) throw new MigrationError('memory', 'the guest and its memory are gone');
    return ranges.map((range) => {
      const { space, content } = this.#placeOf(range);
      return space.read(range.offset, range.length, content);
    });
  }

  async offer(ranges: readonly PageRange[], options?: CallOptions): Promise<void> {
    throwIfAborted(options?.signal);
    for (const range of ranges) {
      const { space, dirty } = this.#placeOf(range);
      dirty.setRange(...space.unitsOf(range.offset, range.length));
    }
  }

  async stop(): Promise<void> {
    this.endRounds();
  }

  /** Ends the round that is being read; the next one is a first one. */
  endRounds(): void {
    this.#current = undefined;
    this.markAllDirty();
  }

  /** The hypervisor is gone: nothing can be read any more. */
  lose(): void {
    this.#lost = true;
  }

  markAllDirty(): void {
    for (const { dirty } of this.#regions) dirty.setRange(0, dirty.size);
  }

  #giveBack(taken: readonly Bitmap[]): void {
    if (!this.keepsUnsentPages) {
      this.markAllDirty();
      return;
    }
    this.#regions.forEach(({ dirty }, index) => {
      const marks = taken[index];
      if (marks === undefined) return;
      for (let from = marks.nextSet(0); from < marks.size; ) {
        const to = marks.nextClear(from);
        dirty.setRange(from, to);
        from = marks.nextSet(to);
      }
    });
  }

  /** `fail` fails the round; `drop` makes the first page that is dirty look clean. */
  async #meetFault(cursor: Cursor, signal: AbortSignal | undefined): Promise<void> {
    const fault = await this.#faults.meet('memory-batch', signal);
    if (fault?.effect === 'fail') throw new MigrationError('memory', 'a read of guest memory failed');
    if (fault?.effect !== 'drop') return;
    for (let index = cursor.region; index < this.#regions.length; index++) {
      const dirty = this.#regions[index]?.dirty;
      const page = dirty?.nextSet(index === cursor.region ? Math.min(cursor.page, dirty.size) : 0);
      if (dirty === undefined || page === undefined || page >= dirty.size) continue;
      dirty.clear(page);
      return;
    }
  }

  /**
   * Takes dirty pages from the cursor on: clears their marks, then fixes their content. Undefined when none
   * is dirty.
   */
  #takeBatch(cursor: Cursor, taken: readonly Bitmap[]): PageBatch | undefined {
    const open: OpenRun[] = [];
    let room = contentBytesMax;
    let zeroRoom = batchZeroBytesMax;
    for (; cursor.region < this.#regions.length; cursor.region++, cursor.page = 0) {
      const region = this.#regions[cursor.region];
      if (region === undefined) break;
      const { space, dirty } = region;
      for (;;) {
        const from = dirty.nextSet(cursor.page);
        cursor.page = from;
        if (from >= dirty.size) break;
        const zero = space.generations.get(from) === 0;
        const pagesMax = Math.floor((zero ? zeroRoom : room) / space.unitBytes);
        if (pagesMax < 1 || open.length === batchRunsMax) return this.#batch(open);
        const kindEnd = space.generations.kindEnd(from, Math.min(dirty.size, from + pagesMax));
        // Not nextClear(): it would look at all that is dirty, for each batch again.
        let to = from + 1;
        while (to < kindEnd && dirty.has(to)) to++;
        open.push({ region: cursor.region, from, to, zero });
        dirty.clearRange(from, to);
        taken[cursor.region]?.setRange(from, to);
        cursor.page = to;
        if (zero) zeroRoom -= (to - from) * space.unitBytes;
        else room -= (to - from) * space.unitBytes;
      }
    }
    return open.length === 0 ? undefined : this.#batch(open);
  }

  #batch(open: readonly OpenRun[]): PageBatch {
    const releases: (() => void)[] = [];
    const runs = open.map(({ region, from, to, zero }): PageRun => {
      const { space, content: source } = this.#regionOf(region);
      const [offset, length] = [from * space.unitBytes, (to - from) * space.unitBytes];
      let content: Content = 'zero';
      if (!zero) {
        const lent = source.lend(length);
        space.stampInto(lent.bytes, from, to);
        releases.push(lent.release);
        content = [lent.bytes];
      }
      return { region, offset, length, content };
    });
    return {
      runs,
      release: () => {
        for (const release of releases.splice(0)) release();
      },
    };
  }

  #placeOf({ region, offset, length }: PageRange): Region {
    const found = this.#regions[region];
    if (found !== undefined && offset >= 0 && offset + length <= found.space.sizeBytes) return found;
    throw new MigrationError('memory', `region ${region} has no ${length} bytes at ${offset}`);
  }

  #regionOf(index: number): Region {
    const region = this.#regions[index];
    if (region === undefined) throw new MigrationError('internal', `there is no memory region ${index}`);
    return region;
  }
}
