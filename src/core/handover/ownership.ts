/**
 * Who may run the guest: the rules, all of them, as functions of what stands in a register. The running
 * migration, the answers to questions and recovery after a crash call the same functions, so that there is
 * one set of rules. docs/failure-model.md says what they come to at each point at which an end or the link
 * can fail.
 *
 * ```
 *  source                              destination
 *  stun ──────── FINAL ──────────────► check, flush, load
 *       ◄─────── READY ────────────────
 *  seal
 *  claim given(e)
 *       ──────── GO ─────────────────► claim owner(e) ─── owner stands ─────► start, answer DONE
 *                                        │  └──────────── declined stands ──► never, answer DECLINED
 *                                        failed, gave up, restarted without a claim: claim declined(e)
 *  DONE: release
 *  DECLINED: claim reclaimed(e), resume
 *  neither: ask, and until there is an answer do not run the guest
 * ```
 *
 * Why never both run: the source runs only if GO was never sent, or after declined(e) stood; the destination
 * runs only after owner(e) stood; owner(e) follows GO, GO follows given(e), and of owner(e) and declined(e)
 * only one can stand. Why one runs in the end: the destination's decision always comes (whoever asks an end
 * without a session makes it decline), and each decision lets one end run.
 *
 * An end that has a register of its own sees only its own claims; a shared register shows it the other end's
 * too. The rules need no more than the first, and use what they see of the second.
 */
import { MigrationError, type Owner } from '../../errors.ts';
import type { Claim } from '../../interfaces/register.ts';

/** The destination's decision about one attempt. Once it stands it never changes. */
export type Decision = 'owner' | 'declined';

/** What stands of one attempt, as far as one register shows it. */
export interface AttemptClaims {
  readonly epoch: number;
  /** The source gave the VM away. */
  readonly given: boolean;
  /** What the destination decided, if that stands here. */
  readonly decision: Decision | undefined;
  /** The source has it back. */
  readonly reclaimed: boolean;
}

/** What the source of an attempt may do; see {@link verdictForSource}. */
export type SourceVerdict = 'run' | 'reclaim-then-run' | 'released' | 'ask';

/** What the destination of an attempt may do; see {@link verdictForDestination}. */
export type DestinationVerdict = 'start' | 'never' | 'decline';

/** What the destination answers; see {@link answerTo}. */
export type AnswerVerdict = Decision | 'pending' | 'decline';

/** The highest epoch that any claim names, 0 if there is none. */
export function highestEpoch(claims: readonly Claim[]): number {
  return claims.reduce((highest, claim) => Math.max(highest, claim.epoch), 0);
}

/** What {@link nextEpoch} leaves out is less than this. */
export const epochGapBits = 16;

/**
 * The number of a new attempt, from the highest epoch in each end's register ({@link highestEpoch}): above
 * both, so that no claim of an earlier attempt, in either direction, can stand for this one. `gap`, a random number of {@link epochGapBits} bits, is left out: an attempt of which nothing was
 * claimed is not known to the register, and a destination that still waits in it must not take the claims of the next one for its own. Throws
 * `register` when there is no higher number.
 */
export function nextEpoch(highestAtSource: number, highestAtDestination: number, gap = 0): number {
  const epoch = Math.max(highestAtSource, highestAtDestination) + 1 + gap;
  if (epoch > Number.MAX_SAFE_INTEGER) throw new MigrationError('register', 'the register has no epoch left');
  return epoch;
}

/** Further ahead than this of all that a register knows no honest peer is: tens of thousands of attempts that it has not seen. */
const epochLeapMax = 2 ** (2 * epochGapBits);

function isFarAhead(epoch: number, claims: readonly Claim[]): boolean {
  return epoch > highestEpoch(claims) + epochLeapMax;
}

/**
 * Throws `protocol` for an epoch, named by the peer, that is implausibly far ahead: once it was claimed there would be no higher number
 * left for this VM.
 */
export function checkEpoch(epoch: number, claims: readonly Claim[]): void {
  const highest = highestEpoch(claims);
  if (!isFarAhead(epoch, claims)) return;
  throw new MigrationError('protocol', `attempt ${epoch} is too far ahead of ${highest}, the last one known`);
}

/**
 * What stands of one attempt. Throws `register` if the claims contradict each other (`owner` beside
 * `declined` or `reclaimed`): then the register is not write-once, and nothing may be done on its word.
 */
export function claimsAt(claims: readonly Claim[], epoch: number): AttemptClaims {
  const values = new Set(claims.filter((claim) => claim.epoch === epoch).map((claim) => claim.value));
  const [owner, declined, reclaimed] = [values.has('owner'), values.has('declined'), values.has('reclaimed')];
  if (owner && (declined || reclaimed)) throw contradiction(epoch, [...values].join(', '));
  return {
    epoch,
    given: values.has('given'),
    decision: owner ? 'owner' : declined ? 'declined' : undefined,
    reclaimed,
  };
}

/**
 * What the source of attempt `epoch` may do with its VM, from what it sees in its register and, if it has
 * one, the destination's answer.
 *
 * - `run`: the VM is the source's and may run. Either it never gave it away, or it has taken it back.
 * - `reclaim-then-run`: the destination declined: claim `reclaimed`, then run.
 * - `released`: the destination owns the VM: never run it here again; let go of it.
 * - `ask`: given away, and the decision is not known here: do not run, do not let go, ask the destination.
 *
 * A living source counts `given` as standing from the call of the claim on, whether or not that call has
 * resolved (it adds the claim to `claims`). A restarted one goes by what it reads: the process that would
 * have sent GO after the claim is gone.
 *
 * Throws `register` on a contradiction: `owner` for an attempt in which nothing was given, or an answer that
 * differs from what stands.
 */
export function verdictForSource(claims: readonly Claim[], epoch: number, answer?: Decision): SourceVerdict {
  const { given, reclaimed, decision } = claimsAt(claims, epoch);
  if (decision !== undefined && answer !== undefined && decision !== answer) {
    throw contradiction(epoch, `${decision} stands, and the destination answers ${answer}`);
  }
  const decided = decision ?? answer;
  if (decided === 'owner') {
    if (given && !reclaimed) return 'released';
    throw contradiction(epoch, given ? 'owner after reclaimed' : 'owner without given');
  }
  if (reclaimed || !given) return 'run';
  return decided === 'declined' ? 'reclaim-then-run' : 'ask';
}

/**
 * What the destination of attempt `epoch` may do with the VM that it prepared, from what stands in its
 * register. Its living session asks with what its claim resolved to; after a restart, with what is read.
 *
 * - `start`: `owner` stands: the VM is this end's, and nobody else may ever run it on this attempt's account.
 *   Its content was complete before the claim. If the process that holds its memory lives, the guest is
 *   started, or runs already and goes on. If that process is dead, the memory is lost and with it the guest's
 *   running state; this end alone may boot the VM again from its disks, which were flushed before READY.
 * - `never`: `declined` stands: it never starts here in this attempt.
 * - `decline`: nothing stands: without a living session that waits for GO, claim `declined` and go by what
 *   stands then.
 *
 * `claimedOwner` is false in a session that has not itself called the claim of `owner` (default: true). If it
 * finds `owner` when it declines, the claim is another session's, whose VM is complete; this one's never
 * starts.
 */
export function verdictForDestination(
  claims: readonly Claim[],
  epoch: number,
  claimedOwner = true,
): DestinationVerdict {
  const { decision } = claimsAt(claims, epoch);
  if (decision === 'owner') return claimedOwner ? 'start' : 'never';
  return decision === 'declined' ? 'never' : 'decline';
}

/**
 * What the destination says when the source asks about attempt `epoch`: its decision; or `pending` while a
 * session of that attempt is about to decide here (`active`); or `decline`: claim `declined`, then answer
 * with what stands. A session that still waits for GO may count either way: if it is declined, its own claim
 * of `owner` finds that. An answer is never given before the claim that it reports stands.
 */
export function answerTo(claims: readonly Claim[], epoch: number, active: boolean): AnswerVerdict {
  return claimsAt(claims, epoch).decision ?? (active ? 'pending' : 'decline');
}

/** Who owns a VM by one register alone. */
export interface Standing {
  /** The last attempt that the register names, 0 if none. */
  readonly epoch: number;
  /**
   * Which end of that attempt owns the VM: the end that may run it, `source` also where it has to claim
   * `reclaimed` first. With epoch 0: the end where the VM is.
   */
  readonly owner: Owner;
}

/**
 * Who owns the VM by this register alone. Attempts follow each other (A to B is 1, B back to A is 2), so the
 * last one decides; an attempt that left no claim changed nothing. Throws `register` on a contradiction.
 */
export function standing(claims: readonly Claim[]): Standing {
  const epoch = highestEpoch(claims);
  const { given, decision, reclaimed } = claimsAt(claims, epoch);
  if (decision === 'owner') return { epoch, owner: 'destination' };
  return { epoch, owner: given && decision === undefined && !reclaimed ? 'undecided' : 'source' };
}

/** The last attempt in which more happened than that its destination declined. */
function lastMove(claims: readonly Claim[]): AttemptClaims {
  return claimsAt(claims, highestEpoch(claims.filter((claim) => claim.value !== 'declined')));
}

/**
 * The attempt, if any, in which the VM was given away by the word of a source's register, and neither is
 * known to be owned at the destination nor taken back; 0 if there is none. Until {@link recover} has settled
 * it, the VM at this source must not be run, and no new attempt may begin with it: it may be running
 * elsewhere.
 */
export function unsettledAttempt(claims: readonly Claim[]): number {
  const { epoch, given, decision, reclaimed } = lastMove(claims);
  return given && !reclaimed && decision !== 'owner' ? epoch : 0;
}

/** An end of an attempt. */
export type End = 'source' | 'destination';

/**
 * The attempt that an end takes up again when it has lost its memory of it. `named` is the caller's word;
 * without it the register tells, if it is the end's own: a source finds the last attempt in which it gave the
 * VM away (0: it owns the VM and gave nothing away since), a destination the one in which it claimed `owner`.
 * At a source, an older attempt that is not settled comes before the one that is named.
 *
 * Throws `invalid-argument` rather than guess: where the register shows both ends' claims (it is shared, and
 * does not say which end we are), where a destination's own `owner` does not stand (which attempt it is to
 * decline, the register cannot know), and where `named` lies before the last attempt that moved the VM.
 */
export function attemptToRecover(end: End, claims: readonly Claim[], named?: number): number {
  const moved = lastMove(claims);
  if (named !== undefined) {
    if (isFarAhead(named, claims))
      throw refusal(`attempt ${named} is far ahead of all that the register knows`);
    if (named < moved.epoch) throw refusal(`attempt ${named} is over: attempt ${moved.epoch} came after it`);
    return (end === 'source' && unsettledAttempt(claims)) || named;
  }
  const epochs = new Set(claims.map((claim) => claim.epoch));
  const shared = [...epochs]
    .map((epoch) => claimsAt(claims, epoch))
    .find((at) => at.given && at.decision !== undefined);
  if (shared !== undefined)
    throw refusal(`the register is shared (attempt ${shared.epoch}): name the attempt`);
  if (end === 'source') return moved.decision === 'owner' ? 0 : moved.epoch;
  if (moved.decision !== 'owner') throw refusal('no claim of owner stands: name the attempt');
  return moved.epoch;
}

function contradiction(epoch: number, what: string): MigrationError {
  return new MigrationError('register', `the claims of attempt ${epoch} contradict each other: ${what}`, {
    phase: 'handover',
    owner: 'undecided',
  });
}

function refusal(why: string): MigrationError {
  return new MigrationError('invalid-argument', `cannot tell what to recover: ${why}`, {
    phase: 'handover',
    owner: 'undecided',
  });
}
