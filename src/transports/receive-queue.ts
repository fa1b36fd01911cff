import { MigrationError } from '../errors.ts';
import { type Deferred, deferred } from '../util/promises.ts';
import { Fifo } from './fifo.ts';

/**
 * What has arrived on a connection and was not taken yet: the far side of `Connection.receive()`. It does not
 * bound itself: whoever pushes watches `bytes` and `length`, and hears of each chunk that leaves.
 */
export class ReceiveQueue {
  readonly #chunks = new Fifo<Uint8Array>();
  readonly #onTaken: (chunk: Uint8Array) => void;
  #bytes = 0;
  #over: { readonly error: MigrationError | undefined } | undefined;
  #arrival: Deferred<void> | undefined;
  #iterated = false;

  /** `onTaken` is called for each chunk as it leaves, just before the consumer gets it. */
  constructor(onTaken: (chunk: Uint8Array) => void) {
    this.#onTaken = onTaken;
  }

  /** Bytes that wait for the consumer. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Chunks that wait for the consumer. */
  get length(): number {
    return this.#chunks.length;
  }

  /** Adds a chunk. False after the end: nobody will take it. */
  push(chunk: Uint8Array): boolean {
    if (this.#over !== undefined) return false;
    this.#chunks.push(chunk);
    this.#bytes += chunk.byteLength;
    this.#wake();
    return true;
  }

  /**
   * Nothing more comes: the consumer gets what waits, then the end, or the error if there is one. Only the
   * first call counts.
   */
  end(error?: MigrationError): void {
    this.#over ??= { error };
    this.#wake();
  }

  /** The consumer gets the error now, whatever waits, and even if the end had been reached behind it. */
  abort(error: MigrationError): void {
    this.#over = { error };
    this.drop();
    this.#wake();
  }

  /** Forgets what waits, which makes as much room as if it had been taken. */
  drop(): void {
    for (let chunk = this.#chunks.shift(); chunk !== undefined; chunk = this.#chunks.shift()) {
      this.#bytes -= chunk.byteLength;
      this.#onTaken(chunk);
    }
  }

  /** The chunks, once. Throws `invalid-state` when called again. */
  iterate(): AsyncIterable<Uint8Array> {
    if (this.#iterated)
      throw new MigrationError('invalid-state', 'a connection can be received from only once');
    this.#iterated = true;
    // Written out, not a generator: this is done for each chunk, and a generator's turns cost as much as the rest.
    let over = false;
    const iterator: AsyncIterator<Uint8Array, undefined> = {
      next: () => (over ? Promise.resolve({ done: true, value: undefined }) : this.#next()),
      return: async () => {
        over = true;
        return { done: true, value: undefined };
      },
    };
    return { [Symbol.asyncIterator]: () => iterator };
  }

  async #next(): Promise<IteratorResult<Uint8Array, undefined>> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#bytes -= chunk.byteLength;
        this.#onTaken(chunk);
        return { done: false, value: chunk };
      }
      if (this.#over !== undefined) {
        if (this.#over.error !== undefined) throw this.#over.error;
        return { done: true, value: undefined };
      }
      this.#arrival ??= deferred();
      await this.#arrival.promise;
    }
  }

  #wake(): void {
    this.#arrival?.resolve();
    this.#arrival = undefined;
  }
}
