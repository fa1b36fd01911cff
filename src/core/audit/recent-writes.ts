import type { Prng } from '../../util/prng.ts';

/** A place in a memory region or on a disk. */
export interface Place {
  readonly stream: number;
  readonly space: number;
  readonly offset: number;
}

/** So many stretches are remembered: of a guest that writes much, the last moments before its stun. */
const capacity = 4096;

/** The last stretches that were sent or written, in a ring: noting one costs next to nothing. */
export class RecentWrites {
  readonly #streams = new Uint16Array(capacity);
  readonly #spaces = new Uint16Array(capacity);
  readonly #offsets = new Float64Array(capacity);
  readonly #lengths = new Float64Array(capacity);
  #count = 0;

  /** How many are remembered. */
  get size(): number {
    return Math.min(this.#count, capacity);
  }

  /** One more; of an empty stretch nothing is noted. */
  add(stream: number, space: number, offset: number, length: number): void {
    if (length === 0) return;
    const at = this.#count % capacity;
    this.#count++;
    this.#streams[at] = stream;
    this.#spaces[at] = space;
    this.#offsets[at] = offset;
    this.#lengths[at] = length;
  }

  /** A place within one of them, each as likely as the other. Undefined if there are none. */
  draw(prng: Prng): Place | undefined {
    if (this.#count === 0) return undefined;
    const at = prng.below(this.size);
    const [stream = 0, space = 0] = [this.#streams[at], this.#spaces[at]];
    return { stream, space, offset: (this.#offsets[at] ?? 0) + prng.below(this.#lengths[at] ?? 1) };
  }
}
