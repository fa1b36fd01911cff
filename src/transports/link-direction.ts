import type { CancelTimer, Environment } from '../interfaces/environment.ts';
import { Fifo } from './fifo.ts';
import { Pipe, type PipeLink, type Turn } from './pipe.ts';

/** How a direction behaves. */
export interface DirectionSettings {
  readonly environment: Environment;
  readonly delayMs: number;
  /** May be infinite. */
  readonly bytesPerMs: number;
  /** What the queue in front of the wire holds, as the time that the wire takes for it. */
  readonly queueMs: number;
  /** What each connection may have on its way or waiting for its consumer. */
  readonly windowBytes: number;
}

/** A turn's worth on its way. */
interface Parcel {
  readonly pipe: Pipe;
  readonly turn: Turn;
  readonly arrivesAt: number;
}

/** A turn is what the wire takes for a millisecond, but no less than a packet and no more than 64 KiB. */
const parcelBytesMin = 1500;
const parcelBytesMax = 64 * 1024;

/** How long senders take to send again once the queue lets them: less than a turn of the event loop. */
const refillMs = 1;

/** A nanosecond: what sums of times may be off by. */
const toleranceMs = 1e-6;

/**
 * One direction of a link:
 *
 *     pipe ─┐
 *     pipe ─┼─ round robin ─► queue ─► wire (rate) ─► flight (delay) ─► the pipes' other ends
 *     pipe ─┘
 *
 * Queue and wire are arithmetic alone. `#freeAt` is when the wire will have sent all that it was given: the
 * next parcel leaves then and arrives after its own length and the delay, and the queue is full while
 * `#freeAt` is more than `queueMs` ahead.
 *
 * A timer that fires late delivers late, but costs no rate. What had to wait for the queue leaves when the
 * wire became free, not when the timer fired; and so does what its senders, who had to wait too, send as soon
 * as they are let. Nothing arrives sooner than the delay after it was sent.
 */
export class LinkDirection implements PipeLink {
  readonly #settings: DirectionSettings;
  readonly #parcelBytes: number;
  /** Sendable pipes, in the order of their turns. */
  readonly #ready = new Fifo<Pipe>();
  readonly #flight = new Fifo<Parcel>();
  #freeAt = Number.NEGATIVE_INFINITY;
  /** Something waited for the queue when it was last looked at. */
  #saturated = false;
  /** When something that had waited for the queue was last let in. */
  #letInAt = Number.NEGATIVE_INFINITY;
  #wake: { readonly at: number; readonly cancel: CancelTimer } | undefined;
  #deliveredBytes = 0;
  #pendingBytes = 0;

  constructor(settings: DirectionSettings) {
    this.#settings = settings;
    this.#parcelBytes = Math.min(parcelBytesMax, Math.max(parcelBytesMin, Math.floor(settings.bytesPerMs)));
  }

  /** Bytes that have arrived. */
  get deliveredBytes(): number {
    return this.#deliveredBytes;
  }

  /** Bytes that were sent and have not arrived. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** A new connection's half. */
  pipe(): Pipe {
    return new Pipe(this, this.#settings.windowBytes);
  }

  now(): number {
    return this.#settings.environment.now();
  }

  account(bytes: number): void {
    this.#pendingBytes += bytes;
  }

  afterDelay(callback: () => void): void {
    const { delayMs, environment } = this.#settings;
    if (delayMs === 0) callback();
    else environment.setTimer(delayMs, callback);
  }

  offer(pipe: Pipe): void {
    if (this.#enqueue(pipe)) this.#run();
  }

  #enqueue(pipe: Pipe): boolean {
    if (pipe.queued || !pipe.sendable(this.#parcelBytes)) return false;
    pipe.queued = true;
    this.#ready.push(pipe);
    return true;
  }

  #run(): void {
    const now = this.now();
    if (this.#saturated) this.#letInAt = now;
    if (now - this.#letInAt > refillMs) this.#freeAt = Math.max(this.#freeAt, now);
    do {
      this.#admit(now);
      this.#deliver(now);
    } while (this.#ready.length > 0 && this.#hasRoom(now));
    this.#saturated = this.#ready.length > 0;
    this.#schedule(now);
  }

  #hasRoom(now: number): boolean {
    return this.#freeAt - this.#settings.queueMs <= now + toleranceMs;
  }

  #admit(now: number): void {
    const { bytesPerMs, delayMs } = this.#settings;
    while (this.#hasRoom(now)) {
      const pipe = this.#ready.shift();
      if (pipe === undefined) return;
      pipe.queued = false;
      if (pipe.dropped) continue;
      const turn = pipe.take(this.#parcelBytes);
      this.#freeAt += turn.bytes / bytesPerMs;
      this.#flight.push({ pipe, turn, arrivesAt: Math.max(this.#freeAt, turn.sentAt) + delayMs });
      this.#enqueue(pipe);
    }
  }

  #deliver(now: number): void {
    for (;;) {
      const parcel = this.#flight.peek();
      if (parcel === undefined || parcel.arrivesAt > now + toleranceMs) return;
      this.#flight.shift();
      this.#pendingBytes -= parcel.turn.bytes;
      if (parcel.pipe.dropped) continue;
      this.#deliveredBytes += parcel.turn.bytes;
      parcel.pipe.arrive(parcel.turn);
      this.#enqueue(parcel.pipe);
    }
  }

  #schedule(now: number): void {
    const arrivalAt = this.#flight.peek()?.arrivesAt ?? Number.POSITIVE_INFINITY;
    const roomAt = this.#saturated ? this.#freeAt - this.#settings.queueMs : Number.POSITIVE_INFINITY;
    const at = Math.min(arrivalAt, roomAt);
    if (at === this.#wake?.at) return;
    this.#wake?.cancel();
    this.#wake = undefined;
    if (at === Number.POSITIVE_INFINITY) return;
    const cancel = this.#settings.environment.setTimer(Math.max(0, at - now), () => {
      this.#wake = undefined;
      this.#run();
    });
    this.#wake = { at, cancel };
  }
}
