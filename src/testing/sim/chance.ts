import { createPrng, type Prng } from '../../util/prng.ts';

/** Draws from a seed: what scenarios are made of. */
export class Chance {
  readonly #prng: Prng;

  constructor(seed: number) {
    this.#prng = createPrng(seed);
  }

  /** True with this probability. */
  of(probability: number): boolean {
    return this.#prng.fraction() < probability;
  }

  /** One of them. */
  one<T>(items: readonly T[]): T {
    return items[this.#prng.below(items.length)] as T;
  }

  /** One of them, each as likely as its weight says. */
  weighted<T>(items: readonly (readonly [T, number])[]): T {
    let left = this.#prng.fraction() * items.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [item, weight] of items) {
      left -= weight;
      if (left < 0) return item;
    }
    return items[items.length - 1]?.[0] as T;
  }

  /** An integer, both bounds included. */
  integer(from: number, to: number): number {
    return from + this.#prng.below(to - from + 1);
  }

  /** From 0 to `max` ms in steps of a tenth, small ones as often as large ones. */
  delay(max: number): number {
    const fraction = this.#prng.fraction();
    return Math.floor(max * fraction * fraction * fraction * 10) / 10;
  }
}
