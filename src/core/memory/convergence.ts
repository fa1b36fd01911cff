import { bytesPerSecondAssumed } from '../../channel/link-estimate.ts';
import type { MigrationPolicy } from '../../interfaces/migration.ts';
import type { DiskFlow } from '../storage/disk-pace.ts';
import { nextThrottle } from './throttle-control.ts';

/** What is known when a round has ended. */
export interface ConvergenceStatistics {
  /** The round's number, 1 for the first pass over all memory. */
  readonly round: number;
  /** Page content offered in it, zero pages counted in full. */
  readonly roundBytes: number;
  /** How long it took. */
  readonly roundMs: number;
  /**
   * In how long the guest dirtied what the round sent: from the start of the round before to the start of this one. Undefined: not
   * known, and taken to be `roundMs`.
   */
  readonly dirtyingMs?: number | undefined;
  /** Bytes of pages that are dirty now; undefined if the hypervisor cannot tell. */
  readonly dirtyBytes: number | undefined;
  /** The rate at which the link takes data; undefined or 0 if nothing was measured yet. */
  readonly bytesPerSecond: number | undefined;
  /**
   * How many bytes of pages go by as one, because they are compressed. It counts for what the link carries of them round by round, not for the downtime: the
   * first that is sent of a guest that stands still goes as it is. Default 1.
   */
  readonly gain?: number;
  /** What we took on and the destination has not acknowledged. */
  readonly backlogBytes: number;
  /** By how much the oldest of what is on its way is late, in ms: a packet of it was lost, and what is behind it waits with it. Default 0. */
  readonly lateMs?: number;
  /** Disk content that is not copied. */
  readonly diskRestBytes: number;
  /** Device state, expected. */
  readonly stateBytes: number;
  /** What the stun takes beside sending (flush, loading the state), as far as the policy's limit is to cover it. */
  readonly fixedMs: number;
  /** The flush that is counted in `fixedMs`. Default: none was measured just now. */
  readonly flushed?: MeasuredFlush | undefined;
  /** The throttle in force, 0 to 0.99. */
  readonly throttle: number;
  /** `roundBytes` of the last rounds, this one last; three more than this one are looked at. */
  readonly history: readonly number[];
  /** How fast the guest dirties memory, with the throttle in force, where that was seen over more than this round. Default: by this round alone. */
  readonly dirtyBytesPerSecond?: number | undefined;
  /** How fast the guest writes to disks, with the throttle in force. Default 0. */
  readonly diskBytesPerSecond?: number;
  /** `diskRestBytes` after the last rounds, as `history`. Default: this one's alone. */
  readonly diskRests?: readonly number[];
  /** Disks that the destination writes slowly. Default none. */
  readonly slowDisks?: readonly DiskFlow[];
  /** Until the destination has applied what it has now of the disks, in ms: a part of `fixedMs`. Default 0. */
  readonly applyMs?: number;
  /** The same after the last rounds, as `history`. Default: this one's alone. */
  readonly applyTimes?: readonly number[];
  /** Disks for which that is long. Default none. */
  readonly disksBehind?: readonly DiskFlow[];
  /** For how long the throttle in force has been so, in ms. Default: for long. */
  readonly throttleAgeMs?: number;
  /**
   * {@link ConvergenceVerdict.restMs} of the rounds that fitted the downtime since both ends were flushed, without this one. Undefined: they were not
   * flushed just now. That is the first thing to do once it fits, so nothing is waited for before it.
   */
  readonly fitted?: readonly number[] | undefined;
  /** How long ago each of `fitted` was, in ms. Default: long ago. */
  readonly fittedAgesMs?: readonly number[];
  /** Of the link, in ms. Default 0. */
  readonly roundTripMs?: number;
  /** How long it is until the guest has to be stunned; less than 0 if it is late. Undefined: there is all the time in the world. */
  readonly timeLeftMs?: number | undefined;
}

/** What a flush of both ends took. */
export interface MeasuredFlush {
  /** At the destination, in ms. */
  readonly durationMs: number;
  /** For how long that counts yet, in ms. Once it is old, both ends are flushed again as soon as the rest fits. */
  readonly countsMs: number;
}

/** The part of the caller's policy that decides here. Without `onTimeout` and `stunMsMax` it is that of a migration that cancels. */
export type ConvergencePolicy = Required<
  Pick<MigrationPolicy, 'downtimeMsMax' | 'throttleMax' | 'roundsMax'>
> &
  Pick<MigrationPolicy, 'onTimeout' | 'stunMsMax'>;

/** What is to be done. */
export interface ConvergenceVerdict {
  /**
   * `switchover`: stun now. `continue`, `throttle`: set the throttle, wait, do another round; `throttle` if the guest is to be slowed
   * more than before. `fail`: `not-converging`, or, with `late`, `timeout`.
   */
  readonly decision: 'continue' | 'throttle' | 'switchover' | 'fail';
  /** Whether the rest fits the downtime that is allowed. With `continue`: it does, and will take less after another round. */
  readonly fits: boolean;
  /** Whether there is no time for another round. */
  readonly late: boolean;
  /** How long the guest would stand still if it were stunned now. */
  readonly expectedDowntimeMs: number;
  /** What of it another round could make less: pages, backlog and disk content; or, if that takes longer, what is late. */
  readonly restMs: number;
  /** The throttle to be in force from now on. */
  readonly throttle: number;
  /** How long to wait before the next round, in ms: so long does it take until next to nothing waits for the link, or a flush that is too long is forgotten; with `fits`, until nothing does, and nothing is late. 0 to 1,000. */
  readonly waitMs: number;
  /** What the guest dirties and writes, as far as it was seen, in bytes a second, and what the link carries. */
  readonly guestBytesPerSecond: number;
  readonly sendBytesPerSecond: number;
  /** Whether disk content was set back, or other things than pages keep the downtime too long. */
  readonly behind: boolean;
  /** Whether the guest would outrun the link, which was measured, also with the hardest throttle, and the rest does not shrink. */
  readonly outruns: boolean;
  /** For people: what was decided upon, with figures. */
  readonly reason: string;
}

/** A round that leaves less than 1 / 1.3 of what the best of the last few left is progress; vMotion gives up below this ratio too. */
const usefulShrink = 1.3;
/**
 * A guest that dirties at so much of what the link carries outruns it. One whose pages are all dirty again by each round shows no more than the rate at which
 * they were sent.
 */
const keptUpWith = 0.9;
/** How many rounds are looked back on: one that was out of line must not make the next look like progress. */
const lookBackRounds = 3;
/** ... and for how many round trips, once it fits: what was lost takes more than one to be sent again, however many rounds there are meanwhile. */
const lookBackRoundTrips = 1.5;
/** The figures are old after so long. */
const waitMsMax = 1000;
/** What is still to wait for the link when the next round begins, in ms of it: reading pages takes a moment, and the link is not to be idle. */
const queueMsKept = 20;
/** What is late is waited for no longer at once than this many ms and round trips: while the guest stands still it goes out again at once, over another lane. */
const lateMax = { ms: 20, roundTrips: 1 / 2 };
/** Time between two rounds at least: what a guest dirties in less is not worth a pass over its dirty log. */
export const roundPauseMs = 5;
/** A rest that takes no longer is not worth another round: stopping the guest and loading its devices takes more. */
const restMsMin = 10;
/** How much of `stunMsMax` a forced stun may be expected to take: one that takes longer than was expected is all in vain. */
const forcedShare = 0.8;
/** How long a throttle is let work until it is judged: QEMU's takes up to a second to be in force. */
export const throttleWorksMs = 1000;

/**
 * Decides after each round what comes next. Pure.
 *
 * 1. What is left, sent at the measured rate, fits the downtime: switch over, as soon as waiting does not pay (see {@link waitingPays}). An idle
 *    guest does so at once.
 * 2. The rounds are used up, or the time is, and the policy says `force`: take what can be had, within `stunMsMax`; else fail.
 * 3. The rounds are used up: fail. Never a longer downtime than was allowed.
 * 4. The guest dirties and writes more slowly than it has to (see {@link nextThrottle}): release the throttle a little.
 * 5. It is faster, and the rest does not shrink by a useful factor: throttle, up to the policy's limit.
 * 6. Otherwise go on. With the throttle at its limit that is the wait for a quiet moment, which rule 1 takes.
 */
export function convergence(
  statistics: ConvergenceStatistics,
  policy: ConvergencePolicy,
): ConvergenceVerdict {
  const { round, backlogBytes, diskRestBytes, stateBytes, fixedMs, throttle } = statistics;
  const sendRate = statistics.bytesPerSecond || bytesPerSecondAssumed;
  const pagesMs = (1000 * dirtyBytesAtMost(statistics)) / sendRate;
  const queuedMs = (1000 * (backlogBytes + diskRestBytes)) / sendRate;
  const lastingMs = fixedMs + (1000 * stateBytes) / sendRate;
  const otherMs = lastingMs + queuedMs;
  const sendMs = pagesMs + queuedMs;
  const expectedDowntimeMs = pagesMs + otherMs;
  const reason = explain(statistics, policy, sendRate, expectedDowntimeMs);
  const { diskBytesPerSecond = 0, diskRests = [diskRestBytes], gain = 1 } = statistics;
  const { applyMs = 0, applyTimes = [applyMs], disksBehind = [], slowDisks = [] } = statistics;
  const dirtyBytesPerSecond = dirtyRate(statistics);
  // Disks that are behind count where it is for them that the rest does not fit.
  const keptBy =
    expectedDowntimeMs - applyMs <= policy.downtimeMsMax ? [...slowDisks, ...disksBehind] : slowDisks;
  const rests = [statistics.history, diskRests, applyTimes];
  const shrinking = rests.every(shrinks) && !slowDisks.some(outrun);
  const guestBytesPerSecond = dirtyBytesPerSecond + diskBytesPerSecond;
  const hardest = { throttle, throttleMax: policy.throttleMax, bytesPerSecond: keptUpWith * sendRate };
  const outruns =
    Boolean(statistics.bytesPerSecond) &&
    !shrinking &&
    outrunsLink({ ...hardest, guestBytesPerSecond: dirtyBytesPerSecond / gain + diskBytesPerSecond });
  const figures = { guestBytesPerSecond, sendBytesPerSecond: sendRate, outruns };
  const behind = diskRestBytes > 0 || otherMs > policy.downtimeMsMax;
  const fits = expectedDowntimeMs <= policy.downtimeMsMax;
  const load = guestBytesPerSecond / sendRate;
  const next = nextRound(statistics, { sendMs, queuedMs, load });
  const { timeLeftMs = Number.POSITIVE_INFINITY, lateMs = 0, roundTripMs = 0 } = statistics;
  const late = timeLeftMs < next.durationMs;
  const last = late || round >= policy.roundsMax;
  // What was late for so long may be so for as long again. Nobody can tell, so it is waited for where there is time, and never keeps the downtime from fitting.
  const laterMs = Math.min(lateMs, lateMax.ms + lateMax.roundTrips * roundTripMs);
  const aheadMs = timeLeftMs > next.durationMs + laterMs ? Math.max(queuedMs, laterMs) : queuedMs;
  const restMs = pagesMs + aheadMs;
  const later = nextRound(statistics, { sendMs: restMs, queuedMs: aheadMs, load });
  const verdict = { expectedDowntimeMs, restMs, throttle, waitMs: 0, reason, behind, fits, late, ...figures };
  const goOn = (ms: number) =>
    ({ ...verdict, decision: 'continue', waitMs: Math.min(ms, waitMsMax) }) as const;
  if (fits) {
    const waits = !last && improves(statistics, restMs);
    return waits && waitingPays(restMs, later, throttle)
      ? goOn(aheadMs)
      : { ...verdict, decision: 'switchover' };
  }
  if (last && policy.onTimeout === 'force') {
    const { stunMsMax = 0 } = policy;
    const can = expectedDowntimeMs <= forcedShare * stunMsMax;
    const may = round < policy.roundsMax && timeLeftMs > -stunMsMax;
    if (may && (can ? waitingPays(sendMs, next, throttle) : shrinking)) return goOn(queuedMs);
    return { ...verdict, decision: can ? 'switchover' : 'fail' };
  }
  if (round >= policy.roundsMax) return { ...verdict, decision: 'fail' };

  // A round that is queued behind what waits already makes nothing fit sooner, and the pages that are written all the time would be in both: until it could fit is too short, the round adds to it.
  const drainMs = queuedMs - queueMsKept;
  // Nor does one help against a flush that is too long: rounds must not be used up before it is measured again.
  const tooLong = lastingMs + Math.min(sendMs, Math.max(restMsMin, next.restMs)) > policy.downtimeMsMax;
  const flushOldMs = tooLong ? (statistics.flushed?.countsMs ?? 0) : 0;
  const forgottenMs = Math.min(flushOldMs, timeLeftMs - next.durationMs);
  const waitMs = Math.min(Math.max(0, otherMs - policy.downtimeMsMax, drainMs, forgottenMs), waitMsMax);
  const { throttleAgeMs = throttleWorksMs } = statistics;
  if (throttleAgeMs < throttleWorksMs) return { ...verdict, decision: 'continue', waitMs };
  const needed = nextThrottle({
    throttle,
    throttleMax: policy.throttleMax,
    dirtyBytesPerSecond: dirtyBytesPerSecond / gain,
    sendBytesPerSecond: sendRate,
    diskBytesPerSecond,
    behind,
    slowDisks: keptBy,
  });
  if (needed > throttle) {
    if (!shrinking) return { ...verdict, decision: 'throttle', throttle: needed, waitMs };
    return { ...verdict, decision: 'continue', waitMs };
  }
  return { ...verdict, decision: 'continue', throttle: needed, waitMs };
}

/** What another round would take, and leave. */
interface NextRound {
  readonly durationMs: number;
  readonly restMs: number;
}

/**
 * What is left now is sent, and what the guest makes dirty in that time is left then. `load`: how fast it does, over how fast the link is. Where dirty pages
 * cannot be told, the next round is what was dirtied since this one began, and that is what is known to be left.
 */
function nextRound(
  { dirtyBytes, roundMs }: ConvergenceStatistics,
  now: { readonly sendMs: number; readonly queuedMs: number; readonly load: number },
): NextRound {
  const durationMs = roundPauseMs + now.sendMs;
  const dirtyingMs = dirtyBytes === undefined ? roundMs + roundPauseMs + now.queuedMs : durationMs;
  return { durationMs, restMs: now.load * dirtyingMs };
}

/**
 * Whether the guest is better off with one more round: it makes what it would stand still for less by a useful factor, and by more than the guest would
 * lose meanwhile for being slowed.
 */
function waitingPays(restMs: number, next: NextRound, throttle: number): boolean {
  if (restMs <= restMsMin || next.restMs * usefulShrink > restMs) return false;
  return restMs - next.restMs > throttle * next.durationMs;
}

/**
 * Whether what was waited for may come yet: in the last few rounds that fitted and the last round trips, this round among them, the least has become less by a
 * useful factor, or there was nothing before them. So there is an end to it, whatever the guest does: for a limit of 300 ms after some thirty rounds, or twenty round
 * trips, at the most.
 */
function improves(statistics: ConvergenceStatistics, restMs: number): boolean {
  const { fitted, fittedAgesMs = [], roundTripMs = 0 } = statistics;
  if (fitted === undefined) return false;
  const recent = fittedAgesMs.filter((ageMs) => ageMs < lookBackRoundTrips * roundTripMs).length;
  const lookedBack = Math.max(recent, lookBackRounds - 1);
  const lately = Math.min(restMs, ...fitted.slice(-lookedBack));
  return lately * usefulShrink <= Math.min(...fitted.slice(0, -lookedBack));
}

/** Whether what the guest produces with `throttle` is more than the link carries, also once it is slowed as hard as it may be. */
export function outrunsLink(inputs: {
  readonly guestBytesPerSecond: number;
  /** In force: 0 to 0.99. */
  readonly throttle: number;
  /** 0 where the guest cannot be slowed. */
  readonly throttleMax: number;
  readonly bytesPerSecond: number;
}): boolean {
  const { guestBytesPerSecond, throttle, throttleMax, bytesPerSecond } = inputs;
  const slowed = (1 - Math.max(throttle, throttleMax)) / (1 - throttle);
  return guestBytesPerSecond * slowed > bytesPerSecond;
}

function outrun({ guestBytesPerSecond, bytesPerSecond }: DiskFlow): boolean {
  return guestBytesPerSecond > bytesPerSecond;
}

/**
 * What is dirty now. Where the hypervisor cannot tell, the most that it can be: in a time as long as the guest had before, or
 * shorter, as much as it dirtied then; in a longer one, in proportion. In a shorter one in proportion would be too little: a guest
 * that writes the same pages again and again has soon dirtied all that it dirties in a long time.
 */
function dirtyBytesAtMost({ dirtyBytes, roundBytes, roundMs, dirtyingMs }: ConvergenceStatistics): number {
  if (dirtyBytes !== undefined) return dirtyBytes;
  return dirtyingMs !== undefined && dirtyingMs > 0
    ? roundBytes * Math.max(1, roundMs / dirtyingMs)
    : roundBytes;
}

/**
 * How fast the guest dirtied memory, in bytes per second, when that was last seen: what a round found, over the time from the start of the
 * round before. A round's own time will not do: a small one fits into the queue and takes none. The first pass finds all memory dirty, and
 * says nothing but by what is dirty after it.
 */
function dirtyRate(statistics: ConvergenceStatistics): number {
  const { round, dirtyBytes, roundBytes, roundMs, dirtyingMs } = statistics;
  if (statistics.dirtyBytesPerSecond !== undefined) return statistics.dirtyBytesPerSecond;
  if (round > 1) return ratePerSecond(roundBytes, dirtyingMs ?? roundMs);
  return dirtyBytes === undefined ? 0 : ratePerSecond(dirtyBytes, roundMs);
}

function ratePerSecond(bytes: number, durationMs: number): number {
  return durationMs > 0 ? (1000 * bytes) / durationMs : 0;
}

/**
 * Whether the rest shrinks by a useful factor, as far as the last rounds show. What is dirty now does not count: after a round that took no
 * time it is next to nothing, whatever the guest does.
 */
function shrinks(history: readonly number[]): boolean {
  const best = Math.min(...history.slice(-1 - lookBackRounds, -1));
  return (history.at(-1) ?? 0) * usefulShrink <= best;
}

function explain(
  statistics: ConvergenceStatistics,
  policy: ConvergencePolicy,
  sendRate: number,
  expectedDowntimeMs: number,
): string {
  const { round, backlogBytes, diskRestBytes, stateBytes, throttle, diskBytesPerSecond = 0 } = statistics;
  const disks = diskBytesPerSecond > 0 ? `, disks are written at ${megabytes(diskBytesPerSecond)} MB/s,` : '';
  const bytes = dirtyBytesAtMost(statistics) + backlogBytes + diskRestBytes + stateBytes;
  const { flushed, applyMs = 0 } = statistics;
  const flushMs = Math.max(flushed?.durationMs ?? 0, applyMs);
  const which = flushMs > 0 ? ` (${Math.ceil(flushMs)} ms of it to flush disks)` : '';
  return (
    `after round ${round} ${megabytes(bytes)} MB are left; memory is dirtied at ${megabytes(dirtyRate(statistics))} MB/s` +
    `${disks} with the guest slowed by ${Math.round(throttle * 100)} %, and sent at ${megabytes(sendRate)} MB/s: ` +
    `${Math.ceil(expectedDowntimeMs)} ms of downtime${which}, ${policy.downtimeMsMax} ms allowed`
  );
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
