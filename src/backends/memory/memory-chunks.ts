/** A page's content lies in one chunk, for a page is as large at most; and so does a batch's, if it is of adjoining pages. */
export const CHUNK_BYTES = 1024 * 1024;

const zeros = Buffer.alloc(CHUNK_BYTES);

/** A part of a region's bytes. They stay as they are while anybody has them on loan. */
interface Chunk {
  readonly bytes: Buffer;
  /** The same bytes, to look at the first word of a page without a call. */
  readonly words: Int32Array;
  loans: number;
}

/** A stretch of bytes on loan. */
export interface Loan {
  /** The bytes, in one piece for every chunk that they are part of. Not to be written to. */
  readonly pieces: readonly Uint8Array[];
  /** From now on the bytes may change. To be called once. */
  end(): void;
}

/**
 * The bytes of one memory region, in chunks that are copied on write while they are on loan: who borrowed them keeps the chunk as it was, and the
 * guest goes on with the copy. So nothing is copied to be sent but what the guest writes to meanwhile, and that once, not for every write.
 *
 * Ranges are not checked.
 */
export class MemoryChunks {
  readonly sizeBytes: number;
  readonly #chunks: Chunk[] = [];

  /** Zeros, which the host need not hold before they are written over. */
  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    for (let at = 0; at < sizeBytes; at += CHUNK_BYTES) {
      this.#chunks.push(chunkOf(Buffer.alloc(Math.min(CHUNK_BYTES, sizeBytes - at))));
    }
  }

  /** A copy of a range. */
  read(offset: number, length: number): Buffer {
    const copy = Buffer.allocUnsafe(length);
    let at = 0;
    this.#each(offset, length, (index, start, end) => {
      at += this.#chunk(index).bytes.copy(copy, at, start, end);
    });
    return copy;
  }

  write(offset: number, content: Uint8Array): void {
    let at = 0;
    this.#each(offset, content.byteLength, (index, start, end) => {
      const part = content.byteLength === end - start ? content : content.subarray(at, at + end - start);
      this.#writable(index).set(part, start);
      at += end - start;
    });
  }

  /** Lets `change` write to a range, piece by piece; each lies within one chunk. */
  change(offset: number, length: number, change: (bytes: Buffer) => void): void {
    this.#each(offset, length, (index, start, end) => change(this.#writable(index).subarray(start, end)));
  }

  /** Whether a range, within one chunk, is all zeros. */
  isZero(offset: number, length: number): boolean {
    const { bytes, words } = this.#chunk(Math.floor(offset / CHUNK_BYTES));
    const start = offset % CHUNK_BYTES;
    return words[start / 4] === 0 && bytes.compare(zeros, 0, length, start, start + length) === 0;
  }

  /** Lends a range. */
  lend(offset: number, length: number): Loan {
    const pieces: Uint8Array[] = [];
    const lent: Chunk[] = [];
    this.#each(offset, length, (index, start, end) => {
      const chunk = this.#chunk(index);
      chunk.loans += 1;
      lent.push(chunk);
      // No Buffer, whose `slice()` is no copy, as that of a Uint8Array is.
      pieces.push(new Uint8Array(chunk.bytes.buffer, chunk.bytes.byteOffset + start, end - start));
    });
    return {
      pieces,
      end: () => {
        for (const chunk of lent) chunk.loans -= 1;
      },
    };
  }

  /** Calls `visit` for the part of each chunk that lies in the range, in order. */
  #each(offset: number, length: number, visit: (index: number, start: number, end: number) => void): void {
    const stop = offset + length;
    for (let at = offset; at < stop; ) {
      const index = Math.floor(at / CHUNK_BYTES);
      const base = index * CHUNK_BYTES;
      const end = Math.min(stop, base + CHUNK_BYTES);
      visit(index, at - base, end - base);
      at = end;
    }
  }

  #writable(index: number): Buffer {
    const chunk = this.#chunk(index);
    if (chunk.loans === 0) return chunk.bytes;
    const copy = chunkOf(Buffer.from(chunk.bytes));
    this.#chunks[index] = copy;
    return copy.bytes;
  }

  #chunk(index: number): Chunk {
    const chunk = this.#chunks[index];
    if (chunk === undefined) throw new RangeError(`there is no chunk ${index}`);
    return chunk;
  }
}

function chunkOf(bytes: Buffer): Chunk {
  return { bytes, words: new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4), loans: 0 };
}
