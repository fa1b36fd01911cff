import type { Environment } from '../../../../src/interfaces/environment.ts';
import { createPrng } from '../../../../src/util/prng.ts';

/** A clock that moves only when a test moves it. */
export interface VirtualEnvironment extends Environment {
  /** Moves the clock on, firing each timer at its time and letting everything that follows from it happen. */
  advance(ms: number): Promise<void>;
  /** Moves the clock without firing what is due: the host was busy. */
  stall(ms: number): void;
}

export function createVirtualEnvironment(): VirtualEnvironment {
  const timers = new Map<object, { readonly at: number; readonly callback: () => void }>();
  const prng = createPrng(1);
  let now = 0;

  function takeDue(until: number): (() => void) | undefined {
    let first: object | undefined;
    let firstAt = Number.POSITIVE_INFINITY;
    for (const [key, { at }] of timers) {
      if (at <= until && at < firstAt) [first, firstAt] = [key, at];
    }
    if (first === undefined) return undefined;
    const callback = timers.get(first)?.callback;
    timers.delete(first);
    now = Math.max(now, firstAt);
    return callback;
  }

  return {
    now: () => now,
    setTimer(delayMs, callback) {
      const key = {};
      timers.set(key, { at: now + delayMs, callback });
      return () => void timers.delete(key);
    },
    randomBytes(length) {
      const bytes = new Uint8Array(length);
      prng.fill(bytes);
      return bytes;
    },
    async advance(ms) {
      const until = now + ms;
      await settle();
      for (let due = takeDue(until); due !== undefined; due = takeDue(until)) {
        due();
        await settle();
      }
      now = until;
    },
    stall(ms) {
      now += ms;
    },
  };
}

/** Lets every promise that can settle do so. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
