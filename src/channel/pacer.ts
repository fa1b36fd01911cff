/** What may be sent at once after a pause, as the time that it takes at the rate, where nothing else is said: timers come late, and what they miss is made up for. */
const burstMsUsual = 20;

/** What is spread out over the time that it takes goes out so much faster than it is carried, and for so many ms of that at once: a little faster, so that it is not what holds the link up. */
export const spread = { gain: 1.25, burstMs: 4 };

/** Keeps what is sent to a rate. Pure: the clock comes in as an argument. */
export class Pacer {
  #bytesPerMs: number;
  readonly #burstMs: number;
  /** When what was sent so far has taken its time. */
  #freeMs = Number.NEGATIVE_INFINITY;

  constructor(bytesPerSecond: number, burstMs = burstMsUsual) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#burstMs = burstMs;
  }

  /** Another rate from now on; what was sent before, and has not taken its time, takes it at that rate. */
  become(bytesPerSecond: number, nowMs: number): void {
    const bytesPerMs = bytesPerSecond / 1000;
    const aheadMs = this.waitMs(nowMs);
    if (aheadMs > 0) this.#freeMs = nowMs + (aheadMs * this.#bytesPerMs) / bytesPerMs;
    this.#bytesPerMs = bytesPerMs;
  }

  /** How long to wait until the next may be sent, in ms; 0: not at all. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#freeMs - nowMs);
  }

  sent(bytes: number, nowMs: number): void {
    this.#freeMs = Math.max(this.#freeMs, nowMs - this.#burstMs) + bytes / this.#bytesPerMs;
  }
}
