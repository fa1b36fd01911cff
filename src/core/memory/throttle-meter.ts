/** Sums up what throttling takes from the guest. Pure: the clock comes in as an argument. */
export class ThrottleMeter {
  #throttle = 0;
  #max = 0;
  #sinceMs: number;
  #throttledMs = 0;
  #lostMs = 0;

  constructor(nowMs: number) {
    this.#sinceMs = nowMs;
  }

  /** From now on it is in force: 0 to 0.99. 0 also for a guest that stands still, which has nothing more to lose by it. */
  set(nowMs: number, throttle: number): void {
    this.#throttledMs = this.throttledMs(nowMs);
    this.#lostMs = this.lostMs(nowMs);
    this.#sinceMs = nowMs;
    this.#throttle = throttle;
    this.#max = Math.max(this.#max, throttle);
  }

  /** The hardest that was in force. */
  get max(): number {
    return this.#max;
  }

  /** For how long there was one, in ms. */
  throttledMs(nowMs: number): number {
    return this.#throttledMs + (this.#throttle > 0 ? nowMs - this.#sinceMs : 0);
  }

  /** What the guest lost of its processors' time, in ms: a second at 30 % is 300 ms. */
  lostMs(nowMs: number): number {
    return this.#lostMs + this.#throttle * (nowMs - this.#sinceMs);
  }
}
