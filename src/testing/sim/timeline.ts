import type { Phase } from '../../errors.ts';
import type { CancelTimer, Environment } from '../../interfaces/environment.ts';
import type { ClaimValue } from '../../interfaces/register.ts';
import type { Action, EndName, TimelineEntry } from './scenario.ts';
import type { StepName } from './steps.ts';
import type { VmState } from './vm-events.ts';

interface Pending {
  readonly entry: TimelineEntry;
  /** Steps that are still to come before it. */
  stepsLeft: number;
  done: boolean;
}

/** Brings a scenario's timeline about: is told of everything that an entry may wait for. */
export class Timeline {
  readonly #environment: Environment;
  readonly #perform: (action: Action) => void;
  readonly #pending: Pending[];
  readonly #armed = new Set<CancelTimer>();
  #idle: () => void = () => {};
  #ended = false;

  constructor(
    environment: Environment,
    entries: readonly TimelineEntry[],
    perform: (action: Action) => void,
  ) {
    this.#environment = environment;
    this.#perform = perform;
    this.#pending = entries.map((entry) => ({
      entry,
      stepsLeft: 'step' in entry.at ? (entry.at.nth ?? 1) : 0,
      done: false,
    }));
  }

  /** Time begins. */
  start(): void {
    for (const one of this.#pending) if ('ms' in one.entry.at) this.#arm(one, one.entry.at.ms);
  }

  /** Nothing more happens. */
  end(): void {
    this.#ended = true;
    for (const cancel of this.#armed) cancel();
    this.#armed.clear();
    this.#idle();
  }

  /** Resolves once no entry waits for a time: others may still wait for what never comes. */
  quiet(): Promise<void> {
    return new Promise((resolve) => {
      this.#idle = () => {
        if (this.#armed.size === 0) resolve();
      };
      this.#idle();
    });
  }

  phase(end: EndName, phase: Phase): void {
    this.#meets(({ at }) =>
      'phase' in at && at.end === end && at.phase === phase ? (at.afterMs ?? 0) : undefined,
    );
  }

  state(host: EndName, state: VmState): void {
    this.#meets(({ at }) =>
      'state' in at && at.host === host && at.state === state ? (at.afterMs ?? 0) : undefined,
    );
  }

  claim(value: ClaimValue): void {
    this.#meets(({ at }) => ('claim' in at && at.claim === value ? (at.afterMs ?? 0) : undefined));
  }

  /** What waits for a step comes before it, at once. */
  step(end: EndName, step: StepName): void {
    for (const one of this.#pending) {
      const { at } = one.entry;
      if (one.done || !('step' in at) || at.end !== end || (at.step !== 'any' && at.step !== step)) continue;
      one.stepsLeft--;
      if (one.stepsLeft > 0) continue;
      if (at.afterMs === undefined) this.#do(one);
      else this.#arm(one, at.afterMs);
    }
  }

  #meets(delayOf: (entry: TimelineEntry) => number | undefined): void {
    for (const one of this.#pending) {
      const delayMs = one.done ? undefined : delayOf(one.entry);
      if (delayMs !== undefined) this.#arm(one, delayMs);
    }
  }

  #arm(one: Pending, delayMs: number): void {
    if (this.#ended) return;
    one.done = true;
    const cancel = this.#environment.setTimer(delayMs, () => {
      this.#armed.delete(cancel);
      this.#do(one);
      this.#idle();
    });
    this.#armed.add(cancel);
  }

  #do(one: Pending): void {
    one.done = true;
    if (!this.#ended) this.#perform(one.entry.do);
  }
}
