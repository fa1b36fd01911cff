import type { Environment } from '../../interfaces/environment.ts';
import { Signalled } from '../../util/promises.ts';

/**
 * The bound on guest writes that wait for the link, all disks together. When it is full, an extent is set back to be copied
 * again, and the guest runs on. With `holdMsMax` above 0 a guest's completion is held first, for as long as that, in the hope
 * that there will be room.
 */
export class MirrorBuffer {
  readonly #environment: Environment;
  readonly #bytesMax: number;
  readonly #holdMsMax: number;
  readonly #freed = new Signalled();
  #bytes = 0;
  #closed = false;
  #holds = true;
  #longestHoldMs = 0;

  constructor(environment: Environment, bytesMax: number, holdMsMax: number) {
    this.#environment = environment;
    this.#bytesMax = bytesMax;
    this.#holdMsMax = holdMsMax;
  }

  /** Bytes that wait or are on their way. */
  get bytes(): number {
    return this.#bytes;
  }

  /** For how long a guest write was held, the longest one, in ms. */
  get longestHoldMs(): number {
    return this.#longestHoldMs;
  }

  /**
   * Takes `bytes` in, or says that there is no room. What is held back from the guest may go beyond the bound by as much again: a guest has
   * only so many writes under way.
   */
  take(bytes: number): boolean {
    const limit = this.#holdMsMax > 0 ? 2 * this.#bytesMax : this.#bytesMax;
    if (this.#bytes + bytes > limit) return false;
    this.#bytes += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#bytes -= bytes;
    if (this.#bytes <= this.#bytesMax) this.#freed.notify();
  }

  /** Whether guest writes may be held at all: not while the link is gone. */
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
    if (this.#bytes <= this.#bytesMax || this.#holdMsMax === 0 || !this.#mayHold) return undefined;
    return this.#hold();
  }

  get #mayHold(): boolean {
    return this.#holds && !this.#closed;
  }

  async #hold(): Promise<void> {
    const startMs = this.#environment.now();
    let expired = false;
    const cancel = this.#environment.setTimer(this.#holdMsMax, () => {
      expired = true;
      this.#freed.notify();
    });
    while (this.#bytes > this.#bytesMax && !expired && this.#mayHold) await this.#freed.wait();
    cancel();
    this.#longestHoldMs = Math.max(this.#longestHoldMs, this.#environment.now() - startMs);
  }
}
