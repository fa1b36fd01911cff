/**
 * Memory that sockets read into, and that comes back. Node's own way is a new buffer of 64 KiB for each read: at a gigabyte a second those cost more to
 * make and to collect than all else that is done with the bytes, and each is cold in the processor's cache. A block is used again as soon as nobody looks at
 * what was read into it, the one that came back last first; what does not come back is garbage, and collected.
 */
import { markAsUntransferable } from 'node:worker_threads';

const blockBytes = 128 * 1024;
/** With less room than that left in a block the next is read into. */
const roomBytesMin = 32 * 1024;
/** Blocks that wait to be used again, at most: 8 MiB. */
const spareBlocksMax = 64;

interface Block {
  readonly bytes: Uint8Array;
  /** Chunks of it that have not come back. */
  lent: number;
  /** A connection reads into it. */
  inUse: boolean;
}

function makeBlock(): Block {
  const bytes = Buffer.allocUnsafeSlow(blockBytes);
  // The system writes to where it is, whoever it belongs to by then.
  markAsUntransferable(bytes.buffer);
  return { bytes, lent: 0, inUse: false };
}

/** The blocks of some connections that read in turns. */
export class BlockPool {
  readonly #spare: Block[] = [];
  /** The block of each chunk that has not come back. By the chunk itself: a part of one, or one that comes twice, must free nothing. */
  readonly #lent = new WeakMap<Uint8Array, Block>();

  /** One that nobody looks at, to be read into. */
  take(): Block {
    const block = this.#spare.pop() ?? makeBlock();
    block.inUse = true;
    return block;
  }

  /** A chunk of it, to be given back. */
  lend(block: Block, start: number, end: number): Uint8Array {
    const chunk = block.bytes.subarray(start, end);
    block.lent++;
    this.#lent.set(chunk, block);
    return chunk;
  }

  /** It is read into no more. */
  leave(block: Block): void {
    block.inUse = false;
    this.#keepIfFree(block);
  }

  /** A chunk comes back. With anything else nothing is done. */
  giveBack(chunk: Uint8Array): void {
    const block = this.#lent.get(chunk);
    if (block === undefined) return;
    this.#lent.delete(chunk);
    block.lent--;
    this.#keepIfFree(block);
  }

  #keepIfFree(block: Block): void {
    if (!block.inUse && block.lent === 0 && this.#spare.length < spareBlocksMax) this.#spare.push(block);
  }
}

/** Where one connection reads to: block after block, each from its start to its end. */
export class ReadBlocks {
  readonly #pool: BlockPool;
  #block: Block | undefined;
  /** From here to `#end` is what was read and not taken. */
  #start = 0;
  #end = 0;

  constructor(pool: BlockPool) {
    this.#pool = pool;
  }

  /** Nothing more should be read into this block: what is in it is to be taken. */
  get full(): boolean {
    return blockBytes - this.#end < roomBytesMin;
  }

  /** Where the next bytes belong; asked anew after each {@link ReadBlocks.filled}. */
  room(): Uint8Array {
    if (this.#block === undefined || this.full) {
      this.end();
      this.#block = this.#pool.take();
      this.#start = 0;
      this.#end = 0;
    }
    return this.#block.bytes.subarray(this.#end);
  }

  /** So many bytes are in the room that was asked for last. */
  filled(bytes: number): void {
    this.#end += bytes;
  }

  /** All that was filled since the last time, as one chunk, to be given back; undefined if it is nothing. */
  take(): Uint8Array | undefined {
    if (this.#block === undefined || this.#start === this.#end) return undefined;
    const chunk = this.#pool.lend(this.#block, this.#start, this.#end);
    this.#start = this.#end;
    return chunk;
  }

  giveBack(chunk: Uint8Array): void {
    this.#pool.giveBack(chunk);
  }

  /** Nothing more is read; what was not taken is dropped. */
  end(): void {
    if (this.#block !== undefined) this.#pool.leave(this.#block);
    this.#block = undefined;
  }
}
