import type { Environment } from '../interfaces/environment.ts';

/** For how long the guest stood still for the migration's sake: at the source, or until it ran at the destination. */
export class GuestPauses {
  readonly #environment: Environment;
  /** Since when it stands still, or stood when that was over. */
  #sinceMs: number | undefined;
  #over = false;
  #lastMs = 0;
  /** Those after which it ran on at the source. */
  #earlierMs = 0;

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  /** It was stunned at that time. */
  begin(sinceMs: number): void {
    this.#sinceMs = sinceMs;
  }

  /** It was stunned, and is not known to run on at the source. */
  get isOn(): boolean {
    return this.#sinceMs !== undefined;
  }

  /** The last one, in ms, once it is over; 0 before. */
  get lastMs(): number {
    return this.#lastMs;
  }

  /** How long it lasts by now, in ms; undefined while the guest runs. */
  get nowMs(): number | undefined {
    if (this.#sinceMs === undefined) return undefined;
    return this.#over ? this.#lastMs : this.#environment.now() - this.#sinceMs;
  }

  /** All of them, in ms. */
  get allMs(): number {
    return this.#earlierMs + (this.nowMs ?? 0);
  }

  /** The guest runs on at the source. */
  ranOn(): void {
    this.end();
    this.#earlierMs += this.#lastMs;
    this.#sinceMs = undefined;
    this.#over = false;
  }

  /** It is over as far as this end can see, if there is one: now, or so much later, or, below 0, earlier. */
  end(laterMs = 0): void {
    if (this.#sinceMs === undefined) return;
    this.#over = true;
    this.#lastMs = Math.max(0, this.#environment.now() - this.#sinceMs + laterMs);
  }
}
