/**
 * One channel over several connections: control in order, data exactly once in any order.
 *
 * ```
 * push() ─► Scheduler ─► Lane 1..N ═════════► Lane 1..N ─► ReceiveStream ─► handler
 *              ▲ credit      ▲ freed                            │ positions
 *              └─────────────┴── control lane ◄─────────────────┘
 * ```
 *
 * Each lane takes the next frame when it has room for it, so a slow lane takes less. Frames are kept until the peer has
 * received them. A lane that is lost fails the channel. The end that dialled opens more lanes while they carry more, and closes those that do
 * not; the other takes the end of a lane, between two frames, for that, and learns on the control connection if it was something else.
 */
import { asMigrationError, MigrationError } from '../errors.ts';
import type { CancelTimer, Environment } from '../interfaces/environment.ts';
import type { LaneStatistics, LinkStatistics } from '../interfaces/migration.ts';
import { crc32c } from '../util/checksum.ts';
import { joinChunks } from '../util/chunks.ts';
import { deferred, Signalled, withTimeout } from '../util/promises.ts';
import type { IncomingFrame } from '../wire/frame.ts';
import { connectionsMax } from '../wire/limits.ts';
import { decodeMessage, encodeMessage, type Message } from '../wire/messages.ts';
import { decodePositions, encodePositions } from '../wire/positions.ts';
import type { CreditShare } from './credit-pool.ts';
import type { GreetedConnection } from './handshake.ts';
import { controlFrame, Lane } from './lane.ts';
import { LaneCount } from './lane-count.ts';
import { LinkEstimate } from './link-estimate.ts';
import { Mailbox } from './mailbox.ts';
import { Pacer } from './pacer.ts';
import { Queueing } from './queueing.ts';
import { type ItemHandler, ReceiveStream } from './receive-stream.ts';
import { type QueuedFrame, Scheduler } from './scheduler.ts';
import { SendStream } from './send-stream.ts';

export interface ChannelOptions {
  readonly environment: Environment;
  /** Bytes on their way at most, all lanes together. */
  readonly windowBytesMax: number;
  /**
   * How long nothing may arrive on the control connection until the channel fails with `timeout`, in ms: 250 or more. Both ends ask for
   * an answer every 250 ms, so a link that lives is never silent for long. Default 5000.
   */
  readonly silenceMsMax?: number;
  /** Data bytes per second at most. Undefined: as many as the link takes. */
  readonly rateBytesPerSecondMax?: number | undefined;
  /** How many paths there are; lane by lane they take turns. Default 1. */
  readonly paths?: number;
  /** This end was dialled, for this VM: the other may end a lane between two frames. */
  readonly acceptedFor?: string;
  /** Opens a further lane. Without it the lanes stay as many as were added. */
  readonly dial?: (lane: number, signal: AbortSignal) => Promise<GreetedConnection>;
}

/** How long positions wait for more to say, unless much has arrived. */
const positionsDelayMs = 2;
/** ... and how much is much. */
const positionsBytes = 2 << 20;
/** How often the round trip is measured, and silence is looked for. */
const pingMs = 250;
/** Credit that was left over for so many round trips goes back. */
const giveBackRoundTrips = 2;
/** See {@link ChannelOptions.silenceMsMax}. */
const silenceMsDefault = 5000;
/**
 * A data connection may be silent for so many times as long while frames are on their way on it: only whole frames are acknowledged,
 * and on a slow link a megabyte takes its time.
 */
const dataPatience = 6;
/** How long the control connection may still speak after a data connection was ended in good order. */
const lastWordsMs = 1000;

/** What has gone through a channel. */
export interface ChannelStatistics {
  readonly wireBytes: number;
  readonly roundTripMs: number;
  readonly bytesPerSecond: number | undefined;
  readonly link: LinkStatistics;
}

/** See the top of this file. Made by {@link connectChannel} or {@link acceptChannel}. */
export class Channel {
  readonly mailbox = new Mailbox();
  readonly #environment: Environment;
  readonly #silenceMsMax: number;
  readonly #control: Lane;
  #lanes: Lane[] = [];
  /** Of a channel that was accepted: the VM that its greeting named. */
  readonly greetedFor: string | undefined;
  readonly #dial: ChannelOptions['dial'];
  readonly #laneCount = new LaneCount(connectionsMax);
  readonly #dialling = new AbortController();
  readonly #scheduler = new Scheduler();
  readonly #estimate = new LinkEstimate();
  readonly #windowBytesMax: number;
  readonly #paths: number;
  readonly #pacer: Pacer | undefined;
  readonly #queueing = new Queueing();
  #cancelPace: CancelTimer | undefined;
  /** Of lanes that are no more. */
  #goneBytes = 0;
  readonly #sendStreams = new Map<number, SendStream>();
  readonly #receiveStreams = new Map<number, ReceiveStream>();
  readonly #failure = new AbortController();
  readonly #dataWake = new Signalled();
  readonly #controlWake = new Signalled();
  readonly #controlQueue: Uint8Array[] = [];
  readonly #pongs: Uint8Array[] = [];
  readonly #loops: Promise<void>[] = [];
  readonly #controlIdle = new Signalled();
  readonly #controlEnded = deferred<void>();
  /** Numbers of lanes, past and present. */
  readonly #lanesSeen = new Set<number>();
  #lanesDialled = 0;
  /** There was room on the link and nothing to send, since it was last looked at. */
  #starved = false;
  #sendingStopped = false;
  #controlSending = false;
  #controlSent = 0;
  #controlReceived = 0;
  #positionsDue = false;
  #positionsBytes = 0;
  #cancelPositions: CancelTimer | undefined;
  #cancelPing: CancelTimer | undefined;
  #pingDue = false;
  /** The one that is on its way. */
  #ping: { readonly number: number; readonly sentMs: number } | undefined;
  #pingNumber = 0;
  #gaveBackMs = 0;
  #closing: Promise<void> | undefined;
  #ended = false;

  constructor(options: ChannelOptions, control: GreetedConnection) {
    this.#environment = options.environment;
    this.#silenceMsMax = options.silenceMsMax ?? silenceMsDefault;
    this.#windowBytesMax = options.windowBytesMax;
    const { rateBytesPerSecondMax: rate } = options;
    this.#pacer = rate === undefined ? undefined : new Pacer(rate);
    this.#paths = options.paths ?? 1;
    this.greetedFor = options.acceptedFor;
    this.#dial = options.dial;
    this.#control = new Lane(0, control);
    if (control.roundTripMs > 0) this.#estimate.roundTrip(control.roundTripMs);
    this.#loops.push(this.#run(this.#readControl()), this.#run(this.#writeControl()));
    this.#armPing();
  }

  /** Aborted, with the reason, when the channel has failed. Never aborted by {@link Channel.close}. */
  get signal(): AbortSignal {
    return this.#failure.signal;
  }

  get statistics(): ChannelStatistics {
    let wireBytes = this.#goneBytes;
    for (const lane of [this.#control, ...this.#lanes]) wireBytes += lane.bytesSent + lane.bytesReceived;
    return {
      wireBytes,
      roundTripMs: this.#estimate.roundTripMs,
      bytesPerSecond: this.#estimate.bytesPerSecond,
      link: {
        lanes: this.#lanes.map((lane) => this.#laneStatistics(lane)).sort((a, b) => a.lane - b.lane),
        classes: this.#queueing.statistics,
      },
    };
  }

  #laneStatistics({ index, window, bytesSent, bytesReceived, inFlightBytes }: Lane): LaneStatistics {
    return {
      lane: index,
      path: index % this.#paths,
      wireBytes: bytesSent + bytesReceived,
      bytesPerSecond: window.bytesPerSecond,
      roundTripMs: window.greetingMs,
      inFlightBytes,
    };
  }

  /** Payload bytes that wait or are on their way. */
  get backlogBytes(): number {
    return this.#scheduler.queuedBytes + this.#lanes.reduce((sum, lane) => sum + lane.inFlightBytes, 0);
  }

  /**
   * No more data: what waits to be sent is dropped, whoever waits for room is told the reason, pushes are let go of at once. Control messages still
   * go through, now ahead of nothing.
   */
  stopSending(reason: MigrationError): void {
    this.#sendingStopped = true;
    for (const stream of this.#sendStreams.values()) stream.fail(reason);
    for (const frame of this.#scheduler.drain()) frame.release();
  }

  /** Takes a data connection into use. */
  addLane(index: number, greeted: GreetedConnection): void {
    if (this.#ended || this.#lanesSeen.has(index) || this.#lanes.length >= connectionsMax) {
      greeted.connection.abort();
      return;
    }
    this.#lanesSeen.add(index);
    const lane = new Lane(index, greeted);
    if (greeted.roundTripMs > 0) this.#estimate.roundTrip(greeted.roundTripMs);
    this.#lanes.push(lane);
    this.#loops.push(this.#runData(this.#readData(lane)), this.#runData(this.#writeData(lane)));
  }

  /** Opens the sending side of a stream. */
  openSend(id: number, digestKey: number): SendStream {
    const sink = {
      enqueue: (frame: QueuedFrame) => {
        if (this.#ended || this.#sendingStopped) {
          frame.release();
          return;
        }
        this.#scheduler.enqueue(frame);
        this.#dataWake.notify();
      },
      now: () => this.#environment.now(),
      releaseFailed: (error: unknown) => {
        this.#fail(asMigrationError(error, 'hypervisor', 'content that was sent could not be given back'));
      },
    };
    const stream = new SendStream(id, sink, digestKey);
    if (this.signal.aborted) stream.fail(this.signal.reason);
    this.#sendStreams.set(id, stream);
    return stream;
  }

  /** Opens the receiving side of a stream, before the peer may send on it. */
  openReceive(id: number, digestKey: number, credit: CreditShare, handler: ItemHandler): ReceiveStream {
    const stream = new ReceiveStream(id, digestKey, credit, handler, () => this.#positionsSoon(0));
    this.#receiveStreams.set(id, stream);
    this.#positionsSoon(positionsBytes);
    return stream;
  }

  /** Sends a control message, ahead of all data. Messages arrive in order. Throws `incompatible` for one that is too long. */
  send(message: Message): void {
    if (this.#ended) return;
    this.#controlQueue.push(encodeMessage(message));
    this.#controlWake.notify();
  }

  /** Sends what is queued on the control lane, ends all connections, and resolves when they are gone. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    while (this.#controlQueue.length > 0 && !this.signal.aborted) {
      this.#controlWake.notify();
      await this.#controlDrained();
    }
    if (this.#ended) return;
    this.#end(new MigrationError('connection-lost', 'the channel was closed'));
    await Promise.allSettled([this.#control, ...this.#lanes].map((lane) => lane.close()));
    // Not before: until it is gone a connection may still send what it accepted.
    this.#releaseKept();
    await Promise.allSettled(this.#loops);
  }

  /** Drops everything, also while {@link Channel.close} waits for the peer; whoever waits is told the reason. Idempotent. */
  abort(reason: MigrationError): void {
    this.#fail(reason);
    this.#dropLanes(reason);
  }

  async #controlDrained(): Promise<void> {
    while ((this.#controlQueue.length > 0 || this.#controlSending) && !this.signal.aborted) {
      await this.#controlIdle.wait().catch(() => {});
    }
  }

  /** A loop that fails the channel with whatever it throws. */
  async #run(loop: Promise<void>): Promise<void> {
    try {
      await loop;
    } catch (error) {
      this.#fail(asMigrationError(error, 'connection-lost'));
    }
  }

  /** As `#run`, but a peer that closes says why on the control connection, which may end a moment later. */
  #runData(loop: Promise<void>): Promise<void> {
    return this.#run(
      loop.catch(async (error: unknown) => {
        if (!(error instanceof MigrationError) || error.code !== 'connection-lost') throw error;
        await withTimeout(this.#environment, lastWordsMs, this.#controlEnded.promise, () => error);
        throw error;
      }),
    );
  }

  #fail(error: MigrationError): void {
    if (this.#ended) return;
    this.#end(error);
    this.#failure.abort(error);
    this.#dropLanes(error);
  }

  #dropLanes(reason: MigrationError): void {
    for (const lane of [this.#control, ...this.#lanes]) lane.abort(reason);
    this.#releaseKept();
  }

  #releaseKept(): void {
    for (const lane of this.#lanes) for (const frame of lane.takeKept()) frame.release();
  }

  #end(error: MigrationError): void {
    this.#ended = true;
    this.#cancelPositions?.();
    this.#cancelPing?.();
    this.#cancelPace?.();
    this.#dialling.abort(error);
    this.mailbox.fail(error);
    this.#dataWake.fail(error);
    this.#controlWake.fail(error);
    this.#controlIdle.fail(error);
    this.stopSending(error);
  }

  async #writeData(lane: Lane): Promise<void> {
    while (!this.#ended && !lane.retired) {
      const room = lane.inFlightBytes < this.#windowOf(lane);
      const frame = room && !this.#isPaced() && !this.#isSlow(lane) ? this.#scheduler.next() : undefined;
      if (frame === undefined) {
        // What waits for credit is work all the same: then the rate is that of the peer, and counts.
        if (room && this.#scheduler.queuedBytes === 0) this.#onStarved();
        await this.#dataWake.wait().catch(() => {});
        continue;
      }
      this.#sendStreams.get(frame.stream)?.left(frame.payloadBytes);
      const nowMs = this.#environment.now();
      this.#estimate.sent(nowMs);
      this.#pacer?.sent(frame.payloadBytes, nowMs);
      this.#queueing.left(frame.class, frame.payloadBytes, nowMs - frame.queuedMs);
      await lane.sendKept(frame, nowMs);
    }
    while (!this.#ended && lane.inFlightBytes > 0) await this.#dataWake.wait().catch(() => {});
    if (!this.#ended) await lane.close();
  }

  /** Whether the policy's rate lets nothing out now. Then the lanes are told when it does. */
  #isPaced(): boolean {
    const waitMs = this.#pacer?.waitMs(this.#environment.now()) ?? 0;
    if (waitMs === 0) return false;
    // It is not for want of lanes that no more is carried.
    this.#starved = true;
    this.#cancelPace ??= this.#environment.setTimer(waitMs, () => {
      this.#cancelPace = undefined;
      this.#dataWake.notify();
    });
    return true;
  }

  #onStarved(): void {
    this.#starved = true;
    this.#estimate.starved();
  }

  /** Opens lanes, or closes the youngest, so that there are as many as carry more than fewer would. */
  #adjustLanes(): void {
    const dial = this.#dial;
    if (dial === undefined) return;
    const lanes = this.#lanes.filter(({ retired }) => !retired);
    const there = lanes.length + this.#lanesDialled;
    const wanted = this.#laneCount.look({
      nowMs: this.#environment.now(),
      lanes: there,
      bytesPerSecond: this.#estimate.bytesPerSecond,
      latestBytesPerSecond: lanes.reduce((sum, { window }) => sum + window.latestBytesPerSecond, 0),
      roundTripMs: this.#estimate.roundTripMs,
      queueMs: this.#estimate.queueMs,
      busy: !this.#starved,
    });
    this.#starved = false;
    for (let more = there; more < wanted; more++) this.#loops.push(this.#dialLane(dial));
    for (const lane of lanes.slice(wanted)) lane.retire();
    this.#dataWake.notify();
  }

  /** One that cannot be had is done without. */
  async #dialLane(dial: NonNullable<ChannelOptions['dial']>): Promise<void> {
    const index = Math.max(...this.#lanesSeen, 0) + 1;
    this.#lanesSeen.add(index);
    this.#lanesDialled++;
    try {
      const greeted = await dial(index, this.#dialling.signal);
      this.#lanesSeen.delete(index);
      this.addLane(index, greeted);
    } catch {
      // Not opened: its number is not used again.
    } finally {
      this.#lanesDialled--;
    }
  }

  /** What may be on its way on a lane: what it would take, or its share of what is allowed for all. */
  #windowOf(lane: Lane): number {
    let bytes = 0;
    for (const { window, retired } of this.#lanes) if (!retired) bytes += window.bytes;
    return lane.window.bytes * Math.min(1, this.#windowBytesMax / bytes);
  }

  /**
   * Whether another lane would have delivered all that waits before this one delivers what is on its way already. Then what waits is left to it.
   * (The lane that is the first to deliver is never slow, so there is always one that takes it.)
   */
  #isSlow(lane: Lane): boolean {
    const { queuedBytes } = this.#scheduler;
    const nowMs = this.#environment.now();
    const mineMs = lane.window.deliveryMs(lane.inFlightBytes, nowMs) ?? lane.window.roundTripMs / 2;
    return this.#lanes.some(({ window, inFlightBytes, retired }) => {
      if (retired) return false;
      const theirsMs = window.deliveryMs(inFlightBytes + queuedBytes, nowMs);
      return window !== lane.window && theirsMs !== undefined && theirsMs < mineMs;
    });
  }

  async #readData(lane: Lane): Promise<void> {
    for await (const frame of lane.frames()) {
      if (this.#ended) return;
      const stream = frame.type === 'data' ? this.#receiveStreams.get(frame.stream) : undefined;
      if (stream === undefined)
        throw new MigrationError('protocol', 'a frame on a data connection has no place here');
      stream.accept(frame);
      this.#positionsSoon(frame.payloadBytes);
    }
    if (this.#ended) return;
    if (!lane.retired && (this.greetedFor === undefined || lane.inFlightBytes > 0)) {
      throw new MigrationError('connection-lost', `the peer ended ${lane.label}`);
    }
    this.#goneBytes += lane.bytesSent + lane.bytesReceived;
    this.#lanes = this.#lanes.filter((other) => other !== lane);
    await lane.close();
  }

  /** Positions go out a moment after something has changed, or at once when much has. */
  #positionsSoon(bytes: number): void {
    this.#positionsBytes += bytes;
    if (this.#ended || this.#positionsDue) return;
    if (this.#positionsBytes >= positionsBytes) {
      this.#positionsNow();
      return;
    }
    this.#cancelPositions ??= this.#environment.setTimer(positionsDelayMs, () => this.#positionsNow());
  }

  #positionsNow(): void {
    this.#cancelPositions?.();
    this.#cancelPositions = undefined;
    this.#positionsBytes = 0;
    this.#positionsDue = true;
    this.#controlWake.notify();
  }

  #armPing(): void {
    const silent = [this.#control, ...this.#lanes].find((lane) => this.#isSilent(lane));
    if (silent !== undefined) {
      this.#fail(new MigrationError('timeout', `nothing is heard of the peer any more on ${silent.label}`));
      return;
    }
    this.#pingDue = true;
    this.#controlWake.notify();
    this.#giveCreditBack();
    this.#adjustLanes();
    this.#cancelPing = this.#environment.setTimer(pingMs, () => this.#armPing());
  }

  #giveCreditBack(): void {
    const nowMs = this.#environment.now();
    if (nowMs - this.#gaveBackMs < giveBackRoundTrips * this.#estimate.roundTripMs) return;
    this.#gaveBackMs = nowMs;
    if (this.#scheduler.giveBack()) this.#positionsNow();
  }

  #isSilent(lane: Lane): boolean {
    const patience = lane === this.#control ? 1 : dataPatience;
    return lane.silentLooks() * pingMs >= this.#silenceMsMax * patience;
  }

  async #writeControl(): Promise<void> {
    while (!this.#ended) {
      const payload = this.#nextControl();
      if (payload === undefined) {
        this.#controlSending = false;
        this.#controlIdle.notify();
        await this.#controlWake.wait().catch(() => {});
        continue;
      }
      this.#controlSending = true;
      await this.#control.send(
        controlFrame(payload.type, payload.number, payload.bytes, crc32c(payload.bytes)),
      );
    }
  }

  #nextControl():
    | {
        readonly type: 'control' | 'positions' | 'ping' | 'pong';
        readonly number: number;
        readonly bytes: Uint8Array;
      }
    | undefined {
    const message = this.#controlQueue.shift();
    if (message !== undefined) return { type: 'control', number: ++this.#controlSent, bytes: message };
    const pong = this.#pongs.shift();
    if (pong !== undefined) return { type: 'pong', number: 0, bytes: pong };
    if (this.#positionsDue) {
      this.#positionsDue = false;
      return { type: 'positions', number: 0, bytes: this.#positions() };
    }
    if (this.#pingDue && this.#ping === undefined) {
      this.#pingDue = false;
      this.#pingNumber = (this.#pingNumber + 1) >>> 0;
      this.#ping = { number: this.#pingNumber, sentMs: this.#environment.now() };
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, this.#pingNumber);
      return { type: 'ping', number: 0, bytes };
    }
    return undefined;
  }

  #positions(): Uint8Array {
    return encodePositions({
      lanes: this.#lanes.map((lane) => ({ lane: lane.index, sequence: lane.receivedSequence })),
      streams: [...this.#receiveStreams.values()].map((stream) => stream.position),
      returned: this.#scheduler.returned(),
    });
  }

  async #readControl(): Promise<void> {
    try {
      for await (const frame of this.#control.frames()) {
        if (this.#ended) return;
        this.#controlArrived(frame);
      }
    } finally {
      this.#controlEnded.resolve();
    }
    if (!this.#ended) throw new MigrationError('connection-lost', 'the peer ended the control connection');
  }

  #controlArrived(frame: IncomingFrame): void {
    const payload = joinChunks(frame.payload);
    switch (frame.type) {
      case 'control':
        this.#controlReceived++;
        if (frame.number !== this.#controlReceived)
          throw new MigrationError('protocol', 'a control message is missing');
        this.mailbox.deliver(decodeMessage(payload));
        return;
      case 'positions':
        this.#positioned(payload);
        return;
      case 'ping':
        if (payload.byteLength !== 4 || this.#pongs.length > 16)
          throw new MigrationError('protocol', 'a bad ping');
        this.#pongs.push(payload.slice());
        this.#controlWake.notify();
        return;
      case 'pong':
        this.#ponged(payload);
        return;
      case 'data':
        throw new MigrationError('protocol', 'data on the control connection');
    }
  }

  #ponged(payload: Uint8Array): void {
    const ping = this.#ping;
    const answers = payload.byteLength === 4 && new DataView(payload.buffer, payload.byteOffset).getUint32(0);
    if (ping === undefined || answers !== ping.number)
      throw new MigrationError('protocol', 'a pong that answers no ping');
    this.#estimate.roundTrip(this.#environment.now() - ping.sentMs);
    this.#ping = undefined;
  }

  #positioned(payload: Uint8Array): void {
    const positions = decodePositions(payload);
    let bytes = 0;
    for (const { lane: index, sequence } of positions.lanes) {
      const lane = this.#lanes.find((candidate) => candidate.index === index);
      // The peer may know of a lane a moment before we see its welcome.
      if (lane === undefined && (sequence === 0 || this.#lanesSeen.has(index))) continue;
      if (lane === undefined) throw new MigrationError('protocol', 'a position of an unknown lane');
      bytes += lane.received(sequence, this.#environment.now());
    }
    for (const position of positions.streams) {
      const stream = this.#sendStreams.get(position.stream);
      if (stream === undefined) throw new MigrationError('protocol', 'a position of an unknown stream');
      this.#scheduler.grant(position.stream, position.creditBytes, position.applied);
      stream.positioned(position);
    }
    for (const { stream: id, bytes: returned } of positions.returned) {
      const stream = this.#receiveStreams.get(id);
      if (stream === undefined) throw new MigrationError('protocol', 'an unknown stream gives credit back');
      stream.returned(returned);
    }
    if (bytes > 0) {
      const inFlightBytes = this.#lanes.reduce((sum, lane) => sum + lane.inFlightBytes, 0);
      this.#estimate.acknowledged(bytes, this.#environment.now(), inFlightBytes);
      if (this.backlogBytes === 0) this.#estimate.idle(this.#environment.now());
    }
    this.#dataWake.notify();
  }
}
