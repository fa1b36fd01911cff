import type { CompressionStatistics } from '../interfaces/migration.ts';

/** Counts what compression was good for, at either end. */
export class CompressionCount {
  readonly #codec: string;
  #inputBytes = 0;
  #savedBytes = 0;
  #callsMs = 0;

  constructor(codec: string) {
    this.#codec = codec;
  }

  get statistics(): CompressionStatistics {
    return {
      codec: this.#codec,
      inputBytes: this.#inputBytes,
      savedBytes: this.#savedBytes,
      callsMs: this.#callsMs,
    };
  }

  /** A call of the codec took so long, whatever came of it. */
  took(ms: number): void {
    this.#callsMs += ms;
  }

  /** So much content travels, or came, in so few bytes. */
  compressed(contentBytes: number, compressedBytes: number): void {
    this.#inputBytes += contentBytes;
    this.#savedBytes += contentBytes - compressedBytes;
  }
}
