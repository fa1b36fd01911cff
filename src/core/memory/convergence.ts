import { bytesPerSecondAssumed } from '../../channel/link-estimate.ts';
import type { MigrationPolicy } from '../../interfaces/migration.ts';
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
  /** What we took on and the destination has not acknowledged. */
  readonly backlogBytes: number;
  /** Disk content that is not copied. */
  readonly diskRestBytes: number;
  /** Device state, expected. */
  readonly stateBytes: number;
  /** What the stun takes beside sending (flush, loading the state), as far as the policy's limit is to cover it. */
  readonly fixedMs: number;
  /** The throttle in force, 0 to 0.99. */
  readonly throttle: number;
  /** `roundBytes` of the last rounds, this one last; three more than this one are looked at. */
  readonly history: readonly number[];
}

/** The part of the caller's policy that decides here. */
export type ConvergencePolicy = Required<
  Pick<MigrationPolicy, 'downtimeMsMax' | 'throttleMax' | 'roundsMax'>
>;

/** What is to be done. */
export interface ConvergenceVerdict {
  /**
   * `switchover`: stun now. `continue`, `throttle`: set the throttle, wait, do another round; `throttle` if the guest is to be slowed
   * more than before. `fail`: `not-converging`.
   */
  readonly decision: 'continue' | 'throttle' | 'switchover' | 'fail';
  /** How long the guest would stand still if it were stunned now. */
  readonly expectedDowntimeMs: number;
  /** The throttle to be in force from now on. */
  readonly throttle: number;
  /** How long to wait before the next round: so long does it take until the downtime could fit at all, pages apart. 0 to 1,000. */
  readonly waitMs: number;
  /** For people: what was decided upon, with figures. */
  readonly reason: string;
}

/** A round that leaves less than 1 / 1.3 of what the best of the last few left is progress; vMotion gives up below this ratio too. */
const usefulShrink = 1.3;
/** How many rounds are looked back on: one that was out of line must not make the next look like progress. */
const lookBackRounds = 3;
/** The figures are old after so long. */
const waitMsMax = 1000;

/**
 * Decides after each round what comes next. Pure.
 *
 * 1. What is left, sent at the measured rate, fits the downtime: switch over. An idle guest does so at once.
 * 2. The rounds are used up: fail. Never a longer downtime than was allowed.
 * 3. The guest dirties more slowly than it has to, to be sent twice as fast: release the throttle a little.
 * 4. It dirties faster, and the rest does not shrink by a useful factor: throttle, up to the policy's limit.
 * 5. Otherwise go on. With the throttle at its limit that is the wait for a quiet moment, which rule 1 takes.
 */
export function convergence(
  statistics: ConvergenceStatistics,
  policy: ConvergencePolicy,
): ConvergenceVerdict {
  const { round, backlogBytes, diskRestBytes, stateBytes, fixedMs, throttle } = statistics;
  const sendRate = statistics.bytesPerSecond || bytesPerSecondAssumed;
  const pagesMs = (1000 * dirtyBytesAtMost(statistics)) / sendRate;
  const otherMs = fixedMs + (1000 * (backlogBytes + diskRestBytes + stateBytes)) / sendRate;
  const expectedDowntimeMs = pagesMs + otherMs;
  const reason = explain(statistics, policy, sendRate, expectedDowntimeMs);
  const verdict = { expectedDowntimeMs, throttle, waitMs: 0, reason };
  if (expectedDowntimeMs <= policy.downtimeMsMax) return { ...verdict, decision: 'switchover' };
  if (round >= policy.roundsMax) return { ...verdict, decision: 'fail' };

  const waitMs = Math.min(Math.max(0, otherMs - policy.downtimeMsMax), waitMsMax);
  const next = nextThrottle({
    throttle,
    throttleMax: policy.throttleMax,
    dirtyBytesPerSecond: dirtyRate(statistics),
    sendBytesPerSecond: sendRate,
  });
  if (next > throttle) {
    if (!shrinks(statistics)) return { ...verdict, decision: 'throttle', throttle: next, waitMs };
    return { ...verdict, decision: 'continue', waitMs };
  }
  return { ...verdict, decision: 'continue', throttle: next, waitMs };
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
function dirtyRate({ round, dirtyBytes, roundBytes, roundMs, dirtyingMs }: ConvergenceStatistics): number {
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
function shrinks({ history }: ConvergenceStatistics): boolean {
  const best = Math.min(...history.slice(-1 - lookBackRounds, -1));
  return (history.at(-1) ?? 0) * usefulShrink <= best;
}

function explain(
  statistics: ConvergenceStatistics,
  policy: ConvergencePolicy,
  sendRate: number,
  expectedDowntimeMs: number,
): string {
  const { round, backlogBytes, diskRestBytes, stateBytes, throttle } = statistics;
  const bytes = dirtyBytesAtMost(statistics) + backlogBytes + diskRestBytes + stateBytes;
  return (
    `after round ${round} ${megabytes(bytes)} MB are left; memory is dirtied at ${megabytes(dirtyRate(statistics))} MB/s ` +
    `with the guest slowed by ${Math.round(throttle * 100)} %, and sent at ${megabytes(sendRate)} MB/s: ` +
    `${Math.round(expectedDowntimeMs)} ms of downtime, ${policy.downtimeMsMax} ms allowed`
  );
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
