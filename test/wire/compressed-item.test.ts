/**
 * Goal: an item whose content travels compressed is the same item: what it says, what it takes of credit, and its checksum; and what a hostile
 * peer says of one costs nothing but a `protocol` error. Method: properties over any ranges and any damage, with content that is made shorter by force.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MigrationError } from '../../src/errors.ts';
import { crc32cOfChunks } from '../../src/util/checksum.ts';
import { chunksLength, joinChunks } from '../../src/util/chunks.ts';
import {
  contentOf,
  decodeItem,
  encodeCompressed,
  encodeItem,
  type ItemRange,
  openItem,
} from '../../src/wire/item.ts';
import { itemContentBytesMax } from '../../src/wire/limits.ts';

const ranges = fc
  .array(
    fc.record({
      space: fc.nat(65535),
      offset: fc.nat(2 ** 40),
      content: fc.option(fc.uint8Array({ minLength: 2, maxLength: 300 })),
      zeroLength: fc.integer({ min: 1, max: 2 ** 40 }),
    }),
    { minLength: 1, maxLength: 20 },
  )
  .map((list) =>
    list.map(
      ({ space, offset, content, zeroLength }): ItemRange =>
        content === null
          ? { space, offset, length: zeroLength, content: 'zero' }
          : { space, offset, length: content.byteLength, content: [content] },
    ),
  )
  .filter((list) => list.some(({ content }) => content !== 'zero'));

function open(payload: readonly Uint8Array[]) {
  return openItem(payload, chunksLength(payload));
}

function plain(list: readonly ItemRange[]) {
  return list.map((range) => ({
    ...range,
    content: range.content === 'zero' ? 'zero' : Buffer.from(joinChunks(range.content)),
  }));
}

function cut(all: Uint8Array, places: readonly number[]): Uint8Array[] {
  const sorted = [...new Set(places.map((place) => place % (all.byteLength + 1)))].sort((a, b) => a - b);
  const starts = [0, ...sorted];
  return starts.map((start, index) => all.subarray(start, sorted[index] ?? all.byteLength));
}

describe('an item with its content compressed', () => {
  it('is the item, but for what travels: ranges, length and checksum, however it arrives cut', () => {
    fc.assert(
      fc.property(ranges, fc.array(fc.nat(), { maxLength: 10 }), (list, places) => {
        const payload = encodeItem(list);
        const content = joinChunks(contentOf(payload));
        const compressed = encodeCompressed(payload, content.subarray(1));
        // As sockets bring it: buffers, and in a larger one.
        const socket = Buffer.concat([Buffer.alloc(100, 0xaa), ...compressed, Buffer.alloc(100, 0xaa)]);
        const before = Buffer.from(socket);
        const arrived = cut(socket.subarray(100, socket.byteLength - 100), places);
        const item = open(arrived);
        expect(item.compressed).toBe(true);
        expect(item.payloadBytes).toBe(chunksLength(payload));
        expect(item.contentBytes).toBe(content.byteLength);
        expect(Buffer.from(joinChunks(item.content))).toEqual(Buffer.from(content.subarray(1)));
        expect(plain(item.ranges([content]))).toEqual(plain(list));
        expect(crc32cOfChunks([item.head, content])).toBe(crc32cOfChunks(payload));
        expect(Buffer.compare(socket, before)).toBe(0);
        // What was queued is as it was: it may be on its way a second time.
        expect(plain(decodeItem(payload, chunksLength(payload)))).toEqual(plain(list));
      }),
    );
  });

  it('is not taken where only the bytes themselves will do', () => {
    const payload = encodeItem([{ space: 0, offset: 0, length: 4, content: [new Uint8Array(4)] }]);
    const compressed = encodeCompressed(payload, new Uint8Array(1));
    expect(() => decodeItem(compressed, chunksLength(compressed))).toThrow(/not agreed upon/);
  });

  it.each([
    ['has no content at all', 0],
    ['is as long as it would be uncompressed', 100],
    ['is longer than that', 101],
  ])('is refused where it %s', (_, bytes) => {
    const payload = encodeItem([{ space: 0, offset: 0, length: 100, content: [new Uint8Array(100)] }]);
    const compressed = [...encodeCompressed(payload, new Uint8Array(bytes))];
    expect(() => open(compressed)).toThrow(/does not fit its table/);
  });

  it('is refused where it would come to more than an item may carry, by a byte or by terabytes', () => {
    const most = (length: number) => {
      const payload = encodeItem([{ space: 0, offset: 0, length, content: [new Uint8Array(1)] }]);
      return encodeCompressed(payload, new Uint8Array(20));
    };
    expect(open(most(itemContentBytesMax)).contentBytes).toBe(itemContentBytesMax);
    expect(() => open(most(itemContentBytesMax + 1))).toThrow(/does not fit its table/);
    expect(() => open(most(2 ** 45))).toThrow(/does not fit its table/);
  });

  it('is refused where it is all zeros, which are not compressed', () => {
    const payload = encodeItem([{ space: 0, offset: 0, length: 2 ** 30, content: 'zero' }]);
    expect(() => open(encodeCompressed(payload, new Uint8Array(4)))).toThrow(/does not fit its table/);
  });

  it('comes to an item within bounds or a protocol error, whatever was damaged', () => {
    fc.assert(
      fc.property(
        ranges,
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        fc.nat(64),
        (list, place, flip, kept) => {
          const payload = encodeItem(list);
          const content = joinChunks(contentOf(payload));
          const all = joinChunks(
            encodeCompressed(payload, content.subarray(0, Math.min(kept, content.byteLength - 1))),
          );
          const damaged = all.slice();
          damaged[place % damaged.byteLength] = (damaged[place % damaged.byteLength] ?? 0) ^ flip;
          try {
            const item = open([damaged]);
            expect(item.contentBytes).toBeLessThanOrEqual(Math.max(itemContentBytesMax, damaged.byteLength));
            expect(item.head.byteLength + item.contentBytes).toBe(item.payloadBytes);
          } catch (error) {
            expect(error).toBeInstanceOf(MigrationError);
            expect((error as MigrationError).code).toBe('protocol');
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});
