/** What was seen of a disk's bulk reads since the last look. */
export interface ReadsSeen {
  /** How many ended: 0 or more. */
  readonly reads: number;
  /** How long they took altogether, in ms. */
  readonly totalMs: number;
  /** Whether one more in flight would have been used: not if it was the link that was waited for. */
  readonly limited: boolean;
  /** The part of it that the guest left us: see `CopyShare`. */
  readonly share: number;
}

/** Reads in flight on one disk at first, and where nobody can tell whether the guest feels more. */
export const readsMin = 4;
/** And at most: at 512 KiB each that is 8 MiB, which at 10 ms a read is 800 MB/s. */
export const readsMax = 16;
/** Reads may take so many times what they took with {@link readsMin} in flight; past it they wait for each other, and more of them carry nothing more. */
const queueFactor = 1.5;

/**
 * How many reads are worth having in flight on one disk. One that has latency, because it is far away or turns, carries more with more of
 * them; on one that is simply full they only wait for each other, and the guest's own reads with them. Which it is shows in what a read
 * takes. Pure: no I/O, no clock.
 */
export class ReadAhead {
  #depth = readsMin;
  /** What a read took with the fewest in flight, in ms. */
  #readMs: number | undefined;

  /** From {@link readsMin} to {@link readsMax}. */
  get depth(): number {
    return this.#depth;
  }

  /** The next look. It deepens only where all of it was used, and the guest did not feel it. */
  look({ reads, totalMs, limited, share }: ReadsSeen): void {
    if (reads === 0 || share < 1) return;
    const readMs = totalMs / reads;
    if (this.#depth === readsMin) this.#readMs = readMs;
    if (readMs > queueFactor * (this.#readMs ?? readMs)) this.#depth = Math.max(readsMin, this.#depth - 1);
    else if (limited) this.#depth = Math.min(readsMax, this.#depth + 1);
  }
}
