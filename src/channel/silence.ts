/**
 * Tells a connection that has gone silent from one that is slow. It is looked at in regular intervals, by a
 * timer; what counts is the number of looks and not the time that has passed, so that a process that was
 * itself stopped for a while does not blame its peer when it wakes up.
 */
export class Silence {
  /** What no progress is: the first look only remembers. */
  #progress = -1;
  #looks = 0;

  /**
   * How many looks in a row have found `progress`, a number that changes whenever something is heard, as it
   * was.
   */
  look(progress: number): number {
    this.#looks = progress === this.#progress ? this.#looks + 1 : 0;
    this.#progress = progress;
    return this.#looks;
  }

  /** Nothing is expected at the moment. */
  reset(): void {
    this.#looks = 0;
  }
}
