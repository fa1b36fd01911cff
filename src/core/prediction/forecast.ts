/**
 * What a migration comes to, if guest, link and disks stay as they are. Pure: from figures to figures, with the rule of convergence itself to decide after
 * each round, so that rounds, throttle and switchover are what they will be.
 *
 * ```
 * connect, prepare ─ disks: rest / what the mirror leaves of the link ─ memory: pass, rounds (a series that shrinks by
 * dirtying over sending, or is throttled until it does) ─ flush ─ stun: last round, state, round trips, claims ─ release
 * ```
 */
import type { HandoverMode } from '../../interfaces/migration.ts';
import { claimsMsCounted, loadMsExpected, queueBetween } from '../expected.ts';
import { type ConvergencePolicy, convergence, roundPauseMs, throttleWorksMs } from '../memory/convergence.ts';
import { dirtiedIn, type WorkingSet } from './working-set.ts';

/** A disk that is copied. */
export interface DiskForecast {
  /** Content that is still to be sent for it, in bytes. */
  readonly restBytes: number;
  /** What the guest writes to it without a throttle, in bytes a second. */
  readonly guestBytesPerSecond: number;
  /** How fast it can be copied, as far as that is not for the link to say: how fast it is read, or written there. Undefined: not known. */
  readonly bytesPerSecondMax: number | undefined;
}

/** What {@link forecast} goes by: what is known at a moment of a migration, or before it. */
export interface ForecastInputs {
  /** What connecting and preparing will still take, in ms. */
  readonly setupMs: number;
  readonly disks: readonly DiskForecast[];
  /** Content of disks that is copied with the guest stunned, in bytes. */
  readonly stunBytes: number;
  /** What all disks together are copied at, as was seen, in bytes a second. Undefined: it was not. */
  readonly copyBytesPerSecond?: number | undefined;
  /** Pages of the first pass that are still to be sent, zeros apart, in bytes; 0: it is over. */
  readonly passRestBytes: number;
  /** For how long the first pass, or the round that is under way, has gone on. */
  readonly passedMs: number;
  /** What the guest dirties, without a throttle. */
  readonly workingSet: WorkingSet;
  /** What the link carries, in bytes a second, more than 0. */
  readonly linkBytesPerSecond: number;
  /**
   * How many bytes of content go over it as one, because they are compressed: 1 or more. It counts for rounds; what the guest writes to disks, and what is sent
   * first once it stands still, goes as it is.
   */
  readonly gain: number;
  /** As `gain`, of what disks hold. */
  readonly diskGain: number;
  readonly roundTripMs: number;
  /** What a claim takes, in ms. */
  readonly claimMs: number;
  /** What the audit takes, in ms. */
  readonly auditMs: number;
  /** How many round trips the last flight takes beside the handover's own, if it is no short one: a connection that was idle begins slowly, and a lost packet is sent again. */
  readonly slowRoundTrips: number;
  /** What the destination's flush takes, in ms. */
  readonly flushMs: number;
  /** What both hypervisors take over the stun, the state and the start, in ms. */
  readonly hypervisorMs: number;
  readonly stateBytes: number;
  readonly handover: HandoverMode;
  /** In force: 0 to 0.99. */
  readonly throttle: number;
  /** With the hardest throttle that there can be. */
  readonly policy: ConvergencePolicy;
  /** Rounds that are over. */
  readonly rounds: number;
  /** The guest stands still already, for so long. Default: it runs. */
  readonly stunnedMs?: number | undefined;
  /** Disks move alone. */
  readonly disksAlone: boolean;
}

/** What it comes to. */
export interface Forecast {
  /** From now to the end, in ms. */
  readonly restMs: number;
  /** How long the guest stands still, all in all. */
  readonly downtimeMs: number;
  /** What is still to be sent, before it is compressed. */
  readonly bytes: number;
  readonly converges: boolean;
  /** The hardest throttle that there will be. */
  readonly throttle: number;
}

/** So much of a link is left to the copy at the least, whatever the guest writes: what finds no room in the mirror's buffer is copied again. */
const copyShareMin = 0.25;
/** More are not looked at: by then the rounds are as they will be. */
const roundsSeen = 400;
/** Nor is what is more than a month off: a guest that outruns its link has ever more to send. */
const msSeen = 30 * 86_400_000;
/** What of a round goes before its other items, and is not compressed: its first batch. */
const roundPlainBytes = 1 << 20;
/** What the queues of a link hold at the least, as the time that it takes to be sent: a last flight that is shorter loses little. */
const queueMsAssumed = 25;
/** Saying goodbye, in round trips. */
const releaseRoundTrips = 0.5;

/** See the top of this file. */
export function forecast(inputs: ForecastInputs): Forecast {
  if (inputs.stunnedMs !== undefined) return stunned(inputs, inputs.stunnedMs);
  const disks = copyDisks(inputs);
  const memory = copyMemory(inputs);
  const downtimeMs = downtime(inputs, memory.lastBytes);
  return {
    restMs: inputs.setupMs + disks.ms + memory.ms + downtimeMs + releaseRoundTrips * inputs.roundTripMs,
    downtimeMs,
    bytes: disks.bytes + memory.bytes + memory.lastBytes + inputs.stateBytes,
    converges: memory.converges,
    throttle: memory.throttle,
  };
}

function stunned(inputs: ForecastInputs, stunnedMs: number): Forecast {
  const wholeMs = downtime(inputs, 0);
  const { stateBytes: bytes, roundTripMs, throttle } = inputs;
  // What takes longer than was expected is as likely to take long still.
  const restMs = Math.max(wholeMs - stunnedMs, (wholeMs + stunnedMs) / 8);
  return {
    restMs: restMs + releaseRoundTrips * roundTripMs,
    downtimeMs: stunnedMs + restMs,
    bytes,
    converges: true,
    throttle,
  };
}

function diskRate({ disks, throttle }: ForecastInputs): number {
  return disks.reduce((sum, disk) => sum + disk.guestBytesPerSecond, 0) * (1 - throttle);
}

/** What is left of the link beside the mirror. */
function copyRate(inputs: ForecastInputs, mirrored: number): number {
  const { linkBytesPerSecond: link } = inputs;
  return Math.max(copyShareMin * link, link - mirrored);
}

/** All disks at once; of what the guest writes meanwhile half meets what was copied already, and is mirrored. */
function copyDisks(inputs: ForecastInputs): { readonly ms: number; readonly bytes: number } {
  const bytes = inputs.disks.reduce((sum, { restBytes }) => sum + restBytes, 0);
  if (bytes === 0) return { ms: 0, bytes: 0 };
  const mirrored = diskRate(inputs) / 2;
  const linkMs = (1000 * bytes) / (inputs.copyBytesPerSecond ?? inputs.diskGain * copyRate(inputs, mirrored));
  const ms = inputs.disks.reduce(
    (longest, { restBytes, bytesPerSecondMax: most }) =>
      most === undefined ? longest : Math.max(longest, (1000 * restBytes) / most),
    linkMs,
  );
  return { ms, bytes: bytes + (mirrored * ms) / 1000 };
}

interface MemoryForecast {
  readonly ms: number;
  readonly bytes: number;
  /** What is dirty when the guest is stunned. */
  readonly lastBytes: number;
  readonly converges: boolean;
  readonly throttle: number;
}

/** The pass that is under way, and rounds, each of what was dirtied in the one before, until the rule says that it is time. */
function copyMemory(inputs: ForecastInputs): MemoryForecast {
  const { workingSet, policy, stateBytes, flushMs, roundTripMs, claimMs } = inputs;
  const { linkBytesPerSecond: link } = inputs;
  const flushTakesMs = flushMs + roundTripMs;
  const claimsMs = claimsMsCounted(2 * claimMs, policy.downtimeMsMax);
  if (inputs.disksAlone) return { ms: flushTakesMs, bytes: 0, lastBytes: 0, converges: true, throttle: 0 };
  const mirrored = diskRate(inputs);
  const rate = copyRate(inputs, mirrored);
  let { throttle } = inputs;
  let hardest = throttle;
  let roundBytes = inputs.passRestBytes;
  /** What of a round is queued still when the next one begins, compressed. */
  const queueBytes = Math.max(queueBetween.least, (link * queueBetween.ms) / 1000);
  let backlogBytes = Math.min(roundBytes / inputs.gain, queueBytes);
  let ms = (1000 * (roundBytes / inputs.gain - backlogBytes)) / rate;
  let bytes = roundBytes;
  let dirtyingMs = Math.max(1, inputs.passedMs + ms);
  /** In how long this round's pages were dirtied; undefined of the first pass, which sends all. */
  let dirtiedMs: number | undefined;
  let throttleAgeMs: number | undefined;
  /** Rounds in which a throttle that is harder than any before has not had its time to work: they do not count. */
  let apart = 0;
  let harder = false;
  /** Since both ends were flushed, what was left after each round that fitted, and when. */
  let fitted: { readonly ms: number; readonly restMs: number }[] | undefined;
  const history: number[] = [];
  for (let round = Math.max(1, inputs.rounds); ; round++) {
    const dirtyBytes = dirtiedIn(workingSet, dirtyingMs * (1 - throttle));
    const gain = roundGain(dirtyBytes, inputs.gain);
    history.push(roundBytes);
    if (harder && throttleAgeMs !== undefined && throttleAgeMs < throttleWorksMs) apart++;
    const verdict = convergence(
      {
        round,
        roundBytes,
        roundMs: dirtyingMs,
        dirtyBytes,
        dirtyBytesPerSecond:
          dirtiedMs === undefined ? (1000 * dirtyBytes) / dirtyingMs : (1000 * roundBytes) / dirtiedMs,
        bytesPerSecond: link,
        gain,
        backlogBytes,
        diskRestBytes: 0,
        stateBytes,
        fixedMs: loadMsExpected + claimsMs + (fitted === undefined ? 0 : flushMs),
        throttle,
        history,
        diskBytesPerSecond: mirrored,
        fitted: fitted?.map((one) => one.restMs),
        fittedAgesMs: fitted?.map((one) => ms - one.ms) ?? [],
        roundTripMs,
        ...(throttleAgeMs === undefined ? {} : { throttleAgeMs }),
      },
      { ...policy, roundsMax: policy.roundsMax + apart },
    );
    const { decision, fits, restMs } = verdict;

    const isOver = decision === 'fail' || history.length - apart >= roundsSeen || ms > msSeen;
    if (isOver || (decision === 'switchover' && fitted !== undefined)) {
      return { ms, bytes, lastBytes: dirtyBytes + backlogBytes, converges: !isOver, throttle: hardest };
    }
    const flushes = decision === 'switchover';
    if (!fits) fitted = undefined;
    else fitted = flushes ? [] : [...(fitted ?? []), { ms, restMs }];
    if (!flushes && verdict.throttle !== throttle) {
      throttle = verdict.throttle;
      throttleAgeMs = 0;
      harder = throttle > hardest;
    }
    hardest = Math.max(hardest, throttle);
    const betweenMs = flushes ? flushTakesMs : Math.max(roundPauseMs, verdict.waitMs);
    roundBytes = dirtyBytes + dirtiedBetween(workingSet, dirtyingMs, betweenMs, throttle);
    const queuedBytes = Math.max(0, backlogBytes - (link * betweenMs) / 1000) + roundBytes / gain;
    backlogBytes = Math.min(queuedBytes, queueBytes);
    const takesMs = (1000 * (queuedBytes - backlogBytes)) / rate;
    dirtiedMs = dirtyingMs + betweenMs;
    dirtyingMs = Math.max(1, takesMs);
    ms += betweenMs + takesMs;
    bytes += roundBytes;
    if (throttleAgeMs !== undefined) throttleAgeMs += betweenMs + takesMs;
  }
}

/** Of a round of so much. */
function roundGain(bytes: number, gain: number): number {
  const plainBytes = Math.min(bytes, roundPlainBytes);
  return bytes === 0 ? 1 : bytes / (plainBytes + (bytes - plainBytes) / gain);
}

function dirtiedBetween(set: WorkingSet, sinceMs: number, moreMs: number, throttle: number): number {
  const slowed = 1 - throttle;
  return dirtiedIn(set, (sinceMs + moreMs) * slowed) - dirtiedIn(set, sinceMs * slowed);
}

/** From the stun to where the guest runs there. */
function downtime(inputs: ForecastInputs, lastBytes: number): number {
  const { linkBytesPerSecond, roundTripMs, claimMs, flushMs, hypervisorMs, stunBytes, auditMs } = inputs;
  const stateBytes = inputs.disksAlone ? 0 : inputs.stateBytes;
  const sendMs = (1000 * (lastBytes + stateBytes + stunBytes / inputs.diskGain)) / linkBytesPerSecond;
  if (inputs.disksAlone) return hypervisorMs / 2 + sendMs + roundTripMs + flushMs + auditMs;
  const inOneFlight = inputs.handover === 'one-flight';
  const slowRoundTrips = inputs.slowRoundTrips * Math.min(1, sendMs / queueMsAssumed);
  const flightMs = ((inOneFlight ? 0.5 : 1.5) + slowRoundTrips) * roundTripMs;
  // The last of the content is on its way while units are read for the audit; in one flight, also while the VM is claimed to be given.
  const besideMs = auditMs + (inOneFlight ? claimMs : 0);
  const claimsMs = inOneFlight ? claimMs : 2 * claimMs;
  return hypervisorMs + Math.max(sendMs, besideMs) + flightMs + flushMs + claimsMs;
}
