/**
 * Goal: what waits goes to the lanes so that all that take any are done at the same time, and none takes any that would be done later anyway. Method: whatever lanes there are, what they carry until
 * then is what is on their way and what waits, to the byte.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { allDeliveredMs } from '../../src/channel/all-delivered.ts';

const laneArbitrary = fc.record({
  ms: fc.double({ min: 0, max: 10_000, noNaN: true }),
  bytesPerMs: fc.double({ min: 1, max: 1e6, noNaN: true }),
});

it('fills the lanes that are done first to one time, with all that waits', () => {
  const lanesArbitrary = fc.array(laneArbitrary, { minLength: 1, maxLength: 256 });
  fc.assert(
    fc.property(lanesArbitrary, fc.integer({ min: 1, max: 1 << 30 }), (lanes, queuedBytes) => {
      const ordered = lanes.toSorted((a, b) => a.ms - b.ms);
      const allMs = allDeliveredMs(ordered, queuedBytes);
      const carried = ordered.reduce(
        (sum, { ms, bytesPerMs }) => sum + bytesPerMs * Math.max(0, allMs - ms),
        0,
      );
      // Of times that differ by less than their digits tell, a few bytes are off.
      expect(Math.abs(carried - queuedBytes)).toBeLessThan(1 + 1e-6 * queuedBytes);
      expect(allMs).toBeGreaterThanOrEqual(ordered[0]?.ms ?? 0);
    }),
  );
});

it('takes another lane in only if it is done before the others would have delivered all', () => {
  const fast = { ms: 10, bytesPerMs: 100 };
  expect(allDeliveredMs([fast], 1000)).toBe(20);
  expect(allDeliveredMs([fast, { ms: 20, bytesPerMs: 100 }], 1000)).toBe(20);
  expect(allDeliveredMs([fast, { ms: 14, bytesPerMs: 100 }], 1000)).toBe(17);
  expect(allDeliveredMs([], 1000)).toBe(Number.POSITIVE_INFINITY);
});
