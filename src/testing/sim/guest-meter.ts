/** What one workload, or the guest as a whole, noticed of its operations in one window. */
export interface OperationStatistics {
  /** Operations that were completed, and those that failed. */
  readonly completed: number;
  /** Operations that failed. */
  readonly failed: number;
  /** Bytes of the completed ones. */
  readonly bytes: number;
  /**
   * From issuing an operation until the guest was told, in ms. The maximum is exact, the others are at most a
   * twentieth too high. All 0 without operations.
   */
  readonly latencyMs: { readonly median: number; readonly p99: number; readonly max: number };
  /**
   * The longest time between two completions, in ms, also one that began before the window, or on another
   * host.
   */
  readonly longestGapMs: number;
}

/** A stretch of the guest's life, from one mark to the next. */
export interface GuestWindow {
  /** As the mark says; `start` for the first. */
  readonly label: string;
  /** When it began. */
  readonly fromMs: number;
  /** The next mark, or now. */
  readonly toMs: number;
  /** The longest time for which the guest stood still, in ms, on its way between two hosts too. */
  readonly longestPauseMs: number;
  /** By workload; `direct` for what was asked of the guest itself. */
  readonly workloads: Readonly<Record<string, OperationStatistics>>;
}

/**
 * Upper bounds of the latency histogram's buckets in ms: each a twentieth above the last, from a microsecond
 * to a day.
 */
const bounds = makeBounds();

function makeBounds(): readonly number[] {
  const list = [0.001];
  for (let last = 0.001; last < 86_400_000; ) {
    last *= 1.05;
    list.push(last);
  }
  return list;
}

/** A series as plain data; the histogram as pairs of bucket and count. */
interface SeriesState {
  readonly completed: number;
  readonly failed: number;
  readonly bytes: number;
  readonly max: number;
  readonly longestGap: number;
  readonly lastAt: number | null;
  readonly buckets: readonly (readonly [number, number])[];
}

interface WindowState {
  readonly label: string;
  readonly fromMs: number;
  readonly toMs: number | null;
  readonly longestPauseMs: number;
  readonly series: readonly (readonly [string, SeriesState])[];
}

/** All that a guest has noticed, as plain data: it travels with the guest. */
export interface MeterState {
  readonly haltedAt: number | null;
  readonly windows: readonly WindowState[];
}

class Series {
  completed = 0;
  failed = 0;
  bytes = 0;
  max = 0;
  longestGap = 0;
  lastAt: number | undefined;
  readonly buckets = new Map<number, number>();

  static from(state: SeriesState): Series {
    const series = new Series();
    Object.assign(series, { ...state, lastAt: state.lastAt ?? undefined, buckets: new Map(state.buckets) });
    return series;
  }

  complete(now: number, latencyMs: number, bytes: number): void {
    this.completed++;
    this.bytes += bytes;
    this.max = Math.max(this.max, latencyMs);
    const bucket = bucketOf(latencyMs);
    this.buckets.set(bucket, (this.buckets.get(bucket) ?? 0) + 1);
    if (this.lastAt !== undefined) this.longestGap = Math.max(this.longestGap, now - this.lastAt);
    this.lastAt = now;
  }

  state(): SeriesState {
    const { completed, failed, bytes, max, longestGap, lastAt = null, buckets } = this;
    return { completed, failed, bytes, max, longestGap, lastAt, buckets: [...buckets] };
  }

  statistics(): OperationStatistics {
    const { completed, failed, bytes, max } = this;
    const latencyMs = { median: this.#latency(0.5), p99: this.#latency(0.99), max };
    return { completed, failed, bytes, latencyMs, longestGapMs: this.longestGap };
  }

  /** The latency that the given fraction of the operations did not exceed. */
  #latency(fraction: number): number {
    let left = Math.ceil(this.completed * fraction);
    for (const [bucket, count] of [...this.buckets].sort(([a], [b]) => a - b)) {
      left -= count;
      if (left <= 0) return Math.min(this.max, bounds[bucket] ?? this.max);
    }
    return 0;
  }
}

interface Window {
  readonly label: string;
  readonly fromMs: number;
  toMs: number | undefined;
  longestPauseMs: number;
  readonly series: Map<string, Series>;
}

/** Collects what a guest notices. All hosts of a simulation have one clock, so its times travel with it. */
export class GuestMeter {
  readonly #windows: Window[];
  #haltedAt: number | undefined;

  constructor(now: number, state?: MeterState) {
    this.#haltedAt = state?.haltedAt ?? undefined;
    this.#windows = state?.windows.map(windowFrom) ?? [newWindow('start', now)];
  }

  state(): MeterState {
    const windows = this.#windows.map(({ label, fromMs, toMs = null, longestPauseMs, series }) => ({
      label,
      fromMs,
      toMs,
      longestPauseMs,
      series: [...series].map(([name, one]) => [name, one.state()] as const),
    }));
    return { haltedAt: this.#haltedAt ?? null, windows };
  }

  /** A window begins. A pause that lasts counts in both, from its start. */
  mark(label: string, now: number): void {
    const last = this.#current;
    this.#notePause(now);
    last.toMs = now;
    const next = newWindow(label, now);
    for (const [name, { lastAt }] of last.series) {
      const series = new Series();
      series.lastAt = lastAt;
      next.series.set(name, series);
    }
    this.#windows.push(next);
  }

  completed(name: string, now: number, latencyMs: number, bytes: number): void {
    this.#series(name).complete(now, latencyMs, bytes);
  }

  failed(name: string): void {
    this.#series(name).failed++;
  }

  /** The guest, which ran, does not any more. */
  halted(now: number): void {
    this.#haltedAt = now;
  }

  /** The guest runs. */
  ran(now: number): void {
    this.#notePause(now);
    this.#haltedAt = undefined;
  }

  windows(now: number): readonly GuestWindow[] {
    this.#notePause(now);
    return this.#windows.map(({ label, fromMs, toMs = now, longestPauseMs, series }) => ({
      label,
      fromMs,
      toMs,
      longestPauseMs,
      workloads: Object.fromEntries([...series].map(([name, one]) => [name, one.statistics()])),
    }));
  }

  get #current(): Window {
    const current = this.#windows.at(-1);
    if (current === undefined) throw new RangeError('a meter has one window at least');
    return current;
  }

  #notePause(now: number): void {
    if (this.#haltedAt === undefined) return;
    this.#current.longestPauseMs = Math.max(this.#current.longestPauseMs, now - this.#haltedAt);
  }

  #series(name: string): Series {
    const { series } = this.#current;
    let found = series.get(name);
    if (found === undefined) {
      found = new Series();
      series.set(name, found);
    }
    return found;
  }
}

function newWindow(label: string, fromMs: number): Window {
  return { label, fromMs, toMs: undefined, longestPauseMs: 0, series: new Map() };
}

function windowFrom(state: WindowState): Window {
  const series = new Map(state.series.map(([name, one]) => [name, Series.from(one)]));
  return { ...state, toMs: state.toMs ?? undefined, series };
}

/** The first bucket whose bound is not below the latency; the last for whatever takes longer than a day. */
function bucketOf(latencyMs: number): number {
  let low = 0;
  let high = bounds.length - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((bounds[middle] ?? 0) < latencyMs) low = middle + 1;
    else high = middle;
  }
  return low;
}
