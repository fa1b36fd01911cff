/**
 * What holds an engine's process and a simulated host together. When the process has died, its engine, which
 * goes on in this JavaScript process all the same, reaches nothing any more: what it calls has no effect and
 * never settles.
 */
export class ProcessTie {
  #dead = false;

  get dead(): boolean {
    return this.#dead;
  }

  /** The process has died. */
  cut(): void {
    this.#dead = true;
  }

  /** A call from the process: its outcome if the process lives to see it. */
  call<T>(work: () => T | Promise<T>): Promise<T> {
    if (this.#dead) return never();
    return new Promise<T>((resolve, reject) => {
      const answered = (async () => work())();
      answered.then(
        (value) => {
          if (!this.#dead) resolve(value);
        },
        (error: unknown) => {
          if (!this.#dead) reject(error);
        },
      );
    });
  }

  /** What the process iterates over; it never ends, and never goes on, once the process is dead. */
  async *iterate<T>(items: () => AsyncIterable<T>): AsyncGenerator<T, void, undefined> {
    if (this.#dead) await never();
    for await (const item of items()) {
      if (this.#dead) await never();
      yield item;
      if (this.#dead) await never();
    }
    if (this.#dead) await never();
  }
}

function never<T>(): Promise<T> {
  return new Promise<T>(() => {});
}
