/**
 * Shares the memory that a receiver has for what is not applied yet between its streams, as credit. Pure: the clock comes in with the
 * options.
 *
 * Each stream has a base that is always its own. Beyond it, credit follows what a stream applies: twice what it applied in a round trip and the time of a frame, so
 * that it doubles with each round trip while the sender still becomes faster, and fills a link of any length afterwards. A slow disk applies
 * little, and never gets more than its base: it cannot hold what the others need.
 *
 * Credit that was given cannot be taken back; it shrinks as what was sent on it is applied and not given anew, and a sender that does not
 * need it gives it back, or a stream that is over would keep what the next one could use.
 */
import { framePayloadBytesMax } from '../wire/limits.ts';

export interface CreditPoolOptions {
  /** For all streams together. With so many that their bases are more, their bases. */
  readonly totalBytes: number;
  /** How many streams there will be. */
  readonly streams: number;
  readonly now: () => number;
  /** 0: not known. */
  readonly roundTripMs: () => number;
}

/** A base at most: what fills 1 Gbit/s over a quarter of a second without having to grow. */
const baseBytesMax = 32 << 20;
/** What was applied is looked at over so long at least: applying comes in bursts, as disks and event loops do. */
const lookMsMin = 20;
/**
 * How long a frame may be under way beside the round trip, in ms. Where each connection carries little, as with lost packets, there are many, and
 * each has frames that take their time.
 */
const frameMs = 400;
/** How many looks back the fastest is taken from, so that a pause does not cost what was gained. */
const looks = 8;
const gain = 2;

/** What one stream may have on its way. */
export interface CreditShare {
  /** In all, since the start; only grows. What the stream may take is this less what was given back. */
  readonly creditBytes: number;
  /** What was given back in all. */
  readonly returnedBytes: number;
  /** The stream has applied so much more. */
  applied(bytes: number): void;
  /** The sender has given back so much in all. False if it never had so much to give back. */
  returned(bytes: number): boolean;
}

/** See the top of this file. */
export class CreditPool {
  readonly #options: CreditPoolOptions;
  readonly #baseBytes: number;
  readonly #shares: Share[] = [];

  constructor(options: CreditPoolOptions) {
    this.#options = options;
    const equal = options.totalBytes / (2 * options.streams);
    this.#baseBytes = Math.floor(Math.max(framePayloadBytesMax, Math.min(baseBytesMax, equal)));
  }

  /** A share for a new stream. */
  open(): CreditShare {
    const share = new Share(this.#baseBytes, this.#options, () => this.#freeBytes());
    this.#shares.push(share);
    return share;
  }

  /** What no stream has and none is sure to get. */
  #freeBytes(): number {
    let bytes = this.#options.totalBytes;
    for (const { outstandingBytes } of this.#shares) bytes -= Math.max(this.#baseBytes, outstandingBytes);
    return Math.max(0, bytes);
  }
}

class Share implements CreditShare {
  readonly #baseBytes: number;
  readonly #options: CreditPoolOptions;
  readonly #freeBytes: () => number;
  #creditBytes: number;
  #returnedBytes = 0;
  #appliedBytes = 0;
  #lookStartMs: number;
  #lookBytes = 0;
  /** Of the last looks, what was applied in the time from sending a frame to hearing of it. */
  readonly #perRoundTrip: number[] = [];

  constructor(baseBytes: number, options: CreditPoolOptions, freeBytes: () => number) {
    this.#baseBytes = baseBytes;
    this.#options = options;
    this.#freeBytes = freeBytes;
    this.#creditBytes = baseBytes;
    this.#lookStartMs = options.now();
  }

  get creditBytes(): number {
    return this.#creditBytes;
  }

  get returnedBytes(): number {
    return this.#returnedBytes;
  }

  /** Given, and neither given back nor used up by what is applied. */
  get outstandingBytes(): number {
    return this.#creditBytes - this.#returnedBytes - this.#appliedBytes;
  }

  returned(bytes: number): boolean {
    const more = bytes - this.#returnedBytes;
    if (more > this.outstandingBytes) return false;
    this.#returnedBytes += Math.max(0, more);
    return true;
  }

  applied(bytes: number): void {
    this.#look(bytes);
    const target = Math.max(this.#baseBytes, gain * Math.max(0, ...this.#perRoundTrip));
    // While this stream has less than its base, the pool counts the base as taken, and it is.
    const free = Math.max(this.#baseBytes, this.outstandingBytes) + this.#freeBytes();
    this.#appliedBytes += bytes;
    const outstanding = Math.floor(Math.min(target, free));
    this.#creditBytes = Math.max(this.#creditBytes, this.#appliedBytes + this.#returnedBytes + outstanding);
  }

  #look(bytes: number): void {
    this.#lookBytes += bytes;
    const nowMs = this.#options.now();
    const elapsedMs = nowMs - this.#lookStartMs;
    if (elapsedMs < lookMsMin) return;
    const lookMs = Math.max(lookMsMin, this.#options.roundTripMs());
    if (elapsedMs < lookMs) return;
    this.#perRoundTrip.push((this.#lookBytes * (lookMs + frameMs)) / elapsedMs);
    if (this.#perRoundTrip.length > looks) this.#perRoundTrip.shift();
    this.#lookStartMs = nowMs;
    this.#lookBytes = 0;
  }
}
