/** What is always allowed on its way on a lane: a frame, and the first acknowledgements mean something. */
const windowBytesMin = 256 << 10;
/**
 * The window over the bandwidth-delay product. Two, so that it doubles each round trip while the measured rate still grows (as BBR's
 * startup does), and half of it stands in queues afterwards.
 */
const windowGain = 2;
/**
 * The window at first. As long as the lane becomes faster, it grows by what is acknowledged, and so doubles with each round trip, as that of the
 * connection's own slow start does.
 */
const startBytes = 512 << 10;
/** It has become faster if by so much ... */
const risingGain = 1.25;
/** ... and no more if not for so long, in ms and round trips. */
const risingMsMin = 100;
const risingRoundTrips = 3;
/** Acknowledgements are held back for a moment (see `positionsDelayMs` in the channel); that is part of the delay to fill. */
const acknowledgementMs = 4;
/** The least time between two samples: acknowledgements come in bursts a few milliseconds apart. */
const sampleMsMin = 20;
/** With nothing on its way for longer, in ms or a quarter of a round trip, a lane has paused, which says nothing of its rate. */
const pauseMsMin = 2;
/** For how long a sample counts, and for how many round trips. */
const sampleLifeMs = 1000;
const sampleLifeRoundTrips = 10;
/** For how long a lane is believed to be alive of which nothing is heard, and for how many round trips more. */
const patienceMsMin = 200;
const patienceRoundTrips = 4;

/**
 * How fast a lane is, and how much may be on its way on it: the fastest rate lately times its round trip, twice. From our own
 * acknowledgements, for what a connection holds in the kernel nobody here can see. Pure: the clock comes in as an argument.
 */
export class LaneWindow {
  /** From the lane's greeting to its answer, in ms; 0 at the end that answered. */
  readonly greetingMs: number;
  /** The round trip that is reckoned with. */
  readonly roundTripMs: number;
  #samples: { readonly atMs: number; readonly bytesPerSecond: number }[] = [];
  #fastest = 0;
  #startMs = 0;
  #lastMs = Number.NEGATIVE_INFINITY;
  #heardMs = Number.NEGATIVE_INFINITY;
  #pendingBytes = 0;
  /** The window of its start; undefined when that is over. */
  #startingBytes: number | undefined = startBytes;
  /** The highest rate by then, and when it was reached. */
  #highest = 0;
  #highestMs = Number.POSITIVE_INFINITY;

  constructor(greetingMs: number) {
    this.greetingMs = greetingMs;
    this.roundTripMs = Math.max(0.01, greetingMs);
  }

  /** The fastest of the last samples, in bytes per second; 0 if there is none. */
  get bytesPerSecond(): number {
    return this.#fastest;
  }

  /** The last sample, in bytes per second; 0 if there is none. */
  get latestBytesPerSecond(): number {
    return this.#samples.at(-1)?.bytesPerSecond ?? 0;
  }

  /** As much has arrived as may be on its way at first: that takes long while the connection's own slow start lasts, with nothing that was lost. */
  get hasStarted(): boolean {
    return (this.#startingBytes ?? Number.POSITIVE_INFINITY) >= 2 * startBytes;
  }

  /** How many bytes it would take on their way. */
  get bytes(): number {
    const bytes =
      windowBytesMin + windowGain * (this.#fastest / 1000) * (this.roundTripMs + acknowledgementMs);
    return Math.max(bytes, this.#startingBytes ?? 0);
  }

  /**
   * When, in ms from now, so many bytes will have arrived that are on their way or to be sent; undefined if nobody can tell: it has no rate
   * yet, or nothing has come back for so long that it may be dead.
   */
  deliveryMs(bytes: number, nowMs: number): number | undefined {
    const patienceMs = patienceMsMin + patienceRoundTrips * this.roundTripMs;
    if (this.#fastest === 0 || (bytes > 0 && nowMs - this.#heardMs > patienceMs)) return undefined;
    return this.roundTripMs / 2 + (1000 * bytes) / this.#fastest;
  }

  /** Something is being sent, with nothing else on its way: after a pause, a sample begins here. */
  begin(nowMs: number): void {
    if (nowMs - this.#lastMs < Math.max(pauseMsMin, this.roundTripMs / 4)) return;
    this.#startMs = nowMs;
    this.#pendingBytes = 0;
  }

  /** Something was acknowledged that says nothing of the lane but that it is alive. */
  heard(nowMs: number): void {
    this.#heardMs = nowMs;
  }

  /** So many bytes were acknowledged. */
  acknowledged(bytes: number, nowMs: number): void {
    this.heard(nowMs);
    this.#pendingBytes += bytes;
    if (this.#startingBytes !== undefined) this.#startingBytes += bytes;
    this.#lastMs = nowMs;
    const elapsedMs = nowMs - this.#startMs;
    if (elapsedMs < Math.max(sampleMsMin, this.roundTripMs / 4)) return;
    const lifeMs = Math.max(sampleLifeMs, sampleLifeRoundTrips * this.roundTripMs);
    this.#samples = this.#samples.filter(({ atMs }) => nowMs - atMs < lifeMs);
    this.#samples.push({ atMs: nowMs, bytesPerSecond: (1000 * this.#pendingBytes) / elapsedMs });
    this.#fastest = Math.max(...this.#samples.map(({ bytesPerSecond }) => bytesPerSecond));
    this.#startMs = nowMs;
    this.#pendingBytes = 0;
    this.#endStart(nowMs);
  }

  /** ... if it has not become faster lately. */
  #endStart(nowMs: number): void {
    if (this.#fastest > risingGain * this.#highest) {
      this.#highest = this.#fastest;
      this.#highestMs = nowMs;
    }
    const patienceMs = Math.max(risingMsMin, risingRoundTrips * this.roundTripMs);
    if (nowMs - this.#highestMs >= patienceMs) this.#startingBytes = undefined;
  }
}
