/** Goal: an operator sees at once whether a VM can be moved, and what that takes. */
import { describe, expect, it } from 'vitest';
import { renderEstimate } from '../../src/cli/estimate-view.ts';
import { formatInterval } from '../../src/cli/units.ts';
import type { Estimate } from '../../src/index.ts';

const estimate: Estimate = {
  total: { lowMs: 61_000, highMs: 122_000 },
  downtime: { lowMs: 80, highMs: 240 },
  converges: 'yes',
  throttle: 0,
  bytes: 2 ** 31,
  dirtyBytesPerSecond: 2 ** 21,
  diskBytesPerSecond: { vda: 2 ** 20, 'vdb\u001b[2J': 0 },
  linkBytesPerSecond: 2 ** 25,
  roundTripMs: 20,
};

describe('an estimate', () => {
  it('begins with whether it can be, and then says what it takes', () => {
    const lines = renderEstimate(estimate).map((line) => line.replaceAll(/ {2,}/g, ': '));
    expect(lines).toEqual([
      'It can be moved, with its guest as it is.',
      '',
      'total: 1 min 1 s to 2 min 2 s',
      'downtime: 80 to 240 ms',
      'to send: about 2.00 GiB',
      'link: 32.0 MiB/s',
      'round trip: 20 ms',
      'memory dirtied: 2.00 MiB/s',
      'vda written: 1.00 MiB/s',
      'vdb?[2J written: 0 B/s',
    ]);
  });

  it('says how hard the guest has to be slowed, and when that is not enough', () => {
    const [slowed] = renderEstimate({ ...estimate, converges: 'throttled', throttle: 0.456 });
    expect(slowed).toContain('slowed by up to 46%');
    const [never] = renderEstimate({ ...estimate, converges: 'no' });
    expect(never).toContain('cannot be moved');
  });
});

describe('an interval', () => {
  it('names a unit once where both ends have it', () => {
    expect(formatInterval({ lowMs: 80, highMs: 240 })).toBe('80 to 240 ms');
    expect(formatInterval({ lowMs: 900, highMs: 2500 })).toBe('900 ms to 2.50 s');
    expect(formatInterval({ lowMs: 50_000, highMs: 65_000 })).toBe('50.0 s to 1 min 5 s');
    expect(formatInterval({ lowMs: 7, highMs: 7 })).toBe('7.0 ms');
  });
});
