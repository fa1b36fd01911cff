/**
 * What may be on its way on all lanes together. Each lane's connection would fill its own share of the queue in front of the link, and what that has no room for is lost, control with it.
 * So the whole is steered by the round trips of control: with each the window goes half the way to `window * (smallest + queue that is to be) / now`, the law of FAST TCP (Jin, Wei and
 * Low, INFOCOM 2004).
 *
 * Round trips are long for other reasons, too: packets that the network loses by itself, a busy processor, a longer route, others on the link. Then a smaller window is no help: lanes are
 * late all the same, or carry less. So each time it became smaller that is looked at ({@link SmallerWindow}), and where it was no help it becomes what it was, and round trips may be longer; where lanes
 * are late whatever it is, there is none for a while.
 */
import { lateAfterMs } from './flight.ts';
import { Pacer, spread } from './pacer.ts';
import { carriedLag, SmallerWindow } from './smaller-window.ts';

/** The window at first. */
const startBytes = 8 << 20;
/** It is never less. */
const bytesMin = 256 << 10;
/**
 * It grows by so much of what is acknowledged: by half each round trip. Connections double theirs, and the queue is seen a round trip and a half late. Where round trips are long, by no
 * more than is sent in so many ms, as a queue in front of a link may be expected to hold. And it grows to no more than so much above what arrives in a look, a round trip as a rule: it is not the window then that holds it up.
 */
const startGain = 0.5;
const startQueueMs = 50;
/**
 * The window does not grow while the least of so many round trips, one after the other, shows half of the queue that is to be. The start is over when all of a look show it, or most of two in which it overflows, and it is not the connections'
 * own slow starts that make it: so much of the window arrives in a round trip, or no longer so much more than in the one before.
 */
const startSamples = 3;
const startShare = 0.5;
const risingGain = 1.25;
/** The queue that is to be, in ms and as a share of the smallest round trip: enough to tell it from chance. */
const queueMsMin = 3;
const queueShare = 0.03;
/**
 * ... and beside it so many small items, which go out as a whole each, and so keep the link busy only with some of them in front of it: where that were more than this share of
 * the smallest round trip, fewer, but one of them in any case. One is never reckoned with more than so many ms.
 */
const itemBytes = 128 << 10;
const itemsInFront = 5;
const itemsShare = 0.12;
const itemMsMax = 50;
/** How much of the way to what the law says it goes at once: what it does shows a look later. */
const step = 0.5;
/**
 * Where a queue is so many times what it is to be, and lanes are late, it has no room for more: connections that lose packets leave it empty for a moment, and fill it again. It goes all the way then,
 * and becomes no larger for so many looks. What is late in them is so for that.
 */
const spillsOver = 1.5;
const spiltLooks = 4;
/** ... but never by more than this part of it at once: a processor that was busy for a moment looks the same. */
const lessMax = 0.2;
/** Where three of four round trips find less than so much of that queue, look after look, the window grows by more each time: twice as much, up to a quarter of it. */
const emptyShare = 0.5;
const growthMax = 0.25;
/** What the window allows goes out so much faster than it arrives, once the start is over: what is behind a moment in which nothing arrived is no queue then. */
const spreadGain = 1.1;
/** With a shorter round trip a queue cannot be told from a busy processor, and does no harm. */
const roundTripMsMin = 10;
/** A look takes a round trip, and so many answers, or so many round trips. */
const samplesMin = 4;
const lookRoundTripsMax = 3;
/** By the longer ones of them, all but a quarter: while packets are lost in front of the link, every other one finds an empty queue. */
const judgedBy = 0.75;
/** Answers that come within so many ms, or within so much of the time between their questions, have waited for something together, a lost packet or a processor: the shortest of them counts. */
const togetherMs = 3;
const togetherShare = 0.5;
/** What is carried is that of so many looks. */
const lookBack = 2;
/** Where a smaller window was no help, what round trips are longer by is taken for a queue only as far as this part of the one that is to be; each look forgets this part of that. */
const queueLeft = 0.5;
const forgotten = 0.01;
/** The least window is as small as it gets: where round trips are too long with it in so many looks in a row, that is no help either. */
const leastLooksMax = 8;
/** It is no help at all where so many of the lanes are late although the queue is short, in so many looks of so many. Then there is none, for so many ms, and for twice as many each further time. */
const lateShareMin = 0.15;
const lateLooksMin = 4;
const lateLooksOf = 6;
/** ... or, where it was so before, and until it was seen not to be, where what arrives in a round trip is less than so much of what is on its way: many lanes that carry little are late one at a time. */
const heldUpShare = 0.5;
/** Looks count that are so many ms apart: one packet holds its lane up for longer than a short look. */
const lateLookMsMin = 100;
/**
 * In the first looks in which the window holds something up, and before a queue had no room for more, fewer are enough: so many in a row in which so many lanes were late on average. In slow starts, in which what waits for a connection to become faster is late, many are in two
 * of them, the second and the third, or fewer in three. Where more arrives than before, by so much, and all lanes are late, a queue has overflowed.
 */
const firstLooks = 6;
const firstLateLooks = 3;
const firstLateShare = 0.3;
const firstRisingGain = 1.1;
const allLateShare = 0.9;
/**
 * ... and are not those in which connections look for the smallest round trip, as those of BBR do every five or ten seconds, for 200 ms and a round trip, and those that were opened together at once: what
 * they have is late, which little was in the looks before, and much less arrives than in the fastest of those. Such a moment does not come again for so many ms.
 */
const dipShare = 0.6;
const dipMs = 200;
const dipRoundTrips = 3;
const dipEveryMs = 4000;
/** ... or where so many are late in so many looks in a row while it becomes smaller. */
const lateInVainMax = 12;
const restMsFirst = 30_000;
const restMsMax = 240_000;
/**
 * It does not become more than this much of what the fastest of so many looks had, before there was no queue in so many: connections that look for the smallest round trip leave a full link empty
 * for a moment. After that it is what lost packets hold up that takes so much of it, and it grows slowly, up to so many times as much.
 */
const growthCap = 1.15;
const fastestLooks = 10;
const emptyLooksMin = 6;
const heldUpMax = 4;
/** ... by no more than this part of it at once. */
const slowlyMax = 0.03;

/** See the top of this file. Pure: the clock comes in as an argument. */
export class LinkWindow {
  /** What is sent in a burst would be a queue, too: it is spread over the time in which the window arrives. */
  readonly #spread = new Pacer(Number.POSITIVE_INFINITY, spread.burstMs);
  #bytes = startBytes;
  /** The last round trips of the start; undefined when that is over. */
  #start: number[] | undefined = [];
  /** Whether the last look of the start showed a queue that had no room for more. */
  #overflowed = false;
  /** Whether the least of them shows half of the queue that is to be. */
  #startQueues = false;
  #smallestMs = Number.POSITIVE_INFINITY;
  #heardMs = Number.NEGATIVE_INFINITY;
  /** When the question of the last answer was asked. */
  #askedMs = Number.POSITIVE_INFINITY;
  /** The last answer, or the least of those that came together, while it is not known whether the next comes with it. */
  #lastMs: number | undefined;
  /** Of this look: when it began, undefined if nothing was sent since the one before, its round trips, what arrived, what was on its way at the most, whether the window has held anything up, and whether there was nothing to send. */
  #lookMs: number | undefined;
  #samples: number[] = [];
  #arrivedBytes = 0;
  #mostBytes = 0;
  #limited = false;
  #starved = false;
  /** What part of the lanes was late, and how many bytes were on their way, each time that was told. */
  #late: number[] = [];
  #onWay: number[] = [];
  /** ... on average in the last looks. */
  #lateLately: number[] = [];
  /** What part of the lanes was late in the last looks that tell of it, where it was many although the queue was short; else 0. */
  #lossy: number[] = [];
  /** When the last of them was. */
  #lostMs = Number.NEGATIVE_INFINITY;
  /** When connections began to look for the smallest round trip. */
  #dipMs = Number.NEGATIVE_INFINITY;
  /** What arrived in the last looks, in bytes per ms. */
  #rates: number[] = [];
  /** The window in them. */
  #sizes: number[] = [];
  #full = false;
  /** Looks in a row that found no queue while the window held something up, and by how much it grew after the last of them. */
  #emptyLooks = 0;
  #growth = 0;
  readonly #smaller = new SmallerWindow();
  #lateInVain = 0;
  #leastLooks = 0;
  #looksSinceSpilt = Number.POSITIVE_INFINITY;
  /** How many looks there were in which the window held something up; infinite once a queue had no room for more, or there was none for a while. */
  #looks = 0;
  /** By how much round trips are longer whatever is sent, in ms. */
  #tremblesMs = 0;
  /** Until when there is none, and for how long it is next time. */
  #restUntilMs: number | undefined;
  #restMsNext = restMsFirst;

  /** How many bytes may be on their way; infinite while there is no window. */
  get bytes(): number {
    return this.#counts ? this.#bytes : Number.POSITIVE_INFINITY;
  }

  /** How fast they go out at the most, in bytes per second. */
  get bytesPerSecond(): number {
    if (!this.#counts) return Number.POSITIVE_INFINITY;
    const gain = this.#start === undefined ? spreadGain : spread.gain;
    return (gain * 1000 * this.#bytes) / this.#smallestMs;
  }

  /** Whether there is none for a while, since the network loses packets by itself. */
  get rests(): boolean {
    return this.#restUntilMs !== undefined;
  }

  /** Whether the network was seen to lose packets by itself, and not since to lose none. */
  get loses(): boolean {
    return this.rests || this.#restMsNext > restMsFirst;
  }

  /** How long a greeting took, in ms. */
  greeted(ms: number): void {
    this.#smallestMs = Math.min(this.#smallestMs, Math.max(0.01, ms));
  }

  /** Whether round trips are to be measured all the time while something is on its way. */
  get asks(): boolean {
    return this.#counts;
  }

  /** What was sent before that time and has not arrived is late, when a question has been answered that was asked at `askedMs`: it waits for a packet that was lost. */
  lateBeforeMs(askedMs: number): number {
    const usualMs = this.#smallestMs + this.#queueMs;
    return askedMs - (lateAfterMs(usualMs) - usualMs);
  }

  /** How long to wait until the next may be sent, in ms; 0: not at all. */
  spreadMs(nowMs: number): number {
    return this.#counts ? this.#spread.waitMs(nowMs) : 0;
  }

  sent(bytes: number, nowMs: number): void {
    this.#lookMs ??= nowMs;
    this.#spread.sent(bytes, nowMs);
  }

  /** The link was gone: what was seen says nothing of what it is now. */
  interrupted(): void {
    if (this.#restUntilMs === undefined) this.#smaller.forget();
    else this.#resume();
    this.#restMsNext = restMsFirst;
    this.#tremblesMs = 0;
    this.#lossy = [];
    this.#lateInVain = 0;
    this.#looksSinceSpilt = Number.POSITIVE_INFINITY;
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
    const itemsMs = Math.min(itemsInFront * itemMs, Math.max(itemMs, itemsShare * this.#smallestMs));
    return Math.max(queueMsMin, queueShare * this.#smallestMs) + itemsMs;
  }

  /** A lane had room, and there was nothing to send. */
  starved(): void {
    this.#starved = true;
  }

  /** It has held something up. */
  limited(): void {
    this.#limited = true;
  }

  /** So many bytes have arrived, of `inFlightBytes` that were on their way. */
  acknowledged(bytes: number, inFlightBytes: number): void {
    this.#arrivedBytes += bytes;
    this.#mostBytes = Math.max(this.#mostBytes, inFlightBytes);
    if (this.#start === undefined || !this.#limited || this.#startQueues) return;
    const arrives = Math.max(this.#arrivedBytes, this.#rate * this.#smallestMs);
    const gain = Math.min(startGain, startQueueMs / this.#smallestMs);
    this.#bytes = Math.max(this.#bytes, Math.min((1 + startGain) * arrives, this.#bytes + gain * bytes));
  }

  /** A round trip on the control connection; and what part of the lanes is late, and how many bytes are on their way. */
  roundTrip(ms: number, nowMs: number, lateShare: number, inFlightBytes: number): void {
    // While nothing is sent there is no look to count it in.
    if (this.#lookMs !== undefined) {
      this.#late.push(lateShare);
      this.#onWay.push(inFlightBytes);
    }
    this.greeted(ms);
    const askedMs = nowMs - ms;
    const together = nowMs - this.#heardMs < Math.max(togetherMs, togetherShare * (askedMs - this.#askedMs));
    this.#heardMs = nowMs;
    this.#askedMs = askedMs;
    const last = this.#lastMs;
    this.#lastMs = together && last !== undefined ? Math.min(ms, last) : ms;
    if (!together && last !== undefined) this.#answered(last, nowMs);
    this.#spread.become(this.bytesPerSecond, nowMs);
  }

  #answered(ms: number, nowMs: number): void {
    if (this.#lookMs === undefined) return;
    const lookMs = nowMs - this.#lookMs;
    if (this.#start !== undefined) this.#starts(this.#start, ms);
    this.#samples.push(ms);
    const enough = this.#samples.length >= samplesMin || lookMs >= lookRoundTripsMax * this.#smallestMs;
    if (!enough || lookMs < this.#smallestMs) return;
    this.#rates = [...this.#rates.slice(1 - fastestLooks), this.#arrivedBytes / lookMs];
    this.#sizes = [...this.#sizes.slice(-carriedLag), this.#bytes];
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
    this.#onWay = [];
    this.#arrivedBytes = 0;
    this.#mostBytes = 0;
    this.#limited = false;
    this.#starved = false;
  }

  #starts(lately: number[], ms: number): void {
    lately.push(ms);
    if (lately.length > startSamples) lately.shift();
    const queueMs = Math.min(...lately) - this.#smallestMs;
    this.#startQueues = lately.length === startSamples && queueMs >= emptyShare * this.#queueMs;
  }

  /** `ms`: the round trip that the look is judged by. */
  #startIsOver(ms: number): boolean {
    if (ms < this.#smallestMs + this.#queueMs) return false;
    const [before = 0, last = 0] = this.#rates.slice(-2);
    const isLevel = before > 0 && last < risingGain * before;
    return isLevel || last * this.#smallestMs >= startShare * this.#bytes;
  }

  #endStart(ms: number): void {
    this.#start = undefined;
    this.#begin();
    // What was on its way a round trip ago has made the queue.
    const [then = this.#bytes] = this.#sizes.slice(-2);
    const fits = (then * (this.#smallestMs + this.#queueMs)) / ms;
    this.#bytes = Math.max(bytesMin, Math.min(this.#bytes, fits));
  }

  /** `sorted`: its round trips, shortest first. */
  #look(sorted: readonly number[], nowMs: number): void {
    if (this.#restUntilMs !== undefined) {
      if (nowMs >= this.#restUntilMs) this.#resume();
      return;
    }
    const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
    const queueMs = at(judgedBy) - this.#smallestMs;
    const lateShare = mean(this.#late);
    const late = lateShare >= lateShareMin;
    if (this.#limited) this.#looks++;
    this.#lateLately = [...this.#lateLately.slice(-lateLooksOf), lateShare];
    if (this.#start !== undefined) {
      const rises = this.#rate >= firstRisingGain * Math.max(0, ...this.#rates.slice(0, -1));
      const overflows = late && queueMs > spillsOver * this.#queueMs;
      if (overflows) this.#looks = Number.POSITIVE_INFINITY;
      const tells = this.#limited && late && !overflows && !(rises && lateShare > allLateShare);
      this.#loses(tells ? lateShare : 0, nowMs);
      const ms = at(overflows && this.#overflowed ? judgedBy : 0);
      this.#overflowed = overflows;
      if (!this.rests && this.#startIsOver(ms)) this.#endStart(ms);
      return;
    }
    const empty = queueMs < emptyShare * this.#queueMs;
    this.#full = this.#limited;
    this.#emptyLooks = empty && this.#limited ? this.#emptyLooks + 1 : 0;
    this.#tremblesMs *= 1 - forgotten;
    // Answers that waited for a lost packet are some of them.
    const queues = at(0.5) - this.#smallestMs >= emptyShare * this.#queueMs;
    const spills = late && queues && queueMs - this.#tremblesMs > spillsOver * this.#queueMs;
    this.#looksSinceSpilt = spills ? 0 : this.#looksSinceSpilt + 1;
    const spilt = this.#looksSinceSpilt <= spiltLooks;
    if (spills) this.#looks = Number.POSITIVE_INFINITY;
    const change = (this.#smallestMs + this.#queueMs + this.#tremblesMs) / at(judgedBy) - 1;
    if (change < 0) this.#shrink(1 - Math.min(lessMax, (spills ? 1 : step) * -change), late);
    else if (this.#limited && !spilt && !this.#holdsUp(late)) this.#grow(step * change);
    this.#judge(at(0), queueMs, late);
    const least = change < 0 && this.#limited && this.#bytes === bytesMin && this.#mostBytes <= 2 * bytesMin;
    this.#leastLooks = least ? this.#leastLooks + 1 : 0;
    if (this.#leastLooks >= leastLooksMax) this.#noHelp(at(0), queueMs);
    this.#lateInVain = this.#limited && late && change < 0 ? this.#lateInVain + 1 : 0;
    if (this.#lateInVain >= lateInVainMax) this.#rest(nowMs);
    // A look that finds a long queue, or what that has left, tells nothing of what the network loses; in the first ones there was none yet.
    else if (spills || this.#looks <= firstLooks || (change >= 0 && !spilt)) {
      const arrives = this.#rate * at(judgedBy);
      const heldUp = empty && this.loses && arrives < heldUpShare * mean(this.#onWay);
      const lossy = this.#limited && (late || heldUp) && !spills;
      this.#loses(lossy ? Math.max(lateShare, lateShareMin) : 0, nowMs);
    }
  }

  /** Counts a look that shows, by what part of the lanes was late, that the network loses packets by itself, or, by 0, that it does not; with enough of them there is no window for a while. */
  #loses(lateShare: number, nowMs: number): void {
    const lossy = lateShare > 0;
    const first = this.#looks <= firstLooks;
    if (lossy && (nowMs - this.#lostMs < lateLookMsMin || (!first && this.#dips(nowMs)))) return;
    if (lossy) this.#lostMs = nowMs;
    this.#lossy = [...this.#lossy.slice(1 - lateLooksOf), lateShare];
    const last = this.#lossy.slice(-firstLateLooks);
    const clear = last.length === firstLateLooks && last.every(Boolean) && mean(last) >= firstLateShare;
    if ((first && clear) || this.#lossy.filter(Boolean).length >= lateLooksMin) this.#rest(nowMs);
    else if (this.#lossy.length === lateLooksOf && !this.#lossy.some(Boolean)) this.#restMsNext = restMsFirst;
  }

  /** Whether this look, in which lanes are late, may be one in which connections look for the smallest round trip. */
  #dips(nowMs: number): boolean {
    const sinceMs = nowMs - this.#dipMs;
    const lastsMs = dipMs + dipRoundTrips * this.#smallestMs;
    if (sinceMs < lastsMs) return true;
    const soon = sinceMs < Math.max(dipEveryMs, 2 * lastsMs);
    const lateBefore = mean(this.#lateLately.slice(0, -1)) >= lateShareMin;
    const less = this.#rate < dipShare * Math.max(...this.#rates);
    if (soon || lateBefore || !less) return false;
    this.#dipMs = nowMs;
    return true;
  }

  /** Whether it is the lanes that hold up what is sent: a larger window would only be more that comes all at once. */
  #holdsUp(late: boolean): boolean {
    return late && this.#rate < dipShare * this.#fastest;
  }

  #grow(change: number): void {
    // It may not have grown in the empty looks before this one.
    const faster = this.#emptyLooks > 1 ? Math.min(growthMax, 2 * this.#growth) : 0;
    this.#growth = Math.max(change, faster);
    const most = growthCap * this.#fastest * (this.#smallestMs + this.#queueMs);
    const slowly = this.#emptyLooks > emptyLooksMin ? this.#bytes * (1 + Math.min(change, slowlyMax)) : 0;
    const grown = Math.max(
      Math.min(most, this.#bytes * (1 + this.#growth)),
      Math.min(heldUpMax * most, slowly),
    );
    this.#bytes = Math.max(this.#bytes, grown);
  }

  #shrink(factor: number, late: boolean): void {
    // A queue that is there with nothing that arrives is not ours, nor one that a pause finds: there is less on its way for want of more to send. What overflows is.
    const much = (!this.#starved || late) && this.#mostBytes >= this.#bytes / 2;
    if (this.#arrivedBytes === 0 || !(this.#limited || much)) return;
    this.#begin();
    this.#bytes = Math.max(bytesMin, factor * Math.min(this.#bytes, this.#mostBytes));
  }

  /** The window becomes smaller. */
  #begin(): void {
    this.#smaller.begin(Math.max(bytesMin, Math.min(this.#bytes, this.#mostBytes)));
  }

  /** What arrived in the last look, in bytes per ms. */
  get #rate(): number {
    return this.#rates.at(-1) ?? 0;
  }

  /** The most that arrived lately: of two looks together, since what a lost packet holds up comes all at once. */
  get #fastest(): number {
    const pairs = this.#rates.slice(1).map((rate, i) => (rate + (this.#rates[i] ?? rate)) / 2);
    return Math.max(...(pairs.length > 0 ? pairs : this.#rates));
  }

  /** What was carried lately, in bytes per ms. */
  get #carried(): number {
    return mean(this.#rates.slice(-lookBack));
  }

  /** `leastMs`: the least round trip of the look; `queueMs`: by how much that it is judged by was longer than the smallest. */
  #judge(leastMs: number, queueMs: number, late: boolean): void {
    const before = this.#smaller.look({
      bytes: this.#bytes,
      bytesThen: this.#sizes[0] ?? 0,
      bytesPerMs: this.#carried,
      limited: this.#limited,
      late,
    });
    if (before === undefined) return;
    this.#bytes = before;
    this.#noHelp(leastMs, queueMs);
  }

  /** Round trips are long whatever is sent. */
  #noHelp(leastMs: number, queueMs: number): void {
    this.#leastLooks = 0;
    // Where none is shorter, the way has become as long as that.
    if (leastMs > this.#smallestMs + this.#queueMs) this.#smallestMs = leastMs;
    else this.#tremblesMs = Math.max(this.#tremblesMs, queueMs - queueLeft * this.#queueMs);
  }

  #rest(nowMs: number): void {
    this.#looks = Number.POSITIVE_INFINITY;
    this.#start = undefined;
    this.#smaller.forget();
    this.#full = false;
    this.#restUntilMs = nowMs + this.#restMsNext;
    this.#restMsNext = Math.min(restMsMax, 2 * this.#restMsNext);
  }

  #resume(): void {
    this.#restUntilMs = undefined;
    this.#bytes = Math.max(bytesMin, this.#carried * (this.#smallestMs + this.#queueMs));
    this.#lossy = [];
    this.#lateInVain = 0;
    this.#tremblesMs = 0;
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
