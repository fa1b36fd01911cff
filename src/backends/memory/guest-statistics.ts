/** What the guest has noticed since it came here, or since it last reset this. */
export interface GuestStatistics {
  /** Disk writes that were completed. */
  readonly writes: number;
  /** Disk writes that failed. */
  readonly failedWrites: number;
  /**
   * From issuing a write until the guest was told, in milliseconds. The maximum is exact, the others are at
   * most a twentieth too high. All 0 without writes.
   */
  readonly writeLatencyMs: {
    /** Half of them took no longer. */
    readonly median: number;
    /** 99 of 100 took no longer. */
    readonly p99: number;
    /** The longest. */
    readonly max: number;
  };
  /** Pages that the guest's memory writes have touched, each write counted by itself. */
  readonly pagesDirtied: number;
  /**
   * The longest time for which the guest did not run after it had run here, in milliseconds; also one that
   * still lasts. How long it stood still on its way between two hosts is known to neither of them.
   */
  readonly longestPauseMs: number;
}

/** Each bucket of the histogram reaches this much further than the one before. */
const BUCKET_GROWTH = 1.05;

/** What falls into the first bucket, in milliseconds. */
const BUCKET_FIRST_MS = 0.001;

/** Enough buckets for a day; whatever takes longer falls into the last one. */
const BUCKETS = 1 + Math.ceil(Math.log(86_400_000 / BUCKET_FIRST_MS) / Math.log(BUCKET_GROWTH));

/** Collects {@link GuestStatistics}. All times are on one clock, in milliseconds. */
export class GuestMeter {
  readonly #latencies = new Uint32Array(BUCKETS);
  #writes = 0;
  #failedWrites = 0;
  #latencyMax = 0;
  #pagesDirtied = 0;
  #longestPause = 0;
  #haltedAt: number | undefined;

  wrote(latencyMs: number): void {
    this.#writes += 1;
    this.#latencyMax = Math.max(this.#latencyMax, latencyMs);
    const steps = Math.ceil(Math.log(latencyMs / BUCKET_FIRST_MS) / Math.log(BUCKET_GROWTH));
    const bucket = Math.max(0, Math.min(BUCKETS - 1, steps));
    this.#latencies[bucket] = (this.#latencies[bucket] ?? 0) + 1;
  }

  failed(): void {
    this.#failedWrites += 1;
  }

  dirtied(pages: number): void {
    this.#pagesDirtied += pages;
  }

  /** The guest, which ran, does not any more. */
  halted(now: number): void {
    this.#haltedAt = now;
  }

  /** The guest runs. */
  ran(now: number): void {
    this.#longestPause = Math.max(this.#longestPause, this.#pauseUntil(now));
    this.#haltedAt = undefined;
  }

  statistics(now: number): GuestStatistics {
    return {
      writes: this.#writes,
      failedWrites: this.#failedWrites,
      writeLatencyMs: { median: this.#latency(0.5), p99: this.#latency(0.99), max: this.#latencyMax },
      pagesDirtied: this.#pagesDirtied,
      longestPauseMs: Math.max(this.#longestPause, this.#pauseUntil(now)),
    };
  }

  /** Forgets everything; a pause that lasts counts from now. */
  reset(now: number): void {
    this.#latencies.fill(0);
    this.#writes = 0;
    this.#failedWrites = 0;
    this.#latencyMax = 0;
    this.#pagesDirtied = 0;
    this.#longestPause = 0;
    if (this.#haltedAt !== undefined) this.#haltedAt = now;
  }

  #pauseUntil(now: number): number {
    return this.#haltedAt === undefined ? 0 : now - this.#haltedAt;
  }

  /** The latency that the given fraction of the writes did not exceed. */
  #latency(fraction: number): number {
    let left = Math.ceil(this.#writes * fraction);
    for (let bucket = 0; left > 0 && bucket < BUCKETS; bucket += 1) {
      left -= this.#latencies[bucket] ?? 0;
      if (left <= 0) return Math.min(this.#latencyMax, BUCKET_FIRST_MS * BUCKET_GROWTH ** bucket);
    }
    return 0;
  }
}
