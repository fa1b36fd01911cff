interface Sample {
  readonly atMs: number;
  readonly bytesPerSecond: number;
}

/** The least time between two rate samples: acknowledgements come in bursts a few milliseconds apart. */
const sampleMsMin = 20;
/** For how long a rate sample counts towards the window. */
const sampleLifeMs = 1000;
/**
 * What is assumed of a link before anything was measured: 250 Mbit/s, the least that a long-distance migration is usually said to
 * need.
 */
export const bytesPerSecondAssumed = 250e6 / 8;
/** How much of what a sample weighs in the rate is left when the next one comes: it looks back over about eight of them. */
const rateDecay = 0.88;
/** What is always allowed on its way: a few frames for each connection, so that the first samples mean something. */
export const windowBytesMin = 2 << 20;
/**
 * The window over the bandwidth-delay product. Two, so that it doubles each round trip while the measured rate still grows (as BBR's
 * startup does), and half of it stands in queues afterwards.
 */
const windowGain = 2;
/** Acknowledgements are held back for a moment (see `positionsDelayMs` in the channel); that is part of the delay to fill. */
const acknowledgementMs = 4;

/** What the channel knows of its link, from round trips and acknowledgements. Pure: the clock comes in as an argument. */
export class LinkEstimate {
  readonly #windowBytesMax: number;
  #roundTripMs = Number.POSITIVE_INFINITY;
  #samples: Sample[] = [];
  /** What the samples that count for the rate carried, and in what time, the older ones fading. */
  #carriedBytes = 0;
  #carriedMs = 0;
  #pendingBytes = 0;
  #sampleStartMs: number | undefined;
  #starved = false;

  constructor(windowBytesMax: number) {
    this.#windowBytesMax = windowBytesMax;
  }

  /** The smallest round trip seen, in ms; 0 if none was. */
  get roundTripMs(): number {
    return Number.isFinite(this.#roundTripMs) ? this.#roundTripMs : 0;
  }

  /** What the link carried lately while we had more to send, or at least; undefined while nothing better than the assumed is known. */
  get bytesPerSecond(): number | undefined {
    return this.#carriedMs === 0 ? undefined : (this.#carriedBytes / this.#carriedMs) * 1000;
  }

  /** How many bytes may be on their way. */
  get windowBytes(): number {
    let fastest = 0;
    for (const sample of this.#samples) fastest = Math.max(fastest, sample.bytesPerSecond);
    const product = (fastest / 1000) * (this.roundTripMs + acknowledgementMs);
    return Math.min(this.#windowBytesMax, windowBytesMin + windowGain * product);
  }

  roundTrip(ms: number): void {
    this.#roundTripMs = Math.min(this.#roundTripMs, Math.max(0.01, ms));
  }

  /** `newBytes` were acknowledged. */
  acknowledged(newBytes: number, nowMs: number): void {
    // The first ones after a pause have been on their way since before the sample began.
    if (this.#sampleStartMs === undefined) {
      this.#sampleStartMs = nowMs;
      return;
    }
    this.#pendingBytes += newBytes;
    const elapsedMs = nowMs - this.#sampleStartMs;
    if (elapsedMs < Math.max(sampleMsMin, this.roundTripMs / 4)) return;
    const bytes = this.#pendingBytes;
    const bytesPerSecond = (bytes / elapsedMs) * 1000;
    this.#pendingBytes = 0;
    this.#sampleStartMs = nowMs;
    const lifeMs = Math.max(sampleLifeMs, 10 * this.roundTripMs);
    this.#samples = this.#samples.filter((sample) => nowMs - sample.atMs < lifeMs);
    this.#samples.push({ atMs: nowMs, bytesPerSecond });
    const starved = this.#starved;
    this.#starved = false;
    // Of a link that had room the sample tells what we sent, and no more than that the link can do as much. A guest that writes a little
    // all the time must not make it look slow: it would never have enough to send to show the contrary.
    if (starved && bytesPerSecond <= (this.bytesPerSecond ?? bytesPerSecondAssumed)) return;
    // Bytes and time each for itself: on a slow link whole frames are acknowledged, some close together and some far apart, and the mean
    // of their rates would be far above the rate.
    this.#carriedBytes = rateDecay * this.#carriedBytes + bytes;
    this.#carriedMs = rateDecay * this.#carriedMs + elapsedMs;
  }

  /** There was room on the link and nothing to send. */
  starved(): void {
    this.#starved = true;
  }

  /** Nothing is on its way: the time until the next acknowledgement says nothing of the link. */
  idle(): void {
    this.#sampleStartMs = undefined;
    this.#pendingBytes = 0;
    this.#starved = false;
  }
}
