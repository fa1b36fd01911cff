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
  readonly started: number;
  readonly held: boolean | ((look: number) => boolean);
  /** What the destination has and has not started at each look. Default: little. */
  readonly waiting?: number;
  /** What of `started` newer content had not come for. Default: all. */
  readonly written?: number;
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
  let startedBytes = 0;
  let writtenBytes = 0;
  pace.backlog(nowMs, { startedBytes, writtenBytes: 0, waitingBytes: 1 });
  pace.look({ nowMs, guestBytes, isHeld: false, throttle: 0 });
  for (const { guest, started, held, throttle = 0, seconds, waiting = 1, written = started } of courses) {
    for (let look = 0; look < seconds * 4; look++) {
      nowMs += lookMs;
      guestBytes += (guest * lookMs) / 1000;
      startedBytes += (started * lookMs) / 1000;
      writtenBytes += (written * lookMs) / 1000;
      pace.backlog(nowMs, { startedBytes, writtenBytes, waitingBytes: waiting });
      pace.look({
        nowMs,
        guestBytes,
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
      fc.property(rate, fc.double({ min: 1.2, max: 100, noNaN: true }), (started, by) => {
        const guest = started * by;
        expect(afterCourses({ guest, started, held: true, seconds: 2 }).slow(0)).toBeUndefined();
        const flow = afterCourses({ guest, started, held: true, seconds: 4 }).slow(0);
        expect(flow?.guestBytesPerSecond).toBeCloseTo(guest, -1);
        expect(flow?.bytesPerSecond).toBeCloseTo(started, -1);
      }),
    );
  });

  it('does not of one that is as fast as the guest, nor while it is the link that is waited for', () => {
    fc.assert(
      fc.property(rate, rate, (guest, started) => {
        const pace = afterCourses({ guest, started: Math.max(guest, started), held: true, seconds: 30 });
        expect(pace.slow(0)).toBeUndefined();
        const linked = afterCourses({ guest, started, held: false, seconds: 30 });
        expect(linked.slow(0)).toBeUndefined();
        expect(linked.isHeld).toBe(false);
      }),
    );
  });

  it('nor for a moment, nor while the disk becomes faster', () => {
    const moment: Course = { guest: 2e6, started: 1e6, held: true, seconds: 1.5 };
    const fine: Course = { guest: 1e6, started: 1e6, held: false, seconds: 3 };
    expect(afterCourses(moment, fine, moment, fine).slow(0)).toBeUndefined();
    const rising = [1, 1.5, 2, 2.5, 3, 3.5, 4].map((started) => ({
      guest: 5,
      started,
      held: true,
      seconds: 1,
    }));
    expect(afterCourses(...rising).slow(0)).toBeUndefined();
  });

  it('does not take one look that finds nothing held for the end of it', () => {
    const held = (look: number) => look % 3 !== 0;
    expect(afterCourses({ guest: 2e6, started: 1e6, held, seconds: 6 }).slow(0)).toBeDefined();
  });

  it('sees what the guest would write without its throttle, also as that changes', () => {
    const pace = afterCourses(
      { guest: 4e6, started: 0, held: false, seconds: 1 },
      { guest: 2e6, started: 0, held: false, throttle: 0.5, seconds: 1 },
      { guest: 1e6, started: 0, held: false, throttle: 0.75, seconds: 1 },
    );
    expect(pace.guestBytesPerSecond(0)).toBeCloseTo(4e6, 3);
    expect(pace.guestBytesPerSecond(0.75)).toBeCloseTo(1e6, 3);
  });

  it('remembers a slow disk for ten seconds after it was waited for, while the guest is slowed for it', () => {
    const slow: Course = { guest: 4e6, started: 1e6, held: true, seconds: 5 };
    const slowed = (seconds: number): Course => ({
      guest: 1e6,
      started: 1e6,
      held: false,
      throttle: 0.75,
      seconds,
    });
    expect(afterCourses(slow, slowed(9)).slow(0.75)?.bytesPerSecond).toBeCloseTo(1e6, 3);
    expect(afterCourses(slow, slowed(11)).slow(0.75)).toBeUndefined();
  });

  describe('what the destination has', () => {
    const having = (waiting: number, started = 1e6, guest = 0): Course => {
      return { guest, started, held: false, waiting, seconds: 5 };
    };

    it('takes as long as it takes at the rate at which it is started', () => {
      expect(afterCourses(having(2e6)).applyMs).toBeCloseTo(2000, 3);
      expect(afterCourses(having(2e6), having(5e4)).applyMs).toBeCloseTo(50, 3);
      expect(afterCourses(having(2e6), having(0)).applyMs).toBe(0);
    });

    /** What is said at some moments: when, started so far, and there and not started. */
    const told = (pace: DiskPace, ...words: readonly (readonly [number, number, number])[]) => {
      for (const [nowMs, startedBytes, waitingBytes] of words) {
        pace.backlog(nowMs, { startedBytes, writtenBytes: startedBytes, waitingBytes });
      }
      return pace;
    };

    it('is known to take long a tenth of a second after there was anything', () => {
      const pace = told(new DiskPace(ampleMs), [0, 0, 5e5], [50, 1e4, 5e5]);
      expect(pace.applyMs).toBe(0);
      expect(told(pace, [100, 2e4, 5e5]).applyMs).toBeCloseTo(2500, 3);
    });

    it('takes a minute where more comes and nothing is started for a second, and not before', () => {
      const pace = told(new DiskPace(ampleMs), [0, 0, 1e5], [900, 0, 2e5]);
      expect(pace.applyMs).toBe(0);
      expect(told(pace, [1000, 0, 3e5]).applyMs).toBe(60_000);
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
      const hangs: Course = { guest: 2e6, started: 0, held: true, seconds: 5, waiting: 3e7 };
      const pace = lookedAt(new DiskPace(300), [having(1e5, 1e8, 2e6), hangs]);
      expect(pace.applyMs).toBe(60_000);
      expect(pace.slow(0)).toMatchObject({ bytesPerSecond: 0 });
    });

    it('makes no slow disk of one of which nothing new is heard', () => {
      const pace = new DiskPace(300);
      for (let nowMs = 0; nowMs <= 20_000; nowMs += lookMs) {
        const saidMs = Math.min(nowMs, 1500);
        told(pace, [nowMs, 1000 * saidMs, 4e5]);
        pace.look({ nowMs, guestBytes: 2000 * nowMs, isHeld: false, throttle: 0 });
        expect(pace.slow(0)).toBeUndefined();
      }
      expect(pace.applyMs).toBeCloseTo(400, 3);
    });

    it('makes the disk a slow one, although more could be sent, if it takes longer than the guest may stand still', () => {
      const within = (waiting: number, guest: number, written = 1e6) =>
        lookedAt(new DiskPace(300), [{ ...having(waiting, 1e6, guest), written }]).slow(0);
      expect(within(4e5, 2e6)).toMatchObject({ guestBytesPerSecond: 2e6, bytesPerSecond: 1e6 });
      expect(within(2e5, 2e6)).toBeUndefined();
      expect(within(4e5, 1e6)).toBeUndefined();
      // Half of what is started there is not written, for newer content has come.
      expect(within(4e5, 1e6, 5e5)).toMatchObject({ guestBytesPerSecond: 1e6, bytesPerSecond: 5e5 });
    });

    it('makes the disk one that is behind if it takes half of that', () => {
      const behind = (waiting: number) =>
        lookedAt(new DiskPace(300), [having(waiting, 1e6, 2e6)]).behind(0.5);
      expect(behind(1.6e5)).toMatchObject({ guestBytesPerSecond: 1e6, bytesPerSecond: 1e6 });
      expect(behind(1.4e5)).toBeUndefined();
    });
  });
});
