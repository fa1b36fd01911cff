/** Where the time of a downtime goes. Each moment of it belongs to one part, so that the parts sum up to the whole. */
import type { Environment } from '../interfaces/environment.ts';
import type { DowntimeParts } from '../interfaces/migration.ts';
import type { Durations } from '../wire/messages.ts';

/** The parts, in their order. */
const parts = [
  'quiesce',
  'lastRounds',
  'state',
  'mirror',
  'flight',
  'apply',
  'flush',
  'verify',
  'load',
  'seal',
  'claims',
  'hooks',
  'start',
] as const;

/** One part of a downtime. */
export type DowntimePart = (typeof parts)[number];

/** Gives the time that passes to one part after the other. */
export class Stopwatch {
  readonly #environment: Environment;
  readonly #ms = new Map<string, number>();
  #lastMs: number;

  /** Begins now, or at an earlier moment of the environment's clock. */
  constructor(environment: Environment, startMs = environment.now()) {
    this.#environment = environment;
    this.#lastMs = startMs;
  }

  /** What has passed since the last call, or the beginning, was this part's. */
  lap(part: DowntimePart): void {
    const nowMs = this.#environment.now();
    this.#add(part, nowMs - this.#lastMs);
    this.#lastMs = nowMs;
  }

  /**
   * What has passed since the last call was the other end's, which says what it did in that time: the rest was the flight there and back. Of what it
   * says nothing counts that would not fit in.
   */
  lapOfPeer(said: Durations): void {
    const nowMs = this.#environment.now();
    let leftMs = nowMs - this.#lastMs;
    for (const part of parts) {
      const ms = Math.min(leftMs, Object.hasOwn(said, part) ? (said[part] ?? 0) : 0);
      this.#add(part, ms);
      leftMs -= ms;
    }
    this.#add('flight', leftMs);
    this.#lastMs = nowMs;
  }

  /** So much of the flight is no part of the whole, or, if negative, so much more is. */
  lessFlight(ms: number): void {
    this.#add('flight', -ms);
  }

  /** All parts so far. */
  get durations(): Durations {
    return Object.fromEntries(this.#ms);
  }

  #add(part: string, ms: number): void {
    this.#ms.set(part, (this.#ms.get(part) ?? 0) + ms);
  }
}

/** As a report has them. */
export function downtimeParts(durations: Durations, uncertaintyMs: number): DowntimeParts {
  const of = (part: DowntimePart): number => Math.max(0, durations[part] ?? 0);
  return Object.freeze({
    quiesceMs: of('quiesce'),
    lastRoundsMs: of('lastRounds'),
    stateMs: of('state'),
    mirrorMs: of('mirror'),
    flightMs: of('flight'),
    applyMs: of('apply'),
    flushMs: of('flush'),
    verifyMs: of('verify'),
    loadMs: of('load'),
    sealMs: of('seal'),
    claimsMs: of('claims'),
    hooksMs: of('hooks'),
    startMs: of('start'),
    uncertaintyMs,
  });
}
