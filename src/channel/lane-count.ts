/** What is known of the channel when it is asked how many lanes it should have. */
export interface LaneFigures {
  readonly nowMs: number;
  /** Lanes there are, or that are being opened. */
  readonly lanes: number;
  /** Of these, that are being opened. */
  readonly opening: number;
  /** What the link carries; undefined while nothing was measured. */
  readonly bytesPerSecond: number | undefined;
  /** What all lanes together carried just now. */
  readonly latestBytesPerSecond: number;
  /** The smallest round trip, and by how much those of now are longer: the queue in front of the link. */
  readonly roundTripMs: number;
  readonly queueMs: number;
  /** There is more to send than the lanes take. */
  readonly busy: boolean;
  /** As much is on its way as the link takes without a queue. */
  readonly full: boolean;
  /** The network loses packets by itself. */
  readonly loses: boolean;
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
/** How many there are at the most. */
const lanesMax = 256;
/** So many more are opened at once, at the most: no listener resets them for being too many (TCP's keeps 64 waiting). */
export const openMax = 48;
/** How long it takes at the least until more are opened than were just now, in ms and round trips: they start slowly. */
const growMsMin = 250;
const growRoundTrips = 3;
/** How long a slow start may take, in ms and round trips: that of the lanes there are before others are tried, and theirs then. */
const settleMsMin = 500;
const settleRoundTrips = 8;
/** A rate that becomes so much higher is on the way up by itself. */
const risingGain = 1.25;
/** How many times as many lanes are tried out. */
const trialFactor = 4;
/** More lanes have to carry more: this part of what they would if each carried what each did before. */
const usefulShare = 0.3;
/** How long after a trial that brought nothing the next one comes: at first, and at most. */
const pauseMsFirst = 1000;
const pauseMsMax = 320_000;
/** How long none is asked for after one could not be opened, at first. */
const failurePauseMsFirst = 10_000;
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

/** More lanes, and what the link carried before there were. */
interface Trial {
  readonly lanes: number;
  readonly bytesPerSecond: number;
  /** When all of them were there; undefined while some are being opened. */
  startMs: number | undefined;
}

/**
 * How many lanes a channel should have. Where a queue shows that the link is full, as many as there are. What is known to need more gets them: a
 * bandwidth-delay product that is more than the sockets hold. Where neither is so and the rate has stopped rising, something else holds each lane
 * back, as lost packets do, or a limit on each connection. Nobody here can see what; so more lanes are tried out, again and again while they carry
 * what as many should, and are closed if they do not. Pure: the clock comes in with the figures.
 */
export class LaneCount {
  #trial: Trial | undefined;
  /** The highest rate since the last trial, and when it was reached. */
  #highBytesPerSecond = 0;
  #highMs = Number.NEGATIVE_INFINITY;
  /** When a queue was there last. */
  #fullMs = Number.NEGATIVE_INFINITY;
  #nextTrialMs = Number.NEGATIVE_INFINITY;
  #pauseMs = pauseMsFirst;
  #growMs = Number.NEGATIVE_INFINITY;
  /** After one could not be opened. */
  #notBeforeMs = Number.NEGATIVE_INFINITY;
  #failurePauseMs = failurePauseMsFirst;

  /** How many there should be from now on. */
  look(figures: LaneFigures): number {
    const { nowMs, lanes, bytesPerSecond, latestBytesPerSecond, roundTripMs, busy, loses } = figures;
    if (nowMs < this.#notBeforeMs) return lanes;
    const settleMs = Math.max(settleMsMin, settleRoundTrips * roundTripMs);
    if (bytesPerSecond === undefined || !busy) {
      // What is carried now says nothing of the lanes: those on trial may stay, until that is seen.
      if (this.#trial === undefined) this.#rose(nowMs, 0);
      else this.#trial.startMs = undefined;
      return lanes;
    }
    if (bytesPerSecond > risingGain * this.#highBytesPerSecond) this.#rose(nowMs, bytesPerSecond);
    if (figures.full || figures.queueMs > Math.max(queueMsMax, queueRoundTrips * roundTripMs))
      this.#fullMs = nowMs;
    // A connection that has filled a queue may leave it empty for a while, when that has lost something. Where the network loses packets that is for a moment only: then they are slow for another reason.
    const full = nowMs - this.#fullMs < (loses ? growRoundTrips * roundTripMs : settleMs);
    if (this.#trial !== undefined)
      return this.#judge(this.#trial, figures, { bytesPerSecond, full, settleMs });
    if (full) return lanes;
    const needed = Math.min(lanesMax, 2 * lanes, lanesFor(latestBytesPerSecond, roundTripMs));
    if (needed > lanes) {
      if (nowMs < this.#growMs) return lanes;
      this.#growMs = nowMs + Math.max(growMsMin, growRoundTrips * roundTripMs);
      this.#rose(nowMs, bytesPerSecond);
      return needed;
    }
    // Connections that lose packets become no faster by themselves.
    const rising = !loses && nowMs - this.#highMs < settleMs;
    if (rising || nowMs < this.#nextTrialMs || lanes >= lanesMax) return lanes;
    this.#trial = { lanes, bytesPerSecond, startMs: undefined };
    return Math.min(lanesMax, loses ? lanesMax : trialFactor * lanes, lanes + openMax);
  }

  /** One could not be opened: for some time, longer each time, none is asked for. */
  failed(nowMs: number): void {
    // Those that were dialled together failed together.
    if (nowMs < this.#notBeforeMs) return;
    this.#notBeforeMs = nowMs + this.#failurePauseMs;
    this.#failurePauseMs = Math.min(pauseMsMax, 2 * this.#failurePauseMs);
  }

  #rose(nowMs: number, bytesPerSecond: number): void {
    this.#highBytesPerSecond = bytesPerSecond;
    this.#highMs = nowMs;
  }

  #judge(
    trial: Trial,
    { nowMs, lanes, opening, loses }: LaneFigures,
    { bytesPerSecond, full, settleMs }: { bytesPerSecond: number; full: boolean; settleMs: number },
  ): number {
    if (opening > 0) return lanes;
    trial.startMs ??= nowMs;
    if (nowMs - trial.startMs < settleMs) return lanes;
    this.#trial = undefined;
    this.#highBytesPerSecond = bytesPerSecond;
    const worth = trial.bytesPerSecond * (1 + usefulShare * (lanes / trial.lanes - 1));
    // Where they have filled the link each of them cannot carry as much; that it carries more is enough.
    const enough = full && loses ? Math.min(worth, risingGain * trial.bytesPerSecond) : worth;
    if (bytesPerSecond >= enough) {
      this.#pauseMs = pauseMsFirst;
      return lanes;
    }
    this.#nextTrialMs = nowMs + this.#pauseMs;
    this.#pauseMs = Math.min(pauseMsMax, 2 * this.#pauseMs);
    return trial.lanes;
  }
}
