import { MigrationError } from '../errors.ts';
import { onAbort } from '../util/on-abort.ts';
import { abortError, type Deferred, deferred } from '../util/promises.ts';
import type { Message, MessageOf, MessageType } from '../wire/messages.ts';

/** Control messages that may wait for somebody to take them. Both ends take each soon; a peer that sends more is up to no good. */
const waitingMax = 1024;

interface Taker {
  readonly types: readonly MessageType[];
  readonly taken: Deferred<Message>;
}

/** Control messages as they arrived, each taken once, by whoever asks for its type. */
export class Mailbox {
  readonly #waiting: Message[] = [];
  #takers: Taker[] = [];
  #failure: { readonly error: unknown } | undefined;

  /** Throws `protocol` if too many wait. */
  deliver(message: Message): void {
    const taker = this.#takers.find((candidate) => candidate.types.includes(message.type));
    if (taker !== undefined) {
      this.#takers = this.#takers.filter((candidate) => candidate !== taker);
      taker.taken.resolve(message);
      return;
    }
    if (this.#waiting.length >= waitingMax) throw new MigrationError('protocol', 'too many control messages');
    this.#waiting.push(message);
  }

  /** The next message of one of these types. What has arrived can be taken even after the channel failed; else rejects with its failure. */
  take<T extends MessageType>(...types: readonly T[]): Promise<MessageOf<T>> {
    const index = this.#waiting.findIndex((message) =>
      (types as readonly MessageType[]).includes(message.type),
    );
    const [found] = index < 0 ? [] : this.#waiting.splice(index, 1);
    if (found !== undefined) return Promise.resolve(found as MessageOf<T>);
    if (this.#failure !== undefined) return Promise.reject(this.#failure.error);
    const taken = deferred<Message>();
    this.#takers.push({ types, taken });
    return taken.promise as Promise<MessageOf<T>>;
  }

  /** As {@link Mailbox.take}, until the signal is aborted: then it rejects with the reason, and what comes later is for the next who asks. */
  async takeUntil<T extends MessageType>(signal: AbortSignal, ...types: readonly T[]): Promise<MessageOf<T>> {
    if (signal.aborted) throw abortError(signal);
    const taking = this.take(...types);
    const taker = this.#takers.find(({ taken }) => taken.promise === (taking as Promise<Message>));
    if (taker === undefined) return taking;
    const takeBack = onAbort(signal, () => {
      this.#takers = this.#takers.filter((candidate) => candidate !== taker);
      taker.taken.reject(abortError(signal));
    });
    return taking.finally(takeBack);
  }

  fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    for (const taker of this.#takers.splice(0)) taker.taken.reject(error);
  }
}
