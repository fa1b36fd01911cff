/** How far back it looks. */
const windowMs = 2000;
/** Less says nothing: what is counted comes in bursts. */
const spanMsMin = 1000;

interface Look {
  readonly nowMs: number;
  /** Of the time until then, what counts. */
  readonly countedMs: number;
  readonly total: number;
}

/** How fast a total grows, over about the last two seconds. Pure: the clock comes in as an argument. */
export class RateMeter {
  #looks: Look[] = [];

  /**
   * The total is `total` now. Of the time since the look before only `share`, 0.01 to 1, counts: less than
   * all of it where what grows was slowed.
   */
  look(nowMs: number, total: number, share = 1): void {
    const last = this.#looks.at(-1);
    const countedMs = last === undefined ? 0 : last.countedMs + share * (nowMs - last.nowMs);
    this.#looks.push({ nowMs, countedMs, total });
    // The window begins at or before its first moment, so that a rate is always over all of it.
    while ((this.#looks[1]?.nowMs ?? nowMs) <= nowMs - windowMs) this.#looks.shift();
  }

  /** By how much the total grows in a second that counts; undefined before a second has been seen. */
  get perSecond(): number | undefined {
    return this.perSecondOver(spanMsMin);
  }

  /** The same, from so many ms on; 1 or more. */
  perSecondOver(spanMs: number): number | undefined {
    const [first] = this.#looks;
    const last = this.#looks.at(-1);
    if (first === undefined || last === undefined || last.nowMs - first.nowMs < spanMs) return undefined;
    const countedMs = last.countedMs - first.countedMs;
    return countedMs > 0 ? ((last.total - first.total) / countedMs) * 1000 : undefined;
  }

  /** What was seen says nothing any more. */
  forget(): void {
    this.#looks = [];
  }
}
