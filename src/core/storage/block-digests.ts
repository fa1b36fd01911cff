import type { ReceivedItem, ReceiveStream } from '../../channel/receive-stream.ts';
import { asMigrationError, MigrationError } from '../../errors.ts';
import type { ByteRange, Chunks } from '../../interfaces/content.ts';
import { Bitmap } from '../../util/bitmap.ts';
import { isZero } from '../../util/chunks.ts';
import { contentDigest, digestBytes, equalBytes } from '../../util/digest.ts';
import { type BlockNews, blocksOf, decodeNews, digestedBytes } from '../../wire/digest-list.ts';

/** An item some of whose digests may still be asked for: until then it takes credit. */
interface HeldItem {
  readonly item: ReceivedItem;
  left: number;
}

interface HeldDigest {
  readonly digest: Uint8Array;
  readonly from: HeldItem;
}

/**
 * What the destination's disk holds, block by block, as the source was told of it: which blocks need not be
 * sent.
 *
 * The invariant: **a digest counts only as long as nothing was ever sent for its block.** The destination
 * computed it at some moment before or after whatever else arrives there; only if nothing does, it is the
 * same at all moments. So a block that is sent, mirrored, set back or compared once is *over*: its digest,
 * come or still to come, is forgotten, and it is sent whole from then on. (Without that a guest which writes
 * back what was there before would be believed to have it at the destination.)
 *
 * What is remembered is bounded: an item's credit is free when each of its digests is over. Those that follow
 * do not wait for the guest: the bulk copy goes over the disk once, as the digests do, and asks for each.
 */
export class BlockDigests {
  readonly #sizeBytes: number;
  readonly #blocks: number;
  readonly #failed: (error: MigrationError) => void;
  readonly #digests = new Map<number, HeldDigest>();
  /** Blocks of which something was said, those of them that are zeros, and those that are over. */
  readonly #told: Bitmap;
  readonly #zero: Bitmap;
  readonly #over: Bitmap;
  #toldWithoutGap = 0;
  #stream: ReceiveStream | undefined;
  #onNews: () => void = () => {};

  /** Of a disk of so many bytes. `failed` is called when the peer breaks the protocol. */
  constructor(sizeBytes: number, failed: (error: MigrationError) => void) {
    this.#sizeBytes = sizeBytes;
    this.#blocks = blocksOf(sizeBytes);
    this.#failed = failed;
    this.#told = new Bitmap(this.#blocks);
    this.#zero = new Bitmap(this.#blocks);
    this.#over = new Bitmap(this.#blocks);
  }

  /** Where the digests come from. */
  attach(stream: ReceiveStream): void {
    this.#stream = stream;
  }

  /** Calls back whenever something new is known. */
  onNews(callback: () => void): void {
    this.#onNews = callback;
  }

  /** From the disk's start up to here something was said of every block. */
  get toldBytes(): number {
    this.#toldWithoutGap = this.#told.nextClear(this.#toldWithoutGap);
    return Math.min(this.#sizeBytes, this.#toldWithoutGap * digestedBytes);
  }

  /** Digests that are remembered. */
  get held(): number {
    return this.#digests.size;
  }

  /** Takes an item that has arrived. */
  readonly arrived = (item: ReceivedItem): void => {
    const held: HeldItem = { item, left: 1 };
    try {
      for (const range of item.ranges) this.#learn(decodeNews(range, this.#blocks), held);
    } catch (error) {
      this.#failed(asMigrationError(error, 'internal'));
      return;
    }
    this.#let(held);
    this.#onNews();
  };

  /**
   * Whether the destination holds this content where the block `offset` is; asked once, and the block is over
   * then.
   */
  holds(offset: number, content: Chunks): boolean {
    const block = offset / digestedBytes;
    const known = this.#digests.get(block)?.digest;
    const wasOver = this.#over.has(block);
    this.over({ offset, length: 1 });
    if (wasOver) return false;
    if (this.#zero.has(block)) return content.every(isZero);
    return known !== undefined && equalBytes(known, contentDigest(content));
  }

  /**
   * Something was sent for the range, or what the source holds there is not known any more: it is sent whole
   * from now on.
   */
  over({ offset, length }: ByteRange): void {
    const first = Math.floor(offset / digestedBytes);
    const end = Math.ceil((offset + length) / digestedBytes);
    this.#over.setRange(first, end);
    if (this.#digests.size < end - first) {
      for (const block of [...this.#digests.keys()]) if (block >= first && block < end) this.#forget(block);
    } else {
      for (let block = first; block < end; block++) this.#forget(block);
    }
  }

  #learn({ first, count, digests }: BlockNews, held: HeldItem): void {
    if (this.#told.anyInRange(first, first + count)) {
      throw new MigrationError('protocol', 'the digest of a block came twice');
    }
    this.#told.setRange(first, first + count);
    if (digests === 'unknown') return;
    if (digests === 'zero') {
      this.#zero.setRange(first, first + count);
      return;
    }
    // Not copied: the item that they lie in is applied when the last of them is forgotten, and written over no sooner.
    for (let index = 0; index < count; index++) {
      const block = first + index;
      const digest = digests.subarray(index * digestBytes, (index + 1) * digestBytes);
      if (isZero(digest)) this.#zero.set(block);
      else if (!this.#over.has(block)) {
        held.left++;
        this.#digests.set(block, { digest, from: held });
      }
    }
  }

  #forget(block: number): void {
    const known = this.#digests.get(block);
    if (known === undefined) return;
    this.#digests.delete(block);
    this.#let(known.from);
  }

  #let(held: HeldItem): void {
    held.left--;
    if (held.left === 0) this.#stream?.applied(held.item);
  }
}
