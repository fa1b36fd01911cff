/** Goal: a guest whose pages are compressed is slowed only as far as what travels of them needs, and stunned no sooner for it. Method: the pure rule, over any guest and link. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type ConvergencePolicy,
  type ConvergenceStatistics,
  convergence,
} from '../../../src/core/memory/convergence.ts';

const policy: ConvergencePolicy = { downtimeMsMax: 300, throttleMax: 0.8, roundsMax: 200 };

function statistics(changes: Partial<ConvergenceStatistics>): ConvergenceStatistics {
  return {
    round: 5,
    roundBytes: 40e6,
    roundMs: 1000,
    dirtyingMs: 1000,
    dirtyBytes: 40e6,
    bytesPerSecond: 31e6,
    backlogBytes: 0,
    diskRestBytes: 0,
    stateBytes: 100_000,
    fixedMs: 20,
    throttle: 0,
    history: [40e6, 40e6, 40e6, 40e6, 40e6],
    ...changes,
  };
}

const guests = fc.record({
  dirtyBytes: fc.nat(200e6),
  roundBytes: fc.nat(200e6),
  bytesPerSecond: fc.integer({ min: 1e6, max: 1e9 }),
  diskBytesPerSecond: fc.nat(50e6),
  throttle: fc.double({ min: 0, max: 0.8, noNaN: true }),
});

describe('a gain by compression', () => {
  it('lets a guest be that the link would not carry without', () => {
    expect(convergence(statistics({}), policy)).toMatchObject({ decision: 'throttle' });
    expect(convergence(statistics({ gain: 4 }), policy)).toMatchObject({ decision: 'continue', throttle: 0 });
  });

  it('does not count what is not compressed: guest writes to disks', () => {
    const busy = { diskBytesPerSecond: 200e6, gain: 4 };
    expect(convergence(statistics(busy), policy)).toMatchObject({ outruns: true });
    expect(convergence(statistics({ ...busy, diskBytesPerSecond: 0 }), policy)).toMatchObject({
      outruns: false,
    });
  });

  it('never makes the downtime look shorter, and the throttle never harder', () => {
    fc.assert(
      fc.property(guests, fc.double({ min: 1, max: 100, noNaN: true }), (guest, gain) => {
        const given = statistics({ ...guest, history: [guest.roundBytes, guest.roundBytes] });
        const without = convergence(given, policy);
        const withGain = convergence({ ...given, gain }, policy);
        expect(withGain.expectedDowntimeMs).toBe(without.expectedDowntimeMs);
        expect(withGain.fits).toBe(without.fits);
        expect(withGain.throttle).toBeLessThanOrEqual(without.throttle);
        expect(convergence({ ...given, gain: 1 }, policy)).toEqual(without);
      }),
    );
  });
});
