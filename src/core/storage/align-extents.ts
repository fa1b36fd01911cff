import type { Extent } from '../../interfaces/block-device.ts';
import type { ByteRange } from '../../interfaces/content.ts';

/**
 * A range, itself of whole grains (but for the disk's end), as stretches that are zeros in whole grains, and
 * the rest, which is to be read. A grain that is zeros in part is rest.
 */
export function alignExtents(
  range: ByteRange,
  extents: readonly Extent[],
  grainBytes: number,
): readonly Extent[] {
  const aligned: Extent[] = [];
  const end = range.offset + range.length;
  let at = range.offset;
  for (const extent of extents) {
    const extentEnd = extent.offset + extent.length;
    const from = Math.ceil(extent.offset / grainBytes) * grainBytes;
    const to = extentEnd === end ? end : Math.floor(extentEnd / grainBytes) * grainBytes;
    if (!extent.zero || to <= from) continue;
    if (from > at) aligned.push({ offset: at, length: from - at, zero: false });
    aligned.push({ offset: from, length: to - from, zero: true });
    at = to;
  }
  if (at < end) aligned.push({ offset: at, length: end - at, zero: false });
  return aligned;
}
