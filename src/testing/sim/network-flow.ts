import type { MigrationError } from '../../errors.ts';
import type { CancelTimer, Environment } from '../../interfaces/environment.ts';
import { Fifo } from '../../transports/fifo.ts';
import { ReceiveQueue } from '../../transports/receive-queue.ts';
import type { Prng } from '../../util/prng.ts';
import { type CongestionControl, packetBytes } from './network-congestion.ts';
import { type Fate, Losses } from './network-loss.ts';
import type { WaitingSender, Wire } from './network-wire.ts';

/** What a flow tells the end that sends into it. */
export interface FlowSender {
  /** Something left the send buffer. */
  onRoom(): void;
  /** The other end has seen the end of the stream, and word of it is back. */
  onEndSeen(): void;
}

/** What a flow tells the end that it leads to. Chunks go into {@link Flow.queue} without a word. */
export interface FlowReceiver {
  /** The end of the stream is here, behind all its chunks. */
  onEnd(): void;
  /** The sender's end dropped the connection. */
  onReset(error: MigrationError): void;
}

/** What happens in a flow that its network counts and notes. */
export type FlowEvent = 'deliver' | 'loss' | 'overflow' | 'timeout' | 'flip';

/** What a flow needs of the connection that it is half of. */
export interface FlowOptions {
  readonly environment: Environment;
  readonly prng: Prng;
  /** The way there ... */
  readonly out: Wire;
  /** ... and the way on which acknowledgements come back. They take its delay, not its rate. */
  readonly back: Wire;
  readonly congestion: CongestionControl;
  /** What may be on its way or wait for the consumer at once. */
  readonly windowBytes: number;
  /** The consumer gets copies, made as they are delivered. */
  readonly copy: boolean;
  /**
   * So many bytes more (or fewer) are held: in the send buffer, on their way, or waiting for the consumer.
   */
  held(bytes: number): void;
  note(event: FlowEvent, bytes: number): void;
  /** A fault that was ordered on the wire has come to this connection: it breaks, at both ends. */
  broken(): void;
}

interface Parcel {
  readonly chunks: readonly Uint8Array[];
  readonly bytes: number;
  readonly sentAt: number;
  /** Without what is before it: a timeout follows from these, and what waits behind a lost packet has a time stamp of its own. */
  readonly ownRoundTripMs: number;
  /** `#ackedBytes` when it was sent. */
  readonly ackedBefore: number;
  /** `#sentBytes` after it was sent. */
  readonly position: number;
  readonly fate: Fate['kind'];
  /** The end of the stream is behind it. */
  readonly end: boolean;
  readonly deliverAt: number;
  readonly ackAt: number;
}

interface WindowUpdate {
  readonly dueAt: number;
  takenBytes: number;
}

/** A nanosecond: what sums of times may be off by. */
const toleranceMs = 1e-6;

/**
 * One direction of one connection, as TCP shows it to a program: no byte goes missing, and order is kept.
 * What is sent leaves in parcels, as the congestion window and the receiver's window allow.
 *
 * ```
 * send() ─► buffer ─ windows ─► wire: queue, rate, delay ─► parcels in order ─► queue ─► consumer
 *                       ▲                                        │                │
 *                       └── acknowledgements, window updates ◄───┴────────────────┘
 * ```
 *
 * A parcel with a lost packet is delivered when its repair arrives, and what is behind it waits: a round trip
 * for each time that the repair is lost as well, or, where too little is on its way to tell of the loss, a
 * timeout (200 ms or two round trips, doubled each time). The window collapses once a round trip at most.
 *
 * In the dark (see {@link Wire.dark}) parcels and acknowledgements are parked. When it is light again they go
 * on at the next repetition that the sender's backed-off timer would have made.
 */
export class Flow implements WaitingSender {
  /** What has arrived. Taking from it makes room in the window. */
  readonly queue: ReceiveQueue;
  sender: FlowSender | undefined;
  receiver: FlowReceiver | undefined;
  /** The receiver's process is no more: nothing is delivered or acknowledged. */
  receiverDead = false;
  readonly #options: FlowOptions;
  readonly #environment: Environment;
  readonly #out: Wire;
  readonly #back: Wire;
  readonly #congestion: CongestionControl;
  readonly #losses: Losses;
  readonly #chunks = new Fifo<Uint8Array>();
  readonly #arrivals = new Fifo<Parcel>();
  readonly #acks = new Fifo<Parcel>();
  readonly #updates = new Fifo<WindowUpdate>();
  #lastUpdate: WindowUpdate | undefined;
  #bufferedBytes = 0;
  #flightBytes = 0;
  #unackedBytes = 0;
  #sentBytes = 0;
  #ackedBytes = 0;
  #takenBytes = 0;
  /** `#takenBytes` as the sender knows it. */
  #takenKnownBytes = 0;
  #ending = false;
  #dropped = false;
  #senderDead = false;
  #waiting = false;
  #limited = false;
  #overflowed = false;
  /** Losses of packets sent up to here are one loss. */
  #recoverPosition = 0;
  #lastDeliverAt = 0;
  #lastAckAt = 0;
  #arrivalsFrom = 0;
  #acksFrom = 0;
  #cancelArrival: CancelTimer | undefined;
  #cancelReturn: CancelTimer | undefined;
  #returnAt = Number.POSITIVE_INFINITY;
  #parkedAt: number | undefined;
  #reset: MigrationError | undefined;

  constructor(options: FlowOptions) {
    this.#options = options;
    this.#environment = options.environment;
    this.#out = options.out;
    this.#back = options.back;
    this.#congestion = options.congestion;
    this.#losses = new Losses(options.prng, options.out, options.back);
    this.queue = new ReceiveQueue((chunk) => this.#taken(chunk.byteLength));
  }

  /** Bytes that were sent and are not on the wire yet. */
  get bufferedBytes(): number {
    return this.#bufferedBytes;
  }

  send(chunks: readonly Uint8Array[]): void {
    for (const chunk of chunks) {
      if (chunk.byteLength === 0) continue;
      this.#chunks.push(chunk);
      this.#bufferedBytes += chunk.byteLength;
      this.#options.held(chunk.byteLength);
    }
    this.#pump(false);
  }

  /** Puts the end of the stream behind what waits. */
  end(): void {
    this.#ending = true;
    this.#pump(false);
  }

  /** Forgets what waits and what is on its way, and sets no timer any more. */
  drop(): void {
    if (this.#dropped) return;
    this.#dropped = true;
    this.#options.held(-this.#bufferedBytes - this.#flightBytes);
    this.#bufferedBytes = 0;
    this.#flightBytes = 0;
    this.#chunks.clear();
    this.#arrivals.clear();
    this.#acks.clear();
    this.#updates.clear();
    this.#cancelArrival?.();
    this.#cancelReturn?.();
  }

  /** The sender's host has lost its power: what is on its way still comes, nothing after it. */
  senderDied(): void {
    this.#options.held(-this.#bufferedBytes);
    this.#bufferedBytes = 0;
    this.#chunks.clear();
    this.#ending = false;
    this.#acks.clear();
    this.#updates.clear();
    this.#cancelReturn?.();
    this.#senderDead = true;
  }

  /** Drops, and lets the receiver know, if that gets through. */
  reset(error: MigrationError): void {
    this.drop();
    this.#reset = error;
    this.#sendReset(this.#environment.now());
  }

  /** It is light again on one of the ways. */
  resume(): void {
    if (this.#out.dark || this.#back.dark) return;
    const now = this.#environment.now();
    if (this.#reset !== undefined) this.#sendReset(now);
    if (this.#parkedAt === undefined || this.#dropped || this.#senderDead || this.receiverDead) return;
    const retryAt = this.#losses.nextRetryAt(this.#parkedAt, now);
    this.#parkedAt = undefined;
    this.#timedOut(now);
    this.#arrivalsFrom = this.#out.arrivalOf(retryAt);
    this.#acksFrom = this.#back.arrivalOf(this.#arrivalsFrom);
    this.#armArrival();
    this.#returnAt = Number.POSITIVE_INFINITY;
    this.#armReturn();
  }

  onWireRoom(): void {
    this.#waiting = false;
    this.#pump(true);
  }

  /**
   * Sends what the windows and the wire's queue allow; `turn`: the first parcel goes ahead of others that
   * wait for the wire.
   */
  #pump(turn: boolean): void {
    if (this.#dropped || this.#senderDead || this.#waiting) return;
    const out = this.#out;
    const before = this.#bufferedBytes;
    this.#limited = false;
    for (let first = turn; this.#bufferedBytes > 0; first = false) {
      const window = this.#congestion.windowBytes;
      const congestionRoom = window - this.#unackedBytes;
      const windowRoom = this.#options.windowBytes - (this.#sentBytes - this.#takenKnownBytes);
      const room = Math.min(congestionRoom, windowRoom);
      const wanted = Math.min(this.#bufferedBytes, out.parcelBytes);
      // Small parcels cost as much as large ones: wait until there is room for a part of the window that is
      // worth it.
      const worthIt = Math.max(packetBytes, Math.min(window, this.#options.windowBytes) / 16);
      if (room < Math.min(wanted, worthIt)) {
        this.#limited = congestionRoom <= windowRoom;
        break;
      }
      const full = !out.hasRoom();
      if (full || (out.contended && !first)) {
        if (full) this.#overflow();
        this.#limited = true;
        this.#waiting = true;
        out.wait(this);
        break;
      }
      this.#transmit(Math.min(wanted, room), room);
    }
    if (this.#bufferedBytes === 0 && this.#ending) {
      this.#ending = false;
      this.#launch([], 0, true);
    }
    if (this.#bufferedBytes < before) this.sender?.onRoom();
  }

  #overflow(): void {
    // Once for each time that it is met: the parcel that goes next is the one that was lost and repaired.
    if (this.#overflowed) return;
    this.#overflowed = true;
    this.#out.overflows += 1;
    this.#options.note('overflow', 0);
  }

  /**
   * Takes about `wanted` bytes out of the buffer, at a chunk's end if one is near, and no more than `room`.
   */
  #transmit(wanted: number, room: number): void {
    const most = Math.min(room, wanted + (wanted >>> 2));
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    while (bytes < wanted) {
      const chunk = this.#chunks.shift();
      if (chunk === undefined) break;
      if (bytes + chunk.byteLength <= most) {
        chunks.push(chunk);
        bytes += chunk.byteLength;
        continue;
      }
      const length = Math.floor(wanted) - bytes;
      if (length > 0) chunks.push(chunk.subarray(0, length));
      this.#chunks.unshift(chunk.subarray(length));
      bytes += length;
      break;
    }
    this.#bufferedBytes -= bytes;
    const end = this.#ending && this.#bufferedBytes === 0;
    if (end) this.#ending = false;
    this.#launch(chunks, bytes, end);
  }

  #launch(chunks: readonly Uint8Array[], bytes: number, end: boolean): void {
    const nowMs = this.#environment.now();
    const arrivesAt = this.#out.transmit(bytes);
    this.#flightBytes += bytes;
    this.#unackedBytes += bytes;
    this.#sentBytes += bytes;
    const { kind, completeAt } = this.#fateOf(bytes, nowMs, arrivesAt);
    this.#lastDeliverAt = Math.max(this.#lastDeliverAt, completeAt);
    // What comes behind a loss is acknowledged by itself; the end of the stream is where all is before it.
    const toldAt = end ? this.#lastDeliverAt : kind === 'timeout' ? completeAt : arrivesAt;
    const ackAt = this.#back.arrivalOf(toldAt);
    this.#lastAckAt = Math.max(this.#lastAckAt, ackAt);
    const parcel: Parcel = {
      chunks,
      bytes,
      sentAt: nowMs,
      ownRoundTripMs: ackAt - nowMs,
      ackedBefore: this.#ackedBytes,
      position: this.#sentBytes,
      fate: kind,
      end,
      deliverAt: this.#lastDeliverAt,
      ackAt: this.#lastAckAt,
    };
    this.#arrivals.push(parcel);
    this.#acks.push(parcel);
    if (this.#arrivals.length === 1) this.#armArrival();
    if (this.#acks.length === 1) this.#armReturn();
  }

  #fateOf(bytes: number, nowMs: number, arrivesAt: number): Fate {
    const overflowed = this.#overflowed;
    this.#overflowed = false;
    const unackedBytes = this.#unackedBytes;
    const fate = this.#losses.fateOf({ bytes, nowMs, arrivesAt, overflowed, unackedBytes });
    if (fate.losses > 0) {
      this.#out.losses += fate.losses;
      this.#options.note('loss', bytes);
    }
    if (fate.kind === 'timeout') this.#options.note('timeout', bytes);
    return fate;
  }

  #armArrival(): void {
    this.#cancelArrival?.();
    this.#cancelArrival = undefined;
    const first = this.#arrivals.peek();
    if (first === undefined) return;
    const at = Math.max(first.deliverAt, this.#arrivalsFrom);
    const delayMs = Math.max(0, at - this.#environment.now());
    this.#cancelArrival = this.#environment.setTimer(delayMs, () => this.#arrived());
  }

  #arrived(): void {
    this.#cancelArrival = undefined;
    const now = this.#environment.now();
    if (this.#out.dark || this.receiverDead) {
      this.#parkedAt ??= now;
      return;
    }
    for (;;) {
      const parcel = this.#arrivals.peek();
      if (parcel === undefined || parcel.deliverAt > now + toleranceMs) break;
      this.#arrivals.shift();
      this.#deliver(parcel);
      if (this.#dropped) return;
    }
    this.#armArrival();
  }

  #deliver({ chunks, bytes, end }: Parcel): void {
    const out = this.#out;
    this.#flightBytes -= bytes;
    const resetAfter = out.resetAfterBytes;
    if (resetAfter !== undefined && bytes > 0) {
      if (resetAfter <= bytes) {
        out.resetAfterBytes = undefined;
        this.#options.held(resetAfter - bytes);
        this.#handOver(chunks, resetAfter);
        this.#options.broken();
        return;
      }
      out.resetAfterBytes = resetAfter - bytes;
    }
    this.#handOver(chunks, bytes);
    if (end) this.receiver?.onEnd();
  }

  #handOver(chunks: readonly Uint8Array[], bytes: number): void {
    this.#out.deliveredBytes += bytes;
    if (bytes > 0) this.#options.note('deliver', bytes);
    let rest = bytes;
    for (const chunk of chunks) {
      if (rest <= 0) break;
      const part = chunk.byteLength <= rest ? chunk : chunk.subarray(0, rest);
      rest -= part.byteLength;
      const flip = this.#out.flipChunkBytesMin;
      const given =
        flip !== undefined && part.byteLength >= flip
          ? this.#flipped(part)
          : this.#options.copy
            ? new Uint8Array(part)
            : part;
      if (!this.queue.push(given)) this.#taken(given.byteLength);
    }
  }

  #flipped(chunk: Uint8Array): Uint8Array {
    const { prng } = this.#options;
    this.#out.flipChunkBytesMin = undefined;
    const copy = new Uint8Array(chunk);
    const at = prng.below(copy.byteLength);
    copy[at] = (copy[at] ?? 0) ^ (1 << prng.below(8));
    this.#options.note('flip', copy.byteLength);
    return copy;
  }

  /** The consumer took something: the sender will hear of the room. */
  #taken(bytes: number): void {
    this.#takenBytes += bytes;
    this.#options.held(-bytes);
    if (this.#dropped || this.#senderDead || this.receiverDead) return;
    const dueAt = this.#back.arrivalOf(this.#environment.now());
    const last = this.#lastUpdate;
    if (last !== undefined && last.dueAt >= dueAt) {
      last.takenBytes = this.#takenBytes;
      return;
    }
    this.#lastUpdate = { dueAt, takenBytes: this.#takenBytes };
    this.#updates.push(this.#lastUpdate);
    if (this.#updates.length === 1) this.#armReturn();
  }

  /** For the next acknowledgement or window update. */
  #armReturn(): void {
    const ackAt = this.#acks.peek()?.ackAt ?? Number.POSITIVE_INFINITY;
    const updateAt = this.#updates.peek()?.dueAt ?? Number.POSITIVE_INFINITY;
    const at = Math.max(this.#acksFrom, Math.min(ackAt, updateAt));
    if (at >= this.#returnAt) return;
    this.#cancelReturn?.();
    this.#returnAt = at;
    const delayMs = Math.max(0, at - this.#environment.now());
    this.#cancelReturn = this.#environment.setTimer(delayMs, () => this.#returned());
  }

  #returned(): void {
    const now = this.#environment.now();
    if (this.#back.dark || this.receiverDead) {
      this.#parkedAt ??= now;
      return;
    }
    this.#returnAt = Number.POSITIVE_INFINITY;
    for (;;) {
      const parcel = this.#acks.peek();
      if (parcel === undefined || parcel.ackAt > now + toleranceMs) break;
      // What is parked, or not there yet for another reason, is not acknowledged.
      if (this.#arrivals.length > 0 && this.#parkedAt !== undefined) break;
      this.#acks.shift();
      this.#acknowledged(parcel, now);
      if (this.#dropped) return;
    }
    for (;;) {
      const update = this.#updates.peek();
      if (update === undefined || update.dueAt > now + toleranceMs) break;
      this.#updates.shift();
      if (update === this.#lastUpdate) this.#lastUpdate = undefined;
      this.#takenKnownBytes = update.takenBytes;
    }
    this.#pump(false);
    if (!this.#dropped && !(this.#arrivals.length > 0 && this.#parkedAt !== undefined)) this.#armReturn();
  }

  #acknowledged(parcel: Parcel, nowMs: number): void {
    const { bytes, fate, position } = parcel;
    const roundTripMs = nowMs - parcel.sentAt;
    this.#unackedBytes -= bytes;
    this.#ackedBytes += bytes;
    if (fate === 'arrived') this.#losses.roundTrip(parcel.ownRoundTripMs);
    if (fate !== 'arrived' && position > this.#recoverPosition) {
      this.#recoverPosition = this.#sentBytes;
      // What did not fit was a part of the same loss.
      this.#overflowed = false;
      if (fate === 'timeout') this.#congestion.timedOut(nowMs);
      else this.#congestion.lost(nowMs);
    }
    if (bytes > 0) {
      this.#congestion.acknowledged({
        nowMs,
        bytes,
        roundTripMs,
        bytesPerMs: (this.#ackedBytes - parcel.ackedBefore) / Math.max(1e-3, roundTripMs),
        busy: this.#bufferedBytes > 0,
        limited: this.#limited,
        recovering: position <= this.#recoverPosition,
      });
    }
    if (parcel.end) this.sender?.onEndSeen();
  }

  #timedOut(nowMs: number): void {
    if (this.#unackedBytes === 0) return;
    this.#recoverPosition = this.#sentBytes;
    this.#congestion.timedOut(nowMs);
    this.#options.note('timeout', this.#unackedBytes);
  }

  #sendReset(at: number): void {
    const delayMs = this.#out.arrivalOf(at) - this.#environment.now();
    this.#environment.setTimer(delayMs, () => {
      const error = this.#reset;
      if (error === undefined || this.#out.dark || this.receiverDead) return;
      this.#reset = undefined;
      this.receiver?.onReset(error);
    });
  }
}
