import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MigrationError } from '../../src/errors.ts';
import {
  decodeDigests,
  decodeUnits,
  encodeDigests,
  encodeUnits,
  type UnitGroup,
} from '../../src/wire/audit-list.ts';

const group = fc
  .record({
    drawn: fc.boolean(),
    stream: fc.integer({ min: 1, max: 4095 }),
    space: fc.integer({ min: 0, max: 65_535 }),
    unitBytes: fc.constantFrom(4096, 8192, 16_384, 32_768, 65_536),
    units: fc.uniqueArray(
      fc.maxSafeNat().map((n) => Math.floor(n / 65_536)),
      { minLength: 1, maxLength: 60 },
    ),
  })
  .map(({ units, ...rest }): UnitGroup => ({ ...rest, units: [...units].sort((a, b) => a - b) }));

const protocol = expect.objectContaining({ code: 'protocol' });
const decode = (...bytes: number[]) => decodeUnits(Buffer.from(bytes).toString('base64'));

describe('a list of units', () => {
  it('comes back', () => {
    fc.assert(
      fc.property(fc.array(group, { maxLength: 20 }), (groups) => {
        expect(decodeUnits(encodeUnits(groups))).toEqual(groups);
      }),
    );
  });

  it('leaves out groups without units', () => {
    const empty = { drawn: true, stream: 1, space: 0, unitBytes: 4096, units: [] };
    expect(encodeUnits([empty])).toBe('');
    expect(decodeUnits('')).toEqual([]);
  });

  it('takes two bytes or three for a unit of many, so that a sample fits into what an idle connection sends at once', () => {
    // 1,024 of 26 million: of 100 GiB.
    const units = Array.from({ length: 1024 }, (_, index) => index * 25_600 + (index % 7));
    const list = encodeUnits([{ drawn: true, stream: 2, space: 0, unitBytes: 4096, units }]);
    const digests = encodeDigests(
      units.map(() => new Uint8Array(8)),
      4,
    );
    expect(list.length + digests.length).toBeLessThan(10_000);
  });

  it('that is anything else is a protocol error', () => {
    const good = [1, 2, 0, 12, 2, 5, 1];
    expect(decode(...good)).toEqual([{ drawn: true, stream: 2, space: 0, unitBytes: 4096, units: [5, 6] }]);
    for (let length = 1; length < good.length; length++) {
      expect(() => decode(...good.slice(0, length))).toThrow(protocol);
    }
    expect(() => decode(2, 2, 0, 12, 1, 5)).toThrow(protocol);
    expect(() => decode(1, 2, 0, 11, 1, 5)).toThrow(protocol);
    expect(() => decode(1, 2, 0, 17, 1, 5)).toThrow(protocol);
    expect(() => decode(1, 2, 0, 12, 0)).toThrow(protocol);
    expect(() => decode(1, 2, 0, 12, 2, 5, 0)).toThrow(protocol);
    expect(() => decode(1, 2, 0, 12, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0)).toThrow(
      protocol,
    );
    expect(() => decode(1, 2, 0, 16, 1, ...Array<number>(7).fill(0xff), 1)).toThrow(protocol);
    // 2049 units.
    expect(() => decode(1, 2, 0, 12, 0x81, 0x10, ...Array<number>(2049).fill(1))).toThrow(protocol);
    for (const text of ['A', 'AA', '!!!!', 'AQIA DAIF', 'AQIADAIFAQ']) {
      expect(() => decodeUnits(text)).toThrow(protocol);
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (garbage) => {
        try {
          decodeUnits(Buffer.from(garbage).toString('base64'));
        } catch (error) {
          expect(error).toBeInstanceOf(MigrationError);
          expect(error).toMatchObject({ code: 'protocol' });
        }
      }),
    );
  });
});

describe('digests', () => {
  it('come back, cut', () => {
    const digests = [Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), Uint8Array.of(9, 9, 9, 9, 0, 0, 0, 0)];
    const cut = decodeDigests(encodeDigests(digests, 4), 2).map((digest) => [...digest]);
    expect(cut).toEqual([
      [1, 2, 3, 4],
      [9, 9, 9, 9],
    ]);
    expect(decodeDigests(encodeDigests([], 8), 0)).toEqual([]);
  });

  it('of another number or length are a protocol error', () => {
    const of = (bytes: number) => Buffer.alloc(bytes).toString('base64');
    for (const [bytes, count] of [
      [3, 1],
      [9, 1],
      [9, 2],
      [0, 1],
      [4, 0],
    ] as const) {
      expect(() => decodeDigests(of(bytes), count)).toThrow(protocol);
    }
    expect(() => decodeDigests('AAAA====', 1)).toThrow(protocol);
  });
});
