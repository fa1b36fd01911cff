// Goal: the checksum that is known is the checksum.
// Method: ranges of ring content, stamped at random, against the implementation that looks at every byte.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ContentRing } from '../../src/testing/sim/content.ts';
import { knownChecksum, useKnownChecksums } from '../../src/testing/sim/known-checksums.ts';
import { UnitSpace } from '../../src/testing/sim/unit-space.ts';
import { crc32c, crc32cOfChunks } from '../../src/util/checksum.ts';

test('is the one of the bytes, wherever they begin and end', () => {
  const range = fc.record({
    unitShift: fc.integer({ min: 9, max: 17 }),
    from: fc.nat(1 << 20),
    length: fc.nat(1 << 20),
    previous: fc.nat(0xffff_ffff),
    generations: fc.array(fc.integer({ min: 1, max: 0xffff_fff0 }), { minLength: 1, maxLength: 50 }),
  });
  fc.assert(
    fc.property(range, ({ unitShift, from, length, previous, generations }) => {
      const unitBytes = 1 << unitShift;
      const space = new UnitSpace({ name: 'space', sizeBytes: 1 << 20, unitBytes, errorCode: 'memory' });
      for (let unit = 0; unit < space.generations.size; unit++) {
        space.generations.set(unit, generations[unit % generations.length] ?? 1);
      }
      const bytes = new ContentRing(unitBytes, 1 << 20).take(1 << 20);
      space.stampInto(bytes, 0, space.generations.size);
      const part = bytes.subarray(from, from + length);
      const known = knownChecksum(part, previous);
      if (known === undefined) expect(part.byteLength).toBeLessThan(Math.max(8192, 2 * unitBytes));
      else expect(known).toBe(crc32c(part, previous));
      // Bytes that are no ring's are not known, whatever they hold.
      expect(knownChecksum(part.slice(), previous)).toBeUndefined();
    }),
    { seed: 7, numRuns: 300 },
  );
});

test('is taken by the engine only while it is asked to', () => {
  const bytes = new ContentRing(4096, 1 << 20).take(1 << 20);
  const honest = crc32cOfChunks([bytes]);
  const end = useKnownChecksums();
  try {
    expect(crc32cOfChunks([bytes])).toBe(honest);
    // The filler is taken on trust: this is how it shows that nobody looked.
    bytes[100] = 0;
    expect(crc32cOfChunks([bytes])).toBe(honest);
  } finally {
    end();
  }
  expect(crc32cOfChunks([bytes])).not.toBe(honest);
});
