import { sliceChunks } from '../util/chunks.ts';
import type { ItemRange } from '../wire/item.ts';
import { itemContentBytesMax, itemRangesMax } from '../wire/limits.ts';

/** Ranges, in their order, in items of so much content each at the most, or of one grain: grains, a page or a region of a disk, stay whole, if an item can hold them. `grainBytes`: of each space. */
export function splitIntoItems(
  ranges: readonly ItemRange[],
  grainBytes: readonly number[],
  contentBytesMax: number,
): readonly (readonly ItemRange[])[] {
  const items: ItemRange[][] = [];
  let item: ItemRange[] = [];
  let contentBytes = 0;
  const add = (range: ItemRange, bytes: number) => {
    const full = item.length === itemRangesMax || contentBytes + bytes > contentBytesMax;
    if (full && item.length > 0) {
      items.push(item);
      item = [];
      contentBytes = 0;
    }
    item.push(range);
    contentBytes += bytes;
  };
  for (const { space, offset, length, content } of ranges) {
    if (content === 'zero') {
      add({ space, offset, length, content }, 0);
      continue;
    }
    const grain = grainBytes[space] ?? contentBytesMax;
    const step = Math.min(itemContentBytesMax, Math.max(1, Math.floor(contentBytesMax / grain)) * grain);
    for (let at = 0; at < length; at += step) {
      const bytes = Math.min(step, length - at);
      const part = bytes === length ? content : sliceChunks(content, at, bytes);
      add({ space, offset: offset + at, length: bytes, content: part }, bytes);
    }
  }
  if (item.length > 0) items.push(item);
  return items;
}
