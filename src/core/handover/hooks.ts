import { type GuestState, MigrationError, messageOf } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { DestinationHooks, HookCall, HookDurations } from '../../interfaces/hooks.ts';
import { withTimeout } from '../../util/promises.ts';

type HookName = keyof DestinationHooks;

/** Re-addressing is a call or two of another machine's; a program that takes longer than this hangs. */
const hookMsMaxDefault = 5000;
/** Longer than this nobody waits for a guest that could run. */
const hookMsMaxMax = 60_000;

/**
 * The caller's hooks around the start of a guest that is this end's. None of them can keep it from running: what goes wrong is kept for the
 * report.
 */
export class HookRunner {
  readonly #environment: Environment;
  readonly #hooks: DestinationHooks;
  readonly #limitMs: number;
  readonly #durations: { beforeStartMs?: number; afterStartMs?: number } = {};
  readonly #problems: { readonly text: string; readonly cause: unknown }[] = [];

  /** Throws `invalid-argument`. */
  constructor(environment: Environment, hooks: DestinationHooks = {}, limitMs = hookMsMaxDefault) {
    if (!(typeof limitMs === 'number' && limitMs > 0 && limitMs <= hookMsMaxMax)) {
      throw new MigrationError(
        'invalid-argument',
        `hookMsMax must be above 0 and at most ${hookMsMaxMax}, not ${limitMs}`,
      );
    }
    for (const name of ['beforeStart', 'afterStart'] as const) {
      if (!['undefined', 'function'].includes(typeof hooks[name]))
        throw new MigrationError('invalid-argument', `hooks.${name} must be a function`);
    }
    this.#environment = environment;
    this.#hooks = hooks;
    this.#limitMs = limitMs;
  }

  /** Resolves when the hook is over, or its time is. Never rejects. */
  async run(name: HookName, of: Pick<HookCall, 'vmId' | 'epoch'>): Promise<void> {
    if (this.#hooks[name] === undefined) return;
    const startMs = this.#environment.now();
    await this.#call(name, of);
    this.#durations[`${name}Ms`] = this.#environment.now() - startMs;
  }

  async #call(name: HookName, of: Pick<HookCall, 'vmId' | 'epoch'>): Promise<void> {
    const time = new AbortController();
    const late = new MigrationError('timeout', `${name} took more than ${this.#limitMs} ms`);
    // What is thrown at once counts like what it rejects with.
    const running = (async () => this.#hooks[name]?.({ ...of, signal: time.signal }))();
    try {
      await withTimeout(this.#environment, this.#limitMs, running, () => late);
    } catch (cause) {
      const text = cause === late ? late.message : `${name} failed: ${messageOf(cause)}`;
      this.#problems.push({ text, cause });
      if (cause === late) time.abort(late);
    }
  }

  /** As the report has them. */
  get figures(): { readonly hooks?: HookDurations } {
    return Object.keys(this.#durations).length === 0 ? {} : { hooks: { ...this.#durations } };
  }

  /** What went wrong with them, if anything did. */
  problem(guest: GuestState): MigrationError | undefined {
    const [first] = this.#problems;
    if (first === undefined) return undefined;
    const texts = this.#problems.map(({ text }) => text).join('; ');
    return new MigrationError('hook-failed', texts, {
      phase: 'handover',
      owner: 'destination',
      guest,
      cause: first.cause,
    });
  }
}
