import { bytesPerSecondAssumed } from '../channel/link-estimate.ts';
import { MigrationError, type Phase } from '../errors.ts';
import type { CancelTimer, Environment } from '../interfaces/environment.ts';
import type { ResolvedPolicy } from './policy.ts';

export interface DeadlineOptions {
  readonly environment: Environment;
  readonly policy: Pick<ResolvedPolicy, 'timeoutMs' | 'onTimeout' | 'stunMsMax'>;
  readonly phase: () => Phase;
  /** What has not been sent once, disks and memory; what the guest has dirtied since is not in it. */
  readonly unsentBytes: () => number;
  /** What the link carries; undefined if nothing was measured. */
  readonly bytesPerSecond: () => number | undefined;
  /** It is over, and nothing is to be forced. */
  readonly onOver: (error: MigrationError) => void;
}

/** From here on it is not the copying any more that takes long; a stun has a limit of its own. */
const stunned: ReadonlySet<Phase> = new Set(['stun', 'verify', 'handover', 'release', 'done']);

/**
 * `policy.timeoutMs`: the guest has to be stunned by then. With `cancel` the migration ends when it is not. With `force` the rule of convergence takes
 * what it can get, as far as it fits `stunMsMax`; but what was never sent cannot be forced, and where so much of that is left that it
 * does not fit, or the disks were not copied within another `stunMsMax` because something stalls, the migration ends too.
 */
export class Deadline {
  readonly #options: DeadlineOptions;
  readonly #startMs: number;
  #cancel: CancelTimer = () => {};

  /** The time begins. */
  constructor(options: DeadlineOptions) {
    this.#options = options;
    this.#startMs = options.environment.now();
    const { timeoutMs } = options.policy;
    if (timeoutMs === undefined) return;
    this.#cancel = options.environment.setTimer(timeoutMs, () => this.#over());
  }

  /** How long it is, in ms; less than 0 after it. Undefined: it is not limited. */
  get leftMs(): number | undefined {
    const { timeoutMs } = this.#options.policy;
    return timeoutMs === undefined ? undefined : this.#startMs + timeoutMs - this.#options.environment.now();
  }

  /** Ends the migration if it is over, and nothing is to be forced. To be called too when a stun came to nothing. */
  look(): void {
    const { policy, phase, onOver } = this.#options;
    if ((this.leftMs ?? 1) > 0 || stunned.has(phase()) || this.#canBeForced) return;
    onOver(new MigrationError('timeout', `the guest was not stunned within ${policy.timeoutMs} ms`));
  }

  stop(): void {
    this.#cancel();
  }

  /** The rule of convergence looks only after a round: what stalls before the first one is seen here. */
  #over(): void {
    const { environment, policy, phase } = this.#options;
    this.look();
    if (phase() !== 'copyDisks' || !this.#canBeForced) return;
    this.#cancel = environment.setTimer(policy.stunMsMax, () => this.look());
  }

  get #canBeForced(): boolean {
    const { policy, phase, unsentBytes, bytesPerSecond } = this.#options;
    if (policy.onTimeout !== 'force' || phase() === 'connect' || phase() === 'prepare') return false;
    if (phase() === 'copyDisks' && (this.leftMs ?? 0) <= -policy.stunMsMax) return false;
    return (1000 * unsentBytes()) / (bytesPerSecond() ?? bytesPerSecondAssumed) <= policy.stunMsMax;
  }
}
