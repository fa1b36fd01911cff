/**
 * Goal: the guest is stunned when the rest fits the downtime that was allowed and no further round would make it much less, and never before; it is slowed
 * only if it must be; and a guest that cannot be caught ends the migration with figures instead of a long stun, unless one is wanted.
 *
 * Method: properties over all inputs, and a closed loop: a guest with a dirty rate and a working set, a link with a
 * rate, and the rule between them, with and without a hypervisor that can tell how much is dirty.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type ConvergenceStatistics,
  type ConvergenceVerdict,
  convergence,
} from '../../../src/core/memory/convergence.ts';

const policy = { downtimeMsMax: 300, throttleMax: 0.8, roundsMax: 200 };
const gigabit = 125e6;

/** An idle guest after its first round. */
const idle: ConvergenceStatistics = {
  round: 1,
  roundBytes: 4e9,
  roundMs: 32_000,
  dirtyBytes: 0,
  bytesPerSecond: gigabit,
  backlogBytes: 0,
  diskRestBytes: 0,
  stateBytes: 1e6,
  fixedMs: 30,
  throttle: 0,
  history: [4e9],
};

const amount = fc.double({ min: 0, max: 1e12, noNaN: true });
const anyStatistics: fc.Arbitrary<ConvergenceStatistics> = fc
  .record({
    round: fc.integer({ min: 1, max: 250 }),
    roundMs: fc.double({ min: 0, max: 1e6, noNaN: true }),
    dirtyingMs: fc.option(fc.double({ min: 0, max: 1e6, noNaN: true }), { nil: undefined }),
    dirtyBytes: fc.option(amount, { nil: undefined }),
    bytesPerSecond: fc.option(fc.double({ min: 0, max: 1e11, noNaN: true }), { nil: undefined }),
    backlogBytes: amount,
    diskRestBytes: amount,
    stateBytes: amount,
    fixedMs: fc.double({ min: 0, max: 1e5, noNaN: true }),
    throttle: fc.integer({ min: 0, max: 80 }).map((percent) => percent / 100),
    throttleAgeMs: fc.constantFrom(0, 999, 1000, 1e6),
    history: fc.array(amount, { minLength: 1, maxLength: 8 }),
  })
  .map((all) => ({ ...all, roundBytes: all.history.at(-1) ?? 0 }));

describe('convergence', () => {
  it('switches over at once when an idle guest has nothing left', () => {
    const verdict = convergence(idle, policy);
    expect(verdict).toMatchObject({ decision: 'switchover', expectedDowntimeMs: 38 });
  });

  it('does so too before the link was ever measured, and where dirty pages cannot be told', () => {
    const unmeasured = { ...idle, bytesPerSecond: undefined };
    expect(convergence(unmeasured, policy).decision).toBe('switchover');
    const untold = { ...idle, round: 2, roundBytes: 0, dirtyBytes: undefined, history: [4e9, 0] };
    expect(convergence(untold, policy).decision).toBe('switchover');
  });

  it.each(['dirtyBytes', 'backlogBytes', 'diskRestBytes', 'stateBytes', 'fixedMs'] as const)(
    'counts %s in the downtime',
    (field) => {
      const more = convergence({ ...idle, [field]: field === 'fixedMs' ? 400 : 1e8 }, policy);
      expect(more.expectedDowntimeMs).toBeGreaterThan(300);
      expect(more.decision).toBe('continue');
    },
  );

  it('takes for dirty what the last round sent if nobody can tell, and more if that round took longer', () => {
    const untold = { ...idle, stateBytes: 0, fixedMs: 0, round: 5, dirtyBytes: undefined, roundBytes: 1e8 };
    const expected = (roundMs: number, dirtyingMs?: number) =>
      convergence({ ...untold, roundMs, dirtyingMs }, policy).expectedDowntimeMs;
    expect(expected(100, 1000)).toBe(800);
    expect(expected(1000)).toBe(800);
    expect(expected(3000, 1000)).toBe(2400);
  });

  it('never switches over to a longer downtime than is allowed, and always to one that is', () => {
    fc.assert(
      fc.property(anyStatistics, (statistics) => {
        const { decision, expectedDowntimeMs } = convergence(statistics, policy);
        expect(decision === 'switchover').toBe(expectedDowntimeMs <= policy.downtimeMsMax);
      }),
      { numRuns: 5000 },
    );
  });

  it('expects no less downtime when there is more to send, or the link is slower', () => {
    const fields = ['dirtyBytes', 'backlogBytes', 'diskRestBytes', 'stateBytes', 'fixedMs'] as const;
    fc.assert(
      fc.property(
        anyStatistics,
        fc.constantFrom(...fields),
        amount,
        rateOver1,
        (statistics, field, more, factor) => {
          const known = { ...statistics, dirtyBytes: statistics.dirtyBytes ?? 0, bytesPerSecond: 1e9 };
          const before = convergence(known, policy);
          const after = convergence({ ...known, [field]: known[field] + more }, policy);
          const slower = convergence({ ...known, bytesPerSecond: 1e9 / factor }, policy);
          expect(after.expectedDowntimeMs).toBeGreaterThanOrEqual(before.expectedDowntimeMs);
          expect(slower.expectedDowntimeMs).toBeGreaterThanOrEqual(before.expectedDowntimeMs);
        },
      ),
    );
  });

  it('fails with figures when the rounds are used up, and not before', () => {
    const hot = {
      ...idle,
      roundBytes: 2e9,
      dirtyBytes: 2e9,
      roundMs: 10_000,
      throttle: 0.8,
      history: [2e9, 2e9, 2e9],
    };
    expect(convergence({ ...hot, round: 199 }, policy).decision).toBe('continue');
    const verdict = convergence({ ...hot, round: 200 }, policy);
    expect(verdict.decision).toBe('fail');
    expect(verdict.reason).toBe(
      'after round 200 2001.0 MB are left; memory is dirtied at 200.0 MB/s with the guest slowed by 80 %, ' +
        'and sent at 125.0 MB/s: 16038 ms of downtime, 300 ms allowed',
    );
  });

  it('never throttles a guest that dirties at less than half the rate of the link', () => {
    fc.assert(
      fc.property(anyStatistics, fc.double({ min: 0, max: 0.5, noNaN: true }), (statistics, fraction) => {
        const dirtied = (ms: number) => (fraction * gigabit * ms) / 1000;
        const { roundMs, dirtyingMs = roundMs } = statistics;
        const seen = {
          roundBytes: dirtied(dirtyingMs),
          dirtyBytes: dirtied(roundMs),
          bytesPerSecond: gigabit,
        };
        const { throttle } = convergence({ ...statistics, ...seen }, policy);
        expect(throttle).toBeLessThanOrEqual(statistics.throttle);
      }),
    );
  });

  it('does not throttle while the rest shrinks by a useful factor', () => {
    const shrinking = { ...idle, round: 4, roundBytes: 4e9, dirtyBytes: 4e9, roundMs: 10_000 };
    const useful = { ...shrinking, history: [4e9, 2e9, 1.4e9, 1e9] };
    expect(convergence(useful, policy)).toMatchObject({ decision: 'continue', throttle: 0 });
    expect(convergence({ ...shrinking, history: [4e9, 2e9, 1.4e9, 1.2e9] }, policy)).toMatchObject({
      decision: 'throttle',
      throttle: 0.2,
    });
  });

  it('does not take a fall from an outlier for progress', () => {
    const afterOutlier = { ...idle, round: 4, dirtyBytes: 2e9, roundMs: 10_000, history: [2e9, 2e9, 9e9] };
    expect(convergence(afterOutlier, policy).decision).toBe('throttle');
  });

  it('waits before the next round while other things than pages keep the downtime too long', () => {
    expect(convergence({ ...idle, diskRestBytes: 62.5e6 }, policy).waitMs).toBe(480);
    expect(convergence({ ...idle, diskRestBytes: 1e12 }, policy).waitMs).toBe(1000);
    expect(convergence({ ...idle, dirtyBytes: 1e9 }, policy).waitMs).toBe(0);
  });

  it('waits for a flush that is too long to be measured again, however little it is too long, and whatever else rounds could bring', () => {
    const flushed = { durationMs: 270, countsMs: 900 };
    const tooLong = { ...idle, stateBytes: 0, fixedMs: 300.1, flushed };
    expect(convergence(tooLong, policy)).toMatchObject({ decision: 'continue', fits: false, waitMs: 900 });
    expect(convergence({ ...tooLong, dirtyBytes: 0.5 * gigabit }, policy).waitMs).toBe(900);
    // Without so little as is not worth a round it fits ...
    const dirtyBytes = 0.005 * gigabit;
    expect(convergence({ ...tooLong, fixedMs: 296, dirtyBytes }, policy).waitMs).toBe(900);
    // ... but a round that sends more may be what it takes,
    expect(convergence({ ...tooLong, fixedMs: 280, dirtyBytes: 0.1 * gigabit }, policy).waitMs).toBe(0);
    // unless it leaves as much,
    const busy = { dirtyBytes: 0.03 * gigabit, dirtyBytesPerSecond: 0.86 * gigabit };
    expect(convergence({ ...tooLong, fixedMs: 280, ...busy }, policy).waitMs).toBe(900);
    // and nothing is measured again where nothing was measured, nor when there is no time for it.
    expect(convergence({ ...tooLong, flushed: undefined }, policy).waitMs).toBeLessThan(1);
    expect(convergence({ ...tooLong, flushed: { ...flushed, countsMs: -3 } }, policy).waitMs).toBeLessThan(1);
    expect(convergence({ ...tooLong, timeLeftMs: 205 }, policy).waitMs).toBe(200);
    expect(convergence({ ...tooLong, fixedMs: 299.9 }, policy).decision).toBe('switchover');
  });

  it('says of a flush that is too long how long it takes', () => {
    const flushed = { durationMs: 279.2, countsMs: 1000 };
    const { decision, reason } = convergence({ ...idle, round: 200, fixedMs: 299.2, flushed }, policy);
    expect(decision).toBe('fail');
    expect(reason).toMatch(/: 308 ms of downtime \(280 ms of it to flush disks\), 300 ms allowed$/);
  });

  /** A guest that rests, but for its disks. */
  const writing = {
    ...idle,
    round: 5,
    roundBytes: 0,
    roundMs: 0,
    history: [4e9, 0, 0, 0, 0],
    diskRestBytes: 1e9,
    diskRests: [1e9, 1e9, 1e9, 1e9, 1e9],
    diskBytesPerSecond: 2 * gigabit,
  };

  it('throttles a guest whose disk writes are set back faster than they are copied, though its memory rests', () => {
    expect(convergence(writing, policy)).toMatchObject({ decision: 'throttle', throttle: 0.2 });
    const shrinking = { ...writing, diskRests: [8e9, 4e9, 2e9, 1e9] };
    expect(convergence(shrinking, policy)).toMatchObject({ decision: 'continue', throttle: 0 });
    const none = { ...writing, diskBytesPerSecond: 0.4 * gigabit };
    expect(convergence(none, policy)).toMatchObject({ decision: 'continue', throttle: 0 });
  });

  it('throttles one that writes to a slow disk faster than the destination does, before anything is set back', () => {
    const slowDisks = [{ guestBytesPerSecond: 2e6, bytesPerSecond: 1e6 }];
    const slow = {
      ...writing,
      diskBytesPerSecond: 2e6,
      diskRestBytes: 0,
      diskRests: [0, 0],
      backlogBytes: 1e8,
      slowDisks,
    };
    expect(convergence(slow, policy)).toMatchObject({ decision: 'throttle', throttle: 0.2 });
    expect(convergence({ ...slow, slowDisks: [] }, policy)).toMatchObject({
      decision: 'continue',
      throttle: 0,
    });
  });

  it('throttles one for which the destination has too much to write yet, if it is that, and as long as that does not become less', () => {
    const behind = {
      ...writing,
      diskBytesPerSecond: 2e6,
      diskRestBytes: 0,
      diskRests: [0, 0],
      fixedMs: 430,
      applyMs: 400,
      applyTimes: [400, 400],
      disksBehind: [{ guestBytesPerSecond: 2e6, bytesPerSecond: 2e6 }],
    };
    expect(convergence(behind, policy)).toMatchObject({ decision: 'throttle', throttle: 0.2 });
    expect(convergence(behind, policy).reason).toContain('400 ms of it to flush disks');
    const drains = { ...behind, applyTimes: [1600, 1100, 700, 400] };
    expect(convergence(drains, policy)).toMatchObject({ decision: 'continue', throttle: 0 });
    // A second of other things: it would not fit without it either.
    const other = { ...behind, fixedMs: 1430 };
    expect(convergence(other, policy)).toMatchObject({ decision: 'continue', throttle: 0 });
    const slower = { ...behind, disksBehind: [{ guestBytesPerSecond: 1e6, bytesPerSecond: 2e6 }] };
    expect(convergence(slower, policy)).toMatchObject({ decision: 'continue', throttle: 0 });
  });

  it('says that a guest outruns the link when it would with the hardest throttle too, and nothing shrinks', () => {
    const outruns = (changes: Partial<ConvergenceStatistics>, throttleMax = 0.8) =>
      convergence({ ...writing, ...changes }, { ...policy, throttleMax }).outruns;
    expect(outruns({})).toBe(false);
    expect(outruns({}, 0)).toBe(true);
    expect(outruns({ diskBytesPerSecond: 6 * gigabit })).toBe(true);
    expect(outruns({ diskBytesPerSecond: 6 * gigabit, diskRests: [8e9, 1e9] })).toBe(false);
    expect(outruns({ diskBytesPerSecond: 1.1 * gigabit, throttle: 0.8 })).toBe(true);
    expect(outruns({ diskBytesPerSecond: 0, roundBytes: 6e9, roundMs: 8000, history: [4e9, 6e9] })).toBe(
      true,
    );
    expect(outruns({ diskBytesPerSecond: 6 * gigabit, bytesPerSecond: undefined })).toBe(false);
  });

  it('names what is written to disks among its figures', () => {
    expect(convergence({ ...writing, round: 200 }, policy).reason).toBe(
      'after round 200 1001.0 MB are left; memory is dirtied at 0.0 MB/s, disks are written at 250.0 MB/s, ' +
        'with the guest slowed by 0 %, and sent at 125.0 MB/s: 8038 ms of downtime, 300 ms allowed',
    );
  });
});

describe('waiting, once the rest fits', () => {
  const link = 50e6;
  /** 8 MB/s dirtied, 50 MB/s sent, and a rest of 240 ms, after a flush. */
  const wan: ConvergenceStatistics = {
    ...idle,
    round: 4,
    roundBytes: 16e6,
    roundMs: 320,
    dirtyBytes: 12e6,
    dirtyBytesPerSecond: 8e6,
    bytesPerSecond: link,
    stateBytes: 0,
    history: [4e9, 100e6, 40e6, 16e6],
    fitted: [],
  };
  const decide = (changes: Partial<ConvergenceStatistics>, more = {}) =>
    convergence({ ...wan, ...changes }, { ...policy, ...more });

  it('sends no round into a queue: before it fits, the queue drains until there is next to none', () => {
    // 240 ms of pages and 160 ms of queue, of which 100 ms is too much; the round that comes then adds to what is left of it.
    expect(decide({ backlogBytes: 8e6, fixedMs: 0 })).toMatchObject({ fits: false, waitMs: 140 });
    // The link has work for 20 ms when the next round is read.
    expect(decide({ dirtyBytes: 32e6, backlogBytes: 8e6, fixedMs: 0 }).waitMs).toBe(140);
    expect(decide({ dirtyBytes: 32e6 }).waitMs).toBe(0);
  });

  it('goes on while another round makes it much less', () => {
    expect(decide({})).toMatchObject({ decision: 'continue', fits: true, restMs: 240, waitMs: 0 });
    expect(decide({ dirtyBytes: 2e6 })).toMatchObject({ decision: 'continue', fits: true, restMs: 40 });
    expect(decide({ dirtyBytes: 0.5e6 })).toMatchObject({ decision: 'switchover', restMs: 10 });
  });

  it('lets what is queued drain before the next round is read', () => {
    expect(decide({ dirtyBytes: 0, backlogBytes: 4e6, diskRestBytes: 2e6 })).toMatchObject({
      decision: 'continue',
      fits: true,
      waitMs: 120,
    });
  });

  it('waits for what is late, as long again as it is, up to half a round trip and a little; that fits all the same, and a stun that is forced does not wait for it', () => {
    const late = { dirtyBytes: 0.5e6, lateMs: 150, roundTripMs: 300 };
    expect(decide(late)).toMatchObject({ decision: 'continue', fits: true, restMs: 160, waitMs: 150 });
    expect(decide({ ...late, lateMs: 5000 })).toMatchObject({ fits: true, waitMs: 170 });
    expect(decide({ ...late, roundTripMs: 0 })).toMatchObject({ decision: 'continue', waitMs: 20 });
    // The guest makes as much dirty in that time, or loses as much of it.
    expect(decide({ ...late, dirtyBytesPerSecond: 0.7 * link }).decision).toBe('continue');
    expect(decide({ ...late, dirtyBytesPerSecond: 0.8 * link }).decision).toBe('switchover');
    expect(decide({ ...late, dirtyBytesPerSecond: 0.3 * link, throttle: 0.8 }).decision).toBe('switchover');
    // There is no time for it.
    expect(decide({ ...late, timeLeftMs: 170 }).decision).toBe('continue');
    expect(decide({ ...late, timeLeftMs: 160 }).decision).toBe('switchover');
    expect(decide({ ...late, lateMs: 5000, timeLeftMs: 180 }).decision).toBe('switchover');
    // It does not become less.
    expect(decide({ ...late, fitted: [160, 160, 160] }).decision).toBe('switchover');
    const forced = { ...late, fixedMs: 400, timeLeftMs: -1 };
    expect(decide(forced, { onTimeout: 'force', stunMsMax: 5000 }).decision).toBe('switchover');
  });

  it('does not where the guest dirties about as fast as is sent', () => {
    expect(decide({ dirtyBytesPerSecond: 0.7 * link }).decision).toBe('continue');
    expect(decide({ dirtyBytesPerSecond: 0.8 * link }).decision).toBe('switchover');
    expect(decide({ diskBytesPerSecond: 0.7 * link }).decision).toBe('switchover');
  });

  it('does not where a slowed guest would lose more by it than it would stand still', () => {
    expect(decide({ throttle: 0.8 }).decision).toBe('continue');
    expect(decide({ throttle: 0.8, dirtyBytesPerSecond: 0.3 * link }).decision).toBe('switchover');
    expect(decide({ throttle: 0.5, dirtyBytesPerSecond: 0.3 * link }).decision).toBe('continue');
  });

  it('goes by what was dirtied since the round began where dirty pages cannot be told', () => {
    const untold = { dirtyBytes: undefined, roundBytes: 12e6, dirtyingMs: 1000 };
    expect(decide({ ...untold, roundMs: 240 }).decision).toBe('continue');
    expect(decide({ ...untold, roundMs: 990, dirtyBytesPerSecond: 12e6 }).decision).toBe('switchover');
  });

  it('does not before both ends were flushed, nor in the last round, nor when the time is over', () => {
    expect(decide({ fitted: undefined }).decision).toBe('switchover');
    expect(decide({ round: 200 }).decision).toBe('switchover');
    expect(decide({ timeLeftMs: 246 }).decision).toBe('continue');
    expect(decide({ timeLeftMs: 244 }).decision).toBe('switchover');
  });

  it('gives it three rounds to become less by a useful factor', () => {
    expect(decide({ fitted: [240, 240] }).decision).toBe('continue');
    expect(decide({ fitted: [240, 240, 240] }).decision).toBe('switchover');
    expect(decide({ fitted: [240, 100, 240] }).decision).toBe('continue');
    expect(decide({ fitted: [100, 240, 240] }).decision).toBe('switchover');
  });

  it('and a round trip and a half, however many rounds there are in it: what was lost is sent again', () => {
    const patient = { roundTripMs: 200, fitted: [240, 240, 240, 240, 240] };
    const since = (...fittedAgesMs: number[]) => decide({ ...patient, fittedAgesMs }).decision;
    expect(since(299, 250, 200, 100, 10)).toBe('continue');
    expect(since(300, 250, 200, 100, 10)).toBe('switchover');
    // Three rounds all the same.
    expect(since(2000, 1500, 1000, 800, 700)).toBe('switchover');
    expect(decide({ roundTripMs: 200, fitted: [240, 240], fittedAgesMs: [900, 400] }).decision).toBe(
      'continue',
    );
    // One of the last round trip that was better counts, and an older one that was says that it became no less.
    const better = (fitted: number[]) =>
      decide({ ...patient, fitted, fittedAgesMs: [400, 290, 200, 100, 10] }).decision;
    expect(better([240, 100, 240, 240, 240])).toBe('continue');
    expect(better([100, 240, 240, 240, 240])).toBe('switchover');
  });

  it('gives up no sooner than after a round trip and a half without progress, and soon after, whatever the guest does', () => {
    const round = fc.record({
      restMs: fc.double({ min: 11, max: 300, noNaN: true }),
      tookMs: fc.double({ min: 5, max: 50, noNaN: true }),
    });
    fc.assert(
      fc.property(
        fc.constantFrom(0.1, 20, 100, 200, 400),
        // Of most rounds nothing comes; some few bring progress.
        fc.array(round, { minLength: 30, maxLength: 30 }),
        fc.infiniteStream(fc.double({ min: 5, max: 50, noNaN: true })),
        (roundTripMs, rounds, later) => {
          const seen: { ms: number; restMs: number }[] = [];
          let nowMs = 0;
          for (let index = 0; ; index++) {
            const { restMs, tookMs } = rounds[index] ?? { restMs: 299, tookMs: later.next().value ?? 5 };
            const fitted = seen.map((one) => one.restMs);
            const fittedAgesMs = seen.map(({ ms }) => nowMs - ms);
            const statistics = { fixedMs: 0, fitted, fittedAgesMs, roundTripMs, round: 4 };
            const { decision } = decide({ ...statistics, dirtyBytes: (restMs * link) / 1000 });
            if (decision === 'switchover') break;
            seen.push({ ms: nowMs, restMs });
            nowMs += tookMs;
          }
          // The best that there was before the last progress, and how long ago that was.
          const least = Math.min(...seen.map(({ restMs }) => restMs));
          const progress = seen.find(({ restMs }) => restMs < least * 1.3);
          expect(nowMs - (progress?.ms ?? 0)).toBeGreaterThanOrEqual(1.5 * roundTripMs);
          expect(seen.length).toBeGreaterThanOrEqual(3);
          // From 300 to 10 ms are 13 steps, and each may take three rounds, or a round trip and a half and a round.
          expect(nowMs).toBeLessThanOrEqual(14 * Math.max(150, 1.5 * roundTripMs + 50));
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('with short round trips, is as if there were none', () => {
    const rests = fc.array(fc.double({ min: 0, max: 300, noNaN: true }), { maxLength: 10 });
    fc.assert(
      fc.property(rests, fc.double({ min: 0, max: 6, noNaN: true }), (fitted, roundTripMs) => {
        // No two rounds are closer than the pause between them.
        const fittedAgesMs = fitted.map((_, index) => 5 * (fitted.length - index));
        expect(decide({ fitted, fittedAgesMs, roundTripMs })).toEqual(decide({ fitted }));
      }),
    );
  });

  it('has an end, whatever the guest does', () => {
    const rest = fc.double({ min: 0, max: 300, noNaN: true });
    fc.assert(
      fc.property(fc.array(rest, { minLength: 60, maxLength: 60 }), (rests) => {
        const fitted: number[] = [];
        for (const restMs of rests) {
          const statistics = { ...wan, fixedMs: 0, fitted, dirtyBytes: (restMs * link) / 1000 };
          if (convergence(statistics, policy).decision === 'switchover') break;
          fitted.push(restMs);
        }
        // From 300 to 10 ms are 13 steps of a useful factor, and each may take three rounds.
        expect(fitted.length).toBeLessThan(45);
      }),
      { numRuns: 2000 },
    );
  });

  it('never exceeds the limit for it, and takes less than it gives', () => {
    fc.assert(
      fc.property(
        anyStatistics,
        fc.array(fc.double({ min: 0, max: 300, noNaN: true }), { maxLength: 6 }),
        (statistics, fitted) => {
          const verdict = convergence({ ...statistics, fitted }, policy);
          expect(verdict.fits).toBe(verdict.expectedDowntimeMs <= policy.downtimeMsMax);
          if (verdict.decision === 'switchover') expect(verdict.fits).toBe(true);
          if (!verdict.fits) return;
          expect(verdict.throttle).toBe(statistics.throttle);
          expect(['switchover', 'continue']).toContain(verdict.decision);
          if (verdict.decision === 'continue') expect(verdict.restMs).toBeGreaterThan(10);
        },
      ),
      { numRuns: 5000 },
    );
  });
});

describe('a stun that is forced', () => {
  const force = { ...policy, onTimeout: 'force', stunMsMax: 10_000 } as const;
  /** A guest that dirties as fast as the link carries, and leaves 4 s. */
  const hot: ConvergenceStatistics = {
    ...idle,
    round: 9,
    roundBytes: 500e6,
    roundMs: 4000,
    dirtyBytes: 500e6,
    dirtyBytesPerSecond: gigabit,
    history: [4e9, 500e6, 500e6],
    throttle: 0.8,
    timeLeftMs: -1,
  };

  it('comes when the time is over, or would be before the next round is', () => {
    expect(convergence(hot, force)).toMatchObject({ decision: 'switchover', fits: false, late: true });
    expect(convergence({ ...hot, timeLeftMs: 3900 }, force).decision).toBe('switchover');
    expect(convergence({ ...hot, timeLeftMs: 4100 }, force).decision).toBe('continue');
    expect(convergence({ ...hot, timeLeftMs: undefined }, force).decision).toBe('continue');
    expect(convergence(hot, policy).decision).toBe('continue');
  });

  it('comes too when the rounds are used up', () => {
    const last = { ...hot, round: 200, timeLeftMs: undefined };
    expect(convergence(last, force)).toMatchObject({ decision: 'switchover', late: false });
    expect(convergence({ ...last, dirtyBytes: 2e9 }, force)).toMatchObject({ decision: 'fail', late: false });
  });

  it('waits while that makes it much less, for as long as a stun may take', () => {
    const calmer = { ...hot, dirtyBytesPerSecond: 0.1 * gigabit };
    expect(convergence(calmer, force).decision).toBe('continue');
    expect(convergence({ ...calmer, timeLeftMs: -10_000 }, force).decision).toBe('switchover');
  });

  it('is not tried where it would not fit', () => {
    const much = { ...hot, dirtyBytes: 1.1e9 };
    expect(convergence(much, force)).toMatchObject({ decision: 'fail', late: true });
    const shrinking = { ...much, history: [4e9, 1e9, 700e6] };
    expect(convergence(shrinking, force)).toMatchObject({ decision: 'continue' });
    expect(convergence({ ...shrinking, timeLeftMs: -10_000 }, force).decision).toBe('fail');
  });

  it('is never expected to take longer than four fifths of the longest stun, nor comes before its time', () => {
    const left = fc.option(fc.double({ min: -1e5, max: 1e5, noNaN: true }), { nil: undefined });
    fc.assert(
      fc.property(anyStatistics, left, (statistics, timeLeftMs) => {
        const verdict = convergence({ ...statistics, timeLeftMs }, force);
        if (verdict.decision !== 'switchover' || verdict.fits) return;
        expect(verdict.expectedDowntimeMs).toBeLessThanOrEqual(8000);
        expect(verdict.late || statistics.round >= 200).toBe(true);
      }),
      { numRuns: 5000 },
    );
  });
});

describe('a throttle', () => {
  const outrun = {
    ...idle,
    round: 5,
    roundBytes: 4e9,
    dirtyBytes: 4e9,
    roundMs: 10_000,
    history: [4e9, 4e9, 4e9],
  };

  it('is judged when it has been in force for a second, and not before', () => {
    const inForceFor = (throttleAgeMs: number) =>
      convergence({ ...outrun, throttle: 0.2, throttleAgeMs }, policy);
    expect(inForceFor(999)).toMatchObject({ decision: 'continue', throttle: 0.2 });
    expect(inForceFor(1000)).toMatchObject({ decision: 'throttle', throttle: 0.4 });
    const quiet = { ...idle, throttle: 0.2, diskRestBytes: 1e9 };
    expect(convergence({ ...quiet, throttleAgeMs: 999 }, policy).throttle).toBe(0.2);
    expect(convergence({ ...quiet, throttleAgeMs: 1000 }, policy).throttle).toBe(0.15);
  });

  it('is never above the limit, and changes by limited steps', () => {
    fc.assert(
      fc.property(anyStatistics, fc.integer({ min: 0, max: 99 }), (statistics, most) => {
        const throttleMax = most / 100;
        const { throttle } = convergence(statistics, { ...policy, throttleMax });
        if (throttle > statistics.throttle) expect(throttle).toBeLessThanOrEqual(throttleMax);
        expect(throttle).toBeLessThanOrEqual(statistics.throttle + 0.2 + 1e-9);
        if (statistics.throttle <= throttleMax) {
          expect(throttle).toBeGreaterThanOrEqual(statistics.throttle - 0.05 - 1e-9);
        }
      }),
      { numRuns: 3000 },
    );
  });
});

const rateOver1 = fc.double({ min: 1, max: 1e6, noNaN: true });

interface Guest {
  /** How fast it writes to pages, as a multiple of the link's rate, unthrottled. */
  readonly load: number;
  readonly memoryBytes: number;
  /** The pages that it writes to, at random. */
  readonly workingSetBytes: number;
  /** Whether its hypervisor can tell what is dirty. */
  readonly tellsDirty: boolean;
}

interface Course extends ConvergenceVerdict {
  readonly rounds: number;
  readonly throttleMax: number;
  /** How long the guest would really have stood still. */
  readonly downtimeMs: number;
  /** What of it was the guest's dirty pages. */
  readonly dirtyMs: number;
}

/** Migrates a guest over a gigabit, round by round, to whatever end. While the flush is waited for, for 200 ms, there are rounds too. */
function migrate(guest: Guest): Course {
  const history: number[] = [];
  let fitted: number[] | undefined;
  let flushLeftMs = 200;
  let roundBytes = guest.memoryBytes;
  let dirtyingMs: number | undefined;
  let throttle = 0;
  let throttleMax = 0;
  let throttleAgeMs = 1e9;
  /** What is dirty after so long. */
  const dirtied = (ms: number) => {
    const touched = (guest.load * gigabit * (1 - throttle) * ms) / 1000;
    return guest.workingSetBytes * (1 - Math.exp(-touched / guest.workingSetBytes));
  };
  for (let round = 1; ; round++) {
    const roundMs = 5 + (1000 * roundBytes) / gigabit;
    throttleAgeMs += roundMs;
    history.push(roundBytes);
    const dirtyBytes = guest.tellsDirty ? dirtied(roundMs) : undefined;
    // As it is seen: in the time that the guest was given.
    const seen = dirtyingMs === undefined ? {} : { dirtyBytesPerSecond: (1000 * roundBytes) / dirtyingMs };
    const statistics = { ...idle, round, roundBytes, roundMs, dirtyingMs, dirtyBytes, ...seen };
    const verdict = convergence({ ...statistics, throttle, throttleAgeMs, history, fitted }, policy);
    if (verdict.decision === 'fail' || (verdict.decision === 'switchover' && fitted !== undefined)) {
      const dirtyMs = (1000 * dirtied(roundMs)) / gigabit;
      const downtimeMs = idle.fixedMs + (1000 * idle.stateBytes) / gigabit + dirtyMs;
      return { ...verdict, rounds: round, throttleMax, downtimeMs, dirtyMs };
    }
    const flushing = verdict.decision === 'switchover' ? Math.min(50, flushLeftMs) : 0;
    flushLeftMs -= flushing;
    if (flushLeftMs <= 0) fitted ??= [];
    else if (verdict.fits && flushing === 0) fitted?.push(verdict.restMs);
    dirtyingMs = roundMs + flushing;
    roundBytes = dirtied(dirtyingMs);
    if (verdict.throttle !== throttle) throttleAgeMs = 0;
    ({ throttle } = verdict);
    throttleMax = Math.max(throttleMax, throttle);
  }
}

describe('the closed loop of guest, link and rule', () => {
  const gib = 1024 ** 3;
  const memory = fc.double({ min: 0.25 * gib, max: 64 * gib, noNaN: true });
  const guests = (minLoad: number, maxLoad: number, minShare: number) =>
    fc
      .tuple(
        fc.double({ min: minLoad, max: maxLoad, noNaN: true }),
        memory,
        fc.double({ min: minShare, max: 1, noNaN: true }),
      )
      .chain(([load, memoryBytes, share]) =>
        fc.record({
          load: fc.constant(load),
          memoryBytes: fc.constant(memoryBytes),
          workingSetBytes: fc.constant(memoryBytes * share),
          tellsDirty: fc.boolean(),
        }),
      );

  it('ends within the downtime for every guest that the hardest throttle brings below the link', () => {
    fc.assert(
      fc.property(guests(0, 0.9 / (1 - policy.throttleMax), 0.001), (guest) => {
        const course = migrate(guest);
        expect(course.decision).toBe('switchover');
        expect(course.rounds).toBeLessThan(150);
        expect(course.downtimeMs).toBeLessThanOrEqual(policy.downtimeMsMax);
      }),
      { numRuns: 1000 },
    );
  });

  it('fails at the last round for every guest beyond that, if its working set does not fit', () => {
    fc.assert(
      fc.property(guests(1.3 / (1 - policy.throttleMax), 100, 0.5), (guest) => {
        const course = migrate(guest);
        expect(course.decision).toBe('fail');
        expect(course.rounds).toBe(policy.roundsMax);
        expect(course.expectedDowntimeMs).toBeGreaterThan(policy.downtimeMsMax);
      }),
      { numRuns: 200 },
    );
  });

  it('never slows a guest that dirties at less than half the rate of the link, and stuns it with next to nothing left', () => {
    fc.assert(
      fc.property(guests(0, 0.5, 0.001), (guest) => {
        const course = migrate(guest);
        expect(course).toMatchObject({ decision: 'switchover', throttleMax: 0 });
        expect(course.dirtyMs).toBeLessThan(20);
        expect(course.rounds).toBeLessThan(24);
      }),
      { numRuns: 1000 },
    );
  });
});
