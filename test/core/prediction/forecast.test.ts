/**
 * Goal: a prediction is what its figures say. More to send never takes less, a faster link never more, and an interval holds what is likely and is never wider
 * than three to one. Method: properties of the pure functions.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { resolvePolicy } from '../../../src/core/policy.ts';
import { auditMsExpected } from '../../../src/core/prediction/estimate.ts';
import { type ForecastInputs, forecast } from '../../../src/core/prediction/forecast.ts';
import { Fraction } from '../../../src/core/prediction/fraction.ts';
import { predict } from '../../../src/core/prediction/predict.ts';
import { dirtiedIn, workingSetOf } from '../../../src/core/prediction/working-set.ts';

const mebibyte = 1 << 20;
const doubts = {
  link: 1.2,
  guest: 1.3,
  content: 1.1,
  compression: 1.3,
  steps: 2,
  state: 1.4,
  rest: 1.1,
  downtime: 1.1,
};

const bytes = fc.integer({ min: 0, max: 2 ** 40 });
const milliseconds = fc.double({ min: 0, max: 1000, noNaN: true });
const factor = fc.double({ min: 1, max: 10, noNaN: true });

const inputsArbitrary: fc.Arbitrary<ForecastInputs> = fc.record({
  setupMs: milliseconds,
  disks: fc.array(
    fc.record({
      restBytes: bytes,
      guestBytesPerSecond: fc.integer({ min: 0, max: 2 ** 28 }),
      bytesPerSecondMax: fc.option(fc.integer({ min: mebibyte, max: 2 ** 33 }), { nil: undefined }),
    }),
    { maxLength: 3 },
  ),
  stunBytes: fc.constant(0),
  passRestBytes: bytes,
  passedMs: milliseconds,
  workingSet: fc.record({
    bytesPerSecond: fc.integer({ min: 0, max: 2 ** 30 }),
    sizeBytes: fc.oneof(fc.integer({ min: 4096, max: 2 ** 36 }), fc.constant(Number.POSITIVE_INFINITY)),
  }),
  linkBytesPerSecond: fc.integer({ min: mebibyte, max: 2 ** 33 }),
  gain: fc.constantFrom(1, 1.5, 10),
  diskGain: fc.constantFrom(1, 1.5, 10),
  roundTripMs: milliseconds,
  claimMs: milliseconds,
  auditMs: milliseconds,
  slowRoundTrips: fc.constant(0.5),
  flushMs: milliseconds,
  hypervisorMs: milliseconds,
  stateBytes: fc.integer({ min: 0, max: 2 ** 24 }),
  handover: fc.constantFrom('confirmed' as const, 'one-flight' as const),
  throttle: fc.constantFrom(0, 0.2, 0.8),
  policy: fc.constantFrom(resolvePolicy(), resolvePolicy({ throttleMax: 0, downtimeMsMax: 60_000 })),
  rounds: fc.integer({ min: 0, max: 20 }),
  disksAlone: fc.boolean(),
});

/** A guest that does nothing, on a machine without disks, before a migration. */
const idle: ForecastInputs = {
  setupMs: 100,
  disks: [],
  stunBytes: 0,
  passRestBytes: 100 * mebibyte,
  passedMs: 0,
  workingSet: { bytesPerSecond: 0, sizeBytes: 100 * mebibyte },
  linkBytesPerSecond: 10 * mebibyte,
  gain: 1,
  diskGain: 1,
  roundTripMs: 10,
  claimMs: 1,
  auditMs: 0,
  slowRoundTrips: 0,
  flushMs: 2,
  hypervisorMs: 20,
  stateBytes: 0,
  handover: 'confirmed',
  throttle: 0,
  policy: resolvePolicy(),
  rounds: 0,
  disksAlone: false,
};

describe('the forecast', () => {
  it('of an idle guest is its memory over the link, and the handover', () => {
    const { restMs, downtimeMs, bytes: sent, converges, throttle } = forecast(idle);
    expect(restMs).toBeGreaterThan(10_100);
    expect(restMs).toBeLessThan(10_300);
    expect(downtimeMs).toBeGreaterThanOrEqual(20 + 15 + 2 + 2);
    expect(downtimeMs).toBeLessThan(45);
    expect(sent).toBeCloseTo(100 * mebibyte, -6);
    expect({ converges, throttle }).toEqual({ converges: true, throttle: 0 });
  });

  it('throttles a guest that dirties three times what the link carries, and says when that is not allowed', () => {
    const workingSet = { bytesPerSecond: 30 * mebibyte, sizeBytes: 80 * mebibyte };
    const throttled = forecast({ ...idle, workingSet });
    expect(throttled.converges).toBe(true);
    expect(throttled.throttle).toBeGreaterThanOrEqual(0.4);
    const never = forecast({ ...idle, workingSet, policy: resolvePolicy({ throttleMax: 0 }) });
    expect(never).toMatchObject({ converges: false, throttle: 0 });
  });

  it('goes by what compression makes of pages and disk content, but for what is sent once the guest stands still', () => {
    const disks = [{ restBytes: 100 * mebibyte, guestBytesPerSecond: 0, bytesPerSecondMax: undefined }];
    const [plain, packed] = [
      forecast({ ...idle, disks }),
      forecast({ ...idle, disks, gain: 4, diskGain: 4 }),
    ];
    expect(plain.restMs - packed.restMs).toBeCloseTo(2 * (10_000 - 2500), -1);
    expect(packed.downtimeMs).toBeCloseTo(plain.downtimeMs, 6);
    const workingSet = { bytesPerSecond: 15 * mebibyte, sizeBytes: 80 * mebibyte };
    expect(forecast({ ...idle, workingSet }).throttle).toBeGreaterThan(0);
    expect(forecast({ ...idle, workingSet, gain: 4 })).toMatchObject({ converges: true, throttle: 0 });
  });

  it('knows how long the guest stands still already', () => {
    const { restMs, downtimeMs } = forecast({ ...idle, stunnedMs: 10 });
    expect(downtimeMs).toBeGreaterThan(restMs);
    expect(forecast({ ...idle, stunnedMs: 500 }).downtimeMs).toBeGreaterThan(500);
  });

  it('never takes less for more disk content, a longer round trip, slower steps or a larger state', () => {
    const more = (key: 'roundTripMs' | 'claimMs' | 'hypervisorMs' | 'setupMs' | 'stunBytes') =>
      fc.assert(
        fc.property(inputsArbitrary, factor, (inputs, times) => {
          const quick = { ...inputs, workingSet: idle.workingSet };
          const slow = { ...quick, [key]: quick[key] * times + 1 };
          expect(forecast(slow).restMs).toBeGreaterThanOrEqual(forecast(quick).restMs);
        }),
      );
    for (const key of ['roundTripMs', 'claimMs', 'hypervisorMs', 'setupMs', 'stunBytes'] as const) more(key);
    fc.assert(
      fc.property(inputsArbitrary, factor, (inputs, times) => {
        const disks = inputs.disks.map((disk) => ({ ...disk, restBytes: disk.restBytes * times }));
        expect(forecast({ ...inputs, disks }).restMs).toBeGreaterThanOrEqual(forecast(inputs).restMs);
      }),
    );
  });

  it('of a quiet guest never takes more over a faster link, nor less for more memory', () => {
    fc.assert(
      fc.property(inputsArbitrary, factor, (inputs, times) => {
        const quiet = {
          ...inputs,
          workingSet: idle.workingSet,
          disks: inputs.disks.map((disk) => ({ ...disk, guestBytesPerSecond: 0 })),
          policy: resolvePolicy({ downtimeMsMax: 60_000 }),
        };
        const faster = forecast({ ...quiet, linkBytesPerSecond: quiet.linkBytesPerSecond * times });
        const larger = forecast({ ...quiet, passRestBytes: quiet.passRestBytes * times });
        const { restMs } = forecast(quiet);
        expect(faster.restMs).toBeLessThanOrEqual(restMs + 1e-6);
        expect(larger.restMs).toBeGreaterThanOrEqual(restMs - 1e-6);
      }),
    );
  });

  it('comes to an end, and to numbers, for any guest', () => {
    fc.assert(
      fc.property(inputsArbitrary, (inputs) => {
        const { restMs, downtimeMs, bytes: sent, throttle } = forecast(inputs);
        for (const value of [restMs, downtimeMs, sent]) {
          expect(Number.isFinite(value) && value >= 0).toBe(true);
        }
        expect(throttle).toBeLessThanOrEqual(Math.max(inputs.throttle, inputs.policy.throttleMax));
      }),
    );
  });
});

describe('the audit', () => {
  const gibibyte = 1024 * mebibyte;
  const disk = { sizeBytes: 4 * gibibyte, contentBytes: gibibyte, bytesPerSecond: gibibyte / 2, readMs: 0.1 };
  const of = (audit: 'off' | 'sample' | 'full') =>
    auditMsExpected(resolvePolicy({ audit }), { memoryBytes: 2 * gibibyte, disks: [disk, disk] });

  it('of everything reads memory and disks one after the other, what is empty too; a sample is soon read', () => {
    expect(of('off')).toBe(0);
    expect(of('sample')).toBeCloseTo(6.4);
    expect(of('full')).toBeCloseTo(2000 + 2 * (2000 + 3000));
  });

  it('of everything makes the handover a confirmed one', () => {
    expect(resolvePolicy({ audit: 'full', handover: 'one-flight' }).handover).toBe('confirmed');
    expect(resolvePolicy({ audit: 'sample', handover: 'one-flight' }).handover).toBe('one-flight');
  });
});

describe('an interval', () => {
  it('holds what is likely, and is never wider than three to one', () => {
    fc.assert(
      fc.property(inputsArbitrary, (inputs) => {
        const { rest, downtime, likely } = predict(inputs, doubts);
        fc.pre(likely.converges);
        const pairs = [
          [rest, likely.restMs],
          [downtime, likely.downtimeMs],
        ] as const;
        for (const [{ lowMs, highMs }, likelyMs] of pairs) {
          expect(highMs).toBeLessThanOrEqual(lowMs * 3 * (1 + 1e-9));
          expect(Math.max(1, likelyMs)).toBeGreaterThanOrEqual(lowMs * (1 - 1e-9));
          expect(likelyMs).toBeLessThanOrEqual(highMs * (1 + 1e-9));
        }
      }),
    );
  });
});

describe('the working set', () => {
  it('is dirtied more the longer it is looked at, and never more than there is', () => {
    const set = fc.record({ bytesPerSecond: fc.integer({ min: 0, max: 2 ** 32 }), sizeBytes: bytes });
    fc.assert(
      fc.property(set, milliseconds, milliseconds, (workingSet, aMs, bMs) => {
        const [short, long] = [Math.min(aMs, bMs), Math.max(aMs, bMs)];
        expect(dirtiedIn(workingSet, long)).toBeGreaterThanOrEqual(dirtiedIn(workingSet, short));
        expect(dirtiedIn(workingSet, long)).toBeLessThanOrEqual(workingSet.sizeBytes);
      }),
      // These were rounded the wrong way once.
      {
        examples: [[{ bytesPerSecond: 278_629_998, sizeBytes: 112 }, 276.3532248206244, 276.35322482062475]],
      },
    );
  });

  it('is what two looks showed', () => {
    const set = { bytesPerSecond: 20 * mebibyte, sizeBytes: 16 * mebibyte };
    const look = (durationMs: number) => ({ durationMs, dirtiedBytes: dirtiedIn(set, durationMs) });
    const found = workingSetOf([look(500), look(2500)], 1024 * mebibyte);
    expect(found.bytesPerSecond).toBeCloseTo(set.bytesPerSecond, -3);
    expect(found.sizeBytes).toBeCloseTo(set.sizeBytes, -3);
  });

  it('has no end that was not seen, but that of the memory', () => {
    const steady = (durationMs: number) => ({ durationMs, dirtiedBytes: 1000 * durationMs });
    const { bytesPerSecond, sizeBytes } = workingSetOf([steady(500), steady(2500)], 64 * mebibyte);
    expect(sizeBytes).toBeCloseTo(64 * mebibyte, 0);
    expect(bytesPerSecond / 1e6).toBeCloseTo(1, 1);
    const nothing = { durationMs: 500, dirtiedBytes: 0 };
    expect(workingSetOf([nothing, nothing], mebibyte)).toEqual({ bytesPerSecond: 0, sizeBytes: mebibyte });
  });

  it('has hot pages and cold ones: what is written again and again is dirty in a moment, the rest comes on', () => {
    const hot = { bytesPerSecond: 1000 * mebibyte, sizeBytes: mebibyte };
    const cold = { bytesPerSecond: mebibyte, sizeBytes: 64 * mebibyte };
    const both = (durationMs: number) => dirtiedIn(hot, durationMs) + dirtiedIn(cold, durationMs);
    const look = (durationMs: number) => ({ durationMs, dirtiedBytes: both(durationMs) });
    const found = workingSetOf([look(100), look(500), look(2400)], 64 * mebibyte);
    for (const ms of [100, 500, 2400]) expect(dirtiedIn(found, ms) / both(ms)).toBeCloseTo(1, 6);
    // Two looks alone take the hot pages for a slow beginning of the cold ones.
    const two = workingSetOf([look(500), look(2400)], 64 * mebibyte);
    const error = (set: typeof found) => Math.abs(dirtiedIn(set, 50) / both(50) - 1);
    expect(error(found)).toBeLessThan(error(two));
  });

  it('grows with time, is no more than the memory, and is no less than a quarter of the longest look, whatever was seen', () => {
    const look = fc.record({
      durationMs: fc.double({ min: 1, max: 10_000, noNaN: true }),
      dirtiedBytes: fc.integer({ min: 0, max: 2 ** 34 }),
    });
    const time = fc.double({ min: 0, max: 1e6, noNaN: true });
    fc.assert(
      fc.property(fc.array(look, { maxLength: 4 }), time, time, (seen, aMs, bMs) => {
        const looks = [...seen].sort((a, b) => a.durationMs - b.durationMs);
        const set = workingSetOf(looks, 2 ** 34);
        const [less, more] = [dirtiedIn(set, Math.min(aMs, bMs)), dirtiedIn(set, Math.max(aMs, bMs))];
        expect(less).toBeLessThanOrEqual(more * (1 + 1e-9));
        expect(more).toBeLessThanOrEqual(2 ** 34 * (1 + 1e-9));
        const longest = looks.at(-1);
        if (longest !== undefined && longest.dirtiedBytes > 0)
          expect(dirtiedIn(set, longest.durationMs)).toBeGreaterThanOrEqual(longest.dirtiedBytes / 4);
      }),
    );
  });
});

describe('the fraction', () => {
  it('never falls, and is 1 only when it is done, whatever is predicted', () => {
    const looks = fc.array(
      fc.record({
        elapsedMs: fc.double({ min: 0, max: 1e9, noNaN: true }),
        lowMs: fc.double({ min: 0, max: 1e9, noNaN: true }),
        width: fc.double({ min: 1, max: 3, noNaN: true }),
        known: fc.boolean(),
      }),
    );
    fc.assert(
      fc.property(looks, (sequence) => {
        const fraction = new Fraction();
        let last = 0;
        for (const { elapsedMs, lowMs, width, known } of sequence) {
          const now = fraction.look(elapsedMs, known ? { lowMs, highMs: lowMs * width } : undefined);
          expect(now).toBeGreaterThanOrEqual(last);
          expect(now).toBeLessThan(1);
          last = now;
        }
        expect(fraction.done()).toBe(1);
      }),
    );
  });
});
