import { asMigrationError, MigrationError } from '../../errors.ts';
import type { Chunks } from '../../interfaces/content.ts';
import type { Connection } from '../../interfaces/transport.ts';
import type { Acceptable } from '../../util/accept-queue.ts';
import { type Deferred, deferred } from '../../util/promises.ts';
import type { Flow } from './network-flow.ts';

/** Bytes sent and not on the wire yet, at which `send()` waits. */
const sendBytesMax = 256 << 10;

/** What a call of a process that is no more resolves to. */
export function never<T>(): Promise<T> {
  return new Promise<T>(() => {});
}

/**
 * What an end tells the network when it is over. `how`: the peer closed it, it broke or was aborted, its
 * process died.
 */
export type EndOver = (how: 'closed' | 'broken' | 'dead') => void;

/** One end of a simulated connection. When the peer has ended, so has this end. */
export class NetworkConnection implements Connection, Acceptable {
  readonly label: string;
  readonly #outgoing: Flow;
  readonly #incoming: Flow;
  readonly #onOver: EndOver;
  readonly #gone = deferred<void>();
  #room: Deferred<void> | undefined;
  /** Why nothing can be sent any more. */
  #stopped: MigrationError | undefined;
  #closing = false;
  #ended = false;
  #isGone = false;
  #dead = false;

  constructor(label: string, outgoing: Flow, incoming: Flow, onOver: EndOver) {
    this.label = label;
    this.#outgoing = outgoing;
    this.#incoming = incoming;
    this.#onOver = onOver;
    outgoing.sender = {
      onRoom: () => this.#onRoom(),
      onEndSeen: () => {
        this.#ended = true;
        this.#leave();
      },
    };
    incoming.receiver = {
      onEnd: () => this.#onEnd(),
      onReset: (error) => this.lose(error.message, error.cause),
    };
  }

  get gone(): Promise<void> {
    return this.#gone.promise;
  }

  /** It is gone, and not because one of the ends closed it. */
  get broken(): boolean {
    return this.#isGone && !this.#ended;
  }

  get spent(): boolean {
    return this.broken || (this.#isGone && this.#incoming.queue.length === 0);
  }

  /** Neither gone nor dead. */
  get open(): boolean {
    return !this.#isGone && !this.#dead;
  }

  send(chunks: Chunks): Promise<void> {
    if (this.#dead) return never();
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
    if (this.#dead) return never();
    if (this.#closing || this.#isGone) return this.gone;
    this.#closing = true;
    this.#stopSending(this.#lost('it was closed here'));
    this.#incoming.queue.end();
    this.#incoming.queue.drop();
    this.#outgoing.end();
    return this.gone;
  }

  abort(reason?: unknown): void {
    if (this.#dead) return;
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
    if (this.#dead) return;
    const error = this.#lost(what, cause);
    this.#stopSending(error);
    this.#incoming.queue.end(error);
    this.#leave();
  }

  /**
   * Its process is no more: no call of it settles from here on. `reset`: the host lives and tells the peer;
   * `silent`: it has lost its power, and does not.
   */
  die(how: 'reset' | 'silent'): void {
    if (this.#dead) return;
    this.#dead = true;
    if (this.#isGone) return;
    if (how === 'reset') this.#outgoing.reset(this.#lost('the peer has died'));
    else this.#outgoing.senderDied();
    this.#incoming.receiverDead = true;
    this.#incoming.receiver = undefined;
    this.#incoming.queue.drop();
    this.#onOver('dead');
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
    if (this.#isGone) return;
    this.#isGone = true;
    this.#outgoing.drop();
    this.#gone.resolve();
    this.#onOver(this.#ended ? 'closed' : 'broken');
  }

  #lost(what: string, cause?: unknown): MigrationError {
    return new MigrationError('connection-lost', `${this.label}: ${what}`, { cause });
  }
}
