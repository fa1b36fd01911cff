import type { Environment } from '../../src/interfaces/environment.ts';

/** An environment whose time stands still, and jumps from one timer to the next when it is told to run. */
export interface VirtualEnvironment extends Environment {
  /**
   * Lets time pass: until no timer is left, or until `until` ms (then `now()` is exactly that), or until the
   * promise settles, whose outcome it hands on. Throws if no timer is left and the promise has not settled:
   * then it never will. Between two timers all promises that can settle do; the outside world is not waited
   * for.
   */
  run(until?: number): Promise<void>;
  run<T>(until: Promise<T>): Promise<T>;
}

interface Timer {
  readonly at: number;
  readonly callback: () => void;
}

/** A virtual environment that starts at 0 ms; the same seed gives the same random bytes. */
export function createVirtualEnvironment(seed = 1): VirtualEnvironment {
  let time = 0;
  let random = seed >>> 0;
  /** In the order in which they fire; those of the same time in the order in which they were set. */
  const timers: Timer[] = [];

  const setTimer = (delayMs: number, callback: () => void) => {
    if (!(delayMs >= 0)) throw new RangeError(`a timer of ${delayMs} ms`);
    const timer = { at: time + delayMs, callback };
    let low = 0;
    let high = timers.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((timers[middle]?.at ?? 0) <= timer.at) low = middle + 1;
      else high = middle;
    }
    timers.splice(low, 0, timer);
    return () => {
      const index = timers.indexOf(timer);
      if (index >= 0) timers.splice(index, 1);
    };
  };

  /** Fires the next timer if it is due by then; false if there is none. */
  const step = (limit: number): boolean => {
    const timer = timers[0];
    if (timer === undefined || timer.at > limit) return false;
    timers.shift();
    time = timer.at;
    timer.callback();
    return true;
  };

  const run = async <T>(until: number | Promise<T> = Number.POSITIVE_INFINITY): Promise<T | undefined> => {
    let settled = false;
    const limit = typeof until === 'number' ? until : Number.POSITIVE_INFINITY;
    if (typeof until !== 'number') {
      const settle = () => {
        settled = true;
      };
      until.then(settle, settle);
    }
    do {
      // All microtasks run before an immediate does.
      await new Promise((resolve) => setImmediate(resolve));
    } while (!settled && step(limit));
    if (typeof until !== 'number') {
      if (!settled)
        throw new Error(`nothing is left to happen at ${time} ms, and the promise has not settled`);
      return until;
    }
    if (Number.isFinite(limit)) time = Math.max(time, limit);
    return undefined;
  };

  return {
    now: () => time,
    setTimer,
    randomBytes: (length) =>
      Uint8Array.from({ length }, () => {
        // A linear congruential generator's upper bits: chance enough for a test.
        random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
        return random >>> 24;
      }),
    run: run as VirtualEnvironment['run'],
  };
}
