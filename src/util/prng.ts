/** Everything that a {@link Prng} is: four unsigned 32-bit integers. Plain data, so it can travel. */
export type PrngState = readonly [number, number, number, number];

/**
 * Steps after seeding that are thrown away, until every bit of the seed has reached every bit of the state.
 */
const WARM_UP_STEPS = 15;

/**
 * A small deterministic generator (Chris Doty-Humphrey's sfc32): the same state gives the same numbers on
 * every machine. For simulations and tests; nothing that must not be guessed may come from it.
 */
export class Prng {
  #a: number;
  #b: number;
  #c: number;
  #counter: number;

  /** Goes on from a state that {@link Prng.state} gave. */
  constructor(state: PrngState) {
    [this.#a, this.#b, this.#c, this.#counter] = [state[0] | 0, state[1] | 0, state[2] | 0, state[3] | 0];
  }

  /** The next number, 0 to 2^32 - 1. */
  next(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** The next fraction, from 0 to just below 1, with 53 bits. */
  fraction(): number {
    return ((this.next() >>> 5) * 2 ** 26 + (this.next() >>> 6)) / 2 ** 53;
  }

  /** An integer from 0 to `limit` - 1; `limit` is a safe integer of 1 or more. */
  below(limit: number): number {
    return Math.floor(this.fraction() * limit);
  }

  /** Fills `bytes`, four at a time in little-endian order, wherever they lie in memory. */
  fill(bytes: Uint8Array): void {
    const words = bytes.byteLength >>> 2;
    if (bytes.byteOffset % 4 === 0) this.#fillWords(new Int32Array(bytes.buffer, bytes.byteOffset, words));
    else for (let word = 0; word < words; word += 1) writeWord(bytes, word * 4, 4, this.next());
    const rest = bytes.byteLength % 4;
    if (rest > 0) writeWord(bytes, words * 4, rest, this.next());
  }

  /** A generator of its own, seeded from this one: what either draws later does not touch the other. */
  fork(): Prng {
    return warmUp(new Prng([this.next(), this.next(), this.next(), 1]));
  }

  /** What {@link Prng}'s constructor takes to go on from here. */
  state(): PrngState {
    return [this.#a >>> 0, this.#b >>> 0, this.#c >>> 0, this.#counter >>> 0];
  }

  /** {@link Prng.next} for each word, with the state in local variables: several times faster. */
  #fillWords(words: Int32Array): void {
    let [a, b, c, counter] = [this.#a, this.#b, this.#c, this.#counter];
    for (let index = 0; index < words.length; index += 1) {
      const sum = (((a + b) | 0) + counter) | 0;
      counter = (counter + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + sum) | 0;
      words[index] = sum;
    }
    [this.#a, this.#b, this.#c, this.#counter] = [a, b, c, counter];
  }
}

/** A generator from 16 bytes of chance. */
export function prngFromBytes(bytes: Uint8Array): Prng {
  const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
  return new Prng([view.getUint32(0), view.getUint32(4), view.getUint32(8), view.getUint32(12)]);
}

/** A generator from a seed, any safe integer. */
export function createPrng(seed: number): Prng {
  return warmUp(new Prng([seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, 0, 1]));
}

function warmUp(prng: Prng): Prng {
  for (let step = 0; step < WARM_UP_STEPS; step += 1) prng.next();
  return prng;
}

function writeWord(bytes: Uint8Array, offset: number, length: number, word: number): void {
  for (let index = 0; index < length; index += 1) bytes[offset + index] = word >>> (8 * index);
}
