import { MigrationError } from '../errors.ts';
import { type Deferred, deferred, raceAbort, throwIfAborted } from './promises.ts';

/** The part of a connection by which is told whether accepting it still makes sense. */
export interface Acceptable {
  /** Resolves when both directions are over, however it came about. Never rejects. */
  readonly gone: Promise<void>;
  /** Nothing can be received any more: it broke, or it ended and holds nothing. */
  readonly spent: boolean;
  /** Drops it. */
  abort(reason?: unknown): void;
}

/**
 * Connections that wait at most. They are opened by and by and taken as they come, so more than this are a flood.
 */
export const waitingConnectionsMax = 64;

/**
 * The connections that peers opened and nobody accepted yet, and the `accept()` calls that found none. One of
 * the two is always empty.
 */
export class AcceptQueue<T extends Acceptable> {
  readonly #waiting = new Set<T>();
  readonly #takers = new Set<Deferred<T>>();
  #closed: MigrationError | undefined;

  /**
   * Hands the connection to the first taker or lets it wait; one that is spent while it waits is forgotten.
   * False if the queue is full or closed: the connection is still the caller's.
   */
  offer(connection: T): boolean {
    if (this.#closed !== undefined) return false;
    for (const taker of this.#takers) {
      this.#takers.delete(taker);
      taker.resolve(connection);
      return true;
    }
    if (this.#waiting.size >= waitingConnectionsMax) return false;
    this.#waiting.add(connection);
    void connection.gone.then(() => {
      if (connection.spent) this.#waiting.delete(connection);
    });
    return true;
  }

  /**
   * The connection that has waited longest, or the next one. Rejects when the queue is closed or the signal
   * is aborted.
   */
  async take(signal: AbortSignal | undefined): Promise<T> {
    throwIfAborted(signal);
    if (this.#closed !== undefined) throw this.#closed;
    for (const connection of this.#waiting) {
      this.#waiting.delete(connection);
      if (!connection.spent) return connection;
    }
    const taker = deferred<T>();
    this.#takers.add(taker);
    try {
      // Given to a taker in the very moment in which it was aborted: the connection is the next taker's.
      return await raceAbort(taker.promise, signal, (late) => {
        if (!this.offer(late)) late.abort(this.#closed);
      });
    } finally {
      this.#takers.delete(taker);
    }
  }

  /** Rejects the takers that there are. The queue goes on. */
  reject(error: unknown): void {
    for (const taker of this.#takers) taker.reject(error);
    this.#takers.clear();
  }

  /**
   * Aborts what waits and rejects all takers, those to come too, with `error`. Only the first call counts.
   */
  close(error: MigrationError): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    for (const connection of this.#waiting) connection.abort(error);
    this.#waiting.clear();
    this.reject(error);
  }
}

/** What `Transport.open` and `Transport.accept` reject with once the transport was closed. */
export function transportClosed(name: string): MigrationError {
  return new MigrationError('connect-failed', `${name}: the transport was closed`);
}
