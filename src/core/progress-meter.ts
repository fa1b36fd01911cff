import type { CancelTimer, Environment } from '../interfaces/environment.ts';
import type { Progress } from '../interfaces/migration.ts';

/** How often progress is told: often enough for a bar that moves, seldom enough to cost nothing. */
const intervalMs = 250;
/** Over how many intervals the rate is taken. */
const rateIntervals = 4;

/** What of {@link Progress} the meter cannot work out by itself. */
export type ProgressSnapshot = Omit<Progress, 'bytesPerSecond'>;

/** Tells progress regularly while it runs. */
export class ProgressMeter {
  readonly #environment: Environment;
  readonly #snapshot: () => ProgressSnapshot;
  readonly #emit: (progress: Progress) => void;
  readonly #history: { readonly atMs: number; readonly bytes: number }[] = [];
  #cancel: CancelTimer | undefined;

  constructor(
    environment: Environment,
    snapshot: () => ProgressSnapshot,
    emit: (progress: Progress) => void,
  ) {
    this.#environment = environment;
    this.#snapshot = snapshot;
    this.#emit = emit;
  }

  start(): void {
    this.#history.push({ atMs: this.#environment.now(), bytes: 0 });
    this.#arm();
  }

  /** Stops, after a last word. */
  stop(): void {
    this.#cancel?.();
    this.#tell();
  }

  #arm(): void {
    this.#cancel = this.#environment.setTimer(intervalMs, () => {
      this.#tell();
      this.#arm();
    });
  }

  /** A plug point that throws when it is looked at loses its progress, not the process. */
  #look(): ProgressSnapshot | undefined {
    try {
      return this.#snapshot();
    } catch {
      return undefined;
    }
  }

  #tell(): void {
    const snapshot = this.#look();
    if (snapshot === undefined) return;
    const now = this.#environment.now();
    const oldest = this.#history[0];
    const elapsedMs = oldest === undefined ? 0 : now - oldest.atMs;
    const bytes = oldest === undefined ? 0 : snapshot.transferredBytes - oldest.bytes;
    this.#history.push({ atMs: now, bytes: snapshot.transferredBytes });
    if (this.#history.length > rateIntervals) this.#history.shift();
    this.#emit({ ...snapshot, bytesPerSecond: elapsedMs > 0 ? (bytes / elapsedMs) * 1000 : 0 });
  }
}
