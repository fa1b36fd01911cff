/**
 * Goal: a destination's disk counts as slow if the guest writes faster than it does, whatever else is sent to it, and only if it is the disk that is waited for; and how
 * long what it has will take is known from a tenth of a second on.
 * Method: courses of looks, four a second, for drawn rates.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DiskPace } from '../../../src/core/storage/disk-pace.ts';

const rate = fc.double({ min: 1e3, max: 1e9, noNaN: true });
const lookMs = 250;

/** A downtime that no disk of these courses is too slow for, unless it says so. */
const ampleMs = 1e9;

interface Course {
  readonly guest: number;
  /** In bytes a second; as much work is begun there. */
  readonly sent: number;
  readonly held: boolean | ((look: number) => boolean);
  /** What work is left there at each look. Default: little. */
  readonly left?: number;
  readonly throttle?: number;
  readonly seconds: number;
}

/** A pace that has seen all of these, one behind the other. */
function afterCourses(...courses: readonly Course[]): DiskPace {
  return lookedAt(new DiskPace(ampleMs), courses);
}

function lookedAt(pace: DiskPace, courses: readonly Course[]): DiskPace {
  let nowMs = 0;
  let guestBytes = 0;
  let sentBytes = 0;
  const look = (isHeld: boolean, throttle: number, left: number) => {
    pace.backlog(nowMs, { begun: sentBytes, left, coming: 0 });
    pace.look({ nowMs, guest: { bytes: guestBytes, writes: 0 }, sentBytes, isHeld, throttle });
  };
  look(false, 0, 1);
  for (const { guest, sent, held, throttle = 0, seconds, left = 1 } of courses) {
    for (let count = 0; count < seconds * 4; count++) {
      nowMs += lookMs;
      guestBytes += (guest * lookMs) / 1000;
      sentBytes += (sent * lookMs) / 1000;
      look(typeof held === 'boolean' ? held : held(count), throttle, left);
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
    const moment: Course = { guest: 2e6, sent: 1e6, held: true, seconds: 1.5 };
    const fine: Course = { guest: 1e6, sent: 1e6, held: false, seconds: 3 };
    expect(afterCourses(moment, fine, moment, fine).slow(0)).toBeUndefined();
    const rising = [1, 1.5, 2, 2.5, 3, 3.5, 4].map((sent) => ({
      guest: 5,
      sent,
      held: true,
      seconds: 1,
    }));
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

  describe('what the destination has', () => {
    const having = (left: number, sent = 1e6, guest = 0): Course => {
      return { guest, sent, held: false, left, seconds: 5 };
    };

    it('takes as long as it takes at the rate at which it is begun', () => {
      expect(afterCourses(having(2e6)).applyMs).toBeCloseTo(2000, 3);
      expect(afterCourses(having(2e6), having(5e4)).applyMs).toBeCloseTo(50, 3);
      expect(afterCourses(having(2e6), having(0)).applyMs).toBe(0);
    });

    /** What is said at some moments: when, begun so far, and left. */
    const told = (pace: DiskPace, ...words: readonly (readonly [number, number, number])[]) => {
      for (const [nowMs, begun, left] of words) pace.backlog(nowMs, { begun, left, coming: 0 });
      return pace;
    };

    it('and what is coming take as long together', () => {
      const pace = afterCourses(having(2e6));
      pace.backlog(6000, { begun: 6e6, left: 1e6, coming: 5e5 });
      expect(pace.applyMs).toBeCloseTo(1500, 3);
      pace.backlog(6100, { begun: 7e6, left: 0, coming: 5e5 });
      expect(pace.applyMs).toBeGreaterThan(100);
    });

    it('is known to take long a tenth of a second after there was anything', () => {
      const pace = told(new DiskPace(ampleMs), [0, 0, 5e5], [50, 1e4, 5e5]);
      expect(pace.applyMs).toBe(0);
      expect(told(pace, [100, 2e4, 5e5]).applyMs).toBeCloseTo(2500, 3);
    });

    it('takes a minute where more comes and nothing is begun for a second, and not before', () => {
      const pace = told(new DiskPace(ampleMs), [0, 0, 1e5], [900, 0, 2e5]);
      expect(pace.applyMs).toBe(0);
      expect(told(pace, [1000, 0, 3e5]).applyMs).toBe(60_000);
    });

    it('says nothing any more of a disk that had nothing left for ten seconds', () => {
      const pace = told(new DiskPace(ampleMs), [0, 0, 5e5], [100, 2e4, 5e5], [200, 5.2e5, 0]);
      const coming = (nowMs: number) => {
        pace.backlog(nowMs, { begun: 5.2e5, left: 0, coming: 1e5 });
        return pace.applyMs;
      };
      expect(coming(10_000)).toBeGreaterThan(10);
      expect(coming(10_200)).toBe(0);
    });

    it('takes no minute any more once the disk has gone on, however soon it had nothing left', () => {
      const pace = told(new DiskPace(ampleMs), [0, 0, 1e5], [1000, 0, 3e5]);
      expect(pace.applyMs).toBe(60_000);
      expect(told(pace, [1020, 3e5, 0], [5000, 3e5, 1e4]).applyMs).toBeLessThan(1000);
    });

    it('takes what it took when that was heard last, also when more comes after it was done', () => {
      const pace = told(new DiskPace(ampleMs), [0, 0, 5e5], [100, 2e4, 5e5], [2000, 2e4, 5e5]);
      expect(pace.applyMs).toBeCloseTo(2500, 3);
      pace.backlog(2100, undefined);
      expect(pace.applyMs).toBeCloseTo(2500, 3);
      expect(told(pace, [2200, 5.2e5, 0]).applyMs).toBe(0);
      expect(told(pace, [2300, 5.2e5, 1e5]).applyMs).toBeCloseTo(500, 3);
    });

    it('is found to be much where a disk hangs that has all that it may have', () => {
      const hangs: Course = { guest: 2e6, sent: 0, held: true, seconds: 5, left: 3e7 };
      const pace = lookedAt(new DiskPace(300), [having(1e5, 1e8, 2e6), hangs]);
      expect(pace.applyMs).toBe(60_000);
      expect(pace.slow(0)).toMatchObject({ bytesPerSecond: 0 });
    });

    it('makes no slow disk of one of which nothing new is heard', () => {
      const pace = new DiskPace(300);
      for (let nowMs = 0; nowMs <= 20_000; nowMs += lookMs) {
        const saidMs = Math.min(nowMs, 1500);
        told(pace, [nowMs, 1000 * saidMs, 4e5]);
        pace.look({
          nowMs,
          guest: { bytes: 2000 * nowMs, writes: 0 },
          sentBytes: 0,
          isHeld: false,
          throttle: 0,
        });
        expect(pace.slow(0)).toBeUndefined();
      }
      expect(pace.applyMs).toBeCloseTo(400, 3);
    });

    it('makes the disk a slow one, although more could be sent, if it takes longer than the guest may stand still', () => {
      const within = (left: number, guest: number) =>
        lookedAt(new DiskPace(300), [having(left, 1e6, guest)]).slow(0);
      expect(within(4e5, 2e6)).toMatchObject({ guestBytesPerSecond: 2e6, bytesPerSecond: 1e6 });
      expect(within(2e5, 2e6)).toBeUndefined();
      expect(within(4e5, 1e6)).toBeUndefined();
    });

    it('is compared with what the guest does by the work of both: many small writes are more than few large ones', () => {
      const paceOf = (writes: number) => {
        const pace = new DiskPace(300);
        for (let nowMs = 0; nowMs <= 5000; nowMs += lookMs) {
          pace.backlog(nowMs, { begun: 1000 * nowMs, left: 1e6, coming: 0 });
          const guest = { bytes: 500 * nowMs, writes: (writes * nowMs) / 1000 };
          pace.look({ nowMs, guest, sentBytes: 0, isHeld: false, throttle: 0 });
        }
        return pace.slow(0);
      };
      expect(paceOf(10)).toBeUndefined();
      const flow = paceOf(100);
      expect(flow?.guestBytesPerSecond).toBeCloseTo(5e5, 3);
      expect(flow?.bytesPerSecond).toBeCloseTo((1e6 * 5e5) / (5e5 + 100 * 16_384), 0);
    });

    it('makes the disk one that is behind if it takes half of that', () => {
      const behind = (left: number) => lookedAt(new DiskPace(300), [having(left, 1e6, 2e6)]).behind(0.5);
      expect(behind(1.6e5)).toMatchObject({ guestBytesPerSecond: 1e6, bytesPerSecond: 1e6 });
      expect(behind(1.4e5)).toBeUndefined();
    });
  });
});
