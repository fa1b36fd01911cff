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
import type { LinkStatistics } from '../interfaces/migration.ts';
import { crc32c } from '../util/checksum.ts';
import { joinChunks } from '../util/chunks.ts';
import { deferred, Signalled, withTimeout } from '../util/promises.ts';
import type { IncomingFrame } from '../wire/frame.ts';
import { decodeMessage, encodeMessage, type Message } from '../wire/messages.ts';
import { decodePositions, encodePositions } from '../wire/positions.ts';
import type { CreditShare } from './credit-pool.ts';
import { end, type GreetedConnection } from './handshake.ts';
import { controlFrame, Lane } from './lane.ts';
import { LaneCount } from './lane-count.ts';
import { LaneSet } from './lane-set.ts';
import { bytesPerSecondAssumed, LinkEstimate } from './link-estimate.ts';
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

/** See the top of this file. Made by {@link connectChannel} and {@link ChannelAcceptor}. */
export class Channel {
  readonly mailbox = new Mailbox();
  readonly #environment: Environment;
  readonly #silenceMsMax: number;
  readonly #control: Lane;
  readonly #lanes: LaneSet;
  /** Of a channel that was accepted: the VM that its greeting named. */
  readonly greetedFor: string | undefined;
  readonly #dial: ChannelOptions['dial'];
  readonly #laneCount = new LaneCount();
  readonly #dialling = new AbortController();
  readonly #scheduler = new Scheduler();
  readonly #estimate = new LinkEstimate();
  readonly #rateBytesPerSecondMax: number | undefined;
  #pacer: Pacer | undefined;
  readonly #queueing = new Queueing();
  #cancelPace: CancelTimer | undefined;
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
  /** Lanes that are being opened, and how many there are to be then. */
  #lanesDialled = 0;
  #lanesWanted = Number.POSITIVE_INFINITY;
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
    this.#lanes = new LaneSet(options.windowBytesMax, options.paths ?? 1);
    const { rateBytesPerSecondMax: rate } = options;
    this.#rateBytesPerSecondMax = rate;
    this.#pacer = rate === undefined ? undefined : new Pacer(rate);
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

  /** The smallest round trip seen on the control lane, in ms; 0 if none was. */
  get roundTripMs(): number {
    return this.#estimate.roundTripMs;
  }

  get statistics(): ChannelStatistics {
    return {
      wireBytes: this.#control.bytesSent + this.#control.bytesReceived + this.#lanes.wireBytes,
      roundTripMs: this.roundTripMs,
      bytesPerSecond: this.#bytesPerSecond,
      link: { lanes: this.#lanes.statistics, classes: this.#queueing.statistics },
    };
  }

  /** What the link carries, or may: a limit is known before anything was measured, and a burst at full speed says nothing against it. */
  get #bytesPerSecond(): number | undefined {
    const { bytesPerSecond } = this.#estimate;
    if (this.#pacer === undefined || this.#rateBytesPerSecondMax === undefined) return bytesPerSecond;
    return Math.min(this.#rateBytesPerSecondMax, bytesPerSecond ?? bytesPerSecondAssumed);
  }

  /** Payload bytes that wait or are on their way. */
  get backlogBytes(): number {
    return this.#scheduler.queuedBytes + this.#lanes.inFlightBytes;
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
    if (this.#ended || !this.#lanes.takes(index)) {
      greeted.connection.abort();
      return;
    }
    this.#useLane(index, greeted);
  }

  #useLane(index: number, greeted: GreetedConnection): void {
    const lane = new Lane(index, greeted);
    if (greeted.roundTripMs > 0) this.#estimate.roundTrip(greeted.roundTripMs);
    this.#lanes.add(lane);
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
    await Promise.allSettled([this.#control, ...this.#lanes.all].map((lane) => lane.close()));
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
    for (const lane of [this.#control, ...this.#lanes.all]) lane.abort(reason);
    this.#releaseKept();
  }

  #releaseKept(): void {
    for (const frame of this.#lanes.takeKept()) frame.release();
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
      const nowMs = this.#environment.now();
      const room = lane.inFlightBytes < this.#lanes.windowOf(lane);
      const takes = room && !this.#isPaced() && !this.#lanes.isSlow(lane, this.#scheduler.queuedBytes, nowMs);
      const frame = takes ? this.#scheduler.next() : undefined;
      if (frame === undefined) {
        // What waits for credit is work all the same: then the rate is that of the peer, and counts.
        if (room && this.#scheduler.queuedBytes === 0) this.#onStarved();
        await this.#dataWake.wait().catch(() => {});
        continue;
      }
      this.#sendStreams.get(frame.stream)?.left(frame.payloadBytes);
      this.#estimate.sent(nowMs);
      this.#pacer?.sent(frame.payloadBytes, nowMs);
      this.#queueing.left(frame.class, frame.payloadBytes, nowMs - frame.queuedMs);
      const sent = lane.sendKept(frame, nowMs);
      this.#lanes.changed();
      await sent;
    }
    while (!this.#ended && lane.inFlightBytes > 0) await this.#dataWake.wait().catch(() => {});
    if (!this.#ended) await lane.close();
  }

  /** From now on it is sent as fast as the link takes it. */
  endPacing(): void {
    this.#pacer = undefined;
    this.#dataWake.notify();
  }

  /** Whether the policy's rate lets nothing out now. Then the lanes are told when it does. */
  #isPaced(): boolean {
    const waitMs = this.#pacer?.waitMs(this.#environment.now()) ?? 0;
    if (waitMs === 0) return false;
    this.#cancelPace ??= this.#environment.setTimer(waitMs, () => {
      this.#cancelPace = undefined;
      this.#dataWake.notify();
    });
    return true;
  }

  /** It is not for want of lanes that no more is carried. */
  get #reachesLimit(): boolean {
    const limit = this.#pacer === undefined ? undefined : this.#rateBytesPerSecondMax;
    return limit !== undefined && (this.#estimate.bytesPerSecond ?? limit) > 0.9 * limit;
  }

  #onStarved(): void {
    this.#starved = true;
    this.#estimate.starved();
  }

  /** Opens lanes, or closes the youngest, so that there are as many as carry more than fewer would. */
  #adjustLanes(): void {
    const dial = this.#dial;
    if (dial === undefined) return;
    const { open } = this.#lanes;
    const there = open.length + this.#lanesDialled;
    this.#lanesWanted = this.#laneCount.look({
      nowMs: this.#environment.now(),
      lanes: there,
      bytesPerSecond: this.#estimate.bytesPerSecond,
      latestBytesPerSecond: open.reduce((sum, { window }) => sum + window.latestBytesPerSecond, 0),
      roundTripMs: this.roundTripMs,
      queueMs: this.#estimate.queueMs,
      busy: !this.#starved && !this.#reachesLimit,
    });
    this.#starved = false;
    for (let more = there; more < this.#lanesWanted; more++) this.#loops.push(this.#dialLane(dial));
    const tooMany = open.slice(this.#lanesWanted);
    for (const lane of tooMany) this.#lanes.retire(lane);
    if (tooMany.length > 0) this.#dataWake.notify();
  }

  /** One that cannot be had is done without. */
  async #dialLane(dial: NonNullable<ChannelOptions['dial']>): Promise<void> {
    const index = this.#lanes.newIndex();
    if (index === undefined) return;
    this.#lanesDialled++;
    try {
      const greeted = await dial(index, this.#dialling.signal);
      if (this.#ended) greeted.connection.abort();
      else if (this.#lanes.open.length < this.#lanesWanted) this.#useLane(index, greeted);
      else await end(greeted.connection, this.#environment);
    } catch {
      this.#laneCount.failed(this.#environment.now());
    } finally {
      this.#lanesDialled--;
    }
  }

  async #readData(lane: Lane): Promise<void> {
    try {
      for await (const frame of lane.frames()) {
        if (this.#ended) return;
        const stream = frame.type === 'data' ? this.#receiveStreams.get(frame.stream) : undefined;
        if (stream === undefined)
          throw new MigrationError('protocol', 'a frame on a data connection has no place here');
        stream.accept(frame);
        this.#positionsSoon(frame.payloadBytes);
      }
      if (!this.#ended) throw new MigrationError('connection-lost', `the peer ended ${lane.label}`);
    } catch (error) {
      if (!this.#mayEnd(lane, asMigrationError(error, 'connection-lost'))) throw error;
      this.#lanes.remove(lane);
      this.#dataWake.notify();
      await lane.close();
    }
  }

  /**
   * Whether a lane's end is no loss: at the end that retired it, once the peer has all that was sent on it; at the other, whenever nothing of
   * this end's was on its way. What of the peer's was, the peer sees itself.
   */
  #mayEnd(lane: Lane, { code }: MigrationError): boolean {
    if (code !== 'connection-lost' || lane.inFlightBytes > 0) return false;
    return this.greetedFor === undefined ? lane.retired : lane.atBoundary;
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
    const silent = [this.#control, ...this.#lanes.all].find((lane) => this.#isSilent(lane));
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
      lanes: this.#lanes.all.map((lane) => ({ lane: lane.index, sequence: lane.receivedSequence })),
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
      const lane = this.#lanes.get(index);
      // The peer may know of a lane a moment before we see its welcome.
      if (lane === undefined && (sequence === 0 || this.#lanes.knew(index))) continue;
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
      this.#lanes.changed();
      this.#estimate.acknowledged(bytes, this.#environment.now(), this.#lanes.inFlightBytes);
      if (this.backlogBytes === 0) this.#estimate.idle(this.#environment.now());
    }
    this.#dataWake.notify();
  }
}
