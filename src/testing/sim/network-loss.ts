import type { Prng } from '../../util/prng.ts';
import { packetBytes } from './network-congestion.ts';
import type { Wire } from './network-wire.ts';

/** What becomes of a parcel. `lost`: its successors told of it. `timeout`: the timer had to run out. */
export interface Fate {
  readonly kind: 'arrived' | 'lost' | 'timeout';
  /** When the whole of it is there. */
  readonly completeAt: number;
  /** Packets lost by chance. */
  readonly losses: number;
}

/** A parcel that is being sent. */
export interface SentParcel {
  readonly bytes: number;
  readonly nowMs: number;
  readonly arrivesAt: number;
  /** It met a full queue. */
  readonly overflowed: boolean;
  /** What is on its way, this one included. */
  readonly unackedBytes: number;
}

/** Retransmission timeouts (RFC 6298, with Linux's bounds). */
const timeoutMsMin = 200;
const timeoutMsMax = 120_000;
/** Before the first round trip was measured. */
const timeoutMsFirst = 1000;
/** With fewer packets on their way a loss is not told by its successors. */
const telltalePackets = 4;

/** Which parcels of a flow lose a packet, and when they are repaired. */
export class Losses {
  readonly #prng: Prng;
  readonly #out: Wire;
  readonly #back: Wire;
  /** How far the next loss is ahead: packets times their rate of loss. */
  #ahead: number;
  #roundTripMs: number | undefined;

  constructor(prng: Prng, out: Wire, back: Wire) {
    this.#prng = prng;
    this.#out = out;
    this.#back = back;
    this.#ahead = exponential(prng);
  }

  /** A round trip was measured. */
  roundTrip(ms: number): void {
    this.#roundTripMs = this.#roundTripMs === undefined ? ms : this.#roundTripMs * 0.875 + ms * 0.125;
  }

  /**
   * When what was lost at `lostAt` is sent again for the first time not before `nowMs`: the timer doubles
   * each time.
   */
  nextRetryAt(lostAt: number, nowMs: number): number {
    let timeoutMs = this.#timeoutMs();
    let retryAt = lostAt + timeoutMs;
    while (retryAt < nowMs) {
      timeoutMs = Math.min(timeoutMsMax, timeoutMs * 2);
      retryAt += timeoutMs;
    }
    return retryAt;
  }

  /** Called once for each parcel, in order. */
  fateOf({ bytes, nowMs, arrivesAt, overflowed, unackedBytes }: SentParcel): Fate {
    const losses = this.#draw(bytes);
    if (losses === 0 && !overflowed) return { kind: 'arrived', completeAt: arrivesAt, losses };
    const lostAgain = () => this.#prng.fraction() < this.#out.lossProbability;
    if (unackedBytes >= telltalePackets * packetBytes) {
      const repairMs = this.#out.arrivalOf(this.#back.arrivalOf(arrivesAt)) - arrivesAt;
      let completeAt = arrivesAt + repairMs;
      while (lostAgain()) completeAt += repairMs;
      return { kind: 'lost', completeAt, losses };
    }
    let timeoutMs = this.#timeoutMs();
    let completeAt = this.#out.arrivalOf(nowMs + timeoutMs);
    while (lostAgain()) {
      timeoutMs = Math.min(timeoutMsMax, timeoutMs * 2);
      completeAt += timeoutMs;
    }
    return { kind: 'timeout', completeAt, losses };
  }

  #draw(bytes: number): number {
    const packets = Math.max(1, Math.ceil(bytes / packetBytes));
    let losses = 0;
    this.#ahead -= packets * this.#out.lossRate;
    for (; this.#ahead <= 0; losses++) this.#ahead += exponential(this.#prng);
    return losses;
  }

  #timeoutMs(): number {
    if (this.#roundTripMs === undefined) return timeoutMsFirst;
    return Math.min(timeoutMsMax, Math.max(timeoutMsMin, 2 * this.#roundTripMs));
  }
}

/** Exponentially distributed with mean 1, by comparisons alone (John von Neumann, 1951). */
function exponential(prng: Prng): number {
  for (let whole = 0; ; whole++) {
    const first = prng.fraction();
    let last = first;
    for (let run = 1; ; run++) {
      const next = prng.fraction();
      if (next < last) {
        last = next;
        continue;
      }
      if (run % 2 === 1) return whole + first;
      break;
    }
  }
}
