import type { Chunks } from '../../interfaces/content.ts';

/** Reads through chunks from their beginning, as if they were one. */
export class ChunkCursor {
  readonly #chunks: Chunks;
  #index = 0;
  #used = 0;

  constructor(chunks: Chunks) {
    this.#chunks = chunks;
  }

  /** Copies the next `length` bytes (which must be there) to `buffer` from `at`, and gives back where they end. */
  copy(buffer: Uint8Array, at: number, length: number): number {
    let position = at;
    const end = at + length;
    for (let chunk = this.#chunks[this.#index]; chunk !== undefined; chunk = this.#chunks[this.#index]) {
      const part = chunk.subarray(this.#used, this.#used + end - position);
      buffer.set(part, position);
      position += part.length;
      this.#used += part.length;
      if (position === end) return end;
      this.#index++;
      this.#used = 0;
    }
    return position;
  }
}
