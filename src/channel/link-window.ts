/**
 * What may be on its way on all lanes together. Each lane's connection would fill its own share of the queue in front of the link, and what that has no room for is lost, control with it.
 * So the whole is steered by the round trips of control: with each the window goes half the way to `window * (smallest + queue that is to be) / now`, the law of FAST TCP (Jin, Wei and
 * Low, INFOCOM 2004).
 *
 * Round trips are long for other reasons, too: packets that the network loses by itself, a busy processor, a longer route, others on the link. Then a smaller window is no help: lanes are
 * late all the same, or carry less. So each time it became smaller that is looked at, and where it was no help it becomes larger than before, or there is none for a while.
 */
import { lateAfterMs } from './last-flight.ts';
import { Pacer } from './pacer.ts';

/** The window at first. */
const startBytes = 8 << 20;
/** It is never less. */
const bytesMin = 256 << 10;
/** It grows by so much of what is acknowledged: by half each round trip. Connections double theirs, and the queue is seen a round trip and a half late. */
const startGain = 0.5;
/**
 * The start is over when the middle one of so many round trips shows the queue that is to be, and it is not the connections' own slow starts that make it long: so much of the window arrives in
 * each, or no longer so much more than in the one before.
 */
const startSamples = 3;
const startShare = 0.25;
const risingGain = 1.25;
/** The queue that is to be, in ms and as a share of the smallest round trip: enough to tell it from chance, and to keep the link busy meanwhile. */
const queueMsMin = 6;
const queueShare = 0.06;
/** ... and a small item beside it, which goes out as a whole and takes the link so long, at most, in ms. */
const itemBytes = 128 << 10;
const itemMsMax = 50;
/** How much of the way to what the law says it goes at once: what it does shows a look later. */
const step = 0.5;
/** Where three of four round trips find less than so much of that queue, look after look, the window grows by more each time: twice as much, up to a quarter of it. */
const emptyShare = 0.5;
const growthMax = 0.25;
/** With a shorter round trip a queue cannot be told from a busy processor, and does no harm. */
const roundTripMsMin = 10;
/** A look takes a round trip, and so many answers, or so many round trips. */
const samplesMin = 4;
const lookRoundTripsMax = 3;
/** By the longer ones of them, all but a quarter: while packets are lost in front of the link, every other one finds an empty queue. */
const judgedBy = 0.75;
/** Answers that come within so many ms have waited for something together, a lost packet or a processor: the shortest of them counts. */
const togetherMs = 3;
/** A window that is so much of what it was, for so many looks, is too small if less is carried, by more than this part of what it is less. */
const judgedShare = 0.8;
const judgedLooks = 4;
const carriedLess = 0.5;
/** What is carried is that of so many looks, and of a window as it was so many looks before. */
const lookBack = 2;
const lag = 2;
/** Then it becomes by as much larger than it was, and not smaller for so many looks. */
const heldLooks = 120;
/** It is no help at all where so many of the lanes are late although the queue is short, in so many looks of so many. Then there is none, for so many ms, and for twice as many each further time. */
const lateShareMin = 0.15;
const lateLooksMin = 9;
const lateLooksOf = 12;
const restMsFirst = 10_000;
const restMsMax = 160_000;
/**
 * It does not become more than this much of what the fastest of so many looks had, before there was no queue in so many: connections that look for the smallest round trip leave a full link empty
 * for a moment. After that it is what lost packets hold up that takes so much of it, and it grows slowly, up to so many times as much.
 */
const growthCap = 1.15;
const fastestLooks = 10;
const emptyLooksMin = 6;
const heldUpMax = 4;
/** What is sent in a burst would be a queue, too: it is spread out, a little faster than the window takes to arrive. */
const spreadGain = 1.25;
const spreadMs = 4;

/** A window that became smaller. */
interface Before {
  readonly bytes: number;
  /** What arrived with it; undefined: that is still to come. */
  bytesPerMs: number | undefined;
  /** Looks since, and those at less than {@link judgedShare} of it. */
  looks: number;
  smaller: number;
}

/** See the top of this file. Pure: the clock comes in as an argument. */
export class LinkWindow {
  readonly #spread = new Pacer(Number.POSITIVE_INFINITY, spreadMs);
  #bytes = startBytes;
  /** The last round trips of the start; undefined when that is over. */
  #start: number[] | undefined = [];
  #smallestMs = Number.POSITIVE_INFINITY;
  #heardMs = Number.NEGATIVE_INFINITY;
  /** The last answer, or the least of those that came together, while it is not known whether the next comes with it. */
  #lastMs: number | undefined;
  /** Of this look: when it began, undefined if nothing was sent since the one before, its round trips, what arrived, what was on its way at the most, and whether the window has held anything up. */
  #lookMs: number | undefined;
  #samples: number[] = [];
  #arrivedBytes = 0;
  #mostBytes = 0;
  #limited = false;
  /** What part of the lanes was late, each time that was told. */
  #late: number[] = [];
  /** In which of the last looks many were late although the queue was short. */
  #lossy: boolean[] = [];
  /** What arrived in the last looks, in bytes per ms. */
  #rates: number[] = [];
  /** The window in them. */
  #sizes: number[] = [];
  #full = false;
  /** Looks in a row that found no queue while the window held something up, and by how much it grew after the last of them. */
  #emptyLooks = 0;
  #growth = 0;
  #before: Before | undefined;
  #heldLooks = 0;
  /** Until when there is none, and for how long it is next time. */
  #restUntilMs: number | undefined;
  #restMsNext = restMsFirst;

  /** How many bytes may be on their way; infinite while there is no window. */
  get bytes(): number {
    return this.#counts ? this.#bytes : Number.POSITIVE_INFINITY;
  }

  /** How fast they go out at the most, in bytes per second. */
  get bytesPerSecond(): number {
    return this.#counts ? (spreadGain * 1000 * this.#bytes) / this.#smallestMs : Number.POSITIVE_INFINITY;
  }

  /** How long a greeting took, in ms. */
  greeted(ms: number): void {
    this.#smallestMs = Math.min(this.#smallestMs, Math.max(0.01, ms));
  }

  /** Whether round trips are to be measured all the time while something is on its way. */
  get asks(): boolean {
    return this.#counts;
  }

  /** What has been on its way for longer, in ms, is late: it waits for a packet that was lost. */
  get lateAfterMs(): number {
    return lateAfterMs(this.#smallestMs + this.#queueMs);
  }

  /** How long to wait until the next may be sent, in ms; 0: not at all. */
  waitMs(nowMs: number): number {
    return this.#counts ? this.#spread.waitMs(nowMs) : 0;
  }

  sent(bytes: number, nowMs: number): void {
    this.#lookMs ??= nowMs;
    this.#spread.sent(bytes, nowMs);
  }

  /** The link was gone: what was seen says nothing of what it is now. */
  interrupted(): void {
    this.#before = undefined;
    this.#lastMs = undefined;
    this.#beginLook(undefined);
  }

  /** Whether as much is on its way as the link takes. */
  get isFull(): boolean {
    return this.#full;
  }

  get #counts(): boolean {
    return (
      Number.isFinite(this.#smallestMs) &&
      this.#smallestMs >= roundTripMsMin &&
      this.#restUntilMs === undefined
    );
  }

  get #queueMs(): number {
    const itemMs = itemBytes / Math.max(itemBytes / itemMsMax, ...this.#rates);
    return Math.max(queueMsMin, queueShare * this.#smallestMs) + itemMs;
  }

  /** It has held something up. */
  limited(): void {
    this.#limited = true;
  }

  /** So many bytes have arrived, of `inFlightBytes` that were on their way. */
  acknowledged(bytes: number, inFlightBytes: number): void {
    this.#arrivedBytes += bytes;
    this.#mostBytes = Math.max(this.#mostBytes, inFlightBytes);
    if (this.#start !== undefined && this.#limited) this.#bytes += startGain * bytes;
  }

  /** A round trip on the control connection; and what part of the lanes is late. */
  roundTrip(ms: number, nowMs: number, lateShare: number): void {
    // While nothing is sent there is no look to count it in.
    if (this.#lookMs !== undefined) this.#late.push(lateShare);
    this.greeted(ms);
    const together = nowMs - this.#heardMs < togetherMs;
    this.#heardMs = nowMs;
    const last = this.#lastMs;
    this.#lastMs = together && last !== undefined ? Math.min(ms, last) : ms;
    if (!together && last !== undefined) this.#answered(last, nowMs);
    this.#spread.become(this.bytesPerSecond, nowMs);
  }

  #answered(ms: number, nowMs: number): void {
    if (this.#lookMs === undefined) return;
    const lookMs = nowMs - this.#lookMs;
    if (this.#start !== undefined) this.#starts(this.#start, ms, lookMs);
    this.#samples.push(ms);
    const enough = this.#samples.length >= samplesMin || lookMs >= lookRoundTripsMax * this.#smallestMs;
    if (!enough || lookMs < this.#smallestMs) return;
    this.#rates = [...this.#rates.slice(1 - fastestLooks), this.#arrivedBytes / lookMs];
    this.#sizes = [...this.#sizes.slice(-lag), this.#bytes];
    this.#look(
      this.#samples.toSorted((a, b) => a - b),
      nowMs,
    );
    const idle = this.#arrivedBytes === 0 && !this.#limited;
    this.#beginLook(idle ? undefined : nowMs);
  }

  #beginLook(nowMs: number | undefined): void {
    this.#lookMs = nowMs;
    this.#samples = [];
    this.#late = [];
    this.#arrivedBytes = 0;
    this.#mostBytes = 0;
    this.#limited = false;
  }

  #starts(lately: number[], ms: number, lookMs: number): void {
    lately.push(ms);
    if (lately.length > startSamples) lately.shift();
    const middle = lately.toSorted((a, b) => a - b)[startSamples >> 1] ?? 0;
    if (lately.length < startSamples || middle < this.#smallestMs + this.#queueMs) return;
    const [before = 0, last = 0] = this.#rates.slice(-2);
    const arrives = Math.max(last, this.#arrivedBytes / Math.max(lookMs, this.#smallestMs));
    const risen = before > 0 && last < risingGain * before;
    if (arrives * this.#smallestMs < startShare * this.#bytes && !risen) return;
    this.#start = undefined;
    this.#begin();
    // What was on its way a round trip ago has made the queue.
    this.#bytes = Math.max(this.#bytes / (1 + startGain), bytesMin);
  }

  /** `sorted`: its round trips, shortest first. */
  #look(sorted: readonly number[], nowMs: number): void {
    if (this.#start !== undefined) return;
    if (this.#restUntilMs !== undefined) {
      if (nowMs >= this.#restUntilMs) this.#resume();
      return;
    }
    const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
    const queueMs = at(judgedBy) - this.#smallestMs;
    const empty = queueMs < emptyShare * this.#queueMs;
    this.#full = this.#limited;
    this.#emptyLooks = empty && this.#limited ? this.#emptyLooks + 1 : 0;
    this.#heldLooks = Math.max(0, this.#heldLooks - 1);
    const change = step * ((this.#smallestMs + this.#queueMs) / at(judgedBy) - 1);
    if (change < 0) this.#shrink(1 + change);
    else if (this.#limited) this.#grow(change);
    this.#lossy = [...this.#lossy.slice(1 - lateLooksOf), change >= 0 && mean(this.#late) >= lateShareMin];
    if (this.#lossy.filter(Boolean).length >= lateLooksMin) this.#rest(nowMs);
    else if (!this.#lossy.some(Boolean)) this.#restMsNext = restMsFirst;
    this.#judge(at(0));
  }

  #grow(change: number): void {
    this.#growth = this.#emptyLooks > 1 ? Math.min(growthMax, 2 * this.#growth) : change;
    const most = growthCap * Math.max(...this.#rates) * (this.#smallestMs + this.#queueMs);
    const slowly = this.#emptyLooks > emptyLooksMin ? this.#bytes * (1 + Math.min(change, queueShare)) : 0;
    const grown = Math.max(
      Math.min(most, this.#bytes * (1 + this.#growth)),
      Math.min(heldUpMax * most, slowly),
    );
    this.#bytes = Math.max(this.#bytes, grown);
  }

  #shrink(factor: number): void {
    // A queue that is there with little on its way, or with nothing that arrives, is not ours.
    const ours = this.#arrivedBytes > 0 && (this.#limited || this.#mostBytes >= this.#bytes / 2);
    if (this.#heldLooks > 0 || !ours) return;
    this.#begin();
    this.#bytes = Math.max(bytesMin, factor * Math.min(this.#bytes, this.#mostBytes));
  }

  /** The window becomes smaller. */
  #begin(): void {
    const bytes = Math.max(bytesMin, Math.min(this.#bytes, this.#mostBytes));
    this.#before ??= { bytes, bytesPerMs: undefined, looks: 0, smaller: 0 };
  }

  /** What was carried lately, in bytes per ms. */
  get #carried(): number {
    return mean(this.#rates.slice(-lookBack));
  }

  /** `leastMs`: the least round trip of the look. */
  #judge(leastMs: number): void {
    // What was carried of what there was to send says nothing.
    if (!this.#limited) this.#before = undefined;
    const before = this.#before;
    if (before === undefined) return;
    before.looks++;
    if (before.looks === lag) before.bytesPerMs = this.#carried;
    const share = this.#bytes / before.bytes;
    if (share >= 1) this.#before = undefined;
    if (share > judgedShare) return;
    before.smaller++;
    if (before.smaller < judgedLooks || before.bytesPerMs === undefined) return;
    this.#before = undefined;
    const less = 1 - (this.#sizes[0] ?? 0) / before.bytes;
    if (1 - this.#carried / before.bytesPerMs <= carriedLess * less) return;
    this.#bytes = before.bytes / judgedShare;
    // Where no round trip is shorter, the way has become as long as that.
    if (leastMs > this.#smallestMs + this.#queueMs) this.#smallestMs = leastMs;
    else this.#heldLooks = heldLooks;
  }

  #rest(nowMs: number): void {
    this.#before = undefined;
    this.#full = false;
    this.#restUntilMs = nowMs + this.#restMsNext;
    this.#restMsNext = Math.min(restMsMax, 2 * this.#restMsNext);
  }

  #resume(): void {
    this.#restUntilMs = undefined;
    this.#bytes = Math.max(bytesMin, this.#carried * (this.#smallestMs + this.#queueMs));
    this.#lossy = [];
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
