import { type Deferred, deferred } from '../util/promises.ts';
import type { Lane } from './lane.ts';

/** Lanes that wait for something to do, each woken by itself: with a hundred of them most changes concern a few. */
export class IdleLanes {
  readonly #waiting = new Map<Lane, Deferred<void>>();
  #failure: { readonly error: unknown } | undefined;

  get size(): number {
    return this.#waiting.size;
  }

  /** Resolves when the lane is woken. Check the condition, then wait, in a loop. */
  wait(lane: Lane): Promise<void> {
    const waiting = deferred<void>();
    if (this.#failure !== undefined) waiting.reject(this.#failure.error);
    else this.#waiting.set(lane, waiting);
    return waiting.promise;
  }

  /** Wakes those that a change concerns, the longest idle one first. */
  wake(concerns: (lane: Lane) => boolean): void {
    for (const [lane, waiting] of this.#waiting) {
      if (!concerns(lane)) continue;
      this.#waiting.delete(lane);
      waiting.resolve();
    }
  }

  /** All reject, and whoever waits later. */
  fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }
}
