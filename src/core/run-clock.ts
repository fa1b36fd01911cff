import type { Phase } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';

/** Which phase a run is in, and how long each took. */
export class RunClock {
  readonly #environment: Environment;
  readonly #entered: (phase: Phase) => void;
  readonly #durations: Partial<Record<Phase, number>> = {};
  #phase: Phase = 'idle';
  #startMs = 0;
  #phaseStartMs = 0;

  /** `entered` is called when a phase begins. */
  constructor(environment: Environment, entered: (phase: Phase) => void) {
    this.#environment = environment;
    this.#entered = entered;
  }

  get phase(): Phase {
    return this.#phase;
  }

  /** Since the first phase began. */
  get elapsedMs(): number {
    return this.#phase === 'idle' ? 0 : this.#environment.now() - this.#startMs;
  }

  /** The phases that are over, in ms each. */
  get durations(): Readonly<Partial<Record<Phase, number>>> {
    return { ...this.#durations };
  }

  /** Begins a phase, and ends the one before. Entering the present one again changes nothing. */
  enter(phase: Phase): void {
    if (phase === this.#phase) return;
    const now = this.#environment.now();
    if (this.#phase === 'idle') this.#startMs = now;
    else this.#durations[this.#phase] = (this.#durations[this.#phase] ?? 0) + now - this.#phaseStartMs;
    this.#phase = phase;
    this.#phaseStartMs = now;
    this.#entered(phase);
  }
}
