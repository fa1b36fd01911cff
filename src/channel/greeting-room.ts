import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection } from '../interfaces/transport.ts';
import { withTimeout } from '../util/promises.ts';

/** How many may be greeting, or be told that they are refused, at once: a large migration's connections all come together. */
const placesMax = 256;
/** How long each may take while others wait for a place: more than any round trip. */
const crowdedMsMax = 1_000;

interface Guest {
  readonly connection: Connection;
  readonly sinceMs: number;
  readonly over: Promise<void>;
}

/**
 * The accepted connections that have not proved who they are. There is only so much room, and nobody keeps a place for long while others
 * wait in the transport: neither who says nothing nor a flood can keep the next one out for more than a moment.
 */
export class GreetingRoom {
  readonly #environment: Environment;
  /** Oldest first. */
  readonly #guests = new Set<Guest>();

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  /** Resolves when there is a place: at once, when somebody has left, or when the oldest was dropped once it had had its time. */
  async vacancy(): Promise<void> {
    while (this.#guests.size >= placesMax) await this.#makeRoom();
  }

  /** Gives it a place until `greet` is over. If that rejects, the connection is dropped. */
  enter(connection: Connection, greet: (connection: Connection) => Promise<void>): void {
    const over = greet(connection)
      .catch((error) => connection.abort(error))
      .finally(() => this.#guests.delete(guest));
    const guest: Guest = { connection, sinceMs: this.#environment.now(), over };
    this.#guests.add(guest);
  }

  /** Drops everybody. */
  abort(): void {
    for (const { connection } of this.#guests) connection.abort();
  }

  /** Resolves when nobody who is here now is here any more. */
  async emptied(): Promise<void> {
    await Promise.all([...this.#guests].map(({ over }) => over));
  }

  async #makeRoom(): Promise<void> {
    const [oldest] = this.#guests;
    if (oldest === undefined) return;
    const leftMs = Math.max(0, oldest.sinceMs + crowdedMsMax - this.#environment.now());
    const one = Promise.race([...this.#guests].map(({ over }) => over));
    const slow = new MigrationError('timeout', `${oldest.connection.label}: slow to greet, and others wait`);
    await withTimeout(this.#environment, leftMs, one, () => slow).catch(() => {
      this.#guests.delete(oldest);
      oldest.connection.abort(slow);
    });
  }
}
