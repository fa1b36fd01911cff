/**
 * What each lane sends next, and when a lane that waits is woken for it.
 *
 * A lane asks once what it sent is out (`next`). In this order it gets: a control message whose copy is to go over it, a frame of a lane that was lost (streams wait for those), a frame that waits, and a copy of
 * what is late or in the last flight. Frames go out while the link has room and the rate allows it, over lanes that would not be the last to deliver them. Where there is nothing for it the lane waits, until
 * something changes that concerns it (`wake`).
 */
import type { CancelTimer, Environment } from '../interfaces/environment.ts';
import type { ClassStatistics } from '../interfaces/migration.ts';
import type { FrameClass } from '../wire/frame.ts';
import type { Copies } from './copies.ts';
import type { Copy, Flight, FlightLink } from './flight.ts';
import { IdleLanes } from './idle-lanes.ts';
import type { Lane } from './lane.ts';
import type { LaneSet } from './lane-set.ts';
import { bytesPerSecondAssumed, type LinkEstimate } from './link-estimate.ts';
import type { LinkWindow } from './link-window.ts';
import { Pacer } from './pacer.ts';
import { Queueing } from './queueing.ts';
import type { QueuedFrame, Scheduler } from './scheduler.ts';

/** What a lane is compared by that is to send a copy, where nothing waits: about what an item has. */
const copyBytes = 64 << 10;

/** The parts of the channel that this is decided by. */
export interface SendingParts {
  readonly environment: Environment;
  readonly lanes: LaneSet;
  readonly scheduler: Scheduler;
  readonly copies: Copies;
  readonly estimate: LinkEstimate;
  /** Undefined where there are several paths. */
  readonly window: LinkWindow | undefined;
}

/** Is told of what goes out. */
export interface SendingSink {
  /** A frame has left the queue. */
  leftQueue(frame: QueuedFrame): void;
  /** A frame, not a copy of one, is about to go out over a lane. */
  goesOut(): void;
}

/** See the top of this file. */
export class Sending {
  readonly #environment: Environment;
  readonly #lanes: LaneSet;
  readonly #scheduler: Scheduler;
  readonly #copies: Copies;
  readonly #estimate: LinkEstimate;
  readonly #window: LinkWindow | undefined;
  readonly #rateBytesPerSecondMax: number | undefined;
  readonly #sink: SendingSink;
  readonly #queueing = new Queueing();
  readonly #idle = new IdleLanes();
  /** Keeps to the policy's rate; undefined where there is none, and while a guest stands still. */
  #pacer: Pacer | undefined;
  /** When the lanes are woken, and how that is called off. */
  #wakeMs = Number.POSITIVE_INFINITY;
  #cancelWakeTimer: CancelTimer | undefined;

  constructor(parts: SendingParts, rateBytesPerSecondMax: number | undefined, sink: SendingSink) {
    this.#environment = parts.environment;
    this.#lanes = parts.lanes;
    this.#scheduler = parts.scheduler;
    this.#copies = parts.copies;
    this.#estimate = parts.estimate;
    this.#window = parts.window;
    this.#rateBytesPerSecondMax = rateBytesPerSecondMax;
    this.#sink = sink;
    this.#keepRate();
  }

  /** Payload that waits for a lane. */
  get queuedBytes(): number {
    return this.#scheduler.queuedBytes + this.#lanes.againBytes;
  }

  /** What the link carries, or may: a limit is known before anything was measured, and a burst at full speed says nothing against it. */
  get bytesPerSecond(): number | undefined {
    const { bytesPerSecond } = this.#estimate;
    if (this.#pacer === undefined || this.#rateBytesPerSecondMax === undefined) return bytesPerSecond;
    return Math.min(this.#rateBytesPerSecondMax, bytesPerSecond ?? bytesPerSecondAssumed);
  }

  /** It is not for want of lanes that no more is carried. */
  get reachesLimit(): boolean {
    const limit = this.#pacer === undefined ? undefined : this.#rateBytesPerSecondMax;
    return limit !== undefined && (this.#estimate.bytesPerSecond ?? limit) > 0.9 * limit;
  }

  /** What was sent of each class, and how long it waited. */
  get statistics(): Readonly<Record<FrameClass, ClassStatistics>> {
    return this.#queueing.statistics;
  }

  /** What is known of the link, with so much that is not on it yet. */
  flightLink(aheadBytes: number): FlightLink {
    const { roundTripMs, bytesPerSecond = bytesPerSecondAssumed } = this.#estimate;
    return { roundTripMs, bytesPerSecond, aheadBytes, spreadBytesPerSecond: this.#window?.bytesPerSecond };
  }

  /** The lane sends what is next for it, or waits for something to change. Resolves when it may be asked for again; rejects when the lane is lost while it sends, and after {@link Sending.end}. */
  async next(lane: Lane): Promise<void> {
    const nowMs = this.#environment.now();
    const message = this.#copies.takeMessage(lane);
    if (message?.type === 'positions') {
      await lane.send(message);
      return;
    }
    if (message !== undefined) {
      await this.#sendCopy(lane, { frame: message, release: () => {}, drop: () => {} }, nowMs);
      return;
    }
    const room = this.#hasRoom(lane);
    const takes = room && this.#mayGoOut() && !this.#lanes.isSlow(lane, this.queuedBytes, nowMs);
    const again = takes ? this.#lanes.nextAgain() : undefined;
    const frame = again ?? (takes ? this.#scheduler.next() : undefined);
    if (frame !== undefined) {
      if (again === undefined) {
        this.#sink.leftQueue(frame);
        this.#queueing.left(frame.class, frame.payloadBytes, nowMs - frame.queuedMs);
      }
      await this.#sendFrame(lane, frame, nowMs);
      return;
    }
    const flight = this.#flightOver(lane);
    // Over a lane that is slow itself it would be no help.
    const helps =
      room &&
      flight?.isDue(nowMs) === true &&
      !this.#lanes.isSlow(lane, this.queuedBytes || copyBytes, nowMs);
    const copy = helps ? flight.second(lane, nowMs) : undefined;
    if (copy !== undefined) {
      this.#pacer?.sent(copy.frame.payloadBytes, nowMs);
      await this.#sendCopy(lane, copy, nowMs);
      return;
    }
    this.#wakeIn(flight?.waitMs(nowMs) ?? 0);
    // What waits for credit is work all the same: then the rate is that of the peer, and counts.
    if (room && this.queuedBytes === 0) this.#starved();
    await this.#idle.wait(lane);
  }

  /** Resolves when the lane is woken; rejects after {@link Sending.end}. */
  wait(lane: Lane): Promise<void> {
    return this.#idle.wait(lane);
  }

  /** Something has changed: wakes the lanes that may have something to do now, by the rules of {@link Sending.next}. */
  wake(): void {
    if (this.#idle.size === 0) return;
    const nowMs = this.#environment.now();
    const waits = this.queuedBytes > 0;
    const mayGoOut = this.#mayGoOut();
    let starved = false;
    this.#idle.wake((lane) => {
      if (lane.retired || this.#copies.hasMessage(lane)) return true;
      if (!this.#hasRoom(lane)) return false;
      if (mayGoOut && !this.#lanes.isSlow(lane, this.queuedBytes, nowMs)) return true;
      starved ||= !waits;
      const flight = this.#flightOver(lane);
      if (flight?.isDue(nowMs) === true) return true;
      this.#wakeIn(flight?.waitMs(nowMs) ?? 0);
      return false;
    });
    if (starved) this.#starved();
  }

  /** A guest stands still for what is sent from now on: no rate is kept to, and {@link Copies} begin a last flight. */
  beginFlight(): void {
    this.#pacer = undefined;
    this.#cancelWake();
    const nowMs = this.#environment.now();
    const aheadBytes = this.#estimate.aheadBytes(nowMs, this.#lanes.inFlightBytes);
    this.#copies.beginLast(this.flightLink(aheadBytes), nowMs);
    this.wake();
  }

  /** The guest runs on. */
  endFlight(): void {
    this.#keepRate();
    this.#copies.endLast();
    this.#cancelWake();
    this.wake();
  }

  /** Nothing more is sent: all lanes that wait are told, and those that will. */
  end(error: unknown): void {
    this.#cancelWake();
    this.#idle.fail(error);
  }

  #keepRate(): void {
    const rate = this.#rateBytesPerSecondMax;
    this.#pacer = rate === undefined ? undefined : new Pacer(rate);
  }

  #sendFrame(lane: Lane, frame: QueuedFrame, nowMs: number): Promise<void> {
    const isLast = this.#copies.last !== undefined;
    this.#estimate.sent(nowMs, frame.payloadBytes);
    this.#pacer?.sent(frame.payloadBytes, nowMs);
    if (!isLast) this.#window?.sent(frame.payloadBytes, nowMs);
    this.#sink.goesOut();
    const sent = lane.sendKept(this.#copies.kept(frame, lane, nowMs), nowMs);
    // Another lane may send the copy.
    if (isLast) this.wake();
    this.#lanes.changed();
    return sent;
  }

  #sendCopy(lane: Lane, copy: Copy, nowMs: number): Promise<void> {
    const sent = lane.sendCopy(copy, nowMs);
    this.#lanes.changed();
    return sent;
  }

  #hasRoom(lane: Lane): boolean {
    return lane.inFlightBytes < this.#lanes.windowOf(lane);
  }

  /** Whether anything waits that may go out now. */
  #mayGoOut(): boolean {
    return this.queuedBytes > 0 && this.#linkHasRoom() && !this.#isPaced();
  }

  /** Whether the link takes more without a queue in front of it; if not, the window hears that it holds something up. A last flight waits for no answers. */
  #linkHasRoom(): boolean {
    if (this.#window === undefined || this.#copies.last !== undefined) return true;
    if (this.#lanes.onLanesBytes < this.#window.bytes) return true;
    this.#window.limited();
    return false;
  }

  /** Whether the policy's rate, or that of the window or the last flight, lets nothing out now. Then the lanes are told when it does. */
  #isPaced(): boolean {
    const nowMs = this.#environment.now();
    const spread = this.#copies.last ?? this.#window;
    const waitMs = Math.max(this.#pacer?.waitMs(nowMs) ?? 0, spread?.spreadMs(nowMs) ?? 0);
    this.#wakeIn(waitMs);
    return waitMs > 0;
  }

  /** The flight of which something may go out again over this lane. */
  #flightOver(lane: Lane): Flight | undefined {
    return this.#copies.over(lane, () => this.queuedBytes === 0 && !this.#isPaced());
  }

  /** There is room, and nothing waits. */
  #starved(): void {
    this.#window?.starved();
    this.#estimate.starved(this.#lanes.inFlightBytes);
  }

  /** Wakes the lanes after so long, if that is more than 0, and they are not to be woken before. */
  #wakeIn(waitMs: number): void {
    const wakeMs = this.#environment.now() + waitMs;
    if (waitMs === 0 || wakeMs >= this.#wakeMs) return;
    this.#cancelWake();
    this.#wakeMs = wakeMs;
    this.#cancelWakeTimer = this.#environment.setTimer(waitMs, () => {
      this.#wakeMs = Number.POSITIVE_INFINITY;
      this.wake();
    });
  }

  #cancelWake(): void {
    this.#cancelWakeTimer?.();
    this.#wakeMs = Number.POSITIVE_INFINITY;
  }
}
