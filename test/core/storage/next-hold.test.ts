/** Goal: a guest is held only while it outruns the link, ever longer up to the limit, and let go again. Method: properties, and a course. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nextHold } from '../../../src/core/storage/next-hold.ts';

const rate = fc.double({ min: 1, max: 1e10, noNaN: true });
const flow = fc.record({ guestBytesPerSecond: rate, bytesPerSecond: rate });
const inputs = fc
  .record({
    holdMsMax: fc.double({ min: 0, max: 10_000, noNaN: true }),
    part: fc.double({ min: 0, max: 1, noNaN: true }),
    flows: fc.array(flow, { maxLength: 3 }),
    behind: fc.boolean(),
  })
  .map(({ part, ...rest }) => ({ ...rest, holdMs: part * rest.holdMsMax }));

describe('nextHold', () => {
  it('is 0 to the longest that is allowed, and 0 where none is', () => {
    fc.assert(
      fc.property(inputs, (all) => {
        const next = nextHold(all);
        expect(next).toBeGreaterThanOrEqual(0);
        expect(next).toBeLessThanOrEqual(all.holdMsMax);
        expect(nextHold({ ...all, holdMs: 0, holdMsMax: 0 })).toBe(0);
      }),
    );
  });

  it('rises only while something is behind, and falls only while the guest leaves half to others', () => {
    fc.assert(
      fc.property(inputs, (all) => {
        const outruns = all.flows.some((each) => 2 * each.guestBytesPerSecond > each.bytesPerSecond);
        const next = nextHold(all);
        if (next > all.holdMs) expect(outruns && all.behind).toBe(true);
        if (next < all.holdMs) expect(outruns).toBe(false);
      }),
    );
  });

  it('is all of it in five looks, stays while it is what makes it fit, and is gone in five', () => {
    const fast = [{ guestBytesPerSecond: 2e6, bytesPerSecond: 1e6 }];
    const slow = [{ guestBytesPerSecond: 0.4e6, bytesPerSecond: 1e6 }];
    const course: number[] = [];
    let holdMs = 0;
    const look = (flows: typeof fast, behind: boolean) => {
      holdMs = nextHold({ holdMs, holdMsMax: 800, flows, behind });
      course.push(holdMs);
    };
    for (let index = 0; index < 6; index++) look(fast, true);
    look(fast, false);
    for (let index = 0; index < 5; index++) look(slow, true);
    expect(course).toEqual([50, 100, 200, 400, 800, 800, 800, 400, 200, 100, 50, 0]);
  });
});
