/**
 * Goal: a bitmap behaves as a set of numbers, also where ranges and searches cross its words.
 * Method: random operations beside a plain set, on sizes around multiples of the word.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bitmap } from '../../src/util/bitmap.ts';

/** A bitmap's size, and ranges within it. */
const sizeAndRanges = fc.integer({ min: 0, max: 200 }).chain((size) => {
  const index = fc.integer({ min: 0, max: size });
  return fc.tuple(fc.constant(size), fc.array(fc.tuple(fc.boolean(), index, index), { maxLength: 30 }));
});

function members(bitmap: Bitmap): number[] {
  const found: number[] = [];
  for (let index = bitmap.nextSet(0); index < bitmap.size; index = bitmap.nextSet(index + 1))
    found.push(index);
  return found;
}

describe('Bitmap', () => {
  it('is a set of numbers after any changes', () => {
    fc.assert(
      fc.property(sizeAndRanges, ([size, changes]) => {
        const bitmap = new Bitmap(size);
        const model = new Set<number>();
        for (const [value, one, other] of changes) {
          const from = Math.min(one, other);
          const to = Math.max(one, other);
          expect(bitmap.anyInRange(from, to)).toBe([...model].some((index) => index >= from && index < to));
          if (to - from === 1) value ? bitmap.set(from) : bitmap.clear(from);
          else value ? bitmap.setRange(from, to) : bitmap.clearRange(from, to);
          for (let index = from; index < to; index++) value ? model.add(index) : model.delete(index);
          expect(bitmap.count).toBe(model.size);
        }
        expect(members(bitmap)).toEqual([...model].sort((a, b) => a - b));
        for (let index = 0; index < size; index++) expect(bitmap.has(index)).toBe(model.has(index));
      }),
    );
  });

  it('finds the next clear one, and its size when there is none', () => {
    fc.assert(
      fc.property(sizeAndRanges, ([size, changes]) => {
        const bitmap = new Bitmap(size);
        for (const [, one, other] of changes.slice(0, 3)) {
          bitmap.setRange(Math.min(one, other), Math.max(one, other));
        }
        for (let from = 0; from <= size; from++) {
          let expected = from;
          while (expected < size && bitmap.has(expected)) expected += 1;
          expect(bitmap.nextClear(from)).toBe(expected);
        }
      }),
    );
  });

  it('reaches to 2^32 numbers', () => {
    const bitmap = new Bitmap(2 ** 32);
    bitmap.set(2 ** 32 - 1);
    bitmap.set(2 ** 31);
    expect(bitmap.nextSet(2 ** 31 - 40)).toBe(2 ** 31);
    expect(bitmap.nextSet(2 ** 32 - 40)).toBe(2 ** 32 - 1);
    expect(bitmap.nextClear(2 ** 32 - 1)).toBe(2 ** 32);
    expect(bitmap.count).toBe(2);
  });

  it('refuses what lies outside, and changes nothing', () => {
    const bitmap = new Bitmap(40);
    const internal = expect.objectContaining({ code: 'internal' });
    for (const index of [-1, 40, 0.5, Number.NaN]) {
      expect(() => bitmap.has(index)).toThrow(internal);
      expect(() => bitmap.set(index)).toThrow(internal);
    }
    expect(() => bitmap.setRange(0, 41)).toThrow(internal);
    expect(() => bitmap.clearRange(3, 2)).toThrow(internal);
    expect(() => bitmap.nextSet(41)).toThrow(internal);
    expect(() => new Bitmap(-1)).toThrow(internal);
    expect(() => new Bitmap(2 ** 32 + 1)).toThrow(internal);
    expect(bitmap.count).toBe(0);
  });
});
