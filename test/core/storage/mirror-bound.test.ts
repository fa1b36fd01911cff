/**
 * Goal: guest writes find the room that the policy or the link gives them; towards the switchover what may wait fits a part of the downtime; and
 * no guest is set back because of that which would not have been anyway. Method: properties, and a closed loop with a guest, a link and a buffer.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type MirrorBoundInputs, mirrorBound } from '../../../src/core/storage/mirror-bound.ts';

const mebibyte = 1 << 20;
const rate = fc.double({ min: 1e4, max: 1e10, noNaN: true });
const ms = (max: number) => fc.double({ min: 0, max, noNaN: true });
const bytes = fc.integer({ min: mebibyte, max: 4 * 1024 ** 3 });
const anyInputs: fc.Arbitrary<MirrorBoundInputs> = fc.record({
  bytesMax: fc.option(bytes, { nil: undefined }),
  downtimeMsMax: fc.double({ min: 30, max: 60_000, noNaN: true }),
  bytesPerSecond: fc.option(rate, { nil: undefined }),
  roundTripMs: ms(1000),
  expectedDowntimeMs: fc.oneof(fc.constant(Number.POSITIVE_INFINITY), ms(1e6)),
});
const anyNow = fc.record({
  boundBytes: bytes,
  bufferedBytes: fc.integer({ min: 0, max: 2 ** 33 }),
  elapsedMs: ms(2000),
});

describe('mirrorBound', () => {
  it('is what the policy says, or 64 MiB, or twice the bandwidth-delay product', () => {
    const far = { downtimeMsMax: 300 };
    expect(mirrorBound({ ...far, bytesMax: 5 * mebibyte })).toBe(5 * mebibyte);
    expect(mirrorBound({ ...far, bytesMax: undefined })).toBe(64 * mebibyte);
    const gigabit = { ...far, bytesMax: undefined, bytesPerSecond: 125e6 };
    expect(mirrorBound({ ...gigabit, roundTripMs: 200 })).toBe(64 * mebibyte);
    expect(mirrorBound({ ...gigabit, bytesPerSecond: 1250e6, roundTripMs: 200 })).toBe(500e6);
  });

  it('drains within a quarter of the downtime when that is what is expected', () => {
    const near = { bytesMax: undefined, downtimeMsMax: 300, roundTripMs: 200, expectedDowntimeMs: 290 };
    expect(mirrorBound({ ...near, bytesPerSecond: 125e6 })).toBe(125e6 * 0.075);
    expect(mirrorBound({ ...near, bytesPerSecond: 1e6 })).toBe(mebibyte);
    fc.assert(
      fc.property(anyInputs, rate, (inputs, bytesPerSecond) => {
        const bound = mirrorBound({ ...inputs, bytesPerSecond, expectedDowntimeMs: 0 });
        expect(bound).toBeLessThanOrEqual(Math.max(mebibyte, (bytesPerSecond * inputs.downtimeMsMax) / 4000));
      }),
    );
  });

  it('is 1 MiB to 4 GiB, and never more than the policy says', () => {
    fc.assert(
      fc.property(anyInputs, fc.option(anyNow, { nil: undefined }), (inputs, seen) => {
        const now = seen && { ...seen, boundBytes: Math.min(seen.boundBytes, inputs.bytesMax ?? 2 ** 32) };
        const bound = mirrorBound(now === undefined ? inputs : { ...inputs, now });
        expect(bound).toBeGreaterThanOrEqual(mebibyte);
        expect(bound).toBeLessThanOrEqual(inputs.bytesMax ?? 4 * 1024 ** 3);
      }),
      { numRuns: 2000 },
    );
  });

  it('never falls when the link is faster, or the switchover further off', () => {
    fc.assert(
      fc.property(
        anyInputs,
        rate,
        fc.double({ min: 1, max: 100, noNaN: true }),
        (inputs, bytesPerSecond, by) => {
          const before = mirrorBound({ ...inputs, bytesPerSecond });
          expect(mirrorBound({ ...inputs, bytesPerSecond: bytesPerSecond * by })).toBeGreaterThanOrEqual(
            before,
          );
          const further = (inputs.expectedDowntimeMs ?? 0) * by;
          expect(
            mirrorBound({ ...inputs, bytesPerSecond, expectedDowntimeMs: further }),
          ).toBeGreaterThanOrEqual(before);
        },
      ),
    );
  });

  it('rises at once, and falls at once only as far as twice what is in it', () => {
    fc.assert(
      fc.property(anyInputs, anyNow, (inputs, now) => {
        const wanted = mirrorBound(inputs);
        const bound = mirrorBound({ ...inputs, now });
        expect(bound).toBeGreaterThanOrEqual(wanted);
        expect(bound).toBeLessThanOrEqual(Math.max(wanted, now.boundBytes, mebibyte));
        expect(bound).toBeLessThanOrEqual(Math.max(wanted, 2 * now.bufferedBytes));
      }),
    );
  });

  it('falls without refusing a guest that writes less than half of what the link carries', () => {
    fc.assert(
      fc.property(rate, fc.double({ min: 0, max: 0.45, noNaN: true }), (bytesPerSecond, load) => {
        const inputs = { bytesMax: undefined, downtimeMsMax: 300, bytesPerSecond, expectedDowntimeMs: 0 };
        let boundBytes = 64 * mebibyte;
        let bufferedBytes = boundBytes;
        const stepMs = 250;
        for (let look = 0; look < 100; look++) {
          bufferedBytes = Math.max(0, bufferedBytes - ((1 - load) * bytesPerSecond * stepMs) / 1000);
          boundBytes = mirrorBound({ ...inputs, now: { boundBytes, bufferedBytes, elapsedMs: stepMs } });
          expect(bufferedBytes).toBeLessThanOrEqual(boundBytes);
        }
        const drained = 64 * mebibyte < (bytesPerSecond * 25) / 4;
        if (drained) expect(boundBytes).toBe(mirrorBound(inputs));
      }),
    );
  });
});
