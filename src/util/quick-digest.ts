import { crc32 } from 'node:zlib';
import { crc32c } from './checksum.ts';
import type { Chunks } from './chunks.ts';

/** What {@link quickDigest} comes to, in bytes; cut to its first four it still depends on both of its sums. */
export const quickDigestBytes = 8;

/**
 * Stands for content where nobody has a reason to make other content for it: a microsecond for 4 KiB, also the first time. Two checksums of different
 * polynomials, as one alone is no witness: a block that ends with its own checksum, as file systems write them, has the same CRC whatever
 * is in it.
 */
export function quickDigest(chunks: Chunks): Uint8Array {
  let [castagnoli, ieee] = [0, 0];
  for (const chunk of chunks) {
    // zlib takes none for a new beginning.
    if (chunk.byteLength === 0) continue;
    castagnoli = crc32c(chunk, castagnoli);
    ieee = crc32(chunk, ieee);
  }
  const digest = new Uint8Array(quickDigestBytes);
  const view = new DataView(digest.buffer);
  view.setUint32(0, (Math.imul(castagnoli, 0x9e37_79b1) + ieee) >>> 0);
  view.setUint32(4, castagnoli);
  return digest;
}
