import type { Chunks } from '../interfaces/content.ts';
import type { Connection } from '../interfaces/transport.ts';
import type { Acceptable } from '../util/accept-queue.ts';
import type { GreetingConnection } from './handshake.ts';

/**
 * A connection whose greeting was read, to be handed to who reads it again: what it delivers begins with the greeting. Until it is
 * challenged the other end has nothing more to say: should it break, end or speak while nobody has accepted it, it is spent.
 */
export class HandedConnection implements Connection, Acceptable {
  readonly label: string;
  readonly gone: Promise<void>;
  readonly #connection: Connection;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #next: Promise<IteratorResult<Uint8Array>>;
  readonly #greeting: Uint8Array;
  #taken = false;
  #spent = false;

  constructor({ connection, reader, bytes }: GreetingConnection) {
    this.label = connection.label;
    this.#connection = connection;
    this.#greeting = bytes;
    this.#chunks = reader.rest()[Symbol.asyncIterator]();
    this.#next = this.#chunks.next();
    this.gone = this.#next.then(
      () => this.#over(),
      () => this.#over(),
    );
  }

  get spent(): boolean {
    return this.#spent;
  }

  send(chunks: Chunks): Promise<void> {
    return this.#connection.send(chunks);
  }

  #over(): void {
    if (this.#taken) return;
    this.#spent = true;
    this.#connection.abort();
  }

  recycle(chunk: Uint8Array): void {
    this.#connection.recycle?.(chunk);
  }

  receive(): AsyncIterable<Uint8Array> {
    this.#taken = true;
    const chunks = this.#chunks;
    let taken = 0;
    const iterator: AsyncIterator<Uint8Array> = {
      next: () => {
        taken += 1;
        if (taken === 1 && !this.#spent) return Promise.resolve({ done: false, value: this.#greeting });
        return taken <= 2 ? this.#next : chunks.next();
      },
      return: async (value) => (await chunks.return?.(value)) ?? { done: true, value },
    };
    return { [Symbol.asyncIterator]: () => iterator };
  }

  close(): Promise<void> {
    this.#taken = true;
    return this.#connection.close();
  }

  abort(reason?: unknown): void {
    this.#connection.abort(reason);
  }
}
