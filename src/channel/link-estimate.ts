/** The least time between two rate samples: acknowledgements come in bursts a few milliseconds apart. */
const sampleMsMin = 20;
/**
 * What can only show how much the link can do at least is looked at from the pause before it, or over so long: of frames that arrive close
 * together the last ones alone would look far too fast.
 */
const busyMsMax = 1000;
/**
 * What is assumed of a link before anything was measured: 250 Mbit/s, the least that a long-distance migration is usually said to
 * need.
 */
export const bytesPerSecondAssumed = 250e6 / 8;
/** How much of what a sample weighs is left when the next one comes: about eight of them are looked back on, which is what is carried lately. */
const sampleKept = 0.88;
/**
 * The rate is that of so many round trips at least: connections that lose packets, or look for the smallest round trip, carry now half and now twice as much.
 */
const rateRoundTrips = 10;
/**
 * What is carried lately being so many times as much, the link was not filled before, and that says nothing; nor does it where that is so little of it: it has become slow. A short stall is neither.
 */
const filledGain = 1.5;
const slowedShare = 0.4;
/**
 * Of a full link as much is sent as it carries, and were that taken for a little more than its rate, it would look as if ever more waited in front of it.
 */
const carriedShare = 1.1;
/** A link that holds less holds a few frames, of which some arrive close together and some far apart: that there are some on it says little. */
const heldBytesMin = 1 << 20;
/** So many times what it can hold, round trips being as they are now, are more than a guest has on it that writes less than it carries: one that became longer holds more. */
const fullGain = 1.5;
/** So much of a longer round trip counts at once: a single one may have met a busy processor, or a lost packet. */
const longerShare = 1 / 3;

/** What the channel knows of its link, from round trips and acknowledgements. Pure: the clock comes in as an argument. */
export class LinkEstimate {
  #roundTripMs = Number.POSITIVE_INFINITY;
  #recentRoundTripMs = Number.POSITIVE_INFINITY;
  readonly #rate = new Carried();
  readonly #lately = new Carried();
  #pendingBytes = 0;
  #sampleStartMs: number | undefined;
  #starved = false;
  /** What was sent since the last pause, or in the last {@link busyMsMax}, and has arrived. */
  #busyStartMs = 0;
  #busyBytes = 0;
  /** What was sent and is still ahead of what is sent next, at that time: the link carries it off at its rate. */
  #aheadBytes = 0;
  #aheadMs = 0;

  /** The smallest round trip seen, in ms; 0 if none was. */
  get roundTripMs(): number {
    return Number.isFinite(this.#roundTripMs) ? this.#roundTripMs : 0;
  }

  /** What the link carried while we had more to send, over the last ten round trips or eight samples, or at least; undefined while nothing better than the assumed is known. */
  get bytesPerSecond(): number | undefined {
    return this.#rate.bytesPerSecond;
  }

  /** The same of the last eight samples. */
  get latelyBytesPerSecond(): number | undefined {
    return this.#lately.bytesPerSecond;
  }

  /** By how much round trips are longer now than the smallest, in ms: the queue in front of the link. */
  get queueMs(): number {
    return Number.isFinite(this.#recentRoundTripMs) ? this.#recentRoundTripMs - this.#roundTripMs : 0;
  }

  roundTrip(ms: number): void {
    const trip = Math.max(0.01, ms);
    this.#roundTripMs = Math.min(this.#roundTripMs, trip);
    const recent = Math.min(this.#recentRoundTripMs, trip);
    this.#recentRoundTripMs = recent + longerShare * (trip - recent);
  }

  /**
   * Something was sent. After a pause the sample begins here, not at the first acknowledgement: frames that share a slow link arrive close
   * together, and their time on it would be missing. (So a short burst looks slower than the link, by its round trip, never faster.)
   */
  sent(nowMs: number, bytes = 0): void {
    this.#carryOff(nowMs);
    this.#aheadBytes += bytes;
    if (this.#sampleStartMs !== undefined) return;
    this.#sampleStartMs = nowMs;
    this.#busyStartMs = nowMs;
    this.#busyBytes = 0;
    // The pause itself says nothing of what comes now.
    this.#starved = false;
  }

  /** `newBytes` were acknowledged; `inFlightBytes` are on their way still. */
  acknowledged(newBytes: number, nowMs: number, inFlightBytes: number): void {
    this.sent(nowMs);
    this.#pendingBytes += newBytes;
    this.#busyBytes += newBytes;
    this.#aheadBytes = Math.min(this.#aheadBytes, inFlightBytes);
    const elapsedMs = nowMs - (this.#sampleStartMs ?? nowMs);
    if (elapsedMs < Math.max(sampleMsMin, this.roundTripMs / 4)) return;
    this.#endSample(nowMs, elapsedMs);
    if (nowMs - this.#busyStartMs < busyMsMax) return;
    this.#busyStartMs = nowMs;
    this.#busyBytes = -inFlightBytes;
  }

  /**
   * What of all that is on its way, `inFlightBytes`, waits in front of the link, and so delays what is sent next: what the link cannot hold at once, or, of a burst,
   * what it has not had the time to take.
   */
  aheadBytes(nowMs: number, inFlightBytes: number): number {
    this.#carryOff(nowMs);
    const heldBytes = this.#heldBytes;
    return Math.min(Math.max(this.#aheadBytes, inFlightBytes - heldBytes), inFlightBytes);
  }

  /** What is on a link that is full and has no queue; 0 while nothing was measured. */
  get #heldBytes(): number {
    return ((this.bytesPerSecond ?? 0) * this.roundTripMs) / 1000;
  }

  #carryOff(nowMs: number): void {
    const bytesPerMs = (this.bytesPerSecond ?? bytesPerSecondAssumed) / 1000;
    this.#aheadBytes = Math.max(0, this.#aheadBytes - carriedShare * bytesPerMs * (nowMs - this.#aheadMs));
    this.#aheadMs = nowMs;
  }

  /** The link was gone: what was on its way then says nothing of it. */
  interrupted(): void {
    this.#sampleStartMs = undefined;
    this.#pendingBytes = 0;
    this.#starved = false;
  }

  /**
   * There was room on the connections and nothing to send, with `inFlightBytes` on their way. Where that is half as much again as the link can hold it has work nonetheless; were only those
   * samples counted in which no connection has room, those in which packets were lost would be the most of them.
   */
  starved(inFlightBytes: number): void {
    const holdsNow = fullGain * (this.bytesPerSecond ?? 0) * (this.#recentRoundTripMs / 1000);
    if (this.#heldBytes < heldBytesMin || inFlightBytes < holdsNow) this.#starved = true;
  }

  /** Everything has arrived: the time until the next is sent says nothing of the link. */
  idle(nowMs: number): void {
    const elapsedMs = nowMs - (this.#sampleStartMs ?? nowMs);
    // What shows the least a link can do is looked at over all the time that it took, not over the last sample alone: that may have begun a moment ago.
    const countsMs = this.#starved ? nowMs - this.#busyStartMs : elapsedMs;
    if (countsMs >= sampleMsMin) this.#endSample(nowMs, elapsedMs);
    this.#sampleStartMs = undefined;
    this.#pendingBytes = 0;
    this.#starved = false;
  }

  #endSample(nowMs: number, elapsedMs: number): void {
    const bytes = this.#pendingBytes;
    if (this.#starved) this.#atLeast(nowMs - this.#busyStartMs);
    else this.#carried(bytes, elapsedMs);
    this.#pendingBytes = 0;
    this.#sampleStartMs = nowMs;
    this.#starved = false;
  }

  /**
   * Of a link that had room we see what we sent, and no more than that it can do as much. A guest that writes a little all the time must
   * not make it look slow: it would never have enough to send to show the contrary. What was sent in the last round trip cannot have arrived, so over a time
   * that is much longer that does not count: a link of 200 ms would look slower by a fifth over a second, and never faster again.
   */
  #atLeast(busyMs: number): void {
    const known = this.bytesPerSecond ?? bytesPerSecondAssumed;
    const sendingMs = busyMs < busyMsMax / 2 ? busyMs : Math.max(busyMs - this.roundTripMs, busyMs / 2);
    if ((this.#busyBytes / sendingMs) * 1000 > known) this.#carried(this.#busyBytes, sendingMs);
  }

  #carried(bytes: number, ms: number): void {
    const lately = this.#lately;
    lately.add(bytes, ms, sampleKept);
    this.#rate.add(bytes, ms, Math.max(sampleKept, Math.exp(-ms / (rateRoundTrips * this.roundTripMs))));
    const [now = 0, known = 0] = [lately.bytesPerSecond, this.#rate.bytesPerSecond];
    if (now > filledGain * known || now < slowedShare * known) this.#rate.become(lately);
  }
}

/**
 * What samples carried, and in what time, the older ones fading. Bytes and time each for itself: on a slow link whole frames are acknowledged, some close together and some far
 * apart, and the mean of their rates would be far above the rate.
 */
class Carried {
  #bytes = 0;
  #ms = 0;

  /** Undefined before there was a sample. */
  get bytesPerSecond(): number | undefined {
    return this.#ms === 0 ? undefined : (1000 * this.#bytes) / this.#ms;
  }

  /** `kept`: of what the samples before weigh. */
  add(bytes: number, ms: number, kept: number): void {
    this.#bytes = kept * this.#bytes + bytes;
    this.#ms = kept * this.#ms + ms;
  }

  become(other: Carried): void {
    this.#bytes = other.#bytes;
    this.#ms = other.#ms;
  }
}
