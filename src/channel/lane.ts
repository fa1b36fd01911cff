import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import { chunksLength } from '../util/chunks.ts';
import {
  encodeFrameHeader,
  FrameParser,
  frameHeaderBytes,
  type IncomingFrame,
  type OutgoingFrame,
} from '../wire/frame.ts';
import type { Copy } from './flight.ts';
import { end, type GreetedConnection } from './handshake.ts';
import { LaneWindow } from './lane-window.ts';
import type { QueuedFrame } from './scheduler.ts';
import { Silence } from './silence.ts';

/** A frame that was sent and is kept until the peer has it. */
interface KeptFrame {
  /** Undefined for a copy: nobody needs it once more. */
  frame: QueuedFrame | undefined;
  readonly bytes: number;
  readonly sentMs: number;
  release: () => void;
  /** Copies only: it is lost with the lane. */
  readonly drop?: (() => void) | undefined;
}

/** One connection in use by the channel: frames out, frames in, and what is on its way. */
export class Lane {
  /** 0 is the control lane. */
  readonly index: number;
  /** How fast it is. */
  readonly window: LaneWindow;
  readonly #greeted: GreetedConnection;
  readonly #parser: FrameParser;
  readonly #silence = new Silence();
  /** Sent and not yet received by the peer, in the order of their sequence numbers. */
  readonly #kept: KeptFrame[] = [];
  #retired = false;
  #sentSequence = 0;
  #freedSequence = 0;
  #receivedSequence = 0;
  #inFlightBytes = 0;
  #bytesSent = 0;
  #bytesReceived = 0;

  constructor(index: number, greeted: GreetedConnection) {
    this.index = index;
    this.window = new LaneWindow(greeted.roundTripMs);
    this.#greeted = greeted;
    this.#parser = new FrameParser((chunk) => greeted.reader.recycle(chunk));
  }

  /** For people. */
  get label(): string {
    return this.#greeted.connection.label;
  }

  /** Bytes sent that the peer has not said it received. */
  get inFlightBytes(): number {
    return this.#inFlightBytes;
  }

  /** Nothing more is sent on it; it is closed once the peer has what was. */
  get retired(): boolean {
    return this.#retired;
  }

  retire(): void {
    this.#retired = true;
  }

  /** The last frame that arrived here, modulo 2^32. */
  get receivedSequence(): number {
    return this.#receivedSequence;
  }

  get bytesSent(): number {
    return this.#bytesSent;
  }

  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  /** Sends a data frame and keeps it until {@link Lane.received}. Resolves when there is room for the next. */
  sendKept(frame: QueuedFrame, nowMs: number): Promise<void> {
    return this.#keepAndSend(frame, frame, nowMs, frame.release);
  }

  /** Sends a copy of what another lane has: should this one be lost, it is not needed again. */
  sendCopy({ frame, release, drop }: Copy, nowMs: number): Promise<void> {
    return this.#keepAndSend(undefined, frame, nowMs, release, drop);
  }

  #keepAndSend(
    frame: QueuedFrame | undefined,
    sent: OutgoingFrame,
    nowMs: number,
    release: () => void,
    drop?: () => void,
  ): Promise<void> {
    if (this.#kept.length === 0) this.window.begin(nowMs);
    const bytes = sent.payloadBytes + frameHeaderBytes;
    this.#kept.push({ frame, bytes, sentMs: nowMs, release, drop });
    this.#inFlightBytes += bytes;
    return this.send(sent);
  }

  /** Sends a frame of which nothing is kept. */
  send(frame: OutgoingFrame): Promise<void> {
    // Nobody says that positions have arrived: that would be told in positions, and so on.
    if (frame.type !== 'positions') this.#sentSequence = (this.#sentSequence + 1) >>> 0;
    const header = encodeFrameHeader(frame, this.#sentSequence);
    this.#bytesSent += header.byteLength + frame.payloadBytes;
    return this.#greeted.connection.send([header, ...frame.payload]);
  }

  /**
   * The peer has received everything up to `sequence`. Lets go of those frames and returns their bytes. Throws `protocol` if
   * that many were never sent.
   */
  received(sequence: number, nowMs: number): number {
    const newly = (sequence - this.#freedSequence) >>> 0;
    if (newly > this.#kept.length) {
      throw new MigrationError('protocol', 'the peer says it received what was never sent');
    }
    if (newly === 0) return 0;
    let bytes = 0;
    let copiedBytes = 0;
    for (const kept of this.#kept.splice(0, newly)) {
      bytes += kept.bytes;
      if (kept.frame === undefined) copiedBytes += kept.bytes;
      kept.release();
    }
    this.#freedSequence = sequence;
    this.#inFlightBytes -= bytes;
    // Copies go out now and then, and would make it look slow.
    if (bytes > copiedBytes) this.window.acknowledged(bytes - copiedBytes, nowMs);
    else if (bytes > 0) this.window.heard(nowMs);
    return bytes;
  }

  /** Since when the oldest frame has been on its way that the peer may not have, copies apart; undefined if there is none. */
  get oldestSentMs(): number | undefined {
    return this.#kept.find(({ frame }) => frame !== undefined && frame.hasArrived !== true)?.sentMs;
  }

  /** How much longer than a round trip what is on its way will take on it, in ms, at the rate of the lane: so long is what is sent next held up by it. 0 if that is not known. */
  get queueMs(): number {
    const { bytesPerSecond, roundTripMs } = this.window;
    if (bytesPerSecond === 0) return 0;
    return Math.max(0, (1000 * this.#inFlightBytes) / bytesPerSecond - roundTripMs);
  }

  /** Whether it holds its oldest frame up: that would have been out before that time, at the rate of the lane. */
  isLate(beforeMs: number): boolean {
    const oldest = this.#kept[0];
    if (oldest === undefined) return false;
    const rate = this.window.bytesPerSecond || Number.POSITIVE_INFINITY;
    return oldest.sentMs + (1000 * oldest.bytes) / rate < beforeMs;
  }

  /** Every frame that the peer may not have, copies apart, becomes what `held` makes of it: the same with another release. `sentMs`: when it was sent. */
  hold(held: (frame: QueuedFrame, sentMs: number) => QueuedFrame): void {
    for (const kept of this.#kept) {
      if (kept.frame === undefined || kept.frame.hasArrived === true) continue;
      kept.frame = held(kept.frame, kept.sentMs);
      kept.release = kept.frame.release;
    }
  }

  /** Takes out every frame that the peer may not have. */
  takeKept(): readonly QueuedFrame[] {
    this.#inFlightBytes = 0;
    const frames: QueuedFrame[] = [];
    for (const { frame, release, drop } of this.#kept.splice(0)) {
      if (frame === undefined) drop?.();
      else if (frame.hasArrived === true) release();
      else frames.push(frame);
    }
    return frames;
  }

  /** Every frame that arrives, until the peer ends the stream. Throws `protocol` or `connection-lost`. */
  async *frames(): AsyncGenerator<IncomingFrame> {
    for await (const chunk of this.#greeted.reader.rest()) {
      this.#bytesReceived += chunk.byteLength;
      for (const frame of this.#parser.push(chunk)) {
        this.#receivedSequence = frame.sequence;
        yield frame;
      }
    }
    if (!this.#parser.atBoundary)
      throw new MigrationError('connection-lost', `${this.label} ended within a frame`);
  }

  /**
   * How many times in a row this was called without anything having been heard of the peer since: any byte on the control lane; on
   * others, that it received something of what is on its way.
   */
  silentLooks(): number {
    if (this.index === 0) return this.#silence.look(this.#bytesReceived);
    if (this.#kept.length > 0) return this.#silence.look(this.#freedSequence);
    this.#silence.reset();
    return 0;
  }

  close(): Promise<void> {
    return this.#greeted.connection.close();
  }

  /** Closes it, and drops it should the peer not follow. Does not reject. */
  end(environment: Environment): Promise<void> {
    return end(this.#greeted.connection, environment);
  }

  abort(reason: unknown): void {
    this.#greeted.connection.abort(reason);
  }
}

/** A frame of the control connection. */
export function controlFrame(
  type: Exclude<OutgoingFrame['type'], 'data'>,
  number: number,
  payload: Uint8Array,
  crc: number,
): OutgoingFrame {
  const chunks = payload.byteLength === 0 ? [] : [payload];
  return { type, stream: 0, number, payload: chunks, payloadBytes: chunksLength(chunks), payloadCrc: crc };
}
