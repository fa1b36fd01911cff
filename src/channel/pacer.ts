/** What may be sent at once after a pause, as the time that it takes at the rate: timers come late, and what they miss is made up for. */
const burstMs = 20;

/** Keeps what is sent to a rate. Pure: the clock comes in as an argument. */
export class Pacer {
  readonly #bytesPerMs: number;
  /** When what was sent so far has taken its time. */
  #freeMs = Number.NEGATIVE_INFINITY;

  constructor(bytesPerSecond: number) {
    this.#bytesPerMs = bytesPerSecond / 1000;
  }

  /** How long to wait until the next may be sent, in ms; 0: not at all. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#freeMs - nowMs);
  }

  sent(bytes: number, nowMs: number): void {
    this.#freeMs = Math.max(this.#freeMs, nowMs - burstMs) + bytes / this.#bytesPerMs;
  }
}
