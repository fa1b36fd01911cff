/** Goal: what is read at once goes out in items that a lane carries soon, with nothing lost, doubled or torn. Method: random ranges, put together again. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { FrameSink } from '../../src/channel/send-stream.ts';
import { SendStream } from '../../src/channel/send-stream.ts';
import { splitIntoItems } from '../../src/core/split-into-items.ts';
import { chunksLength, joinChunks, sliceChunks } from '../../src/util/chunks.ts';
import type { ItemRange } from '../../src/wire/item.ts';

const grains = [4096, 65_536];

/** Ranges one behind the other in two spaces; each byte says where it is. */
const ranges = fc
  .array(
    fc.record({
      space: fc.constantFrom(0, 1),
      gap: fc.nat(3),
      pages: fc.integer({ min: 1, max: 40 }),
      zero: fc.boolean(),
      tail: fc.nat(4095),
    }),
    { maxLength: 12 },
  )
  .map((parts) => {
    const at = [0, 0];
    return parts.map(({ space, gap, pages, zero, tail }): ItemRange => {
      const grain = grains[space] ?? 0;
      const offset = (at[space] ?? 0) + gap * grain;
      const length = pages * 4096 + tail;
      at[space] = Math.ceil((offset + length) / grain) * grain;
      const bytes = Uint8Array.from({ length }, (_, index) => (offset + index) * 31 + space);
      const content = zero ? 'zero' : [bytes.subarray(0, 1000), bytes.subarray(1000)];
      return { space, offset, length, content };
    });
  });

const bytesOf = (range: ItemRange) => (range.content === 'zero' ? 0 : chunksLength(range.content));

it('sends every byte once, in its place, in items of so much content at the most, and no grain in two of them', () => {
  fc.assert(
    fc.property(ranges, fc.constantFrom(4096, 65_536, 131_072, 1 << 20), (given, most) => {
      const items = splitIntoItems(given, grains, most);
      const sent = items.flat();
      for (const item of items) {
        const bytes = item.reduce((sum, range) => sum + bytesOf(range), 0);
        expect(bytes <= most || item.length === 1).toBe(true);
      }
      let next = 0;
      for (const range of given) {
        for (let at = 0; at < range.length; ) {
          const part = sent[next++];
          if (part === undefined) throw new Error('something is missing');
          expect([part.space, part.offset]).toEqual([range.space, range.offset + at]);
          if (at > 0) expect(part.offset % (grains[part.space] ?? 1)).toBe(0);
          if (range.content === 'zero') expect(part.content).toBe('zero');
          else {
            const due = joinChunks(sliceChunks(range.content, at, part.length));
            expect(Buffer.compare(joinChunks(part.content === 'zero' ? [] : part.content), due)).toBe(0);
          }
          at += part.length;
        }
      }
      expect(next).toBe(sent.length);
    }),
    { numRuns: 100 },
  );
});

it('gives back what was lent once the peer has the last item of it, or at once where there is none', () => {
  const kept: (() => void)[] = [];
  const sink: FrameSink = {
    enqueue: ({ release }) => kept.push(release),
    now: () => 0,
    itemBytesMax: () => 4096,
    isHeld: () => false,
    releaseFailed: (error) => {
      throw error;
    },
  };
  const stream = new SendStream(1, sink, 0);
  let given = 0;
  const release = () => {
    given++;
  };
  stream.pushAll('bulk', [], release);
  expect(given).toBe(1);
  const range = { space: 0, offset: 0, length: 4096, content: [new Uint8Array(4096)] };
  stream.pushAll('bulk', [[range], [range], [range]], release);
  expect(stream.last).toBe(3);
  for (const one of [kept[2], kept[0]]) one?.();
  expect(given).toBe(1);
  kept[1]?.();
  expect(given).toBe(2);
});
