import { MigrationError } from '../../errors.ts';

/** Units in one segment: either all of one generation, told in one number, or 4 KiB of numbers. */
const segmentUnits = 1024;
const segmentShift = 10;
const segmentMask = segmentUnits - 1;
/** Units are cut into segments with 32-bit operators. */
const sizeMax = 2 ** 32;

/**
 * One generation, an unsigned 32-bit number, for each unit of a memory region or a disk; 0 is what reads as
 * zeros. Run-length coded by segment, so that a disk of terabytes that is mostly untouched costs megabytes.
 * Ranges are half-open. Unit numbers are the caller's to keep below `size`.
 */
export class Generations {
  /** How many units there are: 0 to 2^32. */
  readonly size: number;
  /** The generation of each segment that is of one; says nothing of the others. */
  readonly #uniform: Uint32Array;
  readonly #mixed: (Uint32Array | undefined)[];
  #zeros: number;

  /** All units of one generation. Throws `invalid-argument` for a size that is none. */
  constructor(size: number, generation = 0) {
    if (!Number.isInteger(size) || size < 0 || size > sizeMax) {
      throw new MigrationError('invalid-argument', `generations of ${size} units`);
    }
    this.size = size;
    const segments = Math.ceil(size / segmentUnits);
    this.#uniform = new Uint32Array(segments).fill(generation);
    this.#mixed = new Array(segments);
    this.#zeros = generation === 0 ? size : 0;
  }

  /** How many units are not of generation 0. */
  get nonZero(): number {
    return this.size - this.#zeros;
  }

  get(unit: number): number {
    const segment = unit >>> segmentShift;
    const words = this.#mixed[segment];
    return (words === undefined ? this.#uniform[segment] : words[unit & segmentMask]) ?? 0;
  }

  set(unit: number, generation: number): void {
    this.setRange(unit, unit + 1, generation);
  }

  /** Gives every unit the generation that it has in `other`, which has the same size. */
  copy(other: Generations): void {
    this.#uniform.set(other.#uniform);
    for (const [segment, words] of other.#mixed.entries()) this.#mixed[segment] = words?.slice();
    this.#zeros = other.#zeros;
  }

  /** Gives the units from `from` to `to` - 1 a generation. */
  setRange(from: number, to: number, generation: number): void {
    for (let at = from; at < to; ) {
      const segment = Math.floor(at / segmentUnits);
      const start = segment * segmentUnits;
      const segmentEnd = Math.min(this.size, start + segmentUnits);
      const end = Math.min(to, segmentEnd);
      if (at === start && end === segmentEnd) this.#setAll(segment, end - start, generation);
      else this.#setPart(segment, at - start, end - start, generation);
      at = end;
    }
  }

  /** The end of the run of one generation that begins at `from`; `to` at most. */
  runEnd(from: number, to: number): number {
    const generation = this.get(from);
    return this.#scan(from, to, (other) => other === generation);
  }

  /** The end of the run that begins at `from` and is all zeros, or all not; `to` at most. */
  kindEnd(from: number, to: number): number {
    const zero = this.get(from) === 0;
    return this.#scan(from, to, (other) => (other === 0) === zero);
  }

  /**
   * Calls back for each run of units whose generation is another in `other`, which has the same size, in
   * order.
   */
  differences(other: Generations, visit: (from: number, to: number) => void): void {
    let open = -1;
    const close = (at: number) => {
      if (open >= 0) visit(open, at);
      open = -1;
    };
    for (let segment = 0; segment < this.#uniform.length; segment++) {
      const start = segment * segmentUnits;
      const end = Math.min(this.size, start + segmentUnits);
      if (this.#mixed[segment] === undefined && other.#mixed[segment] === undefined) {
        if (this.#uniform[segment] === other.#uniform[segment]) close(start);
        else if (open < 0) open = start;
        continue;
      }
      for (let unit = start; unit < end; unit++) {
        if (this.get(unit) === other.get(unit)) close(unit);
        else if (open < 0) open = unit;
      }
    }
    close(this.size);
  }

  #setAll(segment: number, units: number, generation: number): void {
    const words = this.#mixed[segment];
    if (words !== undefined) this.#zeros -= zerosIn(words, 0, units);
    else if (this.#uniform[segment] === 0) this.#zeros -= units;
    if (generation === 0) this.#zeros += units;
    this.#mixed[segment] = undefined;
    this.#uniform[segment] = generation;
  }

  #setPart(segment: number, from: number, to: number, generation: number): void {
    let words = this.#mixed[segment];
    if (words === undefined) {
      const uniform = this.#uniform[segment] ?? 0;
      if (uniform === generation) return;
      words = new Uint32Array(Math.min(segmentUnits, this.size - segment * segmentUnits)).fill(uniform);
      this.#mixed[segment] = words;
    }
    this.#zeros -= zerosIn(words, from, to);
    if (generation === 0) this.#zeros += to - from;
    words.fill(generation, from, to);
    // Only what just became equal to a neighbour can have made the whole segment equal.
    if ((from === 0 || words[from - 1] === generation) && (to === words.length || words[to] === generation)) {
      if (!words.every((word) => word === generation)) return;
      this.#mixed[segment] = undefined;
      this.#uniform[segment] = generation;
    }
  }

  #scan(from: number, to: number, same: (generation: number) => boolean): number {
    for (let at = from; at < to; ) {
      const segment = Math.floor(at / segmentUnits);
      const end = Math.min(to, (segment + 1) * segmentUnits);
      const words = this.#mixed[segment];
      if (words === undefined) {
        if (!same(this.#uniform[segment] ?? 0)) return at;
        at = end;
        continue;
      }
      for (; at < end; at++) if (!same(words[at & segmentMask] ?? 0)) return at;
    }
    return to;
  }
}

function zerosIn(words: Uint32Array, from: number, to: number): number {
  let zeros = 0;
  for (let index = from; index < to; index++) if (words[index] === 0) zeros++;
  return zeros;
}
