/**
 * Control, over one connection after another: messages arrive in order and each once, whatever becomes of the connection that they were sent
 * on. A message is kept until the peer says that it has it; over a new connection everything that is kept goes out again, and what the peer has
 * already it passes over by its number.
 */
import { asMigrationError, MigrationError } from '../errors.ts';
import type { CancelTimer, Environment } from '../interfaces/environment.ts';
import { crc32c } from '../util/checksum.ts';
import { joinChunks } from '../util/chunks.ts';
import { Signalled, withTimeout } from '../util/promises.ts';
import type { FrameType, IncomingFrame, OutgoingFrame } from '../wire/frame.ts';
import { decodeMessage, encodeMessage, type Message } from '../wire/messages.ts';
import { decodePositions, encodePositions, type Positions } from '../wire/positions.ts';
import type { GreetedConnection } from './handshake.ts';
import { controlFrame, Lane } from './lane.ts';

/** What a {@link ControlLink} tells and asks its channel. None of it may throw, but for {@link ControlHandlers.positioned} and `message`: `protocol`. */
export interface ControlHandlers {
  /** What this end has received. `first`: on a new connection, so all that the peer may have missed. */
  positions(first: boolean): Omit<Positions, 'control'>;
  /** The peer's positions. `first`: the first on this connection; from here on both ends know what the other has. */
  positioned(positions: Positions, first: boolean): void;
  message(message: Message): void;
  roundTrip(ms: number): void;
  /** Positions go out, other than the first on a connection. */
  told(frame: OutgoingFrame): void;
  /** The connection is lost; another may be attached. */
  lost(error: MigrationError): void;
  /** The peer broke the protocol, or ended the channel. */
  failed(error: MigrationError): void;
}

/** How long positions wait for more to say, unless much has arrived. */
const positionsDelayMs = 2;
/** ... and how much is much. */
const positionsBytes = 2 << 20;
/** How long what was said may still be read on a connection that takes no more. */
const lastWordsMs = 1000;
/** Messages that wait for those before them at most, each of 1 MiB at most. */
const copiesMax = 8;
/** Pings on their way at most ... */
const pingsMax = 12;
/** ... and a peer that asks more often without reading the answers is up to no good. */
const pongsMax = 16;

interface ControlPayload {
  readonly type: Exclude<FrameType, 'data'>;
  readonly number: number;
  readonly bytes: Uint8Array;
  /** Whether a copy of it is of use. */
  readonly isCopied?: boolean;
}

/** A message that the peer may not have. */
interface KeptMessage {
  readonly number: number;
  readonly bytes: Uint8Array;
}

const nothing = new Uint8Array(0);

/** See the top of this file. */
export class ControlLink {
  readonly #environment: Environment;
  readonly #handlers: ControlHandlers;
  readonly #wake = new Signalled();
  readonly #idle = new Signalled();
  readonly #loops = new Set<Promise<void>>();
  #lane: Lane | undefined;
  /** What went over connections that are no more. */
  #goneBytes = 0;
  #kept: KeptMessage[] = [];
  /** How many of the kept ones went out on this connection. */
  #sent = 0;
  #number = 0;
  #received = 0;
  /** Messages that came over a lane, and are not the next. */
  readonly #copies = new Map<number, IncomingFrame>();
  #pongs: Uint8Array[] = [];
  /** No positions have gone out on this connection yet, and none have come. */
  #toldFirst = false;
  #heardFirst = false;
  #positionsDue = false;
  /** Of the last positions that were sent, and of the newest that came, over whatever connection. */
  #positionsNumber = 0;
  #heardPositions = 0;
  #positionsBytes = 0;
  #cancelPositions: CancelTimer | undefined;
  #pingDue = false;
  /** When those were sent that are on their way, by number. */
  readonly #pings = new Map<number, number>();
  #pingNumber = 0;
  #heardMs: number;
  #ending = false;
  #saidEnd = false;
  /** The peer has said all; the end of the connection follows, and is the end of the channel. */
  #peerEnded = false;
  #over = false;

  constructor(environment: Environment, handlers: ControlHandlers) {
    this.#environment = environment;
    this.#handlers = handlers;
    this.#heardMs = environment.now();
  }

  /** For people; empty while there is no connection. */
  get label(): string {
    return this.#lane?.label ?? '';
  }

  /** There is a connection. */
  get attached(): boolean {
    return this.#lane !== undefined;
  }

  /** When the peer was heard last. */
  get heardMs(): number {
    return this.#heardMs;
  }

  /** What went over all connections so far, both ways. */
  get wireBytes(): number {
    return this.#goneBytes + (this.#lane === undefined ? 0 : this.#lane.bytesSent + this.#lane.bytesReceived);
  }

  /** How many times in a row this was called without anything having been heard of the peer. */
  silentLooks(): number {
    return this.#lane?.silentLooks() ?? 0;
  }

  /** Goes on over this connection; the one before is dropped. */
  attach(greeted: GreetedConnection): void {
    this.#detach(new MigrationError('connection-lost', 'another connection took its place'));
    const lane = new Lane(0, greeted);
    this.#lane = lane;
    this.#sent = 0;
    this.#pongs = [];
    this.#pings.clear();
    this.#saidEnd = false;
    this.#toldFirst = false;
    this.#heardFirst = false;
    this.#positionsDue = true;
    this.#heardMs = this.#environment.now();
    const reading = this.#read(lane);
    this.#start(reading);
    this.#start(this.#write(lane, reading));
  }

  /** The connection is of no use any more: as if it had been lost. */
  lose(error: MigrationError): void {
    if (this.#lane === undefined) return;
    this.#detach(error);
    this.#handlers.lost(error);
  }

  /** Queues a message, and returns its frame. Throws `incompatible` for one that is too long. */
  send(message: Message): OutgoingFrame {
    const bytes = encodeMessage(message);
    const number = ++this.#number;
    this.#kept.push({ number, bytes });
    this.#wake.notify();
    return controlFrame('control', number, bytes, crc32c(bytes));
  }

  /**
   * What came over a lane, beside this connection: a message is taken when it is the next, or once those before it are here; positions are, once this connection has brought the first. Throws
   * `protocol`.
   */
  copied(frame: IncomingFrame): void {
    if (frame.type === 'positions') {
      if (!this.#over && this.#heardFirst) this.#arrived(frame);
      return;
    }
    if (this.#over || frame.number <= this.#received) return;
    this.#copies.set(frame.number, frame);
    this.#takeCopies();
    // The few that are ahead wait; more than that a peer has no reason to send so.
    for (const number of this.#copies.keys()) if (this.#copies.size > copiesMax) this.#copies.delete(number);
  }

  #takeCopies(): void {
    for (;;) {
      const next = this.#copies.get(this.#received + 1);
      if (next === undefined) return;
      this.#copies.delete(next.number);
      this.#arrived(next);
    }
  }

  /** Positions have changed: they go out a moment later, or at once when much has arrived. */
  positionsSoon(bytes: number): void {
    this.#positionsBytes += bytes;
    if (this.#over || this.#positionsDue) return;
    if (this.#positionsBytes >= positionsBytes) this.positionsNow();
    else this.#cancelPositions ??= this.#environment.setTimer(positionsDelayMs, () => this.positionsNow());
  }

  /** Positions go out next. */
  positionsNow(): void {
    this.#cancelPositions?.();
    this.#cancelPositions = undefined;
    this.#positionsBytes = 0;
    this.#positionsDue = true;
    this.#wake.notify();
  }

  /** Measures the round trip, unless that is under way often enough. */
  ping(): void {
    this.#pingDue = true;
    this.#wake.notify();
  }

  /** Says all that is queued, and that the channel is over. Resolves when that is on its way; without a connection, when there is one again, or at {@link ControlLink.end}. */
  async finish(): Promise<void> {
    this.#ending = true;
    this.#wake.notify();
    while (this.#ending && !this.#over) await this.#idle.wait();
  }

  /** Nothing more is said. */
  end(): void {
    this.#over = true;
    this.#cancelPositions?.();
    this.#wake.notify();
    this.#idle.notify();
  }

  /** Ends the connection in good order; resolves when it is gone. */
  async close(): Promise<void> {
    await this.#lane?.close();
    await Promise.allSettled(this.#loops);
  }

  /** Says that the channel is over, as far as that can be said, and ends the connection: the peer need not wait for another one. */
  farewell(): void {
    const lane = this.#lane;
    if (lane === undefined) return;
    this.#start(
      (async () => {
        if (!this.#saidEnd) lane.send(controlFrame('end', 0, nothing, crc32c(nothing))).catch(() => {});
        await lane.end(this.#environment);
      })(),
    );
  }

  abort(reason: unknown): void {
    this.#lane?.abort(reason);
  }

  #start(loop: Promise<void>): void {
    this.#loops.add(loop);
    loop.finally(() => this.#loops.delete(loop));
  }

  #detach(reason: MigrationError): void {
    const lane = this.#lane;
    if (lane === undefined) return;
    this.#lane = undefined;
    this.#goneBytes += lane.bytesSent + lane.bytesReceived;
    lane.abort(reason);
    this.#wake.notify();
  }

  async #read(lane: Lane): Promise<void> {
    try {
      for await (const frame of lane.frames()) {
        if (this.#over || lane !== this.#lane) return;
        this.#heardMs = this.#environment.now();
        this.#arrived(frame);
      }
      throw new MigrationError('connection-lost', 'the peer ended the control connection');
    } catch (error) {
      this.#connectionOver(lane, error);
    }
  }

  async #write(lane: Lane, reading: Promise<void>): Promise<void> {
    try {
      while (!this.#over && lane === this.#lane) {
        const payload = this.#next();
        if (payload === undefined) {
          await this.#wake.wait();
          continue;
        }
        const frame = controlFrame(payload.type, payload.number, payload.bytes, crc32c(payload.bytes));
        const sent = lane.send(frame);
        if (payload.isCopied === true) this.#handlers.told(frame);
        await sent;
        if (payload.type !== 'end') continue;
        this.#ending = false;
        this.#idle.notify();
      }
    } catch (thrown) {
      const error = asMigrationError(thrown, 'connection-lost');
      // A peer that hangs up may have said why, and that may not have been read yet.
      await withTimeout(this.#environment, lastWordsMs, reading, () => error).catch(() => {});
      this.#connectionOver(lane, error);
    }
  }

  #connectionOver(lane: Lane, thrown: unknown): void {
    if (this.#over || lane !== this.#lane) return;
    const error = asMigrationError(thrown, 'connection-lost');
    if (this.#peerEnded)
      this.#handlers.failed(new MigrationError('connection-lost', 'the peer ended the channel'));
    else if (error.code === 'protocol') this.#handlers.failed(error);
    else this.lose(error);
  }

  #next(): ControlPayload | undefined {
    if (this.#saidEnd) return undefined;
    if (!this.#toldFirst) {
      this.#toldFirst = true;
      return this.#positions(true);
    }
    const message = this.#kept[this.#sent];
    if (message !== undefined) {
      this.#sent++;
      return { type: 'control', ...message };
    }
    const pong = this.#pongs.shift();
    if (pong !== undefined) return { type: 'pong', number: 0, bytes: pong };
    if (this.#positionsDue) return this.#positions(false);
    if (this.#ending) {
      this.#saidEnd = true;
      return { type: 'end', number: 0, bytes: nothing };
    }
    if (this.#pingDue && this.#pings.size < pingsMax) {
      this.#pingDue = false;
      this.#pingNumber = (this.#pingNumber + 1) >>> 0;
      this.#pings.set(this.#pingNumber, this.#environment.now());
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, this.#pingNumber);
      return { type: 'ping', number: 0, bytes };
    }
    return undefined;
  }

  #positions(first: boolean): ControlPayload {
    this.#positionsDue = false;
    const bytes = encodePositions({ control: this.#received, ...this.#handlers.positions(first) });
    return { type: 'positions', number: ++this.#positionsNumber, bytes, isCopied: !first };
  }

  #arrived(frame: IncomingFrame): void {
    const payload = joinChunks(frame.payload);
    switch (frame.type) {
      case 'control':
        if (frame.number > this.#received + 1)
          throw new MigrationError('protocol', 'a control message is missing');
        if (frame.number <= this.#received) return;
        this.#received++;
        this.#copies.delete(frame.number);
        this.positionsSoon(0);
        this.#handlers.message(decodeMessage(payload));
        this.#takeCopies();
        return;
      case 'positions':
        // All only grow: what is older says nothing.
        if (frame.number <= this.#heardPositions) return;
        this.#heardPositions = frame.number;
        this.#positioned(decodePositions(payload));
        return;
      case 'ping':
        if (payload.byteLength !== 4 || this.#pongs.length > pongsMax)
          throw new MigrationError('protocol', 'a bad ping');
        this.#pongs.push(payload.slice());
        this.#wake.notify();
        return;
      case 'pong':
        this.#ponged(payload);
        return;
      case 'end':
        this.#peerEnded = true;
        return;
      case 'data':
        throw new MigrationError('protocol', 'data on the control connection');
    }
  }

  #ponged(payload: Uint8Array): void {
    const number = payload.byteLength === 4 && new DataView(payload.buffer, payload.byteOffset).getUint32(0);
    const sentMs = number === false ? undefined : this.#pings.get(number);
    if (number === false || sentMs === undefined)
      throw new MigrationError('protocol', 'a pong that answers no ping');
    this.#pings.delete(number);
    this.#handlers.roundTrip(this.#environment.now() - sentMs);
  }

  #positioned(positions: Positions): void {
    if (positions.control > this.#number)
      throw new MigrationError('protocol', 'the peer says it received what was never sent');
    const freed = this.#kept.findIndex(({ number }) => number > positions.control);
    const gone = this.#kept.splice(0, freed < 0 ? this.#kept.length : freed).length;
    this.#sent = Math.max(0, this.#sent - gone);
    const first = !this.#heardFirst;
    this.#heardFirst = true;
    this.#handlers.positioned(positions, first);
  }
}
