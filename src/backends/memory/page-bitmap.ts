/** One bit a page, and how many are set. Page numbers are not checked: the caller keeps them below `size`. */
export class PageBitmap {
  /** Number of pages. */
  readonly size: number;
  readonly #words: Int32Array;
  #count = 0;

  /** All clear. */
  constructor(size: number) {
    this.size = size;
    this.#words = new Int32Array(Math.ceil(size / 32));
  }

  /** How many pages are set. */
  get count(): number {
    return this.#count;
  }

  has(page: number): boolean {
    return ((this.#words[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0;
  }

  set(page: number): void {
    const word = this.#words[page >>> 5] ?? 0;
    const bit = 1 << (page & 31);
    if ((word & bit) !== 0) return;
    this.#words[page >>> 5] = word | bit;
    this.#count += 1;
  }

  clear(page: number): void {
    const word = this.#words[page >>> 5] ?? 0;
    const bit = 1 << (page & 31);
    if ((word & bit) === 0) return;
    this.#words[page >>> 5] = word & ~bit;
    this.#count -= 1;
  }

  /** The first set page at `from` or later, or -1. */
  nextSet(from: number): number {
    if (this.#count === 0 || from >= this.size) return -1;
    const words = this.#words;
    let index = from >>> 5;
    let word = (words[index] ?? 0) & (-1 << (from & 31));
    while (word === 0) {
      index += 1;
      if (index >= words.length) return -1;
      word = words[index] ?? 0;
    }
    // The lowest set bit alone, and its place counted from the top.
    return index * 32 + 31 - Math.clz32(word & -word);
  }

  setAll(): void {
    this.#words.fill(-1);
    const beyond = this.#words.length * 32 - this.size;
    const last = this.#words.length - 1;
    if (beyond > 0) this.#words[last] = -1 >>> beyond;
    this.#count = this.size;
  }

  /** Sets every page that is set in `other`, which has the same size. */
  setFrom(other: PageBitmap): void {
    for (let page = other.nextSet(0); page !== -1; page = other.nextSet(page + 1)) this.set(page);
  }
}
