/**
 * The last flight of a switchover goes out twice, over different lanes: the guest stands still, and a packet that is lost costs it a round trip or two, a copy next to
 * nothing. Nobody up here can see what the network loses, so the copies are made where they are cheap: as much as the link carries in a quarter of a round trip, and none before
 * it has had the time for all that was sent once: in front of a full link they would be what the queue has no room for.
 *
 * What was on its way when the flight began, and what of the flight is beyond that, goes out again only where it is late, as does what is late although a copy went out, after twice the time with each: a packet of it was lost, or its lane has become slow, and holds all that is behind.
 *
 * It is spread out as what was sent before it was, or a little faster than the link is known to carry, whichever is more: all at once it may overflow a queue in front of the link. How it goes meanwhile changes nothing of that: there is no time to find out.
 *
 * A copy takes no number and no credit of its own. The peer takes each number once, from whichever lane it comes. A lane may hold a copy, and its content with it, for longer than the peer needs it.
 */
import type { OutgoingFrame } from '../wire/frame.ts';
import { Pacer, spread } from './pacer.ts';
import type { QueuedFrame } from './scheduler.ts';

/** How much is sent again at once at most, over what the link carries in a round trip. */
const share = 1 / 4;
/** What was sent before is late when it was not acknowledged for so many round trips, and so many ms: by then a link that loses nothing has brought it. */
const late = { roundTrips: 1.25, ms: 10 };
/** All lanes look when there may be something to do: for so long what one found is good for the others, in ms, if nothing was sent meanwhile. */
const lookMs = 1;

/** For how long a frame may be on its way until it is late, in ms. */
export function lateAfterMs(roundTripMs: number): number {
  return late.ms + late.roundTrips * roundTripMs;
}

/** What is to be sent once more. */
export interface Copy {
  readonly frame: OutgoingFrame;
  /** To be called when the peer has it ... */
  readonly release: () => void;
  /** ... or when it is lost with its lane. */
  readonly drop: () => void;
}

/** What may be sent once more. */
interface Waiting {
  readonly frame: OutgoingFrame & Pick<QueuedFrame, 'hasArrived'>;
  /** The lane that has the first one; undefined: control has. */
  lane: object | undefined;
  /** The lane that has the last copy, if there is one. */
  copyLane?: object;
  /** No copy goes out before. */
  dueMs: number;
  /** How many copies went out. */
  copies: number;
  /** A copy, whose content is needed until it is let go of. */
  readonly copy: () => Copy;
}

/** What a flight goes over. */
export interface FlightLink {
  readonly bytesPerSecond: number;
  readonly roundTripMs: number;
  /** What was sent before, and is not on the link yet. */
  readonly aheadBytes: number;
  /** How fast things were sent before: infinite, all at once; undefined: the same. */
  readonly spreadBytesPerSecond: number | undefined;
}

/** See the top of this file. Pure: no I/O; the clock comes in as an argument. */
export class Flight {
  /** By the frame as it is kept. */
  readonly #waiting = new Map<OutgoingFrame, Waiting>();
  #bytesPerMs: number;
  readonly #spread: Pacer;
  /** When the link has had the time for all that was sent. */
  #freeMs: number;
  #lateMs: number;
  /** Nothing may be sent again before: no need to look. */
  #noneBeforeMs = 0;
  /** What {@link Flight.waitMs} found last, and when; no data was sent since. */
  #looked = { atMs: Number.NEGATIVE_INFINITY, nextMs: 0 };
  #leftBytes: number;

  constructor(link: FlightLink, nowMs: number) {
    this.#bytesPerMs = link.bytesPerSecond / 1000;
    const { spreadBytesPerSecond = Number.POSITIVE_INFINITY } = link;
    this.#spread = new Pacer(
      Math.max(spreadBytesPerSecond, spread.gain * link.bytesPerSecond),
      spread.burstMs,
    );
    this.#leftBytes = share * this.#bytesPerMs * link.roundTripMs;
    this.#lateMs = lateAfterMs(link.roundTripMs);
    this.#freeMs = nowMs + link.aheadBytes / this.#bytesPerMs;
  }

  /** What is known of the link by now. */
  become({ bytesPerSecond, roundTripMs }: Pick<FlightLink, 'bytesPerSecond' | 'roundTripMs'>): void {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#lateMs = lateAfterMs(roundTripMs);
  }

  /** A control message goes out: any lane may carry its copy. */
  control(frame: OutgoingFrame): void {
    const nothing = () => {};
    const copy = () => ({ frame, release: nothing, drop: nothing });
    this.#noneBeforeMs = 0;
    this.#waiting.set(frame, { frame, lane: undefined, dueMs: 0, copies: 0, copy });
  }

  /** The frame as it is to be sent over this lane, now: its content is let go of when no lane holds it any more. One that is sent over another lane because its own was lost is known. */
  first(frame: QueuedFrame, lane: object, nowMs: number): QueuedFrame {
    this.#sent(frame, nowMs);
    this.#spread.sent(frame.payloadBytes, nowMs);
    const once = this.#waiting.has(frame) || frame.payloadBytes > this.#leftBytes;
    // It is not late while the link carries what is ahead of it.
    if (once) return this.before(frame, lane, this.#freeMs);
    this.#leftBytes -= frame.payloadBytes;
    return this.#held(frame, lane, 0);
  }

  /** The frame as it is to be kept, which is on its way over this lane since `sentMs`: once, unless it is late. */
  before(frame: QueuedFrame, lane: object, sentMs: number): QueuedFrame {
    return this.#held(frame, lane, sentMs + this.#lateMs);
  }

  #held(frame: QueuedFrame, lane: object, dueMs: number): QueuedFrame {
    this.#looked.atMs = Number.NEGATIVE_INFINITY;
    this.#noneBeforeMs = Math.min(this.#noneBeforeMs, dueMs);
    const known = this.#waiting.get(frame);
    if (known !== undefined) {
      known.lane = lane;
      known.dueMs = dueMs;
      return frame;
    }
    let holders = 1;
    let arrived = false;
    const drop = () => {
      if (--holders === 0) frame.release();
    };
    // Whichever of them it was, the peer has it.
    const release = () => {
      this.#waiting.delete(kept);
      arrived = true;
      drop();
    };
    const kept: QueuedFrame = {
      ...frame,
      release,
      // A copy of it may be on its way from a flight before.
      get hasArrived() {
        return arrived || frame.hasArrived === true;
      },
    };
    const copy = () => {
      holders++;
      return { frame, release, drop };
    };
    this.#waiting.set(kept, { frame: kept, lane, dueMs, copies: 0, copy });
    return kept;
  }

  /** Whether there may be something to send once more: when it was looked last there was nothing before that. */
  isDue(nowMs: number): boolean {
    return nowMs >= this.#noneBeforeMs && this.#waiting.size > 0;
  }

  /** What may be sent over this lane once more, now; undefined if nothing may. Once more again where that is late, too: what overflowed a queue may have taken both. */
  second(lane: object, nowMs: number): Copy | undefined {
    if (nowMs < this.#noneBeforeMs) return undefined;
    const free = nowMs >= this.#freeMs;
    let next: Waiting | undefined;
    for (const one of this.#waiting.values()) {
      if (one.frame.hasArrived === true) continue;
      const elsewhere = one.lane !== lane && one.copyLane !== lane;
      const may = one.lane === undefined || (free && elsewhere && nowMs >= one.dueMs);
      if (may && (next === undefined || one.dueMs < next.dueMs)) next = one;
    }
    if (next === undefined) return undefined;
    this.#sent(next.frame, nowMs);
    if (next.lane === undefined) this.#waiting.delete(next.frame);
    this.#looked.atMs = Number.NEGATIVE_INFINITY;
    next.copyLane = lane;
    next.dueMs = this.#freeMs + this.#lateMs * 2 ** next.copies++;
    return next.copy();
  }

  /** How long to wait until the next may be sent for the first time, in ms; 0: not at all. */
  spreadMs(nowMs: number): number {
    return this.#spread.waitMs(nowMs);
  }

  /** How long until there may be something to send again that there is not now, in ms; 0 if there will not be. */
  waitMs(nowMs: number): number {
    let nextMs = this.#noneBeforeMs;
    const { atMs, nextMs: seenMs } = this.#looked;
    if (nowMs >= nextMs && nowMs < seenMs && nowMs - atMs < lookMs) nextMs = seenMs;
    else if (nowMs >= nextMs) {
      nextMs = Number.POSITIVE_INFINITY;
      let due = false;
      for (const { frame, lane, dueMs } of this.#waiting.values()) {
        if (frame.hasArrived === true) continue;
        // Control waits for a lane alone.
        const mayMs = lane === undefined ? nowMs : Math.max(dueMs, this.#freeMs);
        if (mayMs > nowMs) nextMs = Math.min(nextMs, mayMs);
        else due = true;
      }
      this.#noneBeforeMs = due ? nowMs : nextMs;
      this.#looked = { atMs: nowMs, nextMs };
    }
    return nextMs === Number.POSITIVE_INFINITY ? 0 : nextMs - nowMs;
  }

  #sent({ payloadBytes }: OutgoingFrame, nowMs: number): void {
    this.#freeMs = Math.max(this.#freeMs, nowMs) + payloadBytes / this.#bytesPerMs;
  }

  /** It is over: no more copies. */
  end(): void {
    this.#waiting.clear();
  }
}
