import { MigrationError } from '../errors.ts';

/** A stretch of an {@link IntervalMap}: `length` (> 0) from `offset`, and what it maps to. */
export interface Interval<V> {
  readonly offset: number;
  readonly length: number;
  readonly value: V;
}

interface Entry<V> {
  start: number;
  end: number;
  readonly value: V;
}

/** A full leaf is split. A change moves half of one at most, while one flat array of thousands would cost tens of microseconds. */
const LEAF_ENTRIES_MAX = 64;

/**
 * Maps stretches of a line of numbers to values. A later {@link IntervalMap.set} overrides what it covers; neighbours with the
 * same (`===`) value are one interval. Finding a place is a bisection. Offsets and lengths are safe integers from 0, as is
 * their sum; anything else throws `internal` and changes nothing.
 */
export class IntervalMap<V> {
  /** Disjoint entries in order, cut into leaves. No leaf is empty. */
  readonly #leaves: Entry<V>[][] = [];
  #size = 0;

  /** How many intervals there are. */
  get size(): number {
    return this.#size;
  }

  /** Maps the range to `value`, whatever it mapped to before. An empty range changes nothing. */
  set(offset: number, length: number, value: V): void {
    const end = endOf(offset, length);
    if (length === 0) return;
    this.delete(offset, length);
    const before = this.#firstEndingFrom(offset);
    const behind = this.#firstEndingFrom(end + 1);
    const joinsBefore = before?.end === offset && before.value === value;
    const joinsBehind = behind?.start === end && behind.value === value;
    if (joinsBefore && joinsBehind) {
      this.#remove(behind);
      before.end = behind.end;
    } else if (joinsBefore) {
      before.end = end;
    } else if (joinsBehind) {
      behind.start = offset;
    } else {
      this.#insert({ start: offset, end, value });
    }
  }

  /** Maps the range to nothing. */
  delete(offset: number, length: number): void {
    const end = endOf(offset, length);
    while (length > 0) {
      const entry = this.#firstEndingFrom(offset + 1);
      if (entry === undefined || entry.start >= end) return;
      const endsBehind = entry.end > end;
      if (entry.start < offset) {
        const rest: Entry<V> = { ...entry, start: end };
        entry.end = offset;
        if (endsBehind) this.#insert(rest);
      } else if (endsBehind) {
        entry.start = end;
      } else {
        this.#remove(entry);
      }
    }
  }

  /** What lies within the range, in order, cut to it. */
  overlapping(offset: number, length: number): Interval<V>[] {
    const end = endOf(offset, length);
    const found: Interval<V>[] = [];
    if (length === 0) return found;
    let leaf = this.#leafEndingFrom(offset + 1);
    let index = indexEndingFrom(this.#leaves[leaf] ?? [], offset + 1);
    for (;;) {
      const entry = this.#leaves[leaf]?.[index];
      if (entry === undefined || entry.start >= end) return found;
      const start = Math.max(entry.start, offset);
      found.push({ offset: start, length: Math.min(entry.end, end) - start, value: entry.value });
      index += 1;
      if (index === this.#leaves[leaf]?.length) {
        leaf += 1;
        index = 0;
      }
    }
  }

  /** The first entry that ends at `position` or behind it. */
  #firstEndingFrom(position: number): Entry<V> | undefined {
    const leaf = this.#leaves[this.#leafEndingFrom(position)];
    return leaf?.[indexEndingFrom(leaf, position)];
  }

  /** The index of the leaf with that entry; the number of leaves if there is none. */
  #leafEndingFrom(position: number): number {
    return bisect(this.#leaves, (leaf) => (leaf[leaf.length - 1]?.end ?? 0) >= position);
  }

  /** `entry` overlaps none that is there. */
  #insert(entry: Entry<V>): void {
    const leafIndex = Math.min(this.#leafEndingFrom(entry.end), Math.max(0, this.#leaves.length - 1));
    const leaf = this.#leaves[leafIndex];
    this.#size += 1;
    if (leaf === undefined) {
      this.#leaves.push([entry]);
      return;
    }
    leaf.splice(indexEndingFrom(leaf, entry.end), 0, entry);
    if (leaf.length > LEAF_ENTRIES_MAX)
      this.#leaves.splice(leafIndex + 1, 0, leaf.splice(LEAF_ENTRIES_MAX / 2));
  }

  #remove(entry: Entry<V>): void {
    const leafIndex = this.#leafEndingFrom(entry.end);
    const leaf = this.#leaves[leafIndex] ?? [];
    leaf.splice(indexEndingFrom(leaf, entry.end), 1);
    this.#size -= 1;
    if (leaf.length === 0) this.#leaves.splice(leafIndex, 1);
  }
}

function indexEndingFrom<V>(leaf: readonly Entry<V>[], position: number): number {
  return bisect(leaf, (entry) => entry.end >= position);
}

/** The index of the first item for which `test` holds, as it does for all behind it; the length if there is none. */
function bisect<T>(items: readonly T[], test: (item: T) => boolean): number {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const item = items[middle];
    if (item === undefined || test(item)) high = middle;
    else low = middle + 1;
  }
  return low;
}

function endOf(offset: number, length: number): number {
  const end = offset + length;
  if (!(Number.isSafeInteger(offset) && Number.isSafeInteger(end) && offset >= 0 && length >= 0)) {
    throw new MigrationError('internal', `${length} from ${offset} is not a range`);
  }
  return end;
}
