/**
 * Goal: what is drawn depends on the seed alone, on every machine and in every version. Method: known
 * numbers, and properties over random seeds.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createPrng, Prng } from '../../src/util/prng.ts';

const seeds = fc.integer({ min: Number.MIN_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER });

test('a seed gives the same numbers for ever', () => {
  const prng = createPrng(42);
  expect([prng.next(), prng.next(), prng.next(), prng.next()]).toMatchInlineSnapshot(`
    [
      3011021589,
      3960382089,
      1547270628,
      4040468816,
    ]
  `);
});

test('seeds that differ in one bit, high or low, give different numbers', () => {
  const firsts = [0, 1, 2 ** 32, 2 ** 40, -1].map((seed) => createPrng(seed).next());
  expect(new Set(firsts).size).toBe(firsts.length);
});

test('a state goes on where it was taken', () => {
  fc.assert(
    fc.property(seeds, fc.nat(20), (seed, drawn) => {
      const prng = createPrng(seed);
      for (let count = 0; count < drawn; count += 1) prng.next();
      const copy = new Prng(JSON.parse(JSON.stringify(prng.state())));
      expect([copy.next(), copy.next()]).toEqual([prng.next(), prng.next()]);
    }),
  );
});

test('filling gives the same bytes wherever they lie, and leaves the same state', () => {
  fc.assert(
    fc.property(seeds, fc.nat(40), fc.nat(3), (seed, length, misalignment) => {
      const [one, other] = [createPrng(seed), createPrng(seed)];
      const aligned = new Uint8Array(length);
      const misaligned = new Uint8Array(length + 3).subarray(misalignment, misalignment + length);
      one.fill(aligned);
      other.fill(misaligned);
      expect([...misaligned]).toEqual([...aligned]);
      expect(other.state()).toEqual(one.state());
    }),
  );
});

test('a fork and its origin do not touch each other', () => {
  const [one, other] = [createPrng(7), createPrng(7)];
  const fork = one.fork();
  other.fork();
  for (let count = 0; count < 10; count += 1) fork.next();
  expect(one.next()).toBe(other.next());
});

test('below() stays below, reaches every value, and takes large limits', () => {
  const prng = createPrng(3);
  const drawn = Array.from({ length: 1000 }, () => prng.below(7));
  expect([...new Set(drawn)].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
  const large = Array.from({ length: 1000 }, () => prng.below(2 ** 50));
  expect(large.every((value) => Number.isSafeInteger(value) && value >= 0 && value < 2 ** 50)).toBe(true);
  expect(Math.max(...large)).toBeGreaterThan(2 ** 49);
});
