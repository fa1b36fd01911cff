/** Goal: a rate of the last two seconds or so, of the time that counts. Method: courses of looks. */
import { describe, expect, it } from 'vitest';
import { RateMeter } from '../../src/util/rate-meter.ts';

describe('RateMeter', () => {
  it('knows nothing before a second has been seen, nor after it was told to forget', () => {
    const meter = new RateMeter();
    meter.look(500, 0);
    meter.look(1499, 100);
    expect(meter.perSecond).toBeUndefined();
    meter.look(1500, 200);
    expect(meter.perSecond).toBe(200);
    meter.forget();
    meter.look(1600, 300);
    expect(meter.perSecond).toBeUndefined();
  });

  it('looks back over two seconds, or as far as the look before', () => {
    const meter = new RateMeter();
    for (const [nowMs, total] of [
      [0, 0],
      [1000, 5000],
      [2000, 5100],
      [3000, 5200],
    ] as const)
      meter.look(nowMs, total);
    expect(meter.perSecond).toBe(100);
    meter.look(13_000, 6200);
    expect(meter.perSecond).toBe(100);
    meter.look(23_000, 6200);
    expect(meter.perSecond).toBe(0);
  });

  it('counts of a time only the share that it is told', () => {
    const meter = new RateMeter();
    meter.look(0, 0);
    meter.look(1000, 100, 1);
    meter.look(2000, 150, 0.5);
    expect(meter.perSecond).toBe(100);
  });
});
