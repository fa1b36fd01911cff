import type { Phase } from '../errors.ts';

/** What a thread had of its processors, since it began: in ms. */
export interface ProcessorTime {
  readonly ranMs: number;
  /** For how long it could have run, and another one did. */
  readonly waitedMs: number;
}

/** What {@link Yielding} works with. */
export interface YieldingOptions {
  /** The niceness in all phases but those that copy. */
  readonly usual: number;
  /** Sets it for all threads that yield. */
  readonly setNiceness: (niceness: number) => void;
  /** What the engine's thread had so far; undefined where the system does not tell. */
  readonly processorTime: () => ProcessorTime | undefined;
}

/** A seventieth of what a guest's processor gets, where both want the same one; what nobody else wants is had all the same. */
export const farBehind = 19;
/** A tenth of it: for a host that leaves nothing, where a migration would come to no end. */
export const behind = 10;
/** Less than this of what it could have run is nothing. Beside one other thread a niceness of 19 brings a seventieth, one of 10 a tenth. */
const shareMin = 1 / 16;
/** Of a thread that wanted less than this since it was looked at last nothing is known. */
const wantedMsMin = 250;
/** Background work: a guest runs meanwhile. In all other phases one stands still, or is waited for. */
const copying: ReadonlySet<Phase> = new Set(['copyDisks', 'copyMemory']);

/**
 * How far a migration goes behind the guests of its host: far while it copies, unless that leaves it nothing; then less far, until the next phase. Does no I/O of its own,
 * and has no clock.
 */
export class Yielding {
  readonly #options: YieldingOptions;
  /** While it is far behind: what its thread had when it was looked at last. */
  #last: ProcessorTime | undefined;

  constructor(options: YieldingOptions) {
    this.#options = options;
  }

  /** A phase begins. */
  phase(phase: Phase): void {
    const { usual, setNiceness, processorTime } = this.#options;
    this.#last = copying.has(phase) ? processorTime() : undefined;
    if (!copying.has(phase)) setNiceness(usual);
    else setNiceness(usual + (this.#last === undefined ? behind : farBehind));
  }

  /** To be called about once a second. */
  look(): void {
    const { usual, setNiceness, processorTime } = this.#options;
    const last = this.#last;
    if (last === undefined) return;
    const now = processorTime() ?? last;
    const ranMs = now.ranMs - last.ranMs;
    const wantedMs = ranMs + now.waitedMs - last.waitedMs;
    if (wantedMs < wantedMsMin) return;
    this.#last = now;
    if (ranMs >= shareMin * wantedMs) return;
    this.#last = undefined;
    setNiceness(usual + behind);
  }
}
