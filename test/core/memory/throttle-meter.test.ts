/** Goal: what throttling takes from the guest is summed up, whatever it is set to and when. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ThrottleMeter } from '../../../src/core/memory/throttle-meter.ts';

it('sums up for how long the guest was slowed, and what it lost', () => {
  const meter = new ThrottleMeter(1000);
  expect([meter.max, meter.throttledMs(5000), meter.lostMs(5000)]).toEqual([0, 0, 0]);
  meter.set(5000, 0.5);
  expect([meter.throttledMs(7000), meter.lostMs(7000)]).toEqual([2000, 1000]);
  meter.set(7000, 0.75);
  meter.set(8000, 0);
  expect([meter.max, meter.throttledMs(9000), meter.lostMs(9000)]).toEqual([0.75, 3000, 1750]);
});

it('comes to the same in however many steps it is set', () => {
  const steps = fc.array(fc.tuple(fc.integer({ min: 0, max: 1000 }), fc.integer({ min: 0, max: 99 })));
  fc.assert(
    fc.property(steps, (all) => {
      const meter = new ThrottleMeter(0);
      let [nowMs, throttle, throttledMs, lostMs] = [0, 0, 0, 0];
      for (const [ms, percent] of all) {
        nowMs += ms;
        if (throttle > 0) throttledMs += ms;
        lostMs += throttle * ms;
        throttle = percent / 100;
        meter.set(nowMs, throttle);
        meter.set(nowMs, throttle);
      }
      expect(meter.throttledMs(nowMs)).toBe(throttledMs);
      expect(meter.lostMs(nowMs)).toBeCloseTo(lostMs, 6);
      expect(meter.lostMs(nowMs)).toBeLessThanOrEqual(meter.max * meter.throttledMs(nowMs) + 1e-6);
    }),
  );
});
