/**
 * Breaks of a thread that yields to others. Its niceness alone does not bring them in at once: Linux (EEVDF, from 6.6 on) lets whoever runs go on, up to a tick of the clock, some 4 ms, where the thread that was woken has just
 * had more than its share. A thread that sleeps, be it for a moment, leaves the processor to whoever wants it.
 *
 * So what such a thread does often, reading and writing, asks here first. With other work it takes no breaks.
 */
const turnMs = 1;
/** The kernel makes it some 80 µs. */
const breakMs = 0.02;

const neverNotified = new Int32Array(new SharedArrayBuffer(4));
let takesThem = false;
let sinceMs = 0;

/** Whether the calling thread takes breaks from now on: not, until it is said. */
export function takeBreaks(yes: boolean): void {
  takesThem = yes;
}

/** Sleeps for a moment if the calling thread takes breaks and the last one was a millisecond ago or more, also if it had nothing to do meanwhile. Returns whether it did. */
export function breakIfDue(): boolean {
  if (!takesThem || performance.now() - sinceMs < turnMs) return false;
  Atomics.wait(neverNotified, 0, 0, breakMs);
  sinceMs = performance.now();
  return true;
}
