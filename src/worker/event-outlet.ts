/**
 * Events on their way to the main thread. That one may stand still for hours, and what is posted to it waits
 * in memory; so of progress, which comes several times a second and of which only the newest counts, no more
 * than one is on its way, and one is held until that has been seen. All others are rare. They stay in order:
 * what is held goes before the next event of another name.
 */
export class EventOutlet {
  readonly #post: (event: string, args: readonly unknown[]) => void;
  #unseen = false;
  #held: readonly unknown[] | undefined;

  constructor(post: (event: string, args: readonly unknown[]) => void) {
    this.#post = post;
  }

  emit(event: string, args: readonly unknown[]): void {
    if (event === 'progress') {
      this.#held = args;
      if (!this.#unseen) this.flush();
    } else {
      this.flush();
      this.#post(event, args);
    }
  }

  /** The main thread has seen progress. */
  seen(): void {
    this.#unseen = false;
    this.flush();
  }

  /** Sends what is held. */
  flush(): void {
    if (this.#held === undefined) return;
    this.#post('progress', this.#held);
    this.#held = undefined;
    this.#unseen = true;
  }
}
