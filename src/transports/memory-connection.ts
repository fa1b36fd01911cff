import { asMigrationError, MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import type { Connection } from '../interfaces/transport.ts';
import type { Acceptable } from '../util/accept-queue.ts';
import { type Deferred, deferred } from '../util/promises.ts';
import type { Pipe } from './pipe.ts';

/**
 * Bytes sent and not yet in the link's queue, at which `send()` waits: four turns at the link, so that one is
 * always ready.
 */
const sendBytesMax = 256 * 1024;

/** One end of a connection over a memory link. When the peer has ended, so has this end. */
export class MemoryConnection implements Connection, Acceptable {
  readonly label: string;
  readonly #outgoing: Pipe;
  readonly #incoming: Pipe;
  readonly #gone = deferred<void>();
  #room: Deferred<void> | undefined;
  /** Why nothing can be sent any more. */
  #stopped: MigrationError | undefined;
  #closing = false;
  #ended = false;
  #isGone = false;

  constructor(label: string, outgoing: Pipe, incoming: Pipe) {
    this.label = label;
    this.#outgoing = outgoing;
    this.#incoming = incoming;
    outgoing.sender = { onRoom: () => this.#onRoom(), onEndSeen: () => this.#leave() };
    incoming.receiver = {
      onEnd: () => this.#onEnd(),
      onReset: (error) => this.lose(error.message, error.cause),
    };
  }

  get gone(): Promise<void> {
    return this.#gone.promise;
  }

  /** It is gone, and not because the peer closed it. */
  get broken(): boolean {
    return this.#isGone && !this.#ended;
  }

  get spent(): boolean {
    return this.broken || (this.#isGone && this.#incoming.queue.length === 0);
  }

  send(chunks: Chunks): Promise<void> {
    if (this.#stopped !== undefined) return Promise.reject(this.#stopped);
    this.#outgoing.send(chunks);
    if (this.#outgoing.bufferedBytes < sendBytesMax) return Promise.resolve();
    this.#room ??= deferred();
    return this.#room.promise;
  }

  receive(): AsyncIterable<Uint8Array> {
    return this.#incoming.queue.iterate();
  }

  close(): Promise<void> {
    if (this.#closing || this.#isGone) return this.gone;
    this.#closing = true;
    this.#stopSending(this.#lost('it was closed here'));
    this.#incoming.queue.end();
    this.#incoming.queue.drop();
    this.#outgoing.end();
    return this.gone;
  }

  abort(reason?: unknown): void {
    const detail = reason === undefined ? '' : `: ${asMigrationError(reason, 'connection-lost').message}`;
    const error = this.#lost(`it was aborted here${detail}`, reason);
    this.#stopSending(error);
    this.#incoming.queue.abort(error);
    if (this.#isGone) return;
    this.#outgoing.reset(this.#lost('the peer aborted it'));
    this.#leave();
  }

  /** Breaks it at this end; the other end hears nothing. What has arrived can still be received. */
  lose(what: string, cause?: unknown): void {
    const error = this.#lost(what, cause);
    this.#stopSending(error);
    this.#incoming.queue.end(error);
    this.#leave();
  }

  #onRoom(): void {
    if (this.#outgoing.bufferedBytes >= sendBytesMax) return;
    this.#room?.resolve();
    this.#room = undefined;
  }

  #onEnd(): void {
    if (this.#isGone) return;
    this.#ended = true;
    this.#incoming.queue.end();
    this.#stopSending(this.#lost('the peer closed it'));
    this.#leave();
  }

  #stopSending(error: MigrationError): void {
    this.#stopped ??= error;
    this.#room?.reject(this.#stopped);
    this.#room = undefined;
  }

  #leave(): void {
    this.#isGone = true;
    this.#outgoing.drop();
    this.#gone.resolve();
  }

  #lost(what: string, cause?: unknown): MigrationError {
    return new MigrationError('connection-lost', `${this.label}: ${what}`, { cause });
  }
}
