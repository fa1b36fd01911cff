/** What is known of the channel when it is asked how many lanes it should have. */
export interface LaneFigures {
  readonly nowMs: number;
  /** Lanes there are, or that are being opened. */
  readonly lanes: number;
  /** What the link carries; undefined while nothing was measured. */
  readonly bytesPerSecond: number | undefined;
  /** What all lanes together carried just now. */
  readonly latestBytesPerSecond: number;
  /** The smallest round trip, and by how much those of now are longer: the queue in front of the link. */
  readonly roundTripMs: number;
  readonly queueMs: number;
  /** Since it was asked last there was always something to send. */
  readonly busy: boolean;
}

/**
 * What one connection has on its way at the most on an untuned host: Linux gives a socket 4 MiB to send (`tcp_wmem`), of which its own
 * bookkeeping takes a part.
 */
const laneBytesMax = 1.5 * 2 ** 20;
/** How many there are at first, at the least and at the most ... */
const firstMin = 4;
const firstMax = 16;
/** ... and the rate that they are to be enough for: slow starts side by side are over sooner. */
const firstBytesPerSecond = 1e9 / 8;
/** How many there are at the most: what 4 Gbit/s takes over 200 ms. More than that nobody has measured the use of. */
const lanesMax = 64;
/** How long it takes at the least until more are opened than were just now, in ms and round trips: they start slowly. */
const growMsMin = 250;
const growRoundTrips = 3;
/** How long new lanes have until it is looked at what they brought: they have to start slowly. */
const settleMsMin = 1000;
const settleRoundTrips = 8;
/** Twice as many lanes that do not carry so much more are not worth it. */
const usefulGain = 1.15;
/** How long after a trial that brought nothing the next one comes: at first, and at most. */
const pauseMsFirst = 10_000;
const pauseMsMax = 320_000;
/** A queue of so many ms, or of this part of a round trip, says that the link is full: more lanes would only lengthen it. */
const queueMsMax = 3;
const queueRoundTrips = 0.05;

/** How many lanes to begin with: what 1 Gbit/s takes over this round trip, 4 to 16, and one for each path. */
export function lanesAtFirst(roundTripMs: number, paths: number): number {
  return Math.max(paths, firstMin, Math.min(firstMax, lanesFor(firstBytesPerSecond, roundTripMs)));
}

function lanesFor(bytesPerSecond: number, roundTripMs: number): number {
  return Math.ceil((bytesPerSecond * roundTripMs) / 1000 / laneBytesMax);
}

/**
 * How many lanes a channel should have. Where a queue shows that the link is full, as many as there are. What is known to need more gets them: a
 * bandwidth-delay product that is more than the sockets hold. Otherwise it is tried out now and then, as it may lose packets, or be shared by connections: twice as
 * many, and those that did not carry more are closed again. Pure: the clock comes in with the figures.
 */
export class LaneCount {
  #trial: { readonly startMs: number; readonly lanes: number; readonly bytesPerSecond: number } | undefined;
  #nextTrialMs: number | undefined;
  #pauseMs = pauseMsFirst;
  #growMs = Number.NEGATIVE_INFINITY;
  /** After one could not be opened. */
  #notBeforeMs = Number.NEGATIVE_INFINITY;
  #failurePauseMs = pauseMsFirst;

  /** How many there should be from now on. */
  look(figures: LaneFigures): number {
    const { nowMs, lanes, bytesPerSecond, latestBytesPerSecond, roundTripMs, busy } = figures;
    if (nowMs < this.#notBeforeMs) return lanes;
    const settleMs = Math.max(settleMsMin, settleRoundTrips * roundTripMs);
    this.#nextTrialMs ??= nowMs + settleMs;
    if (bytesPerSecond === undefined || !busy) {
      // What is carried now says nothing of the lanes: those on trial may stay.
      this.#trial = undefined;
      this.#nextTrialMs = Math.max(this.#nextTrialMs, nowMs + settleMs);
      return lanes;
    }
    const needed = Math.min(lanesMax, 2 * lanes, lanesFor(latestBytesPerSecond, roundTripMs));
    const full = figures.queueMs > Math.max(queueMsMax, queueRoundTrips * roundTripMs);
    if (full && this.#trial === undefined) return lanes;
    if (needed > lanes && !full) {
      if (nowMs < this.#growMs) return lanes;
      this.#growMs = nowMs + Math.max(growMsMin, growRoundTrips * roundTripMs);
      this.#trial = undefined;
      this.#nextTrialMs = nowMs + settleMs;
      return needed;
    }
    return this.#try(figures, bytesPerSecond, settleMs);
  }

  /** One could not be opened: for some time, longer each time, none is asked for. */
  failed(nowMs: number): void {
    // Those that were dialled together failed together.
    if (nowMs < this.#notBeforeMs) return;
    this.#notBeforeMs = nowMs + this.#failurePauseMs;
    this.#failurePauseMs = Math.min(pauseMsMax, 2 * this.#failurePauseMs);
  }

  #try({ nowMs, lanes }: LaneFigures, bytesPerSecond: number, settleMs: number): number {
    const trial = this.#trial;
    if (trial === undefined) {
      if (nowMs < (this.#nextTrialMs ?? nowMs) || lanes >= lanesMax) return lanes;
      this.#trial = { startMs: nowMs, lanes, bytesPerSecond };
      return Math.min(lanesMax, 2 * lanes);
    }
    if (nowMs - trial.startMs < settleMs) return lanes;
    this.#trial = undefined;
    if (bytesPerSecond >= usefulGain * trial.bytesPerSecond) {
      this.#pauseMs = pauseMsFirst;
      this.#nextTrialMs = nowMs;
      return lanes;
    }
    this.#nextTrialMs = nowMs + this.#pauseMs;
    this.#pauseMs = Math.min(pauseMsMax, 2 * this.#pauseMs);
    return trial.lanes;
  }
}
