/**
 * Goal: a destination's disk counts as slow if the guest writes faster than it does, whatever else is sent to it, and only if it is the disk that is waited for.
 * Method: courses of looks, four a second, for drawn rates.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DiskPace } from '../../../src/core/storage/disk-pace.ts';

const rate = fc.double({ min: 1e3, max: 1e9, noNaN: true });
const lookMs = 250;

interface Course {
  readonly guest: number;
  readonly sent: number;
  readonly held: boolean | ((look: number) => boolean);
  readonly throttle?: number;
  readonly seconds: number;
}

/** A pace that has seen all of these, one behind the other. */
function afterCourses(...courses: readonly Course[]): DiskPace {
  const pace = new DiskPace();
  let nowMs = 0;
  let guestBytes = 0;
  let sentBytes = 0;
  pace.look({ nowMs, guestBytes, sentBytes, isHeld: false, throttle: 0 });
  for (const { guest, sent, held, throttle = 0, seconds } of courses) {
    for (let look = 0; look < seconds * 4; look++) {
      nowMs += lookMs;
      guestBytes += (guest * lookMs) / 1000;
      sentBytes += (sent * lookMs) / 1000;
      pace.look({
        nowMs,
        guestBytes,
        sentBytes,
        isHeld: typeof held === 'boolean' ? held : held(look),
        throttle,
      });
    }
  }
  return pace;
}

describe('DiskPace', () => {
  it('tells of a disk that is slower than the guest within four seconds, with both rates', () => {
    fc.assert(
      fc.property(rate, fc.double({ min: 1.2, max: 100, noNaN: true }), (sent, by) => {
        const guest = sent * by;
        expect(afterCourses({ guest, sent, held: true, seconds: 2 }).slow(0)).toBeUndefined();
        const flow = afterCourses({ guest, sent, held: true, seconds: 4 }).slow(0);
        expect(flow?.guestBytesPerSecond).toBeCloseTo(guest, -1);
        expect(flow?.bytesPerSecond).toBeCloseTo(sent, -1);
      }),
    );
  });

  it('does not of one that is as fast as the guest, nor while it is the link that is waited for', () => {
    fc.assert(
      fc.property(rate, rate, (guest, sent) => {
        const pace = afterCourses({ guest, sent: Math.max(guest, sent), held: true, seconds: 30 });
        expect(pace.slow(0)).toBeUndefined();
        const linked = afterCourses({ guest, sent, held: false, seconds: 30 });
        expect(linked.slow(0)).toBeUndefined();
        expect(linked.isHeld).toBe(false);
      }),
    );
  });

  it('nor for a moment, nor while the disk becomes faster', () => {
    const moment: Course = { guest: 2e6, sent: 1e6, held: true, seconds: 2 };
    const fine: Course = { guest: 1e6, sent: 1e6, held: false, seconds: 3 };
    expect(afterCourses(moment, fine, moment, fine).slow(0)).toBeUndefined();
    const rising = [1, 1.5, 2, 2.5, 3, 3.5, 4].map((sent) => ({ guest: 5, sent, held: true, seconds: 1 }));
    expect(afterCourses(...rising).slow(0)).toBeUndefined();
  });

  it('does not take one look that finds nothing held for the end of it', () => {
    const held = (look: number) => look % 3 !== 0;
    expect(afterCourses({ guest: 2e6, sent: 1e6, held, seconds: 6 }).slow(0)).toBeDefined();
  });

  it('sees what the guest would write without its throttle, also as that changes', () => {
    const pace = afterCourses(
      { guest: 4e6, sent: 0, held: false, seconds: 1 },
      { guest: 2e6, sent: 0, held: false, throttle: 0.5, seconds: 1 },
      { guest: 1e6, sent: 0, held: false, throttle: 0.75, seconds: 1 },
    );
    expect(pace.guestBytesPerSecond(0)).toBeCloseTo(4e6, 3);
    expect(pace.guestBytesPerSecond(0.75)).toBeCloseTo(1e6, 3);
  });

  it('remembers a slow disk for ten seconds after it was waited for, while the guest is slowed for it', () => {
    const slow: Course = { guest: 4e6, sent: 1e6, held: true, seconds: 5 };
    const slowed = (seconds: number): Course => ({
      guest: 1e6,
      sent: 1e6,
      held: false,
      throttle: 0.75,
      seconds,
    });
    expect(afterCourses(slow, slowed(9)).slow(0.75)?.bytesPerSecond).toBeCloseTo(1e6, 3);
    expect(afterCourses(slow, slowed(11)).slow(0.75)).toBeUndefined();
  });
});
