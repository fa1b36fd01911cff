/**
 * How much a simulated connection dares to have on its way. Models, not implementations: they react to
 * acknowledgements and losses of whole parcels as the algorithms that they are named after do to packets,
 * with the published constants, so that a connection's goodput comes out as theirs does.
 *
 * - `reno`: slow start, then one packet a round trip; half of the window after a loss (RFC 5681). Steady
 *   state with random loss of a fraction p of the packets: about MSS / RTT * 1.22 / sqrt(p) (Mathis, Semke,
 *   Mahdavi and Ott, "The Macroscopic Behavior of the TCP Congestion Avoidance Algorithm", 1997).
 * - `cubic`: 0.7 of the window after a loss, then back to where it was along a cubic curve, and no slower
 *   than reno (RFC 9438). About MSS / RTT * 1.054 * (RTT / p)^0.75 where that is more than reno's, RTT in
 *   seconds. What Linux does by default.
 * - `bbr`: the window follows the measured rate and the smallest round trip, whatever is lost (after BBR,
 *   Cardwell and others, ACM Queue 2016; pacing is left out).
 */
export type CongestionName = 'reno' | 'cubic' | 'bbr';

/** Payload of a packet, in bytes: Ethernet's 1500 less the headers of IP and of TCP with timestamps. */
export const packetBytes = 1448;

/** What a window starts with (RFC 6928). */
const initialWindowBytes = 10 * packetBytes;
/** No window grows beyond this: a third of a second at 100 Gbit/s. */
const windowBytesMax = 4096 * 1024 * 1024;
/** No loss makes a window smaller; a timeout goes down to one packet. */
const windowBytesMin = 2 * packetBytes;

/** What an acknowledgement tells. */
export interface Acknowledgement {
  readonly nowMs: number;
  readonly bytes: number;
  readonly roundTripMs: number;
  /** Bytes a ms that were delivered from when the acknowledged bytes were sent until now. */
  readonly bytesPerMs: number;
  /** There was more to send all the while. */
  readonly busy: boolean;
  /** ... and this window, not the receiver's, was what held it back. */
  readonly limited: boolean;
  /** It is for something that was sent before the last loss was noticed. */
  readonly recovering: boolean;
}

/** One connection's one direction. */
export interface CongestionControl {
  /** How much may be on its way. */
  readonly windowBytes: number;
  acknowledged(ack: Acknowledgement): void;
  /** A packet was lost, as its successors told: at most once a round trip. */
  lost(nowMs: number): void;
  /** Nobody told; the timer ran out. */
  timedOut(nowMs: number): void;
}

export function createCongestionControl(name: CongestionName): CongestionControl {
  switch (name) {
    case 'reno':
      return new Reno();
    case 'cubic':
      return new Cubic();
    case 'bbr':
      return new Bbr();
  }
}

class Reno implements CongestionControl {
  windowBytes = initialWindowBytes;
  #threshold = windowBytesMax;

  acknowledged({ bytes, limited, recovering }: Acknowledgement): void {
    if (!limited || recovering) return;
    const slowStart = this.windowBytes < this.#threshold;
    const growth = slowStart ? bytes : (packetBytes * bytes) / this.windowBytes;
    this.windowBytes = Math.min(windowBytesMax, this.windowBytes + growth);
  }

  lost(): void {
    this.#threshold = Math.max(windowBytesMin, this.windowBytes / 2);
    this.windowBytes = this.#threshold;
  }

  timedOut(): void {
    this.lost();
    this.windowBytes = packetBytes;
  }
}

/** RFC 9438: the curve's steepness, in packets a second cubed, ... */
const cubicSteepness = 0.4;
/** ... what a loss leaves of the window, ... */
const cubicDecrease = 0.7;
/** ... and how fast the window that stands for reno grows, to lose as often with the smaller decrease. */
const renoIncrease = (3 * (1 - cubicDecrease)) / (1 + cubicDecrease);

class Cubic implements CongestionControl {
  windowBytes = initialWindowBytes;
  #threshold = windowBytesMax;
  /** The window at the last loss, in packets: the curve's plateau. */
  #plateau = 0;
  /** When the curve reaches its plateau, in seconds from its start. */
  #plateauSeconds = 0;
  #startMs = 0;
  #renoBytes = 0;

  acknowledged({ nowMs, bytes, roundTripMs, limited, recovering }: Acknowledgement): void {
    if (!limited || recovering) return;
    if (this.windowBytes < this.#threshold) {
      this.windowBytes = Math.min(windowBytesMax, this.windowBytes + bytes);
      return;
    }
    const window = this.windowBytes;
    const seconds = (nowMs + roundTripMs - this.#startMs) / 1000 - this.#plateauSeconds;
    const curve = (this.#plateau + cubicSteepness * seconds * seconds * seconds) * packetBytes;
    const target = Math.min(1.5 * window, Math.max(window, curve));
    this.#renoBytes += (renoIncrease * packetBytes * bytes) / window;
    const next = Math.max(window + ((target - window) * bytes) / window, this.#renoBytes);
    this.windowBytes = Math.min(windowBytesMax, next);
  }

  lost(nowMs: number): void {
    const packets = this.windowBytes / packetBytes;
    // Fast convergence: a window that did not get back to its plateau leaves room for others.
    this.#plateau = packets < this.#plateau ? (packets * (1 + cubicDecrease)) / 2 : packets;
    this.windowBytes = Math.max(windowBytesMin, this.windowBytes * cubicDecrease);
    this.#threshold = this.windowBytes;
    const below = Math.max(0, this.#plateau - this.windowBytes / packetBytes);
    this.#plateauSeconds = cubeRoot(below / cubicSteepness);
    this.#startMs = nowMs;
    this.#renoBytes = this.windowBytes;
  }

  timedOut(nowMs: number): void {
    this.lost(nowMs);
    this.windowBytes = packetBytes;
  }
}

/** By Newton's method, since `Math.cbrt` differs in the last bit from one engine to another. */
function cubeRoot(value: number): number {
  if (value <= 0) return 0;
  let root = Math.max(1, value);
  for (let turn = 0; turn < 200; turn++) {
    const next = (2 * root + value / (root * root)) / 3;
    if (next >= root) break;
    root = next;
  }
  return root;
}

/**
 * The window in multiples of rate times round trip, round trip by round trip: one probes for more, one lets
 * the queue drain.
 */
const bbrGains = [1.25, 0.75, 1, 1, 1, 1, 1, 1] as const;
/** For how many round trips a rate counts, twice, ... */
const bbrRateRounds = 8;
/**
 * ... and for how long a round trip does, twice. After that, half of the window for a round trip lets the
 * queue show the distance.
 */
const bbrRoundTripLifeMs = 10_000;
/** Startup is over when the rate has not grown by a quarter for so many round trips. */
const bbrPlateauRounds = 3;

class Bbr implements CongestionControl {
  readonly #rate = new Recent();
  readonly #trip = new Recent();
  #startupBytes: number | undefined = initialWindowBytes;
  #plateauRate = 0;
  #plateauRounds = 0;
  #round = 0;
  #roundEndMs = 0;
  #tripEndMs = 0;
  /** In this round the smallest round trip is measured anew. */
  #probing = false;

  get windowBytes(): number {
    if (this.#startupBytes !== undefined) return this.#startupBytes;
    const gain = this.#probing ? 0.5 : (bbrGains[this.#round % bbrGains.length] ?? 1);
    // An eighth and a few packets more, since what is sent in parcels does not fill a window to its brim.
    return 1.125 * gain * (this.#rate.largest / this.#trip.largest) + 4 * packetBytes;
  }

  acknowledged({ nowMs, bytes, roundTripMs, bytesPerMs, busy, limited }: Acknowledgement): void {
    // The smallest round trip is the largest of their reciprocals.
    this.#trip.add(1 / Math.max(1e-3, roundTripMs));
    this.#rate.add(bytesPerMs);
    if (nowMs >= this.#tripEndMs) {
      if (this.#tripEndMs > 0) {
        this.#trip.age();
        this.#probing = true;
        this.#roundEndMs = nowMs + 2 * roundTripMs;
      }
      this.#tripEndMs = nowMs + bbrRoundTripLifeMs;
    }
    if (!busy) return;
    if (limited && this.#startupBytes !== undefined) {
      this.#startupBytes = Math.min(windowBytesMax, this.#startupBytes + bytes);
    }
    if (nowMs >= this.#roundEndMs) this.#roundOver(nowMs + roundTripMs);
  }

  lost(): void {}

  timedOut(): void {}

  #roundOver(nextEndMs: number): void {
    this.#roundEndMs = nextEndMs;
    this.#probing = false;
    this.#round += 1;
    if (this.#round % bbrRateRounds === 0) this.#rate.age();
    if (this.#startupBytes === undefined) return;
    if (this.#rate.largest > this.#plateauRate * 1.25) {
      this.#plateauRate = this.#rate.largest;
      this.#plateauRounds = 0;
    } else if (++this.#plateauRounds >= bbrPlateauRounds) {
      this.#startupBytes = undefined;
    }
  }
}

/** The largest value since the last but one `age()`. */
class Recent {
  #current = 0;
  #previous = 0;

  get largest(): number {
    return Math.max(this.#current, this.#previous);
  }

  add(value: number): void {
    if (value > this.#current) this.#current = value;
  }

  age(): void {
    this.#previous = this.#current;
    this.#current = 0;
  }
}
