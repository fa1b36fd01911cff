import type { Extent } from '../../interfaces/block-device.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import type { Prng } from '../../util/prng.ts';

/** The unit in which a simulated disk's bytes are allocated. */
export const CHUNK_BYTES = 1024 * 1024;

/** A part of one chunk. */
interface Piece {
  readonly index: number;
  /** Where it begins within the chunk. */
  readonly start: number;
  readonly length: number;
  /** Where it lies within the range that was asked for. */
  readonly at: number;
}

/**
 * Bytes that take memory only where they were written, chunk by chunk; holes read as zeros. Ranges are not
 * checked.
 */
export class SparseBytes {
  readonly sizeBytes: number;
  readonly #chunks = new Map<number, Buffer>();
  #allocatedBytes = 0;

  /** A hole from end to end. */
  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  /** Bytes of the chunks that are allocated. */
  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  /** Allocates about `fraction` of the chunks, up to so many bytes of them, and fills them at random. */
  fill(fraction: number, prng: Prng, bytesMax = Number.POSITIVE_INFINITY): void {
    if (fraction === 0) return;
    for (const { index } of pieces(0, this.sizeBytes)) {
      const chosen = prng.fraction() < fraction;
      if (chosen && this.#allocatedBytes + this.#chunkBytes(index) <= bytesMax)
        prng.fill(this.#allocate(index));
    }
  }

  /** Bytes of the chunks that a write to this range would allocate. */
  unallocatedBytes(offset: number, length: number): number {
    let total = 0;
    for (const { index } of pieces(offset, length))
      if (!this.#chunks.has(index)) total += this.#chunkBytes(index);
    return total;
  }

  /** A copy of a range. */
  read(offset: number, length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length);
    for (const { index, start, length: size, at } of pieces(offset, length)) {
      const chunk = this.#chunks.get(index);
      if (chunk === undefined) bytes.fill(0, at, at + size);
      else chunk.copy(bytes, at, start, start + size);
    }
    return bytes;
  }

  write(offset: number, bytes: Uint8Array): void {
    for (const { index, start, length, at } of pieces(offset, bytes.byteLength)) {
      this.#allocate(index).set(bytes.subarray(at, at + length), start);
    }
  }

  /** Makes a range zero; frees the chunks that lie in it whole. */
  zero(offset: number, length: number): void {
    for (const { index, start, length: size } of pieces(offset, length)) {
      if (size === this.#chunkBytes(index)) this.#free(index);
      else this.#chunks.get(index)?.fill(0, start, start + size);
    }
  }

  /** Frees the chunks that lie in the range whole; the rest keeps its content. */
  discard(offset: number, length: number): void {
    for (const { index, length: size } of pieces(offset, length)) {
      if (size === this.#chunkBytes(index)) this.#free(index);
    }
  }

  /** Whether nothing of a range is allocated, so that it reads as zeros. */
  isHole(offset: number, length: number): boolean {
    return this.extents(offset, length).every(({ zero }) => zero);
  }

  /** The stretches of a range, in order: allocated, or zero. */
  extents(offset: number, length: number): readonly Extent[] {
    const extents: { offset: number; length: number; zero: boolean }[] = [];
    for (const { index, length: size, at } of pieces(offset, length)) {
      const zero = !this.#chunks.has(index);
      const last = extents.at(-1);
      if (last?.zero === zero) last.length += size;
      else extents.push({ offset: offset + at, length: size, zero });
    }
    return extents;
  }

  /**
   * The ranges, chunk by chunk and in order, in which this and `other` may differ: not both are holes, nor
   * equal.
   */
  unequalChunks(other: SparseBytes): readonly ByteRange[] {
    const indexes = [...new Set([...this.#chunks.keys(), ...other.#chunks.keys()])].sort((a, b) => a - b);
    const ranges = indexes.map((index) => ({ offset: index * CHUNK_BYTES, length: this.#chunkBytes(index) }));
    return ranges.filter(
      ({ offset, length }) => !this.read(offset, length).equals(other.read(offset, length)),
    );
  }

  /** Frees everything: all reads as zeros. */
  clear(): void {
    this.#chunks.clear();
    this.#allocatedBytes = 0;
  }

  #chunkBytes(index: number): number {
    return Math.min(CHUNK_BYTES, this.sizeBytes - index * CHUNK_BYTES);
  }

  #allocate(index: number): Buffer {
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = Buffer.alloc(this.#chunkBytes(index));
      this.#chunks.set(index, chunk);
      this.#allocatedBytes += chunk.length;
    }
    return chunk;
  }

  #free(index: number): void {
    if (this.#chunks.delete(index)) this.#allocatedBytes -= this.#chunkBytes(index);
  }
}

function* pieces(offset: number, length: number): Generator<Piece> {
  let at = 0;
  while (at < length) {
    const index = Math.floor((offset + at) / CHUNK_BYTES);
    const start = offset + at - index * CHUNK_BYTES;
    const size = Math.min(CHUNK_BYTES - start, length - at);
    yield { index, start, length: size, at };
    at += size;
  }
}
