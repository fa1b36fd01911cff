import { MigrationError } from '../errors.ts';

const WORD_BITS = 32;
const ALL_ONES = 0xffffffff;
/** Word and bit are cut out of an index with 32-bit operators. */
const SIZE_MAX = 2 ** 32;

/**
 * A set of the numbers from 0 to `size` - 1, one bit each, scanned a word at a time. Ranges are half-open: `from`
 * belongs to them, `to` does not. An index outside throws `internal` and changes nothing.
 */
export class Bitmap {
  /** How many numbers there are: 0 to 2^32. */
  readonly size: number;
  readonly #words: Uint32Array;
  #count = 0;

  /** A bitmap with nothing set. */
  constructor(size: number) {
    if (!Number.isInteger(size) || size < 0 || size > SIZE_MAX) {
      throw new MigrationError('internal', `a bitmap cannot have ${size} bits`);
    }
    this.size = size;
    this.#words = new Uint32Array(Math.ceil(size / WORD_BITS));
  }

  /** How many are set. Kept up to date, not counted. */
  get count(): number {
    return this.#count;
  }

  has(index: number): boolean {
    this.#check(index, index + 1);
    return (this.#word(index >>> 5) & (1 << (index & 31))) !== 0;
  }

  set(index: number): void {
    this.#write(index, index + 1, true);
  }

  clear(index: number): void {
    this.#write(index, index + 1, false);
  }

  setRange(from: number, to: number): void {
    this.#write(from, to, true);
  }

  clearRange(from: number, to: number): void {
    this.#write(from, to, false);
  }

  /** Whether at least one of the range is set; false for an empty range. */
  anyInRange(from: number, to: number): boolean {
    this.#check(from, to);
    if (from === to) return false;
    const last = (to - 1) >>> 5;
    for (let index = from >>> 5; index <= last; index++) {
      if ((this.#word(index) & maskWithin(index, from, to)) !== 0) return true;
    }
    return false;
  }

  /** The first one that is set, at `from` (0 to `size`) or behind it; `size` if there is none. */
  nextSet(from: number): number {
    return this.#scan(from, 0);
  }

  /** The first one that is not set, at `from` (0 to `size`) or behind it; `size` if there is none. */
  nextClear(from: number): number {
    return this.#scan(from, ALL_ONES);
  }

  /** The first bit at or behind `from` that differs from the bits of `skipped` (all ones, or all zeros). */
  #scan(from: number, skipped: number): number {
    this.#check(from, from);
    for (let index = from >>> 5; index < this.#words.length && from < this.size; index++) {
      const found = (this.#word(index) ^ skipped) & maskWithin(index, from, this.size);
      if (found !== 0) return index * WORD_BITS + 31 - Math.clz32(found & -found);
    }
    return this.size;
  }

  #write(from: number, to: number, value: boolean): void {
    this.#check(from, to);
    if (from === to) return;
    const last = (to - 1) >>> 5;
    for (let index = from >>> 5; index <= last; index++) {
      const mask = maskWithin(index, from, to);
      const before = this.#word(index);
      this.#words[index] = value ? before | mask : before & ~mask;
      const changed = ones((value ? ~before : before) & mask);
      this.#count += value ? changed : -changed;
    }
  }

  #word(index: number): number {
    return this.#words[index] ?? 0;
  }

  #check(from: number, to: number): void {
    if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= this.size)) {
      throw new MigrationError('internal', `bits ${from} to ${to} are not within a bitmap of ${this.size}`);
    }
  }
}

/** The bits of word `index` that belong to the range, which reaches into it. */
function maskWithin(index: number, from: number, to: number): number {
  const start = index * WORD_BITS;
  let mask = ALL_ONES;
  if (from > start) mask &= ALL_ONES << (from - start);
  if (to < start + WORD_BITS) mask &= ALL_ONES >>> (start + WORD_BITS - to);
  return mask;
}

/** How many bits of a 32-bit word are set: pairs, nibbles, bytes, then their sum. */
function ones(word: number): number {
  const pairs = word - ((word >>> 1) & 0x55555555);
  const nibbles = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333);
  return Math.imul((nibbles + (nibbles >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
