import { type ConvergenceVerdict, roundPauseMs } from './convergence.ts';

/**
 * The wait between two rounds: as long as the verdict says, and no shorter than the pause. One for the queue lasts for a round trip at least, if nothing comes back before: sooner nobody could see that it is shorter. Before the rest fits it is over when the queue is shorter by what the link was taken to carry in that
 * time: one that carries more has done so sooner, and would have nothing to do for the rest of it. Where the queue is less than that, it is for something else that it is waited. Once all fits, it is over when
 * there is no queue, and nothing is late. Pure: the clock comes in as an argument.
 */
export class RoundWait {
  readonly untilMs: number;
  readonly #enoughBytes: number;
  readonly #fits: boolean;

  /** It begins, with so much in the queue as the verdict was given by. `roundTripMs`: of the channel. */
  constructor(
    { fits, waitMs, sendBytesPerSecond }: Pick<ConvergenceVerdict, 'fits' | 'waitMs' | 'sendBytesPerSecond'>,
    nowMs: number,
    queuedBytes: number,
    roundTripMs: number,
  ) {
    this.#enoughBytes = fits ? 0 : Math.round(queuedBytes - (waitMs * sendBytesPerSecond) / 1000);
    const forQueue = !fits && waitMs > 0 && this.#enoughBytes >= 0;
    this.untilMs = nowMs + Math.max(roundPauseMs, waitMs, forQueue ? roundTripMs : 0);
    this.#fits = fits;
  }

  /** Whether it is over, with so much in the queue, and the oldest of what is on its way late by `lateMs`. */
  isOver(nowMs: number, queuedBytes: number, lateMs: number): boolean {
    return nowMs >= this.untilMs || (queuedBytes <= this.#enoughBytes && !(this.#fits && lateMs > 0));
  }
}
