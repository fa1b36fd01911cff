import {
  asMigrationError,
  type ErrorCode,
  type GuestState,
  MigrationError,
  type Owner,
} from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type { DestinationVm, SourceVm } from '../../interfaces/hypervisor.ts';
import type { Claim, OwnershipRegister } from '../../interfaces/register.ts';
import { raceAbort, throwIfAborted } from '../../util/promises.ts';
import { attemptToRecover, type Decision, verdictForDestination, verdictForSource } from './ownership.ts';

/** What both ends say to {@link recover}. */
export interface RecoverCommonOptions extends CallOptions {
  /** The VM, as in its description: 1 to 255 characters. */
  readonly vmId: string;
  /** This end's register, or the one that both share. */
  readonly register: OwnershipRegister;
  /**
   * The attempt in which this end was the source or the destination: 1 or more. Default: what this end's own
   * register tells. Has to be given with a shared register, and at a destination whose claim of `owner` does
   * not stand; reports carry it.
   */
  readonly epoch?: number | undefined;
}

/** Options of {@link recover} at the source. */
export interface RecoverSourceOptions extends RecoverCommonOptions {
  readonly role: 'source';
  /** The VM, as its hypervisor still has it. Without it only claims are made. */
  readonly vm?: Pick<SourceVm, 'resume' | 'detach' | 'release'> | undefined;
  /**
   * Asks the destination of this very attempt for its decision. Resolves to undefined when it has none yet or
   * nobody answered; then, as without `ask`, the owner stays undecided. Another host's answer would be true
   * of that host and wrong here.
   */
  readonly ask?: ((epoch: number, options: CallOptions) => Promise<Decision | undefined>) | undefined;
}

/** Options of {@link recover} at the destination. */
export interface RecoverDestinationOptions extends RecoverCommonOptions {
  readonly role: 'destination';
  /**
   * The VM that this end had prepared for the attempt, as its hypervisor still has it. Without it only claims
   * are made. Its `start()` may be called although the guest runs, by a recovery that died before: then it
   * does nothing.
   */
  readonly vm?: Pick<DestinationVm, 'start' | 'discard'> | undefined;
  /** Whether the guest ran at the source, and so is to run here. Default: true. */
  readonly run?: boolean | undefined;
}

/** Options of {@link recover}. */
export type RecoverOptions = RecoverSourceOptions | RecoverDestinationOptions;

/**
 * What {@link recover} did. At the source: `resumed` (it owned the VM, which runs), `reclaimed` (the
 * destination declined; claimed back, and runs; in both a guest that was paused from the start stays so), `released` (the destination owns it; let go of here),
 * `undecided` (nothing done: ask again). At the destination: `started` (it owned the VM, which runs),
 * `declined` (it never starts here; discarded). `none`: there was nothing to do, or no VM to do it with.
 */
export type RecoveryAction =
  | 'resumed'
  | 'reclaimed'
  | 'released'
  | 'started'
  | 'declined'
  | 'none'
  | 'undecided';

/** What {@link recover} resolves to; frozen. */
export interface RecoveryReport {
  /** The VM, as the caller named it. */
  readonly vmId: string;
  /** The attempt, 0 if no attempt left a claim that concerns this end. */
  readonly epoch: number;
  /** Which end of the attempt owns the VM. */
  readonly owner: Owner;
  /** What was done. */
  readonly action: RecoveryAction;
}

/**
 * Brings one end of a migration to its end after its process died, or after the other end could not be
 * reached: by the rules of `handover/ownership.ts` it resumes, reclaims,
 * releases, starts, declines, or asks. It never runs a guest that this end may not run. It may be called
 * again at any time, also after it died half-way, and does only what is left. To be called when no migration
 * of the VM is active at this end.
 *
 * The signal ends it while it reads and asks; from the first claim or call of the VM on it is ignored.
 *
 * Rejects with `invalid-argument` (also where it cannot tell which attempt to recover; nothing was changed),
 * `register` (nothing is known beyond what the error's `owner` says; call again), `hypervisor` or whatever
 * else the VM rejects with (`owner` says who may run it; call again), `aborted` (nothing was changed), or
 * what `ask` rejects with (undecided, the guest paused).
 */
export async function recover(options: RecoverOptions): Promise<RecoveryReport> {
  const { vmId, register, signal } = options;
  checkOptions(options);
  throwIfAborted(signal);
  const claims = await guarded('register', 'undecided', 'unknown', () =>
    raceAbort(register.read(vmId), signal),
  );
  const epoch = attemptToRecover(options.role, claims, options.epoch);
  const outcome = await (options.role === 'source'
    ? recoverSource(options, claims, epoch)
    : recoverDestination(options, claims, epoch));
  return Object.freeze({ vmId, epoch, ...outcome });
}

type RecoveryOutcome = Pick<RecoveryReport, 'owner' | 'action'>;

async function recoverSource(
  options: RecoverSourceOptions,
  claims: readonly Claim[],
  epoch: number,
): Promise<RecoveryOutcome> {
  const { vmId, register, vm } = options;
  let verdict = verdictForSource(claims, epoch);
  if (verdict === 'ask') verdict = verdictForSource(claims, epoch, await askDestination(options, epoch));
  if (verdict === 'ask') return { owner: 'undecided', action: 'undecided' };
  if (verdict === 'released') {
    if (vm === undefined) return { owner: 'destination', action: 'none' };
    await guarded('hypervisor', 'destination', 'unknown', () => vm.release());
    return { owner: 'destination', action: 'released' };
  }
  if (verdict === 'reclaim-then-run') {
    await guarded('register', 'source', 'paused', () => register.claim(vmId, epoch, 'return', 'reclaimed'));
  }
  if (vm !== undefined) {
    await guarded('hypervisor', 'source', 'unknown', () => vm.resume());
    // The engine that died had set up what slows the guest, and what watches its memory.
    await guarded('hypervisor', 'source', 'running', () => vm.detach());
  }
  if (verdict === 'reclaim-then-run') return { owner: 'source', action: 'reclaimed' };
  return { owner: 'source', action: vm === undefined ? 'none' : 'resumed' };
}

async function askDestination(options: RecoverSourceOptions, epoch: number): Promise<Decision | undefined> {
  const { ask, signal } = options;
  if (ask === undefined) return undefined;
  return guarded('connection-lost', 'undecided', 'paused', async () => {
    throwIfAborted(signal);
    return raceAbort(ask(epoch, { signal }), signal);
  });
}

async function recoverDestination(
  options: RecoverDestinationOptions,
  claims: readonly Claim[],
  epoch: number,
): Promise<RecoveryOutcome> {
  const { vmId, register, vm, run = true } = options;
  let verdict = verdictForDestination(claims, epoch);
  if (verdict === 'decline') {
    const value = await guarded('register', 'undecided', 'paused', () =>
      register.claim(vmId, epoch, 'destination', 'declined'),
    );
    // Not necessarily our own: a claim that the dead process had under way may have arrived first.
    verdict = verdictForDestination([{ epoch, role: 'destination', value }], epoch);
  }
  if (verdict === 'start') {
    if (vm === undefined) return { owner: 'destination', action: 'none' };
    await guarded('hypervisor', 'destination', 'unknown', () => vm.start({ run }));
    return { owner: 'destination', action: 'started' };
  }
  if (vm !== undefined) await guarded('hypervisor', 'source', 'unknown', () => vm.discard());
  return { owner: 'source', action: 'declined' };
}

function checkOptions({ role, vmId, epoch }: RecoverOptions): void {
  const bad = (message: string) => new MigrationError('invalid-argument', message, { owner: 'undecided' });
  if (role !== 'source' && role !== 'destination') throw bad(`role must be 'source' or 'destination'`);
  if (typeof vmId !== 'string' || vmId.length < 1 || vmId.length > 255) {
    throw bad('vmId must be a string of 1 to 255 characters');
  }
  if (epoch !== undefined && (!Number.isSafeInteger(epoch) || epoch < 1)) {
    throw bad('epoch must be a safe integer of 1 or more');
  }
}

/**
 * Every failure of a step with what it means for the owner, and for the guest unless the error knows better.
 */
async function guarded<T>(
  code: ErrorCode,
  owner: Owner,
  guest: GuestState,
  step: () => Promise<T>,
): Promise<T> {
  try {
    return await step();
  } catch (thrown) {
    const error = asMigrationError(thrown, code);
    throw error.with({ phase: 'handover', owner, guest: error.guest === 'unknown' ? guest : error.guest });
  }
}
