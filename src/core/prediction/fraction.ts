import type { Interval } from '../../interfaces/migration.ts';

/** Nothing is over before it is over. */
const fractionMax = 0.999;

/** How far all of a migration is, by the time that it takes: 0 to 1. Never falls, whatever is predicted; 1 once it is done. Pure: the clock comes in with the looks. */
export class Fraction {
  #value = 0;

  get value(): number {
    return this.#value;
  }

  /** So much time has passed, and so much is left; undefined: nobody knows. */
  look(elapsedMs: number, left: Interval | undefined): number {
    if (left === undefined) return this.#value;
    const leftMs = Math.sqrt(left.lowMs * left.highMs);
    const now = Math.min(fractionMax, elapsedMs / Math.max(1, elapsedMs + leftMs));
    this.#value = Math.max(this.#value, now);
    return this.#value;
  }

  done(): number {
    this.#value = 1;
    return this.#value;
  }
}
