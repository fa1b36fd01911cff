/**
 * Goal: the bulk copy yields before the guest suffers, does not yield to what is not of its making, and never stands still for long.
 *
 * Method: properties over all that may be seen, and closed loops with guests whose writes take longer the more the copy uses.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CopyShare, shareMin } from '../../../src/core/storage/copy-share.ts';

const lookMs = 100;

/** A guest that writes, and what its writes take by the share that the copy has used. */
interface Guest {
  readonly writesPerSecond: number;
  readonly writeMs: (share: number, atMs: number) => number;
}

/** How a copy of so many looks fares beside a guest. */
function play(guest: Guest, looks: number, share = new CopyShare()) {
  let used = share.share;
  let usedSum = 0;
  let pauses = 0;
  let carried = 0;
  const latencies: number[] = [];
  for (let look = 0; look < looks; look++) {
    carried += (guest.writesPerSecond * lookMs) / 1000;
    const writes = Math.floor(carried);
    carried -= writes;
    const writeMs = guest.writeMs(used, look * lookMs);
    if (writes > 0) latencies.push(writeMs);
    usedSum += used;
    if (used === 0) pauses++;
    share.look({
      elapsedMs: lookMs,
      calm: used === 0,
      disks: new Map([['disk', { writes, totalMs: writes * writeMs }]]),
    });
    used = share.share;
  }
  const late = latencies.slice(-Math.floor(latencies.length / 2));
  return {
    share,
    used: usedSum / looks,
    pauses,
    meanMs: late.reduce((sum, ms) => sum + ms, 0) / late.length,
  };
}

const seen = fc.record({
  elapsedMs: fc.integer({ min: 1, max: 500 }),
  calm: fc.boolean(),
  disks: fc.dictionary(
    fc.constantFrom('a', 'b', 'c'),
    fc.record({ writes: fc.nat(100), totalMs: fc.double({ min: 0, max: 1e5, noNaN: true }) }),
  ),
});

describe('CopyShare', () => {
  it('is from the least to 1, but in pauses, which are short and far between, whatever is seen', () => {
    fc.assert(
      fc.property(fc.array(seen, { maxLength: 200 }), (looks) => {
        const share = new CopyShare();
        let pausedMs = 0;
        let copiedMs = 10_000;
        for (const { elapsedMs, calm, disks } of looks) {
          const paused = share.share === 0;
          share.look({ elapsedMs, calm, disks: new Map(Object.entries(disks)) });
          if (!paused) copiedMs += elapsedMs;
          if (share.share === 0) {
            if (!paused) {
              expect(copiedMs).toBeGreaterThanOrEqual(1000);
              pausedMs = 0;
            } else pausedMs += elapsedMs;
            expect(pausedMs).toBeLessThan(2000);
          } else {
            if (paused) copiedMs = 0;
            expect(share.share).toBeGreaterThanOrEqual(shareMin);
            expect(share.share).toBeLessThanOrEqual(1);
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it('leaves it all to the copy beside a guest that writes nothing', () => {
    expect(play({ writesPerSecond: 0, writeMs: () => 0 }, 600)).toMatchObject({ used: 1, pauses: 0 });
  });

  it('leaves nearly all to the copy beside a guest that does not feel it', () => {
    const { used } = play({ writesPerSecond: 200, writeMs: (share) => 2 + share }, 600);
    expect(used).toBeGreaterThan(0.95);
  });

  it('keeps the writes of a guest that feels it near to what they are without the copy', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0.1, max: 20, noNaN: true }),
        fc.double({ min: 5, max: 500, noNaN: true }),
        fc.integer({ min: 20, max: 5000 }),
        (baselineMs, burdenMs, writesPerSecond) => {
          const writeMs = (share: number) => baselineMs + share * burdenMs;
          const { meanMs, used } = play({ writesPerSecond, writeMs }, 1200);
          expect(meanMs).toBeLessThan(1.5 * baselineMs + 1 + 2 * shareMin * burdenMs);
          // It does not yield more than it has to: half of what would do.
          const bearable = Math.min(1, (0.5 * baselineMs + 1) / burdenMs);
          expect(used).toBeGreaterThan(0.4 * Math.max(shareMin, bearable));
        },
      ),
      { numRuns: 200 },
    );
  });

  it('does not yield to what is not of its making', () => {
    // The guest becomes twenty times slower by itself, after a while in which that was known.
    const writeMs = (_: number, atMs: number) => (atMs < 20_000 ? 1 : 20);
    const share = new CopyShare();
    play({ writesPerSecond: 100, writeMs }, 600, share);
    expect(share.baselineMs('disk')).toBeGreaterThan(15);
    expect(play({ writesPerSecond: 100, writeMs: () => 20 }, 600, share).used).toBeGreaterThan(0.8);
  });

  it('does not take for granted what was so over the life of the guest', () => {
    // Its writes took 50 ms then, and would take one now, but for us.
    const share = new CopyShare();
    share.before('disk', { writes: 1000, totalMs: 50_000 });
    const { meanMs } = play({ writesPerSecond: 200, writeMs: (used) => 1 + 30 * used }, 300, share);
    expect(share.baselineMs('disk')).toBeLessThan(2);
    expect(meanMs).toBeLessThan(5);
  });

  it('finds out in its start, while the link carries little, and then for fifteen seconds no more', () => {
    const share = new CopyShare();
    const guest = { writesPerSecond: 200, writeMs: () => 2 };
    expect(play(guest, 6, share).pauses).toBeGreaterThan(2);
    expect(share.baselineMs('disk')).toBeCloseTo(2);
    expect(play(guest, 140, share).pauses).toBe(0);
  });

  it('yields on all disks to what is felt on one', () => {
    const share = new CopyShare();
    share.before('a', { writes: 1000, totalMs: 1000 });
    const disks = new Map([
      ['a', { writes: 50, totalMs: 5000 }],
      ['b', { writes: 0, totalMs: 0 }],
    ]);
    share.look({ elapsedMs: lookMs, calm: false, disks });
    share.rest();
    expect(share.share).toBe(1 / 2);
  });
});
