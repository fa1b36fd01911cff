import type { Environment } from '../../interfaces/environment.ts';
import { Signalled } from '../../util/promises.ts';

/**
 * The bound on guest writes that wait for the link, all disks together. When it is full, an extent is set back to be copied
 * again, and the guest runs on. Where guest writes may be held, a guest's completion is held first, in the hope that there will be room.
 */
export class MirrorBuffer {
  readonly #environment: Environment;
  #bytesMax: number;
  /** 0: nothing is held. */
  #holdMs = 0;
  readonly #freed = new Signalled();
  #bytes = 0;
  #closed = false;
  #holds = true;
  #longestHoldMs = 0;
  #heldMs = 0;

  constructor(environment: Environment, bytesMax: number) {
    this.#environment = environment;
    this.#bytesMax = bytesMax;
  }

  /** Bytes that wait or are on their way. */
  get bytes(): number {
    return this.#bytes;
  }

  /** At so many it is full. */
  get boundBytes(): number {
    return this.#bytesMax;
  }

  /** For how long a guest write was held, the longest one, in ms. */
  get longestHoldMs(): number {
    return this.#longestHoldMs;
  }

  /** For how long guest writes were held, all of them added up, in ms. */
  get heldMs(): number {
    return this.#heldMs;
  }

  /** From now on it is full at `bytesMax`. What is in it stays, also where that is more. */
  bound(bytesMax: number): void {
    this.#bytesMax = bytesMax;
    if (this.#bytes <= bytesMax) this.#freed.notify();
  }

  /** From now on a write may be held for so long, in ms; 0: not at all. Those that are held already are as they were. */
  holdFor(holdMs: number): void {
    this.#holdMs = holdMs;
  }

  /**
   * Takes `bytes` in, or says that there is no room. What is held back from the guest may go beyond the bound by as much again: a guest has
   * only so many writes under way.
   */
  take(bytes: number): boolean {
    const limit = this.#holdMs > 0 ? 2 * this.#bytesMax : this.#bytesMax;
    // One alone may be more than the bound: it is one.
    if (this.#bytes > 0 && this.#bytes + bytes > limit) return false;
    this.#bytes += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#bytes -= bytes;
    if (this.#bytes <= this.#bytesMax) this.#freed.notify();
  }

  /** Whether guest writes may be held at all: not while the link is gone, nor while the guest is stunned. */
  holds(may: boolean): void {
    this.#holds = may;
    if (!may) this.#freed.notify();
  }

  /** Nobody is held any more. */
  close(): void {
    this.#closed = true;
    this.#freed.notify();
  }

  /** Nothing if the guest may be told at once, else a promise of when it may. */
  hold(): Promise<void> | undefined {
    if (this.#bytes <= this.#bytesMax || this.#holdMs === 0 || !this.#mayHold) return undefined;
    return this.#hold();
  }

  get #mayHold(): boolean {
    return this.#holds && !this.#closed;
  }

  async #hold(): Promise<void> {
    const startMs = this.#environment.now();
    let expired = false;
    const cancel = this.#environment.setTimer(this.#holdMs, () => {
      expired = true;
      this.#freed.notify();
    });
    while (this.#bytes > this.#bytesMax && !expired && this.#mayHold) await this.#freed.wait();
    cancel();
    const heldMs = this.#environment.now() - startMs;
    this.#heldMs += heldMs;
    this.#longestHoldMs = Math.max(this.#longestHoldMs, heldMs);
  }
}
