/** The first bucket's upper bound, and by how much each is larger than the one before: the error of what is read out, 5 % at the most. */
const firstBound = 0.1;
const growth = 1.1;
const bounds: number[] = [];
for (let bound = firstBound; bound < 1e7; bound *= growth) bounds.push(bound);

/** Durations, in buckets that grow with them: constant memory, whatever comes. */
export class Histogram {
  readonly #counts = new Float64Array(bounds.length + 1);
  #total = 0;

  /** Counts one, of 0 or more. */
  add(value: number): void {
    let low = 0;
    let high = bounds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((bounds[middle] ?? 0) < value) low = middle + 1;
      else high = middle;
    }
    this.#counts[low] = (this.#counts[low] ?? 0) + 1;
    this.#total++;
  }

  /** The least value that so large a part, 0 to 1, of all does not exceed, to within a tenth; 0 if there is none. */
  quantile(part: number): number {
    let rest = part * this.#total;
    for (let index = 0; index < this.#counts.length; index++) {
      const count = this.#counts[index] ?? 0;
      rest -= count;
      if (count > 0 && rest <= 0) return index === 0 ? 0 : (bounds[index] ?? bounds.at(-1) ?? 0);
    }
    return 0;
  }
}
