/**
 * Goal: an interval map says of every byte what was last set there, in as few intervals as that takes.
 * Method: random operations beside an array with one value a byte; few bytes, where everything touches, and many, where the
 * map's leaves split and vanish.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Interval, IntervalMap } from '../../src/util/interval-map.ts';

/** A value to set, or undefined to delete. */
type Change = { readonly offset: number; readonly length: number; readonly value: string | undefined };

function changes(bytes: number, lengthMax: number, count: number): fc.Arbitrary<Change[]> {
  const change = fc.record({
    offset: fc.integer({ min: 0, max: bytes - 1 }),
    length: fc.integer({ min: 0, max: lengthMax }),
    value: fc.constantFrom('a', 'b', 'c', undefined),
  });
  const within = change.map((one) => ({ ...one, length: Math.min(one.length, bytes - one.offset) }));
  return fc.array(within, { minLength: Math.floor(count / 2), maxLength: count, size: 'max' });
}

function apply(map: IntervalMap<string>, bytes: (string | undefined)[], change: Change): void {
  const { offset, length, value } = change;
  if (value === undefined) map.delete(offset, length);
  else map.set(offset, length, value);
  bytes.fill(value, offset, offset + length);
}

/** The longest stretches of equal bytes within a range. */
function stretches(
  bytes: readonly (string | undefined)[],
  offset: number,
  length: number,
): Interval<string>[] {
  const found: Interval<string>[] = [];
  for (let index = offset; index < offset + length; index++) {
    const value = bytes[index];
    const last = found.at(-1);
    if (value === undefined) continue;
    if (last !== undefined && last.value === value && last.offset + last.length === index) {
      found[found.length - 1] = { ...last, length: last.length + 1 };
    } else {
      found.push({ offset: index, length: 1, value });
    }
  }
  return found;
}

describe('IntervalMap', () => {
  it('maps each byte of a short line to what was last set there', () => {
    fc.assert(
      fc.property(changes(24, 10, 20), fc.nat(23), fc.nat(24), (all, offset, wanted) => {
        const map = new IntervalMap<string>();
        const bytes = new Array<string | undefined>(24).fill(undefined);
        for (const change of all) {
          apply(map, bytes, change);
          const expected = stretches(bytes, 0, 24);
          expect(map.overlapping(0, 24)).toEqual(expected);
          expect(map.size).toBe(expected.length);
        }
        const length = Math.min(wanted, 24 - offset);
        expect(map.overlapping(offset, length)).toEqual(stretches(bytes, offset, length));
      }),
      { numRuns: 1000 },
    );
  });

  it('maps each byte of a long line to what was last set there', () => {
    const bytesMax = 3000;
    let largest = 0;
    fc.assert(
      fc.property(changes(bytesMax, 12, 1500), fc.array(fc.nat(bytesMax / 2)), (all, starts) => {
        const map = new IntervalMap<string>();
        const bytes = new Array<string | undefined>(bytesMax).fill(undefined);
        for (const change of all) apply(map, bytes, change);
        expect(map.overlapping(0, bytesMax)).toEqual(stretches(bytes, 0, bytesMax));
        largest = Math.max(largest, map.size);
        for (const offset of starts) apply(map, bytes, { offset, length: offset, value: undefined });
        expect(map.overlapping(0, bytesMax)).toEqual(stretches(bytes, 0, bytesMax));
        expect(map.size).toBe(stretches(bytes, 0, bytesMax).length);
      }),
      { numRuns: 30 },
    );
    expect(largest).toBeGreaterThan(200);
  });

  it('is empty when all has been deleted again, piece by piece', () => {
    const map = new IntervalMap<number>();
    for (let index = 0; index < 1000; index++) map.set(index * 10, 5, index);
    expect(map.size).toBe(1000);
    for (let index = 0; index < 1000; index++) map.delete(index * 10, 5);
    expect(map.size).toBe(0);
    expect(map.overlapping(0, 20_000)).toEqual([]);
  });

  it('refuses what is no range, and changes nothing', () => {
    const map = new IntervalMap<number>();
    const internal = expect.objectContaining({ code: 'internal' });
    const wrong: readonly (readonly [number, number])[] = [
      [-1, 2],
      [0, -1],
      [0.5, 1],
      [Number.MAX_SAFE_INTEGER, 1],
      [0, Number.NaN],
    ];
    for (const [offset, length] of wrong) {
      expect(() => map.set(offset, length, 1)).toThrow(internal);
      expect(() => map.delete(offset, length)).toThrow(internal);
      expect(() => map.overlapping(offset, length)).toThrow(internal);
    }
    expect(map.size).toBe(0);
  });
});
