import type { MigrationError } from '../../errors.ts';
import { raceAbort, Signalled } from '../../util/promises.ts';

/** An operation of the guest that waits until the guest runs. */
interface Waiting {
  start(): void;
  reject(error: MigrationError): void;
}

/**
 * Lets a guest's operations through while it runs, keeps them in order while it does not, and knows how many
 * are in flight.
 */
export class GuestGate {
  readonly #waiting: Waiting[] = [];
  readonly #quiet = new Signalled();
  #open = false;
  #active = 0;
  #ended: MigrationError | undefined;

  /**
   * Begins the operation at once if the gate is open, else when it opens. Rejects with what
   * {@link GuestGate.end} was given.
   */
  pass<T>(operation: () => T | Promise<T>): Promise<T> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    if (this.#open) return this.#run(operation);
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({ start: () => void this.#run(operation).then(resolve, reject), reject });
    });
  }

  /** Begins what waits, in order. */
  open(): void {
    if (this.#ended !== undefined) return;
    this.#open = true;
    // One by one: an operation may end everything for those behind it.
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) next.start();
  }

  /** Lets nothing more begin. What is in flight goes on. */
  close(): void {
    this.#open = false;
  }

  /**
   * Resolves when nothing is in flight. Rejects when the signal is aborted, or with what
   * {@link GuestGate.end} was given.
   */
  async quiet(signal?: AbortSignal): Promise<void> {
    while (this.#active > 0) await raceAbort(this.#quiet.wait(), signal);
  }

  /** Closes for good: what waits, and all that comes, rejects with `error`. */
  end(error: MigrationError): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    this.#open = false;
    this.#quiet.fail(error);
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  async #run<T>(operation: () => T | Promise<T>): Promise<T> {
    this.#active += 1;
    try {
      return await operation();
    } finally {
      this.#active -= 1;
      if (this.#active === 0) this.#quiet.notify();
    }
  }
}
