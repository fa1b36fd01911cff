/**
 * Which of the numbers 1, 2, 3, ... have been seen, each of which comes once and in any order: all up to `through`, and some above. Holds
 * only those above, so its memory is bounded by how far the order is off.
 */
export class Watermark {
  #through = 0;
  readonly #above = new Set<number>();

  /** Every number up to this one has been added. */
  get through(): number {
    return this.#through;
  }

  /** Adds a number; false if it was there already. */
  add(number: number): boolean {
    if (number <= this.#through || this.#above.has(number)) return false;
    if (number !== this.#through + 1) {
      this.#above.add(number);
      return true;
    }
    this.#through = number;
    while (this.#above.delete(this.#through + 1)) this.#through++;
    return true;
  }
}
