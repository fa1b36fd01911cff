// Goal: run-length coded generations are an array of numbers, and content says exactly what they are.
// Method: random operations beside a plain array; random content cut, moved and damaged.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { badGeneration, ContentRing, FreshContent } from '../../src/testing/sim/content.ts';
import { Generations } from '../../src/testing/sim/generations.ts';
import { UnitSpace } from '../../src/testing/sim/unit-space.ts';
import { chunksLength, joinChunks } from '../../src/util/chunks.ts';

const size = 5000;

test('generations are a plain array', () => {
  const range = fc.tuple(fc.nat(size), fc.nat(size), fc.integer({ min: 0, max: 3 }));
  const aligned = fc.tuple(fc.constantFrom(0, 1024, 2048), fc.constantFrom(1024, 4096, size), fc.nat(2));
  fc.assert(
    fc.property(fc.array(fc.oneof(range, aligned), { maxLength: 40 }), fc.nat(size - 1), (writes, probe) => {
      const generations = new Generations(size);
      const plain = new Array<number>(size).fill(0);
      for (const [a, b, generation] of writes) {
        const [from, to] = [Math.min(a, b), Math.max(a, b)];
        generations.setRange(from, to, generation);
        plain.fill(generation, from, to);
      }
      for (let unit = 0; unit < size; unit++) {
        if (generations.get(unit) !== plain[unit]) expect(generations.get(unit)).toBe(plain[unit]);
      }
      expect(generations.nonZero).toBe(plain.filter((generation) => generation !== 0).length);
      const otherAt = plain.findIndex((other, index) => index >= probe && other !== plain[probe]);
      expect(generations.runEnd(probe, size)).toBe(otherAt < 0 ? size : otherAt);
      const kindAt = plain.findIndex((other, i) => i >= probe && (other === 0) !== (plain[probe] === 0));
      expect(generations.kindEnd(probe, size)).toBe(kindAt < 0 ? size : kindAt);
    }),
    { seed: 1, numRuns: 200 },
  );
});

test('differences are those of plain arrays', () => {
  const writes = fc.array(fc.tuple(fc.nat(size), fc.nat(size), fc.nat(2)), { maxLength: 12 });
  fc.assert(
    fc.property(writes, writes, (one, other) => {
      const [a, b] = [one, other].map((list) => {
        const generations = new Generations(size, 1);
        for (const [from, to, generation] of list) generations.setRange(from, Math.max(from, to), generation);
        return generations;
      }) as [Generations, Generations];
      const found = new Set<number>();
      let last = -1;
      a.differences(b, (from, to) => {
        expect(from).toBeGreaterThan(last);
        last = to;
        for (let unit = from; unit < to; unit++) found.add(unit);
      });
      const wrong = [...Array(size).keys()].filter(
        (unit) => found.has(unit) !== (a.get(unit) !== b.get(unit)),
      );
      expect(wrong).toEqual([]);
    }),
    { seed: 2, numRuns: 50 },
  );
});

/** 64 blocks and a half one, every third of them zeros. */
function space(name = 'vm/disk/a'): UnitSpace {
  const made = new UnitSpace({ name, sizeBytes: 64 * 4096 + 2048, unitBytes: 4096, errorCode: 'memory' });
  for (let unit = 0; unit < 65; unit++) made.generations.set(unit, unit % 3 === 0 ? 0 : unit + 100);
  return made;
}

test('content tells its generations, however it is cut', () => {
  const cuts = fc.array(fc.nat(64 * 4096 + 2048), { maxLength: 30 });
  fc.assert(
    fc.property(cuts, fc.nat(64), fc.nat(64), (places, a, b) => {
      const source = space();
      const [from, to] = [Math.min(a, b), Math.max(a, b) + 1];
      const offset = from * 4096;
      const length = Math.min(source.sizeBytes, to * 4096) - offset;
      const bytes = joinChunks(source.read(offset, length, new FreshContent(4096)));
      expect(bytes.byteLength).toBe(length);
      const edges = [0, ...places.filter((place) => place < length).sort((x, y) => x - y), length];
      const chunks = edges.slice(1).map((edge, index) => bytes.slice(edges[index], edge));
      const destination = new UnitSpace({
        name: source.name,
        sizeBytes: source.sizeBytes,
        unitBytes: 4096,
        errorCode: 'memory',
      });
      destination.generations.setRange(0, 65, 7);
      destination.put(destination.decode({ offset, length }, chunks));
      expect(destination.badUnits).toEqual([]);
      for (let unit = 0; unit < 65; unit++) {
        const inside = unit >= from && unit < to;
        expect(destination.generations.get(unit)).toBe(inside ? source.generations.get(unit) : 7);
      }
    }),
    { seed: 3, numRuns: 200 },
  );
});

test('content that is damaged, lands elsewhere, or comes in part is bad, until it is written again', () => {
  const source = space();
  const read = (unit: number) => joinChunks(source.read(unit * 4096, 4096, new FreshContent(4096))).slice();
  for (const place of [0, 3, 4, 8, 2000, 4095]) {
    for (const unit of [4, 6]) {
      const bytes = read(unit);
      bytes[place] = (bytes[place] ?? 0) ^ 1;
      const destination = space();
      destination.put(destination.decode({ offset: unit * 4096, length: 4096 }, [bytes]));
      // What says another generation is as good as any other content; only a checksum can tell.
      if (unit === 4 && place < 4) expect(destination.generations.get(unit)).not.toBe(104);
      else expect(destination.badUnits).toMatchObject([{ unit }]);
    }
  }
  const destination = space();
  destination.put(destination.decode({ offset: 8 * 4096, length: 4096 }, [read(7)]));
  destination.put(destination.decode({ offset: 10 * 4096 + 512, length: 8192 }, [new Uint8Array(8192)]));
  expect(destination.badUnits).toEqual([
    { unit: 8, reason: 'misplaced' },
    { unit: 10, reason: 'partial' },
    { unit: 12, reason: 'partial' },
  ]);
  expect(destination.generations.get(11)).toBe(0);
  expect(destination.hasBad(8 * 4096, 1)).toBe(true);
  expect(destination.hasBad(9 * 4096, 4096)).toBe(false);
  destination.put(destination.decode({ offset: 8 * 4096, length: 4096 }, [read(8)]));
  destination.set(10 * 4096, 3 * 4096, 5);
  expect(destination.badUnits).toEqual([]);
  const foreign = space('vm/disk/b');
  foreign.put(foreign.decode({ offset: 4 * 4096, length: 4096 }, [read(4)]));
  expect(foreign.badUnits).toEqual([{ unit: 4, reason: 'misplaced' }]);
  expect(foreign.generations.get(4)).toBe(badGeneration);
});

test('extents and reads agree on what is zero, block by block', () => {
  const made = space();
  const extents = made.extents(4096, 10 * 4096 + 100);
  expect(extents.map(({ length, zero }) => [length, zero])).toEqual([
    [8192, false],
    [4096, true],
    [8192, false],
    [4096, true],
    [8192, false],
    [4096, true],
    [4096 + 100, false],
  ]);
  for (const { offset, length, zero } of extents) {
    const bytes = joinChunks(made.read(offset, length, new FreshContent(4096)));
    expect(bytes.every((byte) => byte === 0)).toBe(zero);
  }
});

test('a ring hands out each slot again in turn, and takes it from whoever still holds it', () => {
  const mebibyte = 1 << 20;
  const ring = new ContentRing(4096, 2 * mebibyte);
  const first = ring.take(mebibyte);
  const second = ring.lend(mebibyte);
  const late = first.subarray(100, 200);
  expect(chunksLength([first, late])).toBe(mebibyte + 100);
  const third = ring.take(4096);
  expect([first.byteLength, late.byteLength]).toEqual([0, 0]);
  // The second is lent: the ring grows.
  const fourth = ring.take(mebibyte);
  expect([second.bytes.byteLength, third.byteLength, fourth.byteLength]).toEqual([mebibyte, 4096, mebibyte]);
  expect(ring.allocatedBytes).toBe(3 * mebibyte);
  second.release();
  second.release();
  ring.take(mebibyte);
  expect([second.bytes.byteLength, third.byteLength, fourth.byteLength]).toEqual([0, 4096, mebibyte]);
  expect(() => new ContentRing(4096, mebibyte - 1)).toThrow(/1 MiB/);

  // A destination that is handed what was taken away says so, and does not take it for content.
  const destination = space();
  const taken = [late.byteLength === 0 ? first : late];
  expect(() => destination.decode({ offset: 0, length: 4096 }, taken)).toThrow(/too early/);
});
