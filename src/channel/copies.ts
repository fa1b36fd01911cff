import type { OutgoingFrame } from '../wire/frame.ts';
import { Flight, type FlightLink, lateAfterMs } from './flight.ts';
import type { Lane } from './lane.ts';
import type { LaneSet } from './lane-set.ts';
import type { QueuedFrame } from './scheduler.ts';

/** Control messages are copied up to this size: two packets. */
const messageBytesMax = 2048;

/**
 * What goes out twice, over different lanes, since one of them may lose a packet and hold up what is behind it, or its connection let little through for a moment (those of BBR look for the smallest round
 * trip every ten seconds): small control messages always; every other of the positions, over lanes that carry nothing else; what a stunned guest waits for, the
 * *last flight*; and, while the network loses packets by itself, what is late, where there is nothing else to send, the *hedge*. What of a flight, and when, is decided by {@link Flight}.
 */
export class Copies {
  readonly #lanes: LaneSet;
  /** Messages, and the newest positions, that are to go over a lane as well. */
  #messages: { readonly frame: OutgoingFrame; readonly lane: Lane }[] = [];
  #positions = 0;
  #last: Flight | undefined;
  #hedge: Flight | undefined;

  constructor(lanes: LaneSet) {
    this.#lanes = lanes;
  }

  /** The last flight, while a guest stands still for it. */
  get last(): Flight | undefined {
    return this.#last;
  }

  /** A control message goes out. Its copy goes over the lane that has the least to do before it, and is not late itself; in the last flight over any. */
  message(frame: OutgoingFrame, nowMs: number, roundTripMs: number): void {
    if (this.#last !== undefined) {
      this.#last.control(frame);
      return;
    }
    if (frame.payloadBytes > messageBytesMax) return;
    const beforeMs = nowMs - lateAfterMs(roundTripMs);
    let best: Lane | undefined;
    for (const lane of this.#lanes.open) {
      if (lane.isLate(beforeMs)) continue;
      if (best === undefined || lane.inFlightBytes < best.inFlightBytes) best = lane;
    }
    if (best !== undefined) this.#messages.push({ frame, lane: best });
  }

  /** Positions go out. The copy of every other of them goes over one lane after the other, of those of which nothing else is on its way. Returns whether there is one. */
  positions(frame: OutgoingFrame): boolean {
    this.#positions++;
    if (this.#positions % 2 === 0 || frame.payloadBytes > messageBytesMax) return false;
    const idle = this.#lanes.open.filter(({ inFlightBytes }) => inFlightBytes === 0);
    const lane = idle[(this.#positions >> 1) % idle.length];
    if (lane === undefined) return false;
    this.#messages = this.#messages.filter((copy) => copy.frame.type !== 'positions');
    this.#messages.push({ frame, lane });
    return true;
  }

  /** Whether a message's copy is to go over this lane. */
  hasMessage(lane: Lane): boolean {
    return this.#messages.some((copy) => copy.lane === lane);
  }

  /** The next message whose copy is to go over this lane, taken out. */
  takeMessage(lane: Lane): OutgoingFrame | undefined {
    const index = this.#messages.findIndex((copy) => copy.lane === lane);
    return index < 0 ? undefined : this.#messages.splice(index, 1)[0]?.frame;
  }

  /** A guest stands still for what is sent from now on, and what is on its way. */
  beginLast(link: FlightLink, nowMs: number): void {
    this.endLast();
    this.#endHedge();
    this.#last = this.#holdAll(link, nowMs);
  }

  endLast(): void {
    this.#last?.end();
    this.#last = undefined;
  }

  /** Whether the network loses packets by itself, as far as is known; and the link, as it is known now. */
  hedge(loses: boolean, link: FlightLink, nowMs: number): void {
    if (!loses || this.#last !== undefined) this.#endHedge();
    else if (this.#hedge !== undefined) this.#hedge.become(link);
    else this.#hedge = this.#holdAll(link, nowMs);
  }

  #endHedge(): void {
    this.#hedge?.end();
    this.#hedge = undefined;
  }

  /** A flight that begins with what is on its way; what each had before it on its lane is not known any more. */
  #holdAll(link: FlightLink, nowMs: number): Flight {
    const flight = new Flight(link, nowMs);
    for (const lane of this.#lanes.all) lane.hold((frame, sentMs) => flight.before(frame, lane, sentMs));
    return flight;
  }

  /** The frame as it is to be kept, which is sent over this lane now. */
  kept(frame: QueuedFrame, lane: Lane, nowMs: number): QueuedFrame {
    return (
      this.#last?.first(frame, lane, nowMs) ?? this.#hedge?.before(frame, lane, nowMs + lane.queueMs) ?? frame
    );
  }

  /** The flight of which something may go out again over this lane. `isIdle`: whether there is nothing else to send, and something may go out now. */
  over(lane: Lane, isIdle: () => boolean): Flight | undefined {
    if (this.#last !== undefined) return this.#last;
    // A lane that has brought all it had loses nothing at the moment.
    return this.#hedge !== undefined && lane.oldestSentMs === undefined && isIdle() ? this.#hedge : undefined;
  }

  /** The lane is lost. */
  lost(lane: Lane): void {
    this.#messages = this.#messages.filter((copy) => copy.lane !== lane);
  }

  /** No more data is sent. */
  end(): void {
    this.#last?.end();
    this.#endHedge();
  }
}
