import { MigrationError } from '../errors.ts';
import type { Connection } from '../interfaces/transport.ts';
import { joinChunks } from '../util/chunks.ts';

/** Reads a connection: first some exact lengths (the greeting), then everything that follows, chunk by chunk. */
export class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #label: string;
  readonly #connection: Connection;
  #left: Uint8Array = new Uint8Array(0);
  /** A piece of what was put together here, and no chunk of the connection's. */
  #restBegins: Uint8Array | undefined;

  constructor(connection: Connection) {
    this.#chunks = connection.receive()[Symbol.asyncIterator]();
    this.#label = connection.label;
    this.#connection = connection;
  }

  /** The next `length` bytes. Throws `connection-lost` if the stream ends before. */
  async readExactly(length: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = [this.#left];
    let have = this.#left.byteLength;
    while (have < length) {
      const next = await this.#chunks.next();
      if (next.done) throw new MigrationError('connection-lost', `${this.#label} ended during the greeting`);
      parts.push(next.value);
      have += next.value.byteLength;
    }
    const all = joinChunks(parts);
    this.#left = all.subarray(length);
    return all.subarray(0, length);
  }

  /** More has arrived than was read. */
  get holdsMore(): boolean {
    return this.#left.byteLength > 0;
  }

  /** What follows. Iterated once, after which {@link ByteReader.readExactly} must not be called. */
  rest(): AsyncIterable<Uint8Array> {
    const left = this.#left;
    this.#restBegins = left;
    const chunks = this.#chunks;
    return left.byteLength === 0 ? { [Symbol.asyncIterator]: () => chunks } : following(left, chunks);
  }

  /** Takes back a chunk of {@link ByteReader.rest}: see {@link Connection.recycle}. */
  recycle(chunk: Uint8Array): void {
    if (chunk !== this.#restBegins) this.#connection.recycle?.(chunk);
  }
}

/** Written out, not a generator: each chunk would pay for its turns, long after the first is gone. */
function following(first: Uint8Array, chunks: AsyncIterator<Uint8Array>): AsyncIterable<Uint8Array> {
  let next = () => {
    next = () => chunks.next();
    return Promise.resolve<IteratorResult<Uint8Array>>({ done: false, value: first });
  };
  const iterator: AsyncIterator<Uint8Array> = {
    next: () => next(),
    return: async () => (await chunks.return?.()) ?? { done: true, value: undefined },
  };
  return { [Symbol.asyncIterator]: () => iterator };
}
