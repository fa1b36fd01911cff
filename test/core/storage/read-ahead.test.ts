/**
 * Goal: as many reads are in flight as a disk has a use for, and never more than it, or its guest, bears.
 * Method: properties over all that may be seen, and closed loops with disks that are far away, or full.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ReadAhead, readsMax, readsMin } from '../../../src/core/storage/read-ahead.ts';

const seen = fc.record({
  reads: fc.nat(50),
  totalMs: fc.double({ min: 0, max: 1e5, noNaN: true }),
  limited: fc.boolean(),
  share: fc.constantFrom(0, 0.25, 1),
});

/** What a disk that takes `latencyMs`, and then `transferMs` for one read after the other, does to so many in flight. */
function depthOn(latencyMs: number, transferMs: number): number {
  const ahead = new ReadAhead();
  for (let look = 0; look < 100; look++) {
    const readMs = Math.max(latencyMs + transferMs, ahead.depth * transferMs);
    ahead.look({ reads: 10, totalMs: 10 * readMs, limited: true, share: 1 });
  }
  return ahead.depth;
}

describe('ReadAhead', () => {
  it('stays within its bounds, and moves by one, whatever is seen', () => {
    fc.assert(
      fc.property(fc.array(seen, { maxLength: 60 }), (looks) => {
        const ahead = new ReadAhead();
        for (const look of looks) {
          const before = ahead.depth;
          ahead.look(look);
          expect(Math.abs(ahead.depth - before)).toBeLessThanOrEqual(1);
          expect(ahead.depth).toBeGreaterThanOrEqual(readsMin);
          expect(ahead.depth).toBeLessThanOrEqual(readsMax);
          if (!look.limited || look.share < 1) expect(ahead.depth).toBeLessThanOrEqual(before);
        }
      }),
    );
  });

  it('goes to the bound on a disk that is far away, and hardly beyond the least on one that is full', () => {
    expect(depthOn(10, 0.5)).toBe(readsMax);
    expect(depthOn(0, 5)).toBeLessThanOrEqual(readsMin * 1.5 + 1);
    // This one has a use for eight.
    expect(depthOn(8, 1)).toBeGreaterThanOrEqual(8);
    expect(depthOn(8, 1)).toBeLessThan(readsMax);
  });

  it('goes back where a disk becomes slower', () => {
    const ahead = new ReadAhead();
    const look = (readMs: number) => ahead.look({ reads: 5, totalMs: 5 * readMs, limited: true, share: 1 });
    for (let times = 0; times < readsMax; times++) look(10);
    expect(ahead.depth).toBe(readsMax);
    for (let times = 0; times < readsMax - readsMin; times++) look(100);
    expect(ahead.depth).toBe(readsMin);
    // What a read takes with the fewest in flight is known anew, and it may go deeper again.
    for (let times = 0; times < readsMax; times++) look(100);
    expect(ahead.depth).toBe(readsMax);
  });
});
