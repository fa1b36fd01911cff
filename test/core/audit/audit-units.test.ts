/** Goal: what is drawn is what the report claims: each unit with the same chance, none twice. Method: seeded draws, counted. */
import { describe, expect, it } from 'vitest';
import { type AuditSpace, AuditSpaces, drawSample, placeUnits } from '../../../src/core/audit/audit-units.ts';
import { RecentWrites } from '../../../src/core/audit/recent-writes.ts';
import { createPrng } from '../../../src/util/prng.ts';
import { unitCount } from '../../../src/wire/audit-list.ts';

const memory: AuditSpace = { stream: 1, space: 0, sizeBytes: 3000 * 4096, grainBytes: 4096 };
const huge: AuditSpace = { stream: 1, space: 1, sizeBytes: 64 << 20, grainBytes: 2 << 20 };
const disk: AuditSpace = { stream: 2, space: 0, sizeBytes: 5000 * 4096 + 512, grainBytes: 512 };
const spaces = new AuditSpaces([memory, huge, disk]);

function recent(entries: readonly (readonly [stream: number, offset: number, length: number])[]) {
  const ring = new RecentWrites();
  for (const [stream, offset, length] of entries) ring.add(stream, 0, offset, length);
  return ring;
}

describe('a sample', () => {
  it('has 1,024 different units, each within its space', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const groups = drawSample(spaces, [], [], createPrng(seed));
      expect(unitCount(groups)).toBe(1024);
      for (const { stream, space, units, unitBytes, drawn } of groups) {
        expect(drawn).toBe(true);
        expect(units).toEqual([...new Set(units)].sort((a, b) => a - b));
        const found = spaces.find({ stream, space });
        expect((units.at(-1) ?? 0) * unitBytes).toBeLessThan(found?.sizeBytes ?? 0);
      }
      for (const { offset, length, ...place } of placeUnits(groups, spaces)) {
        expect(length).toBeGreaterThan(0);
        expect(offset + length).toBeLessThanOrEqual(spaces.find(place)?.sizeBytes ?? 0);
      }
    }
  });

  it('draws each unit of each space with the same chance', () => {
    const counts = new Map<string, number>();
    const draws = 400;
    for (let seed = 1; seed <= draws; seed++) {
      for (const { stream, space, offset } of placeUnits(
        drawSample(spaces, [], [], createPrng(seed)),
        spaces,
      )) {
        const name = `${stream}/${space}/${offset}`;
        counts.set(name, (counts.get(name) ?? 0) + 1);
      }
    }
    const units = 3000 + (64 << 20) / 65_536 + 5001;
    const expected = (draws * 1024) / units;
    expect(counts.size).toBe(units);
    // Each is a sum of 400 draws of a chance of an eighth: five standard deviations, of nine thousand, for these seeds.
    for (const count of counts.values())
      expect(Math.abs(count - expected)).toBeLessThan(5 * Math.sqrt(expected));
  });

  it('has half of it from what was written last, of memory and disks alike', () => {
    const many = (stream: number, sizeBytes: number) =>
      recent(Array.from({ length: 600 }, (_, index) => [stream, (index * 4096) % sizeBytes, 4096] as const));
    const groups = drawSample(
      spaces,
      [many(1, memory.sizeBytes), many(2, disk.sizeBytes)],
      [],
      createPrng(7),
    );
    const chosen = (stream: number) =>
      unitCount(groups.filter((group) => !group.drawn && group.stream === stream));
    const drawn = unitCount(groups.filter((group) => group.drawn));
    // Those that were drawn as well count there.
    expect(drawn).toBe(512);
    for (const stream of [1, 2])
      expect([stream, chosen(stream) > 215 && chosen(stream) <= 256]).toEqual([stream, true]);
  });

  it('takes what there is of that, and draws more instead', () => {
    const groups = drawSample(spaces, [recent([[2, 8192, 512]]), recent([])], [], createPrng(1));
    expect(unitCount(groups.filter(({ drawn }) => drawn))).toBe(1023);
  });

  it('has in it what differed, beside all else', () => {
    const differed = [
      { stream: 2, space: 0, offset: 4096 * 5000 },
      { stream: 1, space: 1, offset: 65_536 * 9 + 4096 },
    ];
    for (let seed = 1; seed <= 20; seed++) {
      const places = placeUnits(drawSample(spaces, [], differed, createPrng(seed)), spaces);
      expect(places).toContainEqual({ stream: 2, space: 0, offset: 4096 * 5000, length: 512 });
      expect(places).toContainEqual({ stream: 1, space: 1, offset: 65_536 * 9, length: 65_536 });
    }
  });

  it('is all there is, where that is no more', () => {
    const few = new AuditSpaces([{ ...disk, sizeBytes: 100 * 4096 }]);
    const groups = drawSample(few, [recent([[2, 0, 4096]])], [], createPrng(3));
    expect(groups).toMatchObject([{ drawn: true, units: Array.from({ length: 100 }, (_, index) => index) }]);
    expect(drawSample(new AuditSpaces([]), [], [], createPrng(3))).toEqual([]);
  });
});

describe('what was written last', () => {
  it('is the last that was noted, each stretch as likely as the other', () => {
    const ring = new RecentWrites();
    expect(ring.draw(createPrng(1))).toBeUndefined();
    ring.add(1, 0, 0, 0);
    expect(ring.size).toBe(0);
    for (let index = 0; index < 10_000; index++) ring.add(2, 3, index * 4096, 4096);
    expect(ring.size).toBe(4096);
    const prng = createPrng(2);
    let highest = 0;
    for (let draw = 0; draw < 10_000; draw++) {
      const { stream, space, offset } = ring.draw(prng) ?? { stream: 0, space: 0, offset: 0 };
      expect([stream, space]).toEqual([2, 3]);
      expect(offset).toBeGreaterThanOrEqual((10_000 - 4096) * 4096);
      highest = Math.max(highest, offset);
    }
    expect(highest).toBeLessThan(10_000 * 4096);
    expect(highest).toBeGreaterThan(9_900 * 4096);
  });
});
