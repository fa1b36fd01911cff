/**
 * One channel over several connections: control in order, data exactly once in any order, whatever becomes of a connection.
 *
 * ```
 * push() ─► Scheduler ─► Lane 1..N ═════════► Lane 1..N ─► ReceiveStream ─► handler
 *              ▲ credit      ▲ freed                            │ positions
 *              └─────────────┴── ControlLink ◄──────────────────┘
 * ```
 *
 * Each lane takes the next frame when it has room for it, so a slow lane takes less. Frames are kept until the peer has received them; those of a lane that
 * is lost go over the others. When control is lost all lanes are taken for lost: the end that dialled dials control again, both ends say what they have
 * received, and what is missing is sent over new lanes. It also opens more lanes while they carry more, and closes those that do not.
 *
 * What arrives damaged, or not at all, costs its connection. What arrives whole and breaks the protocol ends the channel.
 */
import { asMigrationError, MigrationError } from '../errors.ts';
import type { CancelTimer, Codec, Environment } from '../interfaces/environment.ts';
import type { CompressionStatistics, LinkStatistics, Outage } from '../interfaces/migration.ts';
import { delay, Signalled } from '../util/promises.ts';
import type { OutgoingFrame } from '../wire/frame.ts';
import { type Message, stateStream } from '../wire/messages.ts';
import type { Positions } from '../wire/positions.ts';
import { Compressor } from './compressor.ts';
import { ControlLink } from './control-link.ts';
import { Copies } from './copies.ts';
import type { CreditShare } from './credit-pool.ts';
import { Decompressor } from './decompressor.ts';
import type { GreetedConnection } from './handshake.ts';
import { Lane } from './lane.ts';
import { LaneKeeper } from './lane-keeper.ts';
import { LaneSet } from './lane-set.ts';
import { LinkEstimate } from './link-estimate.ts';
import { LinkWindow } from './link-window.ts';
import { Mailbox } from './mailbox.ts';
import { type ItemHandler, ReceiveStream } from './receive-stream.ts';
import { type QueuedFrame, Scheduler } from './scheduler.ts';
import { SendStream } from './send-stream.ts';
import { Sending } from './sending.ts';

/** How the end that dialled opens connections. Each rejects with `refused` where the peer does not know the session. */
export interface Dialler {
  data(lane: number, signal: AbortSignal): Promise<GreetedConnection>;
  /** A further control connection. */
  resume(signal: AbortSignal): Promise<GreetedConnection>;
  /** How many lanes there are to be; undefined: some at first, and then as many as carry more than fewer would. */
  readonly lanes: number | undefined;
}

export interface ChannelOptions {
  readonly environment: Environment;
  /** Bytes on their way at most, all lanes together. */
  readonly windowBytesMax: number;
  /** Data bytes per second at most. Undefined: as many as the link takes. */
  readonly rateBytesPerSecondMax?: number | undefined;
  /** How many paths there are; lane by lane they take turns. Default 1. */
  readonly paths?: number;
  /** This end was dialled, for this VM. */
  readonly acceptedFor?: string;
  /** This end dialled. */
  readonly dialler?: Dialler;
}

/** What a channel lives through, from {@link Channel.outlast} on. */
export interface Endurance {
  /**
   * How long nothing may arrive on a connection until it is taken for lost, in ms. Both ends ask for an answer on the control connection every
   * 250 ms, so a link that lives is never silent for long.
   */
  readonly silenceMsMax: number;
  /** How long the link may be gone until the channel fails, in ms; 0: the channel fails with its control connection. */
  readonly outageMsMax: number;
  /** The link is gone. */
  readonly onCut?: () => void;
  /** It is there again. */
  readonly onMended?: (outage: Outage) => void;
}

/** How often the round trip is measured, and silence is looked for. */
const pingMs = 250;
/** ... and while something is on its way, where that is asked for: so often in a round trip, but for so many ms between at least. */
const probesInRoundTrip = 8;
const probeMsMin = 10;
/** The link's estimate weighs round trips as they come with the ticks. */
const estimateMs = 0.9 * pingMs;
/** Credit that was left over for so many round trips goes back. */
const giveBackRoundTrips = 2;
/** Before {@link Channel.outlast}. */
const enduranceAtFirst: Endurance = { silenceMsMax: 5000, outageMsMax: 0 };
/**
 * A lane whose rate is not known may be silent for so many times as long while frames are on their way on it: only whole frames are acknowledged,
 * and on a slow link a megabyte takes its time.
 */
const dataPatience = 6;
/**
 * Between two attempts to dial control: at first, and at most, in ms. A dial that finds nothing takes a second, and going on should not take two
 * once the link is there.
 */
const redialMsFirst = 50;
const redialMsMax = 250;
/** So often in a row the peer refuses a session that it does not know; a greeting that was damaged it refuses once. */
const refusalsMax = 3;

/** What has gone through a channel. */
export interface ChannelStatistics {
  readonly wireBytes: number;
  readonly roundTripMs: number;
  readonly bytesPerSecond: number | undefined;
  readonly link: LinkStatistics;
}

/** The link is gone, since then. */
interface Cut {
  readonly sinceMs: number;
  readonly cause: MigrationError;
  readonly cancelLimit: CancelTimer;
  redialMs: number;
  /** How often in a row the peer said that it does not know the session. */
  refusals: number;
}

/** With a shorter round trip it is no loss that positions come one later. */
const copiedRoundTripMsMin = 10;

/** See the top of this file. Made by {@link connectChannel} and {@link ChannelAcceptor}. */
export class Channel {
  readonly mailbox = new Mailbox();
  readonly #environment: Environment;
  readonly #control: ControlLink;
  readonly #lanes: LaneSet;
  /** Of a channel that was accepted: the VM that its greeting named. */
  readonly greetedFor: string | undefined;
  readonly #dialler: Dialler | undefined;
  readonly #keeper: LaneKeeper | undefined;
  readonly #dialling = new AbortController();
  readonly #scheduler = new Scheduler();
  readonly #estimate = new LinkEstimate();
  /** Undefined where there are several paths: control shows the queue in front of its own. */
  readonly #window: LinkWindow | undefined;
  #cancelProbe: CancelTimer | undefined;
  #nextEstimateMs = Number.NEGATIVE_INFINITY;
  readonly #copies: Copies;
  /** Undefined where compression is off, or it is the other end that compresses. */
  #compressor: Compressor | undefined;
  #decompressor: Decompressor | undefined;
  readonly #sending: Sending;
  /** For how long control has heard nothing. */
  #silentMs = 0;
  readonly #sendStreams = new Map<number, SendStream>();
  readonly #receiveStreams = new Map<number, ReceiveStream>();
  readonly #failure = new AbortController();
  readonly #linkWake = new Signalled();
  readonly #loops = new Set<Promise<void>>();
  #endurance = enduranceAtFirst;
  #cut: Cut | undefined;
  /** Looks in a row that found something on its way and nothing of it arrived. */
  #stuckLooks = 0;
  #sendingStopped = false;
  #cancelTick: CancelTimer | undefined;
  #gaveBackMs = 0;
  #closing: Promise<void> | undefined;
  #ended = false;

  constructor(options: ChannelOptions, control: GreetedConnection) {
    this.#environment = options.environment;
    this.#lanes = new LaneSet(options.windowBytesMax, options.paths ?? 1);
    this.#window = (options.paths ?? 1) > 1 ? undefined : new LinkWindow();
    this.greetedFor = options.acceptedFor;
    this.#dialler = options.dialler;
    this.#copies = new Copies(this.#lanes);
    this.#sending = new Sending(
      {
        environment: options.environment,
        lanes: this.#lanes,
        scheduler: this.#scheduler,
        copies: this.#copies,
        estimate: this.#estimate,
        window: this.#window,
      },
      options.rateBytesPerSecondMax,
      {
        leftQueue: (frame) => {
          this.#compressor?.left(frame);
          this.#sendStreams.get(frame.stream)?.left(frame.class, frame.payloadBytes, frame.itemBytes);
        },
        goesOut: () => this.#probe(),
      },
    );
    this.#keeper = options.dialler && this.#createKeeper(options.dialler);
    this.#control = new ControlLink(options.environment, {
      positions: (first) => this.#positions(first),
      positioned: (positions, first) => this.#positioned(positions, first),
      message: (message) => this.mailbox.deliver(message),
      roundTrip: (ms) => this.#roundTrip(ms),
      told: (frame) => this.#copyPositions(frame),
      lost: (error) => this.#controlLost(error),
      failed: (error) => this.#fail(error),
    });
    this.#attachControl(control);
    this.#tick();
  }

  /** Aborted, with the reason, when the channel has failed. Never aborted by {@link Channel.close}. */
  get signal(): AbortSignal {
    return this.#failure.signal;
  }

  /** The link is gone, and may come back. */
  get isCut(): boolean {
    return this.#cut !== undefined;
  }

  /** Nothing arrives, of acknowledgements neither: the link is gone, or has brought nothing for longer than a ping and its answer take, twice. */
  get isSilent(): boolean {
    return this.isCut || this.#silentMs > 2 * (pingMs + this.roundTripMs);
  }

  /** The smallest round trip seen on the control lane, in ms; 0 if none was. */
  get roundTripMs(): number {
    return this.#estimate.roundTripMs;
  }

  get statistics(): ChannelStatistics {
    return {
      wireBytes: this.#control.wireBytes + this.#lanes.wireBytes,
      roundTripMs: this.roundTripMs,
      bytesPerSecond: this.bytesPerSecond,
      link: { lanes: this.#lanes.statistics, classes: this.#sending.statistics },
    };
  }

  /** What the link carries, or may, in bytes a second; undefined before anything is known of it. */
  get bytesPerSecond(): number | undefined {
    return this.#sending.bytesPerSecond;
  }

  /** Payload bytes that wait or are on their way. */
  get backlogBytes(): number {
    return this.#sending.queuedBytes + this.#lanes.inFlightBytes;
  }

  /** What of the backlog delays whatever is sent next. What is on the link already does not: it arrives while the next is on its way. */
  get delayingBytes(): number {
    return (
      this.#sending.queuedBytes +
      this.#estimate.aheadBytes(this.#environment.now(), this.#lanes.inFlightBytes)
    );
  }

  /** By how much the oldest of what is on its way is late, in ms: a packet of it was lost, or its lane has become slow, and holds all that is behind. */
  get lateMs(): number {
    return Math.max(0, this.#lanes.lateMs(this.#environment.now(), this.roundTripMs));
  }

  /** Whether there is more to send than the lanes take at this moment. */
  get isBusy(): boolean {
    return this.#sending.queuedBytes > 0;
  }

  /** Resolves when the link is there. Rejects when the channel has failed. */
  async linked(): Promise<void> {
    while (this.#cut !== undefined) await this.#linkWake.wait();
  }

  /** From now on the channel lives through an outage. Before, it fails with its control connection. */
  outlast(endurance: Endurance): void {
    this.#endurance = endurance;
  }

  /** From now on lanes that are lost are replaced, and where their number is automatic it follows what they carry. */
  keepLanes(): void {
    this.#keeper?.begin();
  }

  /**
   * No more data: what waits to be sent is dropped, whoever waits for room is told the reason, pushes are let go of at once. Control messages still
   * go through, now ahead of nothing.
   */
  stopSending(reason: MigrationError): void {
    this.#sendingStopped = true;
    this.#copies.end();
    for (const stream of this.#sendStreams.values()) stream.fail(reason);
    this.#compressor?.stop();
    for (const frame of this.#scheduler.drain()) frame.release();
  }

  /** From now on what waits for the link is compressed where that pays. The peer has said that it can take it. */
  compress(codec: Codec): void {
    this.#compressor = new Compressor({
      codec,
      environment: this.#environment,
      link: () => ({ bytesPerSecond: this.bytesPerSecond, queuedBytes: this.#scheduler.queuedBytes }),
      shrunk: (frame, bytes) => {
        this.#scheduler.shrunk(bytes);
        this.#sendStreams.get(frame.stream)?.shrunk(bytes);
      },
    });
  }

  /** From now on streams are opened on which items may come compressed, but for device state. */
  decompress(codec: Codec): void {
    const now = () => this.#environment.now();
    this.#decompressor = new Decompressor({ codec, now, failed: (error) => this.#fail(error) });
  }

  /** How much more content the link carries lately than bytes of it: 1 where nothing is compressed. */
  get gain(): number {
    return this.#compressor?.gain ?? 1;
  }

  /** What compression was good for; undefined where it is off. */
  get compression(): CompressionStatistics | undefined {
    return (this.#compressor ?? this.#decompressor)?.count.statistics;
  }

  /** Takes a data connection into use. */
  addLane(index: number, greeted: GreetedConnection): void {
    if (this.#ended || !this.#control.attached || !this.#lanes.takes(index)) {
      greeted.connection.abort();
      return;
    }
    this.#useLane(index, greeted);
  }

  /** Goes on over a further control connection, which the peer has dialled because it knows that the one before is lost. */
  resume(control: GreetedConnection): void {
    if (!this.#ended)
      this.#control.lose(new MigrationError('connection-lost', 'the peer has lost the control connection'));
    if (this.#ended) control.connection.abort();
    else this.#attachControl(control);
  }

  #roundTrip(ms: number): void {
    const nowMs = this.#environment.now();
    if (this.#window !== undefined) {
      const late = this.#lanes.lateShare(this.#window.lateBeforeMs(nowMs - ms));
      this.#window.roundTrip(ms, nowMs, late, this.#lanes.onLanesBytes);
      this.#copies.hedge(this.#window.rests && !this.#sendingStopped, this.#sending.flightLink(0), nowMs);
      // It may have become larger.
      this.#sending.wake();
    }
    if (nowMs < this.#nextEstimateMs) return;
    this.#nextEstimateMs = nowMs + estimateMs;
    this.#estimate.roundTrip(ms);
  }

  #copyPositions(frame: OutgoingFrame): void {
    if (this.roundTripMs >= copiedRoundTripMsMin && this.#copies.positions(frame)) this.#sending.wake();
  }

  /** Looks at the queue in front of the link all the time while something is on its way. */
  #probe(): void {
    if (this.#window?.asks !== true || this.#cancelProbe !== undefined) return;
    if (this.#ended || this.#cut !== undefined || this.#lanes.onLanesBytes === 0) return;
    this.#control.ping();
    const ms = Math.max(probeMsMin, this.roundTripMs / probesInRoundTrip);
    this.#cancelProbe = this.#environment.setTimer(ms, () => {
      this.#cancelProbe = undefined;
      this.#probe();
    });
  }

  #attachControl(greeted: GreetedConnection): void {
    this.#greeted(greeted);
    this.#control.attach(greeted);
  }

  #greeted({ roundTripMs }: GreetedConnection): void {
    if (roundTripMs === 0) return;
    this.#estimate.roundTrip(roundTripMs);
    this.#window?.greeted(roundTripMs);
  }

  #useLane(index: number, greeted: GreetedConnection): void {
    const lane = new Lane(index, greeted);
    this.#greeted(greeted);
    this.#lanes.add(lane);
    this.#start(this.#readData(lane));
    this.#start(this.#writeData(lane));
  }

  #start(loop: Promise<void>): void {
    this.#loops.add(loop);
    loop.finally(() => this.#loops.delete(loop));
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
        this.#compressor?.offer(frame);
        this.#sending.wake();
      },
      now: () => this.#environment.now(),
      itemBytesMax: () => this.#lanes.itemBytesMax(this.#sending.queuedBytes, this.#window),
      isHeld: () => this.#scheduler.isHeld(id),
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
    const changed = () => this.#control.positionsSoon(0);
    const decompressor = id === stateStream ? undefined : this.#decompressor;
    const stream = new ReceiveStream(id, digestKey, credit, handler, changed, decompressor);
    this.#receiveStreams.set(id, stream);
    this.#control.positionsNow();
    return stream;
  }

  /** Sends a control message, ahead of all data. Messages arrive in order. Throws `incompatible` for one that is too long. */
  send(message: Message): void {
    if (this.#ended) return;
    const frame = this.#control.send(message);
    this.#copies.message(frame, this.#environment.now(), this.roundTripMs);
    this.#sending.wake();
  }

  /**
   * Sends what is queued of control, ends all connections, and resolves when they are gone. While the link is gone, waits for it. Idempotent.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#ended) return;
    await this.#control.finish();
    if (this.#ended) return;
    this.#end(new MigrationError('connection-lost', 'the channel was closed'));
    await Promise.allSettled([this.#control.close(), ...this.#lanes.all.map((lane) => lane.close())]);
    // Not before: until it is gone a connection may still send what it accepted.
    this.#releaseKept();
    await Promise.allSettled(this.#loops);
  }

  /** Drops everything, also while {@link Channel.close} waits for the peer; whoever waits is told the reason. Idempotent. */
  abort(reason: MigrationError): void {
    this.#fail(reason);
    this.#control.abort(reason);
    this.#dropLanes(reason);
  }

  #fail(error: MigrationError): void {
    if (this.#ended) return;
    this.#end(error);
    this.#failure.abort(error);
    this.#control.farewell();
    this.#dropLanes(error);
  }

  #dropLanes(reason: MigrationError): void {
    for (const lane of this.#lanes.all) lane.abort(reason);
    this.#releaseKept();
  }

  #releaseKept(): void {
    for (const frame of this.#lanes.takeKept()) frame.release();
  }

  #end(error: MigrationError): void {
    this.#ended = true;
    this.#cut?.cancelLimit();
    this.#cancelTick?.();
    this.#cancelProbe?.();
    this.#dialling.abort(error);
    this.#control.end();
    this.mailbox.fail(error);
    this.#sending.end(error);
    this.#linkWake.fail(error);
    this.stopSending(error);
  }

  /** Everything is lost with control: what goes on over lanes of which nothing can be said is only in the way. */
  #controlLost(cause: MigrationError): void {
    const { outageMsMax, onCut } = this.#endurance;
    if (outageMsMax === 0) {
      this.#fail(cause);
      return;
    }
    for (const lane of this.#lanes.all) this.#dropLane(lane, cause);
    if (this.#cut === undefined) {
      const sinceMs = this.#control.heardMs;
      const limit = () =>
        this.#fail(
          new MigrationError('connection-lost', `the link was gone for ${outageMsMax} ms: ${cause.message}`, {
            cause,
          }),
        );
      const cancelLimit = this.#environment.setTimer(outageMsMax, limit);
      this.#cut = { sinceMs, cause, cancelLimit, redialMs: 0, refusals: 0 };
      onCut?.();
    }
    if (this.#dialler !== undefined) this.#start(this.#redial(this.#cut, this.#dialler));
  }

  /** Dials control until it is there. One that is lost before it was of use comes here again. */
  async #redial(cut: Cut, dialler: Dialler): Promise<void> {
    const { signal } = this.#dialling;
    while (!this.#ended && this.#cut === cut && !this.#control.attached) {
      try {
        if (cut.redialMs > 0) await delay(this.#environment, cut.redialMs, signal);
        cut.redialMs = Math.min(redialMsMax, Math.max(redialMsFirst, 2 * cut.redialMs));
        const greeted = await dialler.resume(signal);
        cut.refusals = 0;
        if (this.#ended) greeted.connection.abort();
        else this.#attachControl(greeted);
      } catch (error) {
        const { code, message } = asMigrationError(error, 'connect-failed');
        cut.refusals = code === 'refused' || code === 'version-mismatch' ? cut.refusals + 1 : 0;
        if (cut.refusals < refusalsMax) continue;
        this.#fail(
          new MigrationError('connection-lost', `${cut.cause.message}; and then: ${message}`, {
            cause: error,
          }),
        );
      }
    }
  }

  /** Both ends know what the other has: the rest goes over new lanes. */
  #mended(cut: Cut): void {
    cut.cancelLimit();
    this.#cut = undefined;
    this.#linkWake.notify();
    this.#estimate.interrupted();
    this.#window?.interrupted();
    const resentBytes = this.#lanes.settle();
    this.#openLanes();
    this.#endurance.onMended?.({ durationMs: this.#environment.now() - cut.sinceMs, resentBytes });
  }

  async #writeData(lane: Lane): Promise<void> {
    try {
      while (!this.#ended && this.#lanes.has(lane) && !lane.retired) await this.#sending.next(lane);
      while (!this.#ended && this.#lanes.has(lane) && lane.inFlightBytes > 0) await this.#sending.wait(lane);
      if (!this.#ended && this.#lanes.has(lane)) await lane.close();
    } catch (error) {
      this.#laneOver(lane, error);
    }
  }

  /** A guest stands still for what is sent from now on: as fast as the link carries it, however much is on its way, and twice where that is cheap. Until {@link Channel.endFlight}. */
  beginFlight(): void {
    this.#sending.beginFlight();
  }

  /** The guest runs on: the policy's rate, if it has one, counts again. */
  endFlight(): void {
    this.#sending.endFlight();
  }

  #createKeeper(dialler: Dialler): LaneKeeper {
    return new LaneKeeper(this.#environment, this.#lanes, dialler.lanes, {
      dial: (index) => dialler.data(index, this.#dialling.signal),
      use: (index, greeted) => this.#useLane(index, greeted),
      isDown: () => this.#ended || !this.#control.attached,
      isCut: () => this.#cut !== undefined,
    });
  }

  /** With an automatic number of lanes: as many as carry more than fewer would. */
  #adjustLanes(): void {
    if (this.#cut !== undefined) return;
    const closes = this.#keeper?.adjust({
      bytesPerSecond: this.#estimate.latelyBytesPerSecond,
      roundTripMs: this.roundTripMs,
      queueMs: this.#estimate.queueMs,
      busy: this.#scheduler.queuedBytes > 0 && !this.#sending.reachesLimit,
      full: this.#window?.isFull ?? false,
      loses: this.#window?.loses ?? false,
    });
    if (closes === true) this.#sending.wake();
    this.#openLanes();
  }

  #openLanes(): void {
    for (const opening of this.#keeper?.fill() ?? []) this.#start(opening);
  }

  async #readData(lane: Lane): Promise<void> {
    let over: unknown;
    try {
      for await (const frame of lane.frames()) {
        if (this.#ended) return;
        if (frame.type === 'positions' || frame.type === 'control') {
          this.#control.copied(frame);
          if (frame.type === 'control') this.#control.positionsSoon(frame.payloadBytes);
          continue;
        }
        const stream = frame.type === 'data' ? this.#receiveStreams.get(frame.stream) : undefined;
        if (stream === undefined)
          throw new MigrationError('protocol', 'a frame on a data connection has no place here');
        stream.accept(frame);
        this.#control.positionsSoon(frame.payloadBytes);
      }
    } catch (error) {
      over = error;
    }
    this.#laneOver(lane, over);
  }

  /** A lane's connection has ended, in good order if there is no error. What the peer may not have of it goes over the others. */
  #laneOver(lane: Lane, thrown?: unknown): void {
    if (this.#ended || !this.#lanes.has(lane)) return;
    const error = thrown === undefined ? undefined : asMigrationError(thrown, 'connection-lost');
    if (error?.code === 'protocol') {
      this.#fail(error);
      return;
    }
    this.#dropLane(lane, error);
    // The other end hears of it, and says in turn what it had received; what has not been freed by the next tick goes over the others.
    this.#control.positionsNow();
  }

  #dropLane(lane: Lane, error: MigrationError | undefined): void {
    this.#lanes.remove(lane);
    this.#copies.lost(lane);
    if (error === undefined) this.#start(lane.end(this.#environment));
    else lane.abort(error);
    this.#sending.wake();
  }

  #tick(): void {
    const { silenceMsMax } = this.#endurance;
    const silent = (label: string) =>
      new MigrationError('timeout', `nothing is heard of the peer any more on ${label}`);
    this.#silentMs = this.#control.silentLooks() * pingMs;
    if (this.#silentMs >= silenceMsMax) this.#control.lose(silent(this.#control.label));
    for (const lane of this.#lanes.all) if (this.#isSilent(lane)) this.#laneOver(lane, silent(lane.label));
    if (this.#isStuck())
      this.#fail(new MigrationError('timeout', 'connections are there, and nothing gets through'));
    if (this.#ended) return;
    if (this.#cut === undefined && this.#lanes.settle() > 0) this.#sending.wake();
    this.#control.ping();
    this.#giveCreditBack();
    this.#adjustLanes();
    this.#cancelTick = this.#environment.setTimer(pingMs, () => this.#tick());
  }

  #isSilent(lane: Lane): boolean {
    const { silenceMsMax } = this.#endurance;
    const { bytesPerSecond } = lane.window;
    const patienceMs =
      bytesPerSecond === 0
        ? dataPatience * silenceMsMax
        : silenceMsMax + (1000 * lane.inFlightBytes) / bytesPerSecond;
    return lane.silentLooks() * pingMs >= patienceMs;
  }

  /** Connections that come and go, or damage all they carry, are no link either. */
  #isStuck(): boolean {
    const { silenceMsMax, outageMsMax } = this.#endurance;
    if (this.#cut !== undefined) return false;
    const waits = this.#lanes.inFlightBytes + this.#lanes.againBytes > 0;
    this.#stuckLooks = waits ? this.#stuckLooks + 1 : 0;
    return this.#stuckLooks * pingMs > 2 * dataPatience * silenceMsMax + outageMsMax;
  }

  #giveCreditBack(): void {
    const nowMs = this.#environment.now();
    if (nowMs - this.#gaveBackMs < giveBackRoundTrips * this.#estimate.roundTripMs) return;
    this.#gaveBackMs = nowMs;
    if (this.#scheduler.giveBack()) this.#control.positionsNow();
  }

  #positions(first: boolean): Omit<Positions, 'control'> {
    const before = this.#lanes.receivedBefore(first);
    return {
      lanes: [...before, ...this.#lanes.received],
      streams: [...this.#receiveStreams.values()].map((stream) => stream.position),
      returned: this.#scheduler.returned(),
    };
  }

  #positioned(positions: Positions, first: boolean): void {
    const nowMs = this.#environment.now();
    let bytes = 0;
    for (const { lane: index, sequence } of positions.lanes) {
      const lane = this.#lanes.get(index);
      // The peer may know of a lane a moment before we see its welcome, and after we have forgotten it.
      if (lane === undefined && (sequence === 0 || this.#lanes.knew(index))) continue;
      if (lane === undefined) throw new MigrationError('protocol', 'a position of an unknown lane');
      bytes += lane.received(sequence, nowMs);
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
      this.#stuckLooks = 0;
      this.#lanes.changed();
      this.#window?.acknowledged(bytes, bytes + this.#lanes.onLanesBytes);
      // How long that took says nothing of the link, if it was gone meanwhile.
      if (this.#cut === undefined) {
        this.#estimate.acknowledged(bytes, nowMs, this.#lanes.inFlightBytes);
        if (this.backlogBytes === 0) this.#estimate.idle(nowMs);
      }
    }
    if (first && this.#cut !== undefined) this.#mended(this.#cut);
    this.#sending.wake();
  }
}
