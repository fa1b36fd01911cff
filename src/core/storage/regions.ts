import { MigrationError } from '../../errors.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import { Bitmap } from '../../util/bitmap.ts';
import { HotRegions } from './hot-regions.ts';

/** What is to be done with a guest write: see {@link Regions.guestWrite}. */
export type WriteVerdict = 'nothing' | 'mirror' | 'held';

/** The disk that {@link Regions} divides. */
export interface RegionsOptions {
  /** Size of the disk: 0 or more, need not be a multiple of `regionBytes`; then the last region is shorter. */
  readonly sizeBytes: number;
  /** Size of a region: 1 or more. */
  readonly regionBytes: number;
  /** What the guest writes in two different stretches of the copy of this length waits for the rest: {@link HotRegions}. Default: nothing waits. */
  readonly spellBytes?: number;
  /** So many regions wait together, or none of them. Default 8: at 64 KiB that is one read, so that what is left out does not break reads to pieces. */
  readonly unitRegions?: number;
}

/** The regions `first` to `end` - 1. */
interface Span {
  readonly first: number;
  readonly end: number;
}

interface HeldWrite<W> extends Span {
  readonly item: W;
}

/**
 * The source's rules for one disk: which region is read when, and what becomes of a guest write. Pure: it does no
 * I/O, and whoever calls it takes the numbers.
 *
 * ```
 *                nextToCopy()                 copyNumbered()
 *  not copied ───────────────► being copied ─────────────────► copied
 *      ▲                            │                            │
 *      └───── copyFailed() ─────────┴───────── setBack() ────────┘
 * ```
 *
 * What it guards is one sentence: **whenever a byte's content at the destination is older than at the source, something with a higher
 * number is still to come for it.** Every item, bulk or mirrored, carries a number that fixes its place; the destination puts them in
 * order. A guest write is told here after it is on the source's medium, so a bulk read under way may hold it or not, byte by byte.
 *
 * - In a region *not copied* it needs nothing: the read that will come sees it.
 * - In a region *copied* it is mirrored.
 * - In a region *being copied* it is held until the bulk read has its number, so that it gets a higher one; the read
 *   may have missed it. (That number is taken after the read returned and before `copyNumbered`. Taken before `nextToCopy`, or after
 *   `copyNumbered`, it would put old content above new.)
 *
 * A write over several regions is treated as the strictest of them. From that follow two rules about regions in which
 * a held write lies, which wait for a region next to them:
 *
 * - A later write there that would be mirrored is held behind it, or it would get a lower number than the write it overwrote.
 * - Such a region, if not copied, is not taken for copying before the held write was let go: the read would see what came later,
 *   get a number, and then be covered by the held write with a higher one.
 *
 * Both go by region, not by byte: that holds a little more than it must, for the length of one bulk read.
 *
 * A region that is set back while it is being copied is *not copied* from then on, but is not taken again before that read has
 * come back; what the read brings is harmless, as the next one has a higher number.
 */
export class Regions<W> {
  readonly #sizeBytes: number;
  readonly #regionBytes: number;
  readonly #count: number;
  /** Region states: in neither of these two is *not copied*. */
  readonly #copied: Bitmap;
  readonly #beingCopied: Bitmap;
  /** Regions that a bulk read is out for: those being copied, and those set back meanwhile. */
  readonly #reading: Bitmap;
  /** Regions in which a held write lies. */
  readonly #waiting: Bitmap;
  /** Regions whose bulk read has had its number at least once. */
  readonly #copiedOnce: Bitmap;
  /** What waits for the rest, the first time around. */
  #hot: HotRegions | undefined;
  /** In the order of the guest's writes. */
  #held: HeldWrite<W>[] = [];
  /** Where the next search begins. */
  #cursor = 0;

  /** All of the disk is not copied. Throws `internal` for sizes out of range. */
  constructor({ sizeBytes, regionBytes, spellBytes, unitRegions = 8 }: RegionsOptions) {
    if (
      !(
        Number.isSafeInteger(sizeBytes) &&
        sizeBytes >= 0 &&
        Number.isSafeInteger(regionBytes) &&
        regionBytes > 0
      )
    ) {
      throw new MigrationError('internal', `no regions of ${regionBytes} bytes on a disk of ${sizeBytes}`);
    }
    this.#sizeBytes = sizeBytes;
    this.#regionBytes = regionBytes;
    this.#count = Math.ceil(sizeBytes / regionBytes);
    this.#copied = new Bitmap(this.#count);
    this.#beingCopied = new Bitmap(this.#count);
    this.#reading = new Bitmap(this.#count);
    this.#waiting = new Bitmap(this.#count);
    this.#copiedOnce = new Bitmap(this.#count);
    if (spellBytes !== undefined)
      this.#hot = new HotRegions(this.#count, unitRegions, spellBytes / regionBytes);
  }

  /** Bytes that a bulk read has yet to be begun for. */
  get notCopiedBytes(): number {
    return this.#sizeBytes - this.#bytesOf(this.#copied) - this.#bytesOf(this.#beingCopied);
  }

  /** Bytes that a bulk read is out for, and were not set back since. */
  get beingCopiedBytes(): number {
    return this.#bytesOf(this.#beingCopied);
  }

  /** Guest writes that are held. 0 when no bulk read is out. */
  get heldCount(): number {
    return this.#held.length;
  }

  /** Everything is copied, and no write is held. A later {@link Regions.setBack} ends that again. */
  get complete(): boolean {
    return this.#copied.count === this.#count && this.#held.length === 0;
  }

  /** Every region was copied, though it may have been set back since. */
  get allCopiedOnce(): boolean {
    return this.#copiedOnce.count === this.#count;
  }

  /**
   * The next stretch to read: adjoining regions, `bytesMax` together at most but always one region. They are being copied from now
   * on, until {@link Regions.copyNumbered} or {@link Regions.copyFailed} is called for them, at once or in pieces of whole regions;
   * several stretches may be out. Goes around the disk, so that what was set back is met after the rest, and the first time passes over what
   * the guest writes often: nothing is passed over for ever, nor while there is nothing else to take. Undefined if there is
   * nothing to take now; if `complete` is false then, ask again when a read that is out has ended. Only regions that end at `endBytes` or
   * before it are taken (default: all), whole ones or the last.
   */
  nextToCopy(bytesMax: number, endBytes = this.#sizeBytes): ByteRange | undefined {
    const count = endBytes >= this.#sizeBytes ? this.#count : Math.floor(endBytes / this.#regionBytes);
    let first = this.#nextToTake(Math.min(this.#cursor, count));
    const around = first >= count;
    if (around) {
      if (count === this.#count) this.#hot = undefined;
      first = this.#nextFree(0);
      if (first >= count) return undefined;
    }
    const limit = Math.min(count, first + Math.max(1, Math.floor(bytesMax / this.#regionBytes)));
    let end = first + 1;
    while (end < limit && (around ? this.#nextFree(end) : this.#nextToTake(end)) === end) end += 1;
    this.#hot?.took(end - first);
    this.#beingCopied.setRange(first, end);
    this.#reading.setRange(first, end);
    this.#cursor = end;
    const offset = first * this.#regionBytes;
    return { offset, length: Math.min(end * this.#regionBytes, this.#sizeBytes) - offset };
  }

  /**
   * The read of `range` has returned, and its content has been given its number; called at once after that. Its regions are copied,
   * but for those set back meanwhile. Returns the held writes that are free now, in their order: they get the next numbers
   * and are mirrored. Throws `internal` unless these are whole regions that a read is out for.
   */
  copyNumbered(range: ByteRange): readonly W[] {
    const span = this.#readSpan(range);
    for (let region = span.first; region < span.end; region++) {
      if (this.#beingCopied.has(region)) this.#copied.set(region);
    }
    this.#copiedOnce.setRange(span.first, span.end);
    return this.#readEnded(span);
  }

  /** The read of `range` failed, or was given up: its regions are not copied. Otherwise as {@link Regions.copyNumbered}. */
  copyFailed(range: ByteRange): readonly W[] {
    return this.#readEnded(this.#readSpan(range));
  }

  /**
   * A guest write that is on the medium. `nothing`: done with. `mirror`: it takes the next number and is sent. `held`: `item` comes
   * back from {@link Regions.copyNumbered} or {@link Regions.copyFailed} later, and is mirrored then. If there is
   * no room to keep it, call {@link Regions.setBack} instead. Throws `internal` for a range outside the disk.
   */
  guestWrite(range: ByteRange, item: W): WriteVerdict {
    const { first, end } = this.#span(range);
    this.#hot?.wrote(first, end);
    if (!this.#beingCopied.anyInRange(first, end)) {
      if (!this.#copied.anyInRange(first, end)) return 'nothing';
      if (!this.#waiting.anyInRange(first, end)) return 'mirror';
    }
    this.#held.push({ first, end, item });
    this.#waiting.setRange(first, end);
    return 'held';
  }

  /**
   * What the medium holds in `range` has to be read (again): a guest write could not be mirrored, or failed half-way, or nobody
   * knows what was written. Its regions are not copied. Throws `internal` for a range outside the disk.
   */
  setBack(range: ByteRange): void {
    const { first, end } = this.#span(range);
    this.#hot?.wrote(first, end);
    this.#copied.clearRange(first, end);
    this.#beingCopied.clearRange(first, end);
  }

  /** It is over, one way or another: returns the held writes, none of which is to be mirrored. Nothing else is called after it. */
  abandon(): readonly W[] {
    const held = this.#held.map((write) => write.item);
    this.#held = [];
    return held;
  }

  /** As {@link Regions.#nextFree}, without what is written often. */
  #nextToTake(from: number): number {
    for (let region = this.#nextFree(from); ; ) {
      const cold = this.#hot?.nextCold(region) ?? region;
      if (cold === region || region === this.#count) return region;
      region = this.#nextFree(Math.min(cold, this.#count));
    }
  }

  /** The first region, at `from` or behind it, that may be taken for copying; the number of regions if there is none. */
  #nextFree(from: number): number {
    for (let region = from; ; ) {
      const free = this.#waiting.nextClear(this.#reading.nextClear(this.#copied.nextClear(region)));
      if (free === region || free === this.#count) return free;
      region = free;
    }
  }

  #readEnded({ first, end }: Span): readonly W[] {
    this.#beingCopied.clearRange(first, end);
    this.#reading.clearRange(first, end);
    const released: W[] = [];
    const stillHeld: HeldWrite<W>[] = [];
    for (const write of this.#held) this.#waiting.clearRange(write.first, write.end);
    for (const write of this.#held) {
      const behindRead = this.#reading.anyInRange(write.first, write.end);
      if (behindRead || this.#waiting.anyInRange(write.first, write.end)) {
        this.#waiting.setRange(write.first, write.end);
        stillHeld.push(write);
      } else {
        released.push(write.item);
      }
    }
    this.#held = stillHeld;
    return released;
  }

  #readSpan(range: ByteRange): Span {
    const { first, end } = this.#span(range);
    const isWhole =
      range.offset === first * this.#regionBytes &&
      range.offset + range.length === Math.min(end * this.#regionBytes, this.#sizeBytes);
    if (!isWhole || first === end || this.#reading.nextClear(first) < end) {
      throw new MigrationError('internal', `no bulk read of ${range.length} from ${range.offset} is out`);
    }
    return { first, end };
  }

  #span({ offset, length }: ByteRange): Span {
    if (!(Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= this.#sizeBytes)) {
      throw new MigrationError(
        'internal',
        `${length} from ${offset} is not on a disk of ${this.#sizeBytes} bytes`,
      );
    }
    const first = Math.floor(offset / this.#regionBytes);
    return { first, end: length === 0 ? first : Math.ceil((offset + length) / this.#regionBytes) };
  }

  #bytesOf(regions: Bitmap): number {
    const bytes = regions.count * this.#regionBytes;
    const hasLast = this.#count > 0 && regions.has(this.#count - 1);
    return hasLast ? bytes - (this.#count * this.#regionBytes - this.#sizeBytes) : bytes;
  }
}
