import { MigrationError } from '../../errors.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import { IntervalMap } from '../../util/interval-map.ts';

/** A piece of one of the ranges that were given to {@link NewestWins.begin}. */
export interface Part extends ByteRange {
  /** Which of the ranges it belongs to. Its place in the range's content is its offset less the range's. */
  readonly index: number;
}

interface Item {
  /** What it claimed. */
  readonly parts: readonly Part[];
  readonly after: readonly number[];
  /** A higher number has claimed some of it since. */
  overtaken: boolean;
  finished: boolean;
}

/**
 * The destination's rule for one stream. Its items are numbered 1, 2, 3 and on in the order in which they are to count, and
 * arrive, each once, in any order. Whatever arrives first, and while writes are in flight, the outcome is that of
 * applying them by number: of overlapping data the higher number wins, byte by byte.
 *
 * An item that begins *claims* the bytes that no higher number has claimed; the others it leaves alone for ever. So the
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
  /** Items above `appliedThrough` that have begun. */
  readonly #items = new Map<number, Item>();
  #appliedThrough = 0;

  /** Every number up to this one is finished. 0 at the beginning. */
  get appliedThrough(): number {
    return this.#appliedThrough;
  }

  /** How many stretches of claimed bytes are remembered. */
  get rememberedRanges(): number {
    return this.#claims.size;
  }

  /**
   * An item has arrived. `ranges` are disjoint; there may be none. Returns the items that must have finished before the first byte of it is written. Throws
   * `protocol` for a number that is no positive integer or has been here before, and for ranges that overlap one another; then the
   * stream cannot be trusted any more.
   */
  begin(number: number, ranges: readonly ByteRange[]): readonly number[] {
    if (!Number.isSafeInteger(number) || number <= this.#appliedThrough || this.#items.has(number)) {
      throw new MigrationError('protocol', `item ${number} came twice, or is no number`);
    }
    const parts: Part[] = [];
    const after = new Set<number>();
    for (const [index, range] of ranges.entries()) this.#claim(number, index, range, parts, after);
    const item: Item = { parts, after: [...after], overtaken: false, finished: false };
    this.#items.set(number, item);
    return item.after;
  }

  /**
   * What of an item is to be written, in the order of its ranges, now that those before it have finished: to be asked right before. Nothing if
   * newer ones have taken all of it. Throws `internal` if it has not begun, or it is not its turn.
   */
  toWrite(number: number): readonly Part[] {
    const { parts, overtaken } = this.#inTurn(number);
    return overtaken ? parts.flatMap((part) => this.#stillClaimed(number, part)) : parts;
  }

  /** All that was to be written of an item has been. Throws `internal` if it has not begun, has finished before, or it is not its turn. */
  finished(number: number): void {
    const item = this.#inTurn(number);
    item.finished = true;
    for (;;) {
      const next = this.#items.get(this.#appliedThrough + 1);
      if (next === undefined || !next.finished) return;
      this.#appliedThrough += 1;
      this.#forget(this.#appliedThrough, next);
    }
  }

  #inTurn(number: number): Item {
    const item = this.#items.get(number);
    if (item === undefined || item.finished || item.after.some((earlier) => this.#isUnfinished(earlier))) {
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
        const overtaken = this.#items.get(claim.value);
        if (overtaken?.finished !== false) continue;
        overtaken.overtaken = true;
        after.add(claim.value);
      }
    }
    takeUntil(range.offset + range.length);
    for (const part of parts.slice(firstPart)) this.#claims.set(part.offset, part.length, number);
  }

  #isUnfinished(number: number): boolean {
    return this.#items.get(number)?.finished === false;
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
