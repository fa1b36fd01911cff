/** Something that happened in a simulation. */
export interface SimulationEvent {
  /** When, in virtual ms. */
  readonly atMs: number;
  /** Where: an end, or the part of the world that it happened to. */
  readonly who: 'source' | 'destination' | 'network' | 'world';
  /** What, in words. */
  readonly what: string;
}

/** Sums up events, and keeps them if asked to. */
export class EventLog {
  readonly #now: () => number;
  readonly #kept: SimulationEvent[] | undefined;
  #high = 0x9e3779b9;
  #low = 0x85ebca6b;

  constructor(now: () => number, keep: boolean) {
    this.#now = now;
    this.#kept = keep ? [] : undefined;
  }

  /** All events, in their order, if they are kept. */
  get events(): readonly SimulationEvent[] | undefined {
    return this.#kept;
  }

  add(who: SimulationEvent['who'], what: string): void {
    const atMs = this.#now();
    this.#text(who);
    this.mix(Math.floor(atMs * 1000));
    this.#text(what);
    this.#kept?.push({ atMs, who, what });
  }

  /** Something that counts for the digest, and is no event of its own. */
  mix(value: number): void {
    this.#high = Math.imul(this.#high ^ value, 0x85ebca6b);
    this.#high = (this.#high << 13) | (this.#high >>> 19);
    this.#low = Math.imul(this.#low ^ value ^ this.#high, 0xc2b2ae35);
    this.#low ^= this.#low >>> 15;
  }

  /** 16 hexadecimal digits; equal runs have equal ones. */
  digest(): string {
    return [this.#high, this.#low].map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
  }

  #text(text: string): void {
    for (let at = 0; at < text.length; at++) this.mix(text.charCodeAt(at));
  }
}
