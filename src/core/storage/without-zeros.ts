import type { Chunks } from '../../interfaces/content.ts';
import { chunksLength, isZero, sliceChunks } from '../../util/chunks.ts';
import type { ItemRange } from '../../wire/item.ts';

/** What was read at `offset`, as ranges, with every stretch of zeros of whole grains as a range without bytes. */
export function withoutZeros(offset: number, chunks: Chunks, grainBytes: number): readonly ItemRange[] {
  const length = chunksLength(chunks);
  const ranges: { space: number; offset: number; length: number; content: Chunks | 'zero' }[] = [];
  for (let at = 0; at < length; at += grainBytes) {
    const bytes = Math.min(grainBytes, length - at);
    const piece = sliceChunks(chunks, at, bytes);
    const zero = piece.every(isZero);
    const last = ranges.at(-1);
    if (last !== undefined && (last.content === 'zero') === zero) {
      last.length += bytes;
      if (last.content !== 'zero') last.content = sliceChunks(chunks, last.offset - offset, last.length);
    } else {
      ranges.push({ space: 0, offset: offset + at, length: bytes, content: zero ? 'zero' : piece });
    }
  }
  return ranges;
}
