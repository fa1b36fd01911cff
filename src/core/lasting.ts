/** How long something has to be so before it is said. */
const lastingMs = 2000;
/**
 * A level that rises by more than this is on its way somewhere else: a channel over a long distance takes
 * its time to fill the link.
 */
const risen = 1.1;

/** Tells what lasts from what is so for a moment. Pure: the clock comes in as an argument. */
export class Lasting {
  #sinceMs: number | undefined;
  #level = 0;

  /** Whether it has been so for two seconds, and `level`, against which it is so, has not risen meanwhile. */
  look(nowMs: number, isSo: boolean, level: number): boolean {
    if (!isSo) {
      this.#sinceMs = undefined;
      return false;
    }
    if (this.#sinceMs === undefined || level > risen * this.#level) {
      this.#sinceMs = nowMs;
      this.#level = level;
    }
    return nowMs - this.#sinceMs >= lastingMs;
  }
}
