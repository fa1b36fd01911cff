import { asMigrationError, MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import type { Codec } from '../interfaces/environment.ts';
import { crc32c } from '../util/checksum.ts';
import { joinChunks } from '../util/chunks.ts';
import type { OpenedItem } from '../wire/item.ts';
import { CompressionCount } from './compression-count.ts';

/** The content of an item, and the checksum of its payload as if it had never been compressed. */
export interface Decompressed {
  readonly content: Chunks;
  readonly payloadCrc: number;
}

interface Waiting {
  readonly item: OpenedItem;
  readonly done: (decompressed: Decompressed) => void;
}

export interface DecompressorOptions {
  readonly codec: Codec;
  readonly now: () => number;
  /** Called with the first failure, `protocol`. Nothing comes of anything after it. */
  readonly failed: (error: MigrationError) => void;
}

/**
 * Brings back the content of items that came compressed, a few at a time and the others in turn. What waits here has used its streams' credit as it will be, and takes less
 * until then.
 */
export class Decompressor {
  readonly count: CompressionCount;
  readonly #options: DecompressorOptions;
  readonly #waiting: Waiting[] = [];
  #calls = 0;
  #failed = false;

  constructor(options: DecompressorOptions) {
    this.#options = options;
    this.count = new CompressionCount(options.codec.name);
  }

  /** Resolves to what the item holds; never, if that cannot be had: then the options' `failed` is called. */
  decompress(item: OpenedItem): Promise<Decompressed> {
    return new Promise((done) => {
      this.#waiting.push({ item, done });
      this.#next();
    });
  }

  #next(): void {
    while (this.#calls < this.#options.codec.callsMax && !this.#failed) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#calls++;
      this.#decompress(next)
        .catch((error) => this.#fail(error))
        .finally(() => {
          this.#calls--;
          this.#next();
        });
    }
  }

  async #decompress({ item, done }: Waiting): Promise<void> {
    const { codec, now } = this.#options;
    const { contentBytes } = item;
    const compressed = joinChunks(item.content);
    const beganMs = now();
    const content = await codec.decompress(compressed, contentBytes);
    this.count.took(now() - beganMs);
    this.count.compressed(contentBytes, compressed.byteLength);
    if (content.byteLength !== contentBytes) {
      throw new Error(`it comes to ${content.byteLength} bytes, not ${contentBytes}`);
    }
    if (!this.#failed) done({ content: [content], payloadCrc: crc32c(content, crc32c(item.head)) });
  }

  #fail(thrown: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    const { message } = asMigrationError(thrown, 'protocol');
    const what = `an item does not decompress to what its table says: ${message}`;
    this.#options.failed(new MigrationError('protocol', what, { cause: thrown }));
  }
}
