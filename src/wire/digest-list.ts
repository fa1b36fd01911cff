/**
 * Digests of a disk's blocks, as the destination of a migration with `seed: 'compare'` sends them: on the
 * disk's own stream number, the other way. An item's ranges are stretches of the list of all digests, in
 * which each block of 64 KiB (the last one may be shorter) has 16 bytes:
 *
 * ```
 * space 0, bytes   the digests of the blocks from offset / 16 on, length / 16 of them
 * space 0, zeros   the same; a block that reads as zeros has 16 zeros for a digest
 * space 1, zeros   of these blocks nothing is known: they are to be sent
 * ```
 *
 * Each block comes once, in any order.
 */
import { MigrationError } from '../errors.ts';
import { joinChunks } from '../util/chunks.ts';
import { digestBytes } from '../util/digest.ts';
import type { ItemRange } from './item.ts';

/** A digest stands for so much of a disk, from a multiple of it on. */
export const digestedBytes = 64 << 10;

/** What is said of some blocks, one behind the other. */
export interface BlockNews {
  /** The first block's number. */
  readonly first: number;
  readonly count: number;
  /** Their digests, 16 bytes each. */
  readonly digests: Uint8Array | 'zero' | 'unknown';
}

/** How many blocks a disk has. */
export function blocksOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / digestedBytes);
}

export function encodeNews({ first, count, digests }: BlockNews): ItemRange {
  return {
    space: digests === 'unknown' ? 1 : 0,
    offset: first * digestBytes,
    length: count * digestBytes,
    content: digests === 'zero' || digests === 'unknown' ? 'zero' : [digests],
  };
}

/** Throws `protocol` for a range that says nothing of a disk of so many blocks. */
export function decodeNews({ space, offset, length, content }: ItemRange, blocks: number): BlockNews {
  const [first, count] = [offset / digestBytes, length / digestBytes];
  const whole = Number.isInteger(first) && Number.isInteger(count) && first + count <= blocks;
  if (!whole || space > 1 || (space === 1 && content !== 'zero')) {
    throw new MigrationError('protocol', 'digests of blocks that there are not');
  }
  if (content === 'zero') return { first, count, digests: space === 1 ? 'unknown' : 'zero' };
  return { first, count, digests: joinChunks(content) };
}
