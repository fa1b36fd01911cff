/**
 * Goal: credit follows what a stream applies, and never promises more memory than there is. Method: the pure pool, alone for the bounds (any
 * sequence of streams that apply and give back), and with a link of a round trip between for what it is good for.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CreditPool, type CreditShare } from '../../src/channel/credit-pool.ts';
import { framePayloadBytesMax } from '../../src/wire/limits.ts';

const mebibyte = 1 << 20;

function createPool(totalBytes: number, streams: number, roundTripMs = 100) {
  const clock = { nowMs: 0 };
  const options = { totalBytes, streams, now: () => clock.nowMs, roundTripMs: () => roundTripMs };
  const pool = new CreditPool(options);
  return { clock, shares: Array.from({ length: streams }, () => pool.open()) };
}

const left = (share: CreditShare, appliedBytes: number): number =>
  share.creditBytes - share.returnedBytes - appliedBytes;

/** Applies whatever the credit allows, once each round trip, as fast as `bytesPerRound`. */
function run(world: ReturnType<typeof createPool>, index: number, rounds: number, bytesPerRound: number) {
  const share = world.shares[index];
  if (share === undefined) throw new Error('no such stream');
  let appliedBytes = 0;
  for (let round = 0; round < rounds; round++) {
    const allowed = Math.min(bytesPerRound, left(share, appliedBytes));
    world.clock.nowMs += 100;
    for (let sent = 0; sent + mebibyte <= allowed; sent += mebibyte) {
      share.applied(mebibyte);
      appliedBytes += mebibyte;
    }
  }
  return { share, appliedBytes };
}

describe('the credit of a receiver', () => {
  it('is never more than there is, and never less than a base for each, whatever streams do', () => {
    const step = fc.record({
      stream: fc.nat(3),
      action: fc.constantFrom('apply', 'return', 'wait'),
      part: fc.double({ min: 0, max: 1, noNaN: true }),
      ms: fc.nat(300),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const total = 256 * mebibyte;
        const { clock, shares } = createPool(total, 4);
        const applied = shares.map(() => 0);
        const base = shares[0]?.creditBytes ?? 0;
        expect(base).toBeGreaterThanOrEqual(framePayloadBytesMax);
        for (const { stream, action, part, ms } of steps) {
          const share = shares[stream] as CreditShare;
          const bytes = Math.floor(part * left(share, applied[stream] as number));
          clock.nowMs += ms;
          if (action === 'apply') {
            share.applied(bytes);
            applied[stream] = (applied[stream] as number) + bytes;
          } else if (action === 'return') {
            expect(share.returned(share.returnedBytes + bytes)).toBe(true);
          }
          const outstanding = shares.map((each, index) => left(each, applied[index] as number));
          for (const each of outstanding) expect(each).toBeGreaterThanOrEqual(0);
          const promised = outstanding.reduce((sum, each) => sum + Math.max(base, each), 0);
          expect(promised).toBeLessThanOrEqual(total);
          if (action === 'apply') expect(outstanding[stream]).toBeGreaterThanOrEqual(base);
        }
      }),
    );
  });

  it('doubles with each round trip while a stream takes all of it', () => {
    const world = createPool(256 * mebibyte, 2);
    const { share, appliedBytes } = run(world, 0, 6, Number.POSITIVE_INFINITY);
    expect(left(share, appliedBytes)).toBeGreaterThan(200 * mebibyte);
  });

  it('covers frames that take their time beside the round trip, as on many slow connections', () => {
    const world = createPool(256 * mebibyte, 2);
    const { share, appliedBytes } = run(world, 0, 50, 6 * mebibyte);
    // 60 MiB a second, and half a second, twice.
    expect(left(share, appliedBytes)).toBeGreaterThan(55 * mebibyte);
    expect(left(share, appliedBytes)).toBeLessThan(65 * mebibyte);
  });

  it('stays at the base for a stream that applies little, as a slow disk', () => {
    const world = createPool(256 * mebibyte, 2);
    const base = world.shares[0]?.creditBytes ?? 0;
    const { share, appliedBytes } = run(world, 0, 50, 2 * mebibyte);
    expect(left(share, appliedBytes)).toBe(base);
  });

  it('goes to the next stream once the last one has given back what it does not use', () => {
    const world = createPool(256 * mebibyte, 2);
    const first = run(world, 0, 6, Number.POSITIVE_INFINITY);
    const held = left(first.share, first.appliedBytes);
    const before = run(world, 1, 6, Number.POSITIVE_INFINITY);
    expect(left(before.share, before.appliedBytes)).toBeLessThan(64 * mebibyte);
    expect(first.share.returned(held - 32 * mebibyte)).toBe(true);
    for (let round = 0; round < 6; round++) {
      world.clock.nowMs += 100;
      for (let sent = 0; sent < 64; sent++) before.share.applied(mebibyte);
    }
    expect(left(before.share, before.appliedBytes + 6 * 64 * mebibyte)).toBeGreaterThan(64 * mebibyte);
  });

  it('cannot be given back by a peer that never had it', () => {
    const { shares } = createPool(256 * mebibyte, 1);
    const [share] = shares as [CreditShare];
    expect(share.returned(share.creditBytes + 1)).toBe(false);
  });
});
