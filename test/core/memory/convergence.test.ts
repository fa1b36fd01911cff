/**
 * Goal: the guest is stunned as soon as the rest fits the downtime that was allowed, and never before; it is slowed only if it
 * must be; and a guest that cannot be caught ends the migration with figures instead of a long stun.
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
    expect(convergence({ ...idle, diskRestBytes: 62.5e6 }, policy).waitMs).toBe(238);
    expect(convergence({ ...idle, diskRestBytes: 1e12 }, policy).waitMs).toBe(1000);
    expect(convergence({ ...idle, dirtyBytes: 1e9 }, policy).waitMs).toBe(0);
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
}

/** Migrates a guest over a gigabit, round by round, to whatever end. */
function migrate(guest: Guest): Course {
  const history: number[] = [];
  let roundBytes = guest.memoryBytes;
  let dirtyingMs: number | undefined;
  let throttle = 0;
  let throttleMax = 0;
  for (let round = 1; ; round++) {
    const roundMs = 5 + (1000 * roundBytes) / gigabit;
    const touched = (guest.load * gigabit * (1 - throttle) * roundMs) / 1000;
    const dirty = guest.workingSetBytes * (1 - Math.exp(-touched / guest.workingSetBytes));
    history.push(roundBytes);
    const dirtyBytes = guest.tellsDirty ? dirty : undefined;
    const statistics = { ...idle, round, roundBytes, roundMs, dirtyingMs, dirtyBytes, throttle, history };
    const verdict = convergence(statistics, policy);
    if (verdict.decision === 'switchover' || verdict.decision === 'fail') {
      const downtimeMs = idle.fixedMs + (1000 * (dirty + idle.stateBytes)) / gigabit;
      return { ...verdict, rounds: round, throttleMax, downtimeMs };
    }
    ({ throttle } = verdict);
    throttleMax = Math.max(throttleMax, throttle);
    dirtyingMs = roundMs;
    roundBytes = dirty;
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
        expect(course.rounds).toBeLessThan(100);
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

  it('never slows a guest that dirties at less than half the rate of the link', () => {
    fc.assert(
      fc.property(guests(0, 0.5, 0.001), (guest) => {
        const course = migrate(guest);
        expect(course).toMatchObject({ decision: 'switchover', throttleMax: 0 });
        expect(course.rounds).toBeLessThan(16);
      }),
      { numRuns: 1000 },
    );
  });
});
