import { MigrationError } from '../../errors.ts';
import type { CancelTimer, Environment } from '../../interfaces/environment.ts';
import { Fifo } from '../../transports/fifo.ts';
import type { Prng } from '../../util/prng.ts';
import { packetBytes } from './network-congestion.ts';

/** What one way of a path is like. All of it can be changed while connections are open. */
export interface WireConditions {
  /** In 10^6 bits a second of payload, shared by all connections: more than 0. Default: no limit. */
  readonly rateMbit?: number;
  /** From one end to the other: 0 to 60,000. Default 0. */
  readonly delayMs?: number;
  /**
   * Up to so much more, evenly, drawn for each parcel: 0 to 60,000. Default 0. The order within a connection
   * is kept.
   */
  readonly jitterMs?: number;
  /**
   * What the queue in front of the wire holds, as the time that the wire takes for it: 0 to 60,000. What
   * comes when it is full is lost, as in any router. Default 25, and not less than 64 KiB.
   */
  readonly queueMs?: number;
  /** The probability that a packet of 1448 bytes is lost: 0 to 0.3. Default 0. */
  readonly lossProbability?: number;
}

/** What one way of a path has done so far. */
export interface WireStatistics {
  /** Payload bytes that have arrived. */
  readonly deliveredBytes: number;
  /** Packets lost by chance. */
  readonly losses: number;
  /** Packets lost to a full queue. */
  readonly overflows: number;
}

/** A sender that had to wait until the queue had room. */
export interface WaitingSender {
  /** There is room now. */
  onWireRoom(): void;
}

/** A parcel is what the wire takes for a millisecond, but no less than two packets and no more than 1 MiB. */
const parcelBytesMin = 2 * packetBytes;
const parcelBytesMax = 1 << 20;

/** Two jumbo bursts fit into the queue of the slowest link. */
const queueBytesMin = 64 << 10;

/**
 * One way of a path: a queue, a rate, a delay. Queue and rate are arithmetic alone: `#freeAt` is when the
 * wire will have sent all that it was given. Nothing is lost here; the sender asks for what happened to its
 * parcel, and bears the consequences.
 */
export class Wire {
  readonly #environment: Environment;
  readonly #prng: Prng;
  readonly #waiting = new Fifo<WaitingSender>();
  #conditions: Required<WireConditions>;
  #bytesPerMs = 0;
  #queueMs = 0;
  #freeAt = 0;
  #cancelWake: CancelTimer | undefined;
  #parcelBytes = parcelBytesMax;
  #lossRate = 0;
  /** Nothing comes through, and nobody is told. */
  dark = false;
  deliveredBytes = 0;
  losses = 0;
  overflows = 0;
  /** Bytes still to be delivered until the connection that carries the last of them is reset. */
  resetAfterBytes: number | undefined;
  /** The next parcel with a chunk of at least so many bytes gets a bit flipped. */
  flipChunkBytesMin: number | undefined;

  constructor(environment: Environment, prng: Prng, conditions: WireConditions) {
    this.#environment = environment;
    this.#prng = prng;
    this.#conditions = complete(conditions);
    this.#apply();
  }

  get statistics(): WireStatistics {
    const { deliveredBytes, losses, overflows } = this;
    return { deliveredBytes, losses, overflows };
  }

  /** What a sender gives at once, about. */
  get parcelBytes(): number {
    return this.#parcelBytes;
  }

  /** Packets lost for each that is sent, such that the time from one to the next is exponential. */
  get lossRate(): number {
    return this.#lossRate;
  }

  get lossProbability(): number {
    return this.#conditions.lossProbability;
  }

  /** Senders wait, so that everybody takes turns. */
  get contended(): boolean {
    return this.#waiting.length > 0;
  }

  /** From now on. What is queued goes on at the new rate; what has left arrives when it would have. */
  change(conditions: WireConditions): void {
    const next = complete({ ...this.#conditions, ...conditions });
    const queuedBytes = Math.max(0, this.#freeAt - this.#environment.now()) * this.#bytesPerMs;
    this.#conditions = next;
    this.#apply();
    if (queuedBytes > 0) {
      this.#freeAt = this.#environment.now() + queuedBytes / this.#bytesPerMs;
    }
    if (this.#waiting.length > 0) this.#schedule();
  }

  /** Whether the queue takes a parcel now. */
  hasRoom(): boolean {
    return this.#freeAt - this.#environment.now() <= this.#queueMs;
  }

  /** Calls back when the sender's turn has come and there is room. */
  wait(sender: WaitingSender): void {
    this.#waiting.push(sender);
    if (this.#cancelWake === undefined) this.#schedule();
  }

  /** Puts a parcel into the queue; when it will be at the other end. */
  transmit(bytes: number): number {
    const now = this.#environment.now();
    this.#freeAt = Math.max(now, this.#freeAt) + bytes / this.#bytesPerMs;
    return this.#freeAt + this.#flightMs();
  }

  /**
   * When something too small to count, given to the wire at `at` (not before now), will be at the other end.
   */
  arrivalOf(at: number): number {
    return Math.max(at, this.#freeAt) + this.#flightMs();
  }

  #flightMs(): number {
    const { delayMs, jitterMs } = this.#conditions;
    return jitterMs === 0 ? delayMs : delayMs + jitterMs * this.#prng.fraction();
  }

  #schedule(): void {
    this.#cancelWake?.();
    const roomAt = this.#freeAt - this.#queueMs;
    const turnMs = Math.min(this.#parcelBytes / this.#bytesPerMs, this.#queueMs / 4);
    const delayMs = Math.max(0, roomAt + turnMs - this.#environment.now());
    this.#cancelWake = this.#environment.setTimer(delayMs, () => this.#wake());
  }

  #wake(): void {
    this.#cancelWake = undefined;
    for (let turns = this.#waiting.length; turns > 0 && this.hasRoom(); turns--) {
      this.#waiting.shift()?.onWireRoom();
    }
    if (this.#waiting.length > 0 && this.#cancelWake === undefined) this.#schedule();
  }

  #apply(): void {
    const { rateMbit, queueMs, lossProbability: p } = this.#conditions;
    this.#bytesPerMs = rateMbit * 125;
    this.#parcelBytes = Math.min(parcelBytesMax, Math.max(parcelBytesMin, Math.floor(this.#bytesPerMs)));
    this.#queueMs = queueMs < 0 ? Math.max(25, queueBytesMin / this.#bytesPerMs) : queueMs;
    // -ln(1 - p), as far as it matters.
    this.#lossRate = p * (1 + p * (1 / 2 + p * (1 / 3 + p * (1 / 4 + p * (1 / 5)))));
  }
}

function complete(conditions: WireConditions): Required<WireConditions> {
  const {
    rateMbit = Number.POSITIVE_INFINITY,
    delayMs = 0,
    jitterMs = 0,
    queueMs = -1,
    lossProbability = 0,
  } = conditions;
  check('rateMbit', rateMbit, rateMbit > 0, 'more than 0');
  check('delayMs', delayMs, delayMs >= 0 && delayMs <= 60_000, '0 to 60,000');
  check('jitterMs', jitterMs, jitterMs >= 0 && jitterMs <= 60_000, '0 to 60,000');
  check('queueMs', queueMs, queueMs === -1 || (queueMs >= 0 && queueMs <= 60_000), '0 to 60,000');
  check('lossProbability', lossProbability, lossProbability >= 0 && lossProbability <= 0.3, '0 to 0.3');
  return { rateMbit, delayMs, jitterMs, queueMs, lossProbability };
}

function check(name: string, value: number, valid: boolean, range: string): void {
  if (!valid) throw new MigrationError('invalid-argument', `network: ${name} must be ${range}, not ${value}`);
}
