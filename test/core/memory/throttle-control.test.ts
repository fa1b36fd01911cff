/**
 * Goal: the guest is slowed no harder than it takes to send twice as fast as it dirties, and for its disks' writes to leave room, in limited steps, and let go again.
 * Method: properties over all inputs, and a closed loop with a guest that dirties in proportion to the time it is given.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nextThrottle } from '../../../src/core/memory/throttle-control.ts';

const percent = (most: number) => fc.integer({ min: 0, max: most }).map((value) => value / 100);
const rate = fc.double({ min: 1, max: 1e12, noNaN: true });
const dirtying = fc.double({ min: 0, max: 1e12, noNaN: true });

describe('nextThrottle', () => {
  it('moves by 20 % up or 5 % down at most, in whole per cent, within its limits', () => {
    fc.assert(
      fc.property(percent(99), percent(99), dirtying, rate, (throttle, throttleMax, dirty, send) => {
        const next = nextThrottle({
          throttle,
          throttleMax,
          dirtyBytesPerSecond: dirty,
          sendBytesPerSecond: send,
        });
        expect(Math.abs(next * 100 - Math.round(next * 100))).toBeLessThan(1e-9);
        expect(next).toBeGreaterThanOrEqual(0);
        expect(next).toBeLessThanOrEqual(throttleMax);
        if (throttle <= throttleMax) {
          expect(next).toBeLessThanOrEqual(throttle + 0.2 + 1e-9);
          expect(next).toBeGreaterThanOrEqual(throttle - 0.05 - 1e-9);
        }
      }),
    );
  });

  it('never falls when the guest dirties faster, nor rises when the link is faster', () => {
    fc.assert(
      fc.property(
        percent(80),
        dirtying,
        rate,
        fc.double({ min: 1, max: 1e3, noNaN: true }),
        (throttle, dirty, send, by) => {
          const ask = (dirtyBytesPerSecond: number, sendBytesPerSecond: number) =>
            nextThrottle({ throttle, throttleMax: 0.8, dirtyBytesPerSecond, sendBytesPerSecond });
          expect(ask(dirty * by, send)).toBeGreaterThanOrEqual(ask(dirty, send));
          expect(ask(dirty, send * by)).toBeLessThanOrEqual(ask(dirty, send));
        },
      ),
    );
  });

  it('leaves a guest alone that dirties at less than half the rate of the link', () => {
    fc.assert(
      fc.property(rate, fc.double({ min: 0, max: 0.5, noNaN: true }), (send, fraction) => {
        expect(
          nextThrottle({
            throttle: 0,
            throttleMax: 0.8,
            dirtyBytesPerSecond: send * fraction,
            sendBytesPerSecond: send,
          }),
        ).toBe(0);
      }),
    );
  });

  it('settles where memory is sent twice as fast as it is dirtied, to the per cent', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 2.4, noNaN: true }), percent(80), (unthrottled, start) => {
        let throttle = start;
        for (let round = 0; round < 20; round++) {
          throttle = nextThrottle({
            throttle,
            throttleMax: 0.8,
            dirtyBytesPerSecond: unthrottled * (1 - throttle),
            sendBytesPerSecond: 1,
          });
        }
        expect(unthrottled * (1 - throttle)).toBeLessThanOrEqual(0.5 + 1e-6);
        const oneLess = unthrottled * (1 - throttle + 0.01);
        expect(throttle === 0 || oneLess >= 0.5 - 1e-6).toBe(true);
      }),
    );
  });

  it('rises over four rounds to its limit, and takes sixteen quiet ones to be gone', () => {
    const course: number[] = [];
    let throttle = 0;
    for (let round = 0; round < 20; round++) {
      const dirtyBytesPerSecond = round < 4 ? 1e12 : 0;
      throttle = nextThrottle({ throttle, throttleMax: 0.8, dirtyBytesPerSecond, sendBytesPerSecond: 1e8 });
      course.push(throttle);
    }
    expect(course.slice(0, 6)).toEqual([0.2, 0.4, 0.6, 0.8, 0.75, 0.7]);
    expect(course.slice(-2)).toEqual([0.05, 0]);
  });

  const flow = fc.record({ guestBytesPerSecond: dirtying, bytesPerSecond: rate });
  const withDisks = fc.record({
    throttle: percent(80),
    throttleMax: fc.constant(0.8),
    dirtyBytesPerSecond: dirtying,
    sendBytesPerSecond: rate,
    diskBytesPerSecond: dirtying,
    behind: fc.boolean(),
    slowDisks: fc.array(flow, { maxLength: 3 }),
  });
  const more = fc.double({ min: 1, max: 1e3, noNaN: true });

  it('never falls when the guest writes more to its disks, something is behind, or a disk is slow', () => {
    fc.assert(
      fc.property(withDisks, flow, more, (inputs, disk, by) => {
        const before = nextThrottle(inputs);
        const diskBytesPerSecond = inputs.diskBytesPerSecond * by;
        expect(nextThrottle({ ...inputs, diskBytesPerSecond })).toBeGreaterThanOrEqual(before);
        expect(nextThrottle({ ...inputs, behind: true })).toBeGreaterThanOrEqual(before);
        const slowDisks = [...inputs.slowDisks, disk];
        const slower = nextThrottle({ ...inputs, slowDisks });
        expect(slower).toBeGreaterThanOrEqual(before);
        const faster = [...inputs.slowDisks, { ...disk, bytesPerSecond: disk.bytesPerSecond * by }];
        expect(nextThrottle({ ...inputs, slowDisks: faster })).toBeLessThanOrEqual(slower);
      }),
    );
  });

  const share = fc.double({ min: 0.001, max: 2.4, noNaN: true });
  it('settles where memory outpaces what is dirtied with what the disks leave, and they leave half when something is behind', () => {
    fc.assert(
      fc.property(share, share, share, fc.boolean(), percent(80), (dirty, disk, slowPace, behind, start) => {
        // As fast as the hardest throttle can do with.
        const send = (2 * dirty + 2 * disk) / 4.9;
        const pace = Math.max(slowPace, (2 * disk) / 4.9);
        let throttle = start;
        const ask = () =>
          nextThrottle({
            throttle,
            throttleMax: 0.8,
            dirtyBytesPerSecond: dirty * (1 - throttle),
            diskBytesPerSecond: disk * (1 - throttle),
            sendBytesPerSecond: send,
            behind,
            slowDisks: [{ guestBytesPerSecond: disk * (1 - throttle), bytesPerSecond: pace }],
          });
        for (let round = 0; round < 20; round++) throttle = ask();
        const [dirtied, written] = [dirty * (1 - throttle), disk * (1 - throttle)];
        expect(2 * dirtied).toBeLessThanOrEqual(send - written + 1e-6);
        expect(2 * written).toBeLessThanOrEqual(pace + 1e-6);
        if (behind) expect(2 * written).toBeLessThanOrEqual(send + 1e-6);
        // And no harder: with one per cent less one of these would not be so.
        const [dirtiedMore, writtenMore] = [dirty * (1.01 - throttle), disk * (1.01 - throttle)];
        const tooMuch =
          2 * dirtiedMore + writtenMore > send - 1e-6 ||
          2 * writtenMore > pace - 1e-6 ||
          (behind && 2 * writtenMore > send - 1e-6);
        expect(throttle === 0 || tooMuch).toBe(true);
      }),
    );
  });
});
