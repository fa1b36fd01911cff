import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import { createPrng } from '../util/prng.ts';

/** An environment whose time stands still, and jumps from one timer to the next when it is told to run. */
export interface VirtualEnvironment extends Environment {
  /**
   * Lets time pass: until no timer is left, or until `until` ms (then `now()` is exactly that), or until the
   * promise settles, whose outcome it hands on. Rejects with `timeout` if no timer is left and the promise
   * has not settled: then it never will. Rejects with what a timer's callback throws. Between two timers all
   * promises that can settle do; the outside world (files, sockets) is not waited for.
   */
  run(until?: number): Promise<void>;
  /** As above, until the promise settles. */
  run<T>(until: Promise<T>): Promise<T>;
  /**
   * Timers that are set and have neither fired nor been cancelled: what an oracle looks at when all is over.
   */
  readonly pendingTimers: number;
  /** Timers that have fired so far. */
  readonly firedTimers: number;
}

/**
 * Timers fired in one turn of the event loop. Node drains promises and reports unhandled rejections between
 * any two immediates, so that each timer's consequences are complete before the next fires, as in a real
 * process; a whole turn for each would take ten times as long.
 */
const timersPerTurnMax = 64;

/**
 * A virtual environment that starts at 0 ms; the same seed (a safe integer, default 1) gives the same random
 * bytes.
 */
export function createVirtualEnvironment(seed = 1): VirtualEnvironment {
  const timers = new TimerHeap();
  const prng = createPrng(seed);
  let time = 0;
  let fired = 0;

  /** Fires the next timer if it is due by then; false if there is none. */
  const step = (limit: number): boolean => {
    const at = timers.nextAt();
    if (at === undefined || at > limit) return false;
    time = at;
    fired += 1;
    timers.take()();
    return true;
  };

  const run = async <T>(until: number | Promise<T> = Number.POSITIVE_INFINITY): Promise<T | undefined> => {
    const limit = typeof until === 'number' ? until : Number.POSITIVE_INFINITY;
    let settled = false;
    if (typeof until !== 'number') {
      const settle = () => {
        settled = true;
      };
      until.then(settle, settle);
    }
    await inTurns(() => !settled && step(limit));
    if (typeof until === 'number') {
      if (limit !== Number.POSITIVE_INFINITY) time = Math.max(time, limit);
      return undefined;
    }
    if (!settled) {
      throw new MigrationError(
        'timeout',
        `nothing is left to happen at ${time} ms, and the promise has not settled`,
      );
    }
    return until;
  };

  return {
    now: () => time,
    setTimer(delayMs, callback) {
      if (!(delayMs >= 0 && delayMs < Number.POSITIVE_INFINITY)) {
        throw new MigrationError('invalid-argument', `a timer of ${delayMs} ms`);
      }
      const timer = timers.add(time + delayMs, callback);
      return () => timers.cancel(timer);
    },
    randomBytes(length) {
      const bytes = new Uint8Array(length);
      prng.fill(bytes);
      return bytes;
    },
    run: run as VirtualEnvironment['run'],
    get pendingTimers() {
      return timers.size;
    },
    get firedTimers() {
      return fired;
    },
  };
}

/**
 * Calls `step` until it returns false, letting all promises settle before each call. Rejects with what it
 * throws.
 */
function inTurns(step: () => boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    let left = 0;
    let batch = 1;
    let over = false;
    const tick = () => {
      if (over) return;
      left -= 1;
      try {
        over = !step();
      } catch (error) {
        over = true;
        reject(error);
      }
      if (over) resolve();
      else if (left === 0) turn();
    };
    const turn = () => {
      left = batch;
      for (let index = 0; index < batch; index++) setImmediate(tick);
      batch = Math.min(timersPerTurnMax, batch * 2);
    };
    turn();
  });
}

interface Timer {
  readonly at: number;
  /** Those of the same time fire in the order in which they were set. */
  readonly order: number;
  /** Undefined once it has fired or was cancelled. */
  callback: (() => void) | undefined;
}

/**
 * Cancelled timers stay in the heap until they come up, or until there are this many and they are most of it.
 */
const cancelledMin = 256;

/** Timers by time: a binary heap. */
class TimerHeap {
  #heap: Timer[] = [];
  #cancelled = 0;
  #order = 0;

  /** Timers that will fire. */
  get size(): number {
    return this.#heap.length - this.#cancelled;
  }

  add(at: number, callback: () => void): Timer {
    const timer: Timer = { at, order: this.#order++, callback };
    this.#up(timer, this.#heap.length);
    return timer;
  }

  cancel(timer: Timer): void {
    if (timer.callback === undefined) return;
    timer.callback = undefined;
    this.#cancelled += 1;
    if (this.#cancelled >= cancelledMin && this.#cancelled * 2 > this.#heap.length) this.#compact();
  }

  /** When the next one fires. */
  nextAt(): number | undefined {
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined || first.callback !== undefined) return first?.at;
      this.#cancelled -= 1;
      this.#removeFirst();
    }
  }

  /** Takes out the next one, after {@link TimerHeap.nextAt} said that there is one. */
  take(): () => void {
    const first = this.#heap[0];
    const callback = first?.callback;
    if (first === undefined || callback === undefined)
      throw new MigrationError('internal', 'no timer is due');
    first.callback = undefined;
    this.#removeFirst();
    return callback;
  }

  #removeFirst(): void {
    const last = this.#heap.pop();
    if (last !== undefined && this.#heap.length > 0) this.#down(last, 0);
  }

  #compact(): void {
    const alive = this.#heap.filter((timer) => timer.callback !== undefined);
    this.#heap = [];
    this.#cancelled = 0;
    for (const timer of alive) this.#up(timer, this.#heap.length);
  }

  #up(timer: Timer, from: number): void {
    const heap = this.#heap;
    let hole = from;
    while (hole > 0) {
      const parentAt = (hole - 1) >>> 1;
      const parent = heap[parentAt] as Timer;
      if (before(parent, timer)) break;
      heap[hole] = parent;
      hole = parentAt;
    }
    heap[hole] = timer;
  }

  #down(timer: Timer, from: number): void {
    const heap = this.#heap;
    const { length } = heap;
    let hole = from;
    for (;;) {
      let childAt = 2 * hole + 1;
      if (childAt >= length) break;
      let child = heap[childAt] as Timer;
      const right = heap[childAt + 1];
      if (right !== undefined && before(right, child)) {
        child = right;
        childAt += 1;
      }
      if (before(timer, child)) break;
      heap[hole] = child;
      hole = childAt;
    }
    heap[hole] = timer;
  }
}

function before(one: Timer, other: Timer): boolean {
  return one.at < other.at || (one.at === other.at && one.order < other.order);
}
