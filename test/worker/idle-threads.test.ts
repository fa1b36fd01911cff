/** Goal: threads stay in the class SCHED_IDLE where that costs them no more than their niceness would, and not where it stops them. Method: the rule alone. */
import { describe, expect, it } from 'vitest';
import { isStarved } from '../../src/worker/idle-threads.ts';

describe('threads in SCHED_IDLE', () => {
  it.each([
    ['wait five times as long as they run', { ranMs: 100, waitedMs: 500 }, false],
    ['wait longer than that', { ranMs: 100, waitedMs: 501 }, true],
    ['get nothing at all', { ranMs: 0, waitedMs: 1000 }, true],
    ['wait for each other, four for each processor', { ranMs: 2000, waitedMs: 6000 }, false],
    ['have hardly anything to do', { ranMs: 1, waitedMs: 249 }, false],
    ['have hardly anything to do, and wait a quarter of a second for it', { ranMs: 1, waitedMs: 250 }, true],
    ['do nothing', { ranMs: 0, waitedMs: 0 }, false],
  ])('%s', (_what, times, starved) => {
    expect(isStarved(times)).toBe(starved);
  });
});
