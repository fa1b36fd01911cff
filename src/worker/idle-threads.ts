import { closeIdleClass, emptyIdleClass, enterIdleClass, openIdleClass } from '../util/idle-class.ts';
import { type RunTimes, runTimesOf } from '../util/thread-priority.ts';

/** How often it is looked at what the threads get. */
const lookMs = 1000;
/** Against a program that always wants the processor a thread that is nicer by 10 waits nine times as long as it runs: up to 5 the class costs it no more than its niceness alone. */
const waitedTimesMax = 5;
/** Waits that are shorter in all hold up nothing. */
const waitedMsMin = 250;

/** Whether threads that ran and waited for so long, together and since the last look, get too little in the class SCHED_IDLE. */
export function isStarved({ ranMs, waitedMs }: RunTimes): boolean {
  return waitedMs >= waitedMsMin && waitedMs > waitedTimesMax * ranMs;
}

/**
 * Some threads of this process as one migration yields with them: they are in the class SCHED_IDLE for as long as that leaves them something. A host whose
 * processors other programs want all the time would leave them next to nothing there; then they go back to SCHED_OTHER for the rest of the migration.
 *
 * Where there is no program to do it, or the kernel does not say what threads get, they stay where they are. Nothing here throws.
 */
export class IdleThreads {
  readonly #threads: readonly number[];
  #open = false;
  #starved = false;
  #before = new Map<number, RunTimes>();
  #timer: NodeJS.Timeout | undefined;

  constructor(threads: readonly number[]) {
    this.#threads = threads;
  }

  /** To be called before anything yields. Does nothing the second time. */
  open(): void {
    if (!this.#open) openIdleClass();
    this.#open = true;
  }

  /** They go into the class, unless they are there, or got too little there before. */
  enter(): void {
    if (!this.#open || this.#starved || this.#timer !== undefined) return;
    this.#before = this.#times();
    if (this.#before.size === 0) return;
    enterIdleClass(this.#threads);
    this.#timer = setInterval(() => this.#look(), lookMs).unref();
  }

  /** All threads of this process leave the class, whoever has put them there. */
  leave(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    emptyIdleClass();
  }

  /** They leave it for good. */
  close(): void {
    this.leave();
    if (this.#open) closeIdleClass();
    this.#open = false;
  }

  #look(): void {
    const now = this.#times();
    let [ranMs, waitedMs] = [0, 0];
    for (const [id, times] of now) {
      const before = this.#before.get(id) ?? times;
      ranMs += times.ranMs - before.ranMs;
      waitedMs += times.waitedMs - before.waitedMs;
    }
    this.#before = now;
    this.#starved = isStarved({ ranMs, waitedMs });
    if (this.#starved) this.leave();
  }

  #times(): Map<number, RunTimes> {
    const times = new Map<number, RunTimes>();
    for (const id of this.#threads) {
      const its = runTimesOf(id);
      if (its !== undefined) times.set(id, its);
    }
    return times;
  }
}
