import { MigrationError, type Phase } from '../errors.ts';
import type { CallOptions } from '../interfaces/content.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { MigrationEvents, MigrationReport, Outage, Outcome, Progress } from '../interfaces/migration.ts';
import { createEmitter } from '../util/emitter.ts';
import { abortError } from '../util/promises.ts';
import { ProgressMeter, type ProgressSnapshot } from './progress-meter.ts';
import { RunClock } from './run-clock.ts';

/** One end of a migration. */
export interface Migration {
  /**
   * Runs this end, once, and resolves to how it ended, whatever that was: look at `outcome`. Rejects only with `invalid-state`, if called
   * again.
   *
   * Aborting the signal before commit ends the migration with `aborted`, and the guest runs on at the source. After commit, when the
   * destination decides, the signal is ignored.
   */
  run(options?: CallOptions): Promise<MigrationReport>;
  /** Listens to an event, until {@link Migration.off}. Listeners run synchronously; what they throw is ignored. */
  on<E extends keyof MigrationEvents>(event: E, listener: MigrationEvents[E]): this;
  /** Stops listening. */
  off<E extends keyof MigrationEvents>(event: E, listener: MigrationEvents[E]): this;
}

/** Then all of what was wanted is done. */
export const wentWell: ReadonlySet<Outcome> = new Set(['completed', 'rehearsed', 'copied']);

/** So many outages stand in a report. */
const outagesMax = 256;

/**
 * What both ends share: running once, events, phases, progress, and the one signal that ends everything before commit.
 */
export abstract class MigrationEnd implements Migration {
  protected readonly environment: Environment;
  protected readonly clock: RunClock;
  readonly #events = createEmitter<MigrationEvents>();
  readonly #stop = new AbortController();
  readonly #outages: Outage[] = [];
  #started = false;
  #committed = false;

  constructor(environment: Environment) {
    this.environment = environment;
    this.clock = new RunClock(environment, (phase) => this.emit('phase', phase));
  }

  on<E extends keyof MigrationEvents>(event: E, listener: MigrationEvents[E]): this {
    this.#events.on(event, listener);
    return this;
  }

  off<E extends keyof MigrationEvents>(event: E, listener: MigrationEvents[E]): this {
    this.#events.off(event, listener);
    return this;
  }

  run(options: CallOptions = {}): Promise<MigrationReport> {
    return this.once(options, () => this.migrate());
  }

  /** Runs what this end is for; there is no second time, of whatever it may be. */
  protected async once(
    { signal }: CallOptions,
    migrate: () => Promise<MigrationReport>,
  ): Promise<MigrationReport> {
    if (this.#started) throw new MigrationError('invalid-state', 'it was run before; make a new migration');
    this.#started = true;
    const onAbort = () => this.stop(abortError(signal as AbortSignal));
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
    const meter = new ProgressMeter(
      this.environment,
      () => this.snapshot(),
      (progress: Progress) => this.emit('progress', progress),
    );
    meter.start();
    try {
      return Object.freeze(await migrate());
    } finally {
      meter.stop();
      signal?.removeEventListener('abort', onAbort);
      this.clock.enter('done');
    }
  }

  /** Whether it was run. */
  protected get started(): boolean {
    return this.#started;
  }

  /** Aborted, with a {@link MigrationError}, when the migration is to end before commit. */
  protected get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Ends the migration, if it is not committed. The first reason counts. */
  protected stop(reason: MigrationError): void {
    if (!this.#committed) this.#stop.abort(reason);
  }

  /** From here on {@link MigrationEnd.stop} does nothing: only what stands in the register counts. */
  protected commit(): void {
    this.#committed = true;
  }

  protected get committed(): boolean {
    return this.#committed;
  }

  /** When the link was gone, and came back. */
  protected get outages(): readonly Outage[] {
    return this.#outages;
  }

  /** The link is there again. */
  protected mended(outage: Outage): void {
    if (this.#outages.length < outagesMax) this.#outages.push(outage);
    this.emit('outage', outage);
  }

  protected emit<E extends keyof MigrationEvents>(event: E, ...args: Parameters<MigrationEvents[E]>): void {
    for (const listener of this.#events.listeners(event)) {
      try {
        (listener as (...args: Parameters<MigrationEvents[E]>) => void)(...args);
      } catch {
        // A listener's failure is the listener's.
      }
    }
  }

  protected enter(phase: Phase): void {
    this.clock.enter(phase);
  }

  protected abstract migrate(): Promise<MigrationReport>;
  protected abstract snapshot(): ProgressSnapshot;
}
