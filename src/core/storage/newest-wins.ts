import { MigrationError } from '../../errors.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import { IntervalMap } from '../../util/interval-map.ts';

/** A piece of one of the ranges that were given to {@link NewestWins.arrived}. */
export interface Part extends ByteRange {
  /** Which of the ranges it belongs to. Its place in the range's content is its offset less the range's. */
  readonly index: number;
}

/** What there was to do for items, and is; newer ones have come for what of `arrived` is neither begun nor left. */
export interface Work {
  /** For all that have arrived. */
  readonly arrived: number;
  /** For the parts that have begun; of an item that has, the first one at once, and the others when it has finished. */
  readonly begun: number;
  /** For those that have not, and how many they are. */
  readonly left: number;
  readonly waiting: number;
}

interface Item {
  /** What it claimed. */
  readonly parts: readonly Part[];
  readonly after: readonly number[];
  state: 'waiting' | 'begun' | 'finished';
  /** How many of its bytes no higher number has claimed before it began, and what there is to do for them. */
  bytes: number;
  work: number;
}

/**
 * The destination's rule for one stream. Its items are numbered 1, 2, 3 and on in the order in which they are to count, and
 * arrive, each once, in any order. Whatever arrives first, and while writes are in flight, the outcome is that of
 * applying them by number: of overlapping data the higher number wins, byte by byte.
 *
 * An item that arrives *claims* the bytes that no higher number has claimed; the others it leaves alone for ever. So the
 * claims on one byte follow one another in rising order, and it is enough that each waits for the one before it, if that has not
 * finished: no two writes to one byte are ever in flight together, and the last one is the highest.
 *
 * What was claimed by a higher number while it waited is not written either. So of a block that the guest writes faster than
 * the disk does, only the newest content is written, and a disk that falls behind has no more to write than it holds. Until that one is written the disk may have older
 * content there than what has finished says; it is in hand here.
 *
 * A claim has to be remembered as long as a lower number may still come, which is until {@link NewestWins.appliedThrough}
 * has passed it. So what is remembered is bounded by how far the sender runs ahead of what is applied, its window.
 */
export class NewestWins {
  /** The highest number that claims each byte, numbers above `appliedThrough` only. */
  readonly #claims = new IntervalMap<number>();
  /** Items above `appliedThrough` that have arrived. */
  readonly #items = new Map<number, Item>();
  #appliedThrough = 0;
  #arrived = 0;
  #begun = 0;
  #left = 0;
  #waiting = 0;

  /** Every number up to this one is finished. 0 at the beginning. */
  get appliedThrough(): number {
    return this.#appliedThrough;
  }

  /** How many stretches of claimed bytes are remembered. */
  get rememberedRanges(): number {
    return this.#claims.size;
  }

  /** What there is to do. */
  get work(): Work {
    return { arrived: this.#arrived, begun: this.#begun, left: this.#left, waiting: this.#waiting };
  }

  /**
   * An item has arrived, and there is so much work to do for it. `ranges` are disjoint; there may be none. Returns the items that must have finished before
   * this one begins. Throws `protocol` for a number that is no positive integer or has been here before, and for ranges that overlap one another; then
   * the stream cannot be trusted any more.
   */
  arrived(number: number, ranges: readonly ByteRange[], work = 0): readonly number[] {
    if (!Number.isSafeInteger(number) || number <= this.#appliedThrough || this.#items.has(number)) {
      throw new MigrationError('protocol', `item ${number} came twice, or is no number`);
    }
    const parts: Part[] = [];
    const after = new Set<number>();
    for (const [index, range] of ranges.entries()) this.#claim(number, index, range, parts, after);
    const all = lengthOf(ranges);
    const bytes = lengthOf(parts);
    const mine = all > 0 ? (work * bytes) / all : 0;
    this.#items.set(number, { parts, after: [...after], state: 'waiting', bytes, work: mine });
    this.#arrived += work;
    if (bytes > 0) this.#waits(parts.length, mine);
    return [...after];
  }

  /** Whether newer items have claimed all of one that has not begun. */
  isOvertaken(number: number): boolean {
    return this.#items.get(number)?.bytes === 0;
  }

  /**
   * An item begins: those before it have finished. Returns what of it is to be written, in the order of its ranges: nothing if newer ones have taken all of
   * it. Throws `internal` if it has not arrived, has begun before, or it is not its turn.
   */
  begin(number: number): readonly Part[] {
    const item = this.#inTurn(number, 'waiting');
    item.state = 'begun';
    if (item.bytes === 0) return [];
    this.#begins(item, 1);
    const isWhole = item.bytes === lengthOf(item.parts);
    return isWhole ? item.parts : item.parts.flatMap((part) => this.#stillClaimed(number, part));
  }

  /** All that was to be written of an item has been. Throws `internal` if it has not begun, or has finished before. */
  finished(number: number): void {
    const item = this.#inTurn(number, 'begun');
    item.state = 'finished';
    if (item.bytes > 0) this.#begins(item, item.parts.length - 1);
    for (;;) {
      const next = this.#items.get(this.#appliedThrough + 1);
      if (next?.state !== 'finished') return;
      this.#appliedThrough += 1;
      this.#forget(this.#appliedThrough, next);
    }
  }

  #inTurn(number: number, state: Item['state']): Item {
    const item = this.#items.get(number);
    if (item?.state !== state || item.after.some((earlier) => this.#isUnfinished(earlier))) {
      throw new MigrationError('internal', `it is not the turn of item ${number}`);
    }
    return item;
  }

  #stillClaimed(number: number, { index, offset, length }: Part): Part[] {
    return this.#claims
      .overlapping(offset, length)
      .filter(({ value }) => value === number)
      .map((claim) => ({ index, offset: claim.offset, length: claim.length }));
  }

  /** Adds to `parts` what no higher number has claimed of the range, and to `after` whom that has to wait for. */
  #claim(number: number, index: number, range: ByteRange, parts: Part[], after: Set<number>): void {
    let position = range.offset;
    const firstPart = parts.length;
    const takeUntil = (end: number) => {
      if (end > position) parts.push({ index, offset: position, length: end - position });
    };
    for (const claim of this.#claims.overlapping(range.offset, range.length)) {
      if (claim.value === number) throw new MigrationError('protocol', `item ${number} overlaps itself`);
      if (claim.value > number) {
        takeUntil(claim.offset);
        position = claim.offset + claim.length;
      } else {
        const before = this.#items.get(claim.value);
        if (before === undefined || before.state === 'finished') continue;
        after.add(claim.value);
        if (before.state === 'waiting') this.#overtake(before, claim.length);
      }
    }
    takeUntil(range.offset + range.length);
    for (const part of parts.slice(firstPart)) this.#claims.set(part.offset, part.length, number);
  }

  #overtake(item: Item, bytes: number): void {
    const work = (item.work * bytes) / item.bytes;
    item.bytes -= bytes;
    item.work -= work;
    this.#waits(item.bytes === 0 ? -item.parts.length : 0, -work);
  }

  #begins({ work, parts }: Item, count: number): void {
    const share = (work * count) / parts.length;
    this.#waits(-count, -share);
    this.#begun += share;
  }

  #waits(parts: number, work: number): void {
    this.#waiting += parts;
    // Shares of it are rounded.
    this.#left = this.#waiting === 0 ? 0 : Math.max(0, this.#left + work);
  }

  #isUnfinished(number: number): boolean {
    const item = this.#items.get(number);
    return item !== undefined && item.state !== 'finished';
  }

  /** Nothing lower than `number` can come any more: what it claimed, and still holds, is of no use. */
  #forget(number: number, item: Item): void {
    this.#items.delete(number);
    for (const part of item.parts) {
      for (const claim of this.#claims.overlapping(part.offset, part.length)) {
        if (claim.value === number) this.#claims.delete(claim.offset, claim.length);
      }
    }
  }
}

function lengthOf(ranges: readonly ByteRange[]): number {
  return ranges.reduce((sum, { length }) => sum + length, 0);
}
