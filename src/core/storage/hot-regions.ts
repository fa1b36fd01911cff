import { Bitmap } from '../../util/bitmap.ts';

/** No spell has this number. */
const never = 0;
const spellNumbers = 255;

/**
 * What of a disk the guest writes again and again, as far as has been seen. Copied early, it is sent once by the bulk copy and then with each
 * write; copied last, it is sent once.
 *
 * Once is not often: a file that is being written touches each place a hundred times in a moment, and then never again. So the copy is divided
 * into *spells*, and what was written in two of them is hot, what was written between the setting of the tap and the first read
 * counting for the first. A byte and a bit for each half a MiB of disk are kept, no counts.
 */
export class HotRegions {
  /** By unit, the spell in which it was written last. Numbers come around; a unit of 255 spells ago then counts as written just now, and is not hot yet. */
  readonly #written: Uint8Array;
  readonly #hot: Bitmap;
  readonly #unitRegions: number;
  readonly #spellRegions: number;
  #spell = 1;
  #copied = 0;

  /** Of so many regions, so many of which are hot together or not; a spell is over when so many of them were taken for copying. */
  constructor(regions: number, unitRegions: number, spellRegions: number) {
    const units = Math.ceil(regions / unitRegions);
    this.#unitRegions = unitRegions;
    this.#written = new Uint8Array(units);
    this.#hot = new Bitmap(units);
    this.#spellRegions = spellRegions;
  }

  /** The guest wrote the regions `first` to `end` - 1. */
  wrote(first: number, end: number): void {
    for (let unit = Math.floor(first / this.#unitRegions); unit * this.#unitRegions < end; unit++) {
      const last = this.#written[unit];
      if (last === this.#spell) continue;
      if (last !== never) this.#hot.set(unit);
      this.#written[unit] = this.#spell;
    }
  }

  /** So many regions were taken for copying. */
  took(regions: number): void {
    this.#copied += regions;
    if (this.#copied < this.#spellRegions) return;
    this.#copied = 0;
    this.#spell = (this.#spell % spellNumbers) + 1;
  }

  /** The first region, at `from` or behind it, that is not hot. It may lie behind the last one. */
  nextCold(from: number): number {
    const unit = Math.floor(from / this.#unitRegions);
    if (unit >= this.#hot.size) return from;
    const cold = this.#hot.nextClear(unit);
    return cold === unit ? from : cold * this.#unitRegions;
  }
}
