/**
 * The last flight of a switchover goes out twice, over different lanes: the guest stands still, and a packet that is lost costs it a round trip or two, a copy next to
 * nothing. Nobody up here can see what the network loses, so the copies are made where they are cheap: as much as the link carries in a quarter of a round trip, and none before
 * it has had the time for all that was sent once: in front of a full link they would be what the queue has no room for.
 *
 * What was on its way when the flight began goes out again only where it is late: a packet of it was lost, or its lane has become slow, and holds all that is behind.
 *
 * A copy takes no number and no credit of its own. The peer takes each number once, from whichever lane it comes.
 */
import type { OutgoingFrame } from '../wire/frame.ts';
import type { QueuedFrame } from './scheduler.ts';

/** How much is sent again at most, over what the link carries in a round trip. */
const share = 1 / 4;
/** What was sent before is late when it was not acknowledged for so many round trips, and so many ms: by then a link that loses nothing has brought it. */
const late = { roundTrips: 1.25, ms: 10 };

/** For how long a frame may be on its way until it is late, in ms. */
export function lateAfterMs(roundTripMs: number): number {
  return late.ms + late.roundTrips * roundTripMs;
}

/** A frame of which a copy may go out. */
export interface Copy {
  readonly frame: OutgoingFrame;
  /** To be called when its content is not needed any more. */
  readonly release: () => void;
}

interface Waiting extends Copy {
  /** The lane that has the first one; undefined: control has. */
  readonly lane: object | undefined;
  /** No copy goes out before. */
  readonly dueMs: number;
}

/** What a flight goes over. */
export interface FlightLink {
  readonly bytesPerSecond: number;
  readonly roundTripMs: number;
  /** What was sent before, and is not on the link yet. */
  readonly aheadBytes: number;
}

/** See the top of this file. Pure: no I/O; the clock comes in as an argument. */
export class LastFlight {
  readonly #waiting: Waiting[] = [];
  readonly #bytesPerMs: number;
  /** When the link has had the time for all that was sent. */
  #freeMs: number;
  readonly #lateMs: number;
  #leftBytes: number;

  constructor(link: FlightLink, nowMs: number) {
    this.#bytesPerMs = link.bytesPerSecond / 1000;
    this.#leftBytes = share * this.#bytesPerMs * link.roundTripMs;
    this.#lateMs = lateAfterMs(link.roundTripMs);
    this.#freeMs = nowMs + link.aheadBytes / this.#bytesPerMs;
  }

  /** A control message goes out: any lane may carry its copy. */
  control(frame: OutgoingFrame): void {
    this.#waiting.push({ frame, lane: undefined, dueMs: 0, release: () => {} });
  }

  /** The frame as it is to be sent over this lane, now: its content is let go of when the peer has both, or one of which no copy was sent. */
  first(frame: QueuedFrame, lane: object, nowMs: number): QueuedFrame {
    this.#sent(frame, nowMs);
    if (frame.payloadBytes > this.#leftBytes) return frame;
    this.#leftBytes -= frame.payloadBytes;
    return this.#held(frame, lane, 0);
  }

  /** The frame as it is to be kept, which has been on its way over this lane since `sentMs`. */
  before(frame: QueuedFrame, lane: object, sentMs: number): QueuedFrame {
    return this.#held(frame, lane, sentMs + this.#lateMs);
  }

  #held(frame: QueuedFrame, lane: object, dueMs: number): QueuedFrame {
    let holders = 1;
    const release = (): void => {
      if (--holders === 0) frame.release();
    };
    const waiting = { frame, lane, dueMs, release };
    this.#waiting.push(waiting);
    holders++;
    return {
      ...frame,
      release: () => {
        const index = this.#waiting.indexOf(waiting);
        if (index >= 0) this.#waiting.splice(index, 1);
        if (index >= 0) release();
        release();
      },
    };
  }

  /** What may be sent over this lane once more, now, taken out; undefined if nothing may. */
  second(lane: object, nowMs: number): Copy | undefined {
    const free = nowMs >= this.#freeMs;
    let copy: Waiting | undefined;
    for (const one of this.#waiting) {
      const may = one.lane === undefined || (free && one.lane !== lane && nowMs >= one.dueMs);
      if (may && (copy === undefined || one.dueMs < copy.dueMs)) copy = one;
    }
    if (copy !== undefined) this.#waiting.splice(this.#waiting.indexOf(copy), 1);
    if (copy !== undefined) this.#sent(copy.frame, nowMs);
    return copy;
  }

  /** How long until there may be something to send again that there is not now, in ms; 0 if there will not be. */
  waitMs(nowMs: number): number {
    let ms = Number.POSITIVE_INFINITY;
    for (const { dueMs } of this.#waiting) {
      const atMs = Math.max(dueMs, this.#freeMs);
      if (atMs > nowMs) ms = Math.min(ms, atMs - nowMs);
    }
    return ms === Number.POSITIVE_INFINITY ? 0 : ms;
  }

  #sent({ payloadBytes }: OutgoingFrame, nowMs: number): void {
    this.#freeMs = Math.max(this.#freeMs, nowMs) + payloadBytes / this.#bytesPerMs;
  }

  /** It is over: no more copies. */
  end(): void {
    for (const { release } of this.#waiting.splice(0)) release();
  }
}
