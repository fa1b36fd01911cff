/** What is known when an item waits that might be compressed. */
export interface CompressionInputs {
  readonly nowMs: number;
  /** What the link carries, in bytes a second; undefined or 0: not measured. */
  readonly bytesPerSecond: number | undefined;
  /** What goes before the item, in bytes as they travel. */
  readonly aheadBytes: number;
  /** The item's content. */
  readonly itemBytes: number;
}

/** What a call of the codec came to. */
export interface CompressionResult {
  readonly nowMs: number;
  readonly inputBytes: number;
  readonly outputBytes: number;
  readonly tookMs: number;
}

/** `no`: not now. `sample`: a part of the item first, for what is known is old or bad. `compress`: all of it. */
export type CompressionVerdict = 'no' | 'sample' | 'compress';

/** What a call compresses in a second until one was seen, and again when that is long ago: what a slow core does with a slow codec. */
const callBytesPerSecondAssumed = 300e6;
/** What was measured says nothing any more after so long, in ms: then one item tells. */
const measurementMsMax = 1000;
/** How much of what a call weighs in the rate is left when the next one has ended. */
const rateDecay = 0.8;
/**
 * The compressor keeps up if it takes so many times what the link does. The cores are the engine's and the guests' too; and a link that is not much slower than they compress is
 * most often no link at all, but the cores again.
 */
const keepsUpGain = 3;
/** It is ready in time if it takes so much less than what goes before: a thread has to be found for it, and its end to be noticed. */
const inTimeGain = 1.5;
/** An item is worth its trouble at both ends if it shrinks by an eighth. */
const usefulShare = 7 / 8;
/** After content that does not shrink there is a pause, in ms, and then a sample; the pause doubles each time. */
const pauseMsMin = 50;
const pauseMsMax = 1000;

/**
 * Whether it pays to compress an item that waits for the link. It does where the link is the narrower: the compressor takes more in a second than the link
 * does, is done before the item's turn comes, and what it got lately shrank. Pure: the clock comes in as an argument.
 */
export class CompressionRule {
  readonly #callsMax: number;
  /** Of the last calls that compressed whole items, the older ones fading. */
  #bytes = 0;
  #ms = 0;
  #measuredMs = Number.NEGATIVE_INFINITY;
  /** When content was last seen to shrink, or not to. */
  #seenMs = Number.NEGATIVE_INFINITY;
  /** What it did not shrink for; 0: it shrank. */
  #pauseMs = 0;

  /** `callsMax`: how many calls may be under way at once. */
  constructor(callsMax: number) {
    this.#callsMax = callsMax;
  }

  verdict({ nowMs, bytesPerSecond = 0, aheadBytes, itemBytes }: CompressionInputs): CompressionVerdict {
    if (bytesPerSecond === 0 || nowMs < this.#seenMs + this.#pauseMs) return 'no';
    const call = this.#callBytesPerSecond(nowMs);
    const inTime = aheadBytes / bytesPerSecond >= (inTimeGain * itemBytes) / call;
    if (!keepsUp(this.#callsMax * call, bytesPerSecond) || !inTime) return 'no';
    return this.#pauseMs > 0 || nowMs > this.#seenMs + measurementMsMax ? 'sample' : 'compress';
  }

  /** A call compressed a sample. Returns whether it shrank by enough. */
  sampled(result: CompressionResult): boolean {
    const useful = isUseful(result);
    this.#seenMs = result.nowMs;
    this.#pauseMs = useful ? 0 : Math.min(pauseMsMax, Math.max(pauseMsMin, 2 * this.#pauseMs));
    return useful;
  }

  /** A call compressed an item. Returns whether it shrank by enough to travel so. */
  compressed(result: CompressionResult): boolean {
    const { nowMs, inputBytes, tookMs } = result;
    const stale = nowMs > this.#measuredMs + measurementMsMax;
    this.#bytes = (stale ? 0 : rateDecay * this.#bytes) + inputBytes;
    this.#ms = (stale ? 0 : rateDecay * this.#ms) + tookMs;
    this.#measuredMs = nowMs;
    return this.sampled(result);
  }

  #callBytesPerSecond(nowMs: number): number {
    if (nowMs > this.#measuredMs + measurementMsMax) return callBytesPerSecondAssumed;
    // A clock may be too coarse to see it.
    return this.#ms > 0 ? (1000 * this.#bytes) / this.#ms : Number.POSITIVE_INFINITY;
  }
}

/** Whether an item that was compressed, in whole or a sample of it, shrank by enough to travel so. */
export function isUseful({
  inputBytes,
  outputBytes,
}: Pick<CompressionResult, 'inputBytes' | 'outputBytes'>): boolean {
  return outputBytes <= usefulShare * inputBytes;
}

/** Whether all calls together take so much more in a second, in bytes, than the link does that compressing pays. */
export function keepsUp(callsBytesPerSecond: number, linkBytesPerSecond: number): boolean {
  return callsBytesPerSecond >= keepsUpGain * linkBytesPerSecond;
}
