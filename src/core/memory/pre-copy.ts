import type { Channel } from '../../channel/channel.ts';
import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { SourceVm } from '../../interfaces/hypervisor.ts';
import type { RoundStatistics } from '../../interfaces/migration.ts';
import { delay, throwIfAborted, withTimeout } from '../../util/promises.ts';
import { RateMeter } from '../../util/rate-meter.ts';
import { claimsMsCounted, loadMsExpected, queueBetween } from '../expected.ts';
import type { GuestPace } from '../guest-pace.ts';
import type { ResolvedPolicy } from '../policy.ts';
import {
  type ConvergencePolicy,
  type ConvergenceStatistics,
  type ConvergenceVerdict,
  convergence,
  roundPauseMs,
  throttleWorksMs,
} from './convergence.ts';
import type { MemorySender } from './memory-sender.ts';
import { RoundWait } from './round-wait.ts';
import { ThrottleMeter } from './throttle-meter.ts';

export interface PreCopyOptions {
  readonly vm: SourceVm;
  readonly memory: MemorySender;
  readonly channel: Channel;
  readonly environment: Environment;
  readonly policy: ResolvedPolicy;
  readonly signal: AbortSignal;
  /** Learns what the guest has written to disks that do not show each write. */
  readonly takeDirtyExtents: () => Promise<void>;
  /** Sees what the guest writes to its disks, and what becomes of that. */
  readonly pace: GuestPace;
  /** Disk content that is not copied now. */
  readonly diskRestBytes: () => number;
  /** Flushes both ends; resolves to how long the destination took, in ms. */
  readonly flushBothEnds: () => Promise<number>;
  /** What the claims of the handover will take, in ms. */
  readonly claimsMs: () => number;
  /** How much device state there will be. */
  readonly stateBytes: () => number;
  /** How long it is until the guest has to be stunned, in ms; undefined if it is not limited. */
  readonly timeLeftMs: () => number | undefined;
  readonly onRound: (round: RoundStatistics) => void;
}

/** As {@link queueBetween}, when more of a round is read: time enough to compress what waits. In ms, and in bytes however slow or fast the link. */
const queueWithin = { ms: 20, least: 512 << 10, most: 4 << 20 };
/** What the verdict may rest on while the link's rate is no more than assumed: so little takes a moment on any link. */
const unmeasuredBytesMax = 256 << 10;
/** ... and how long a round waits for a measurement: on a link that carries more than was assumed there may be none. */
const rateWaitMsMax = 1000;
/** ... and for one of the destination's disks: it takes a tenth of a second. */
const applyWaitMsMax = 150;
/** How many rounds the rule looks back on. */
const historyRounds = 8;
/**
 * While a flush is waited for, rounds go on, so that little is dirty when it is over; less and less often, for a flush may take long. In ms between two
 * of them: at first, and at most.
 */
const flushRoundMs = { first: 20, most: 320 };
/** For so long it counts that both ends were flushed: what is written meanwhile is flushed within the stun. */
const flushedMs = 1000;
/** A flush that follows another one at once is followed by a further one, if it took so many times less. */
const flushShrink = 2;
/** How long a flush may take that nobody hurries: so much may have gathered in a cache. */
const flushMsMax = 600_000;

/** A flush of both ends. */
interface Flush {
  /** Resolves when it is over; rejects with what ends the migration. */
  readonly over: Promise<void>;
  /** How long the destination took, in ms; undefined until it is over. */
  durationMs: number | undefined;
  /** What the one before took, which it followed at once. */
  readonly beforeMs: number | undefined;
  /** How long the destination was expected to take to apply what it had when it was asked: that is a part of what it took. */
  readonly applyMs: number;
  overMs: number;
  /** From when on it is waited for, the link being there. */
  waitedSinceMs: number;
  /** ... and from when on there is no time for that: the guest is to be stunned. */
  hurriedSinceMs: number | undefined;
  /** Until the next round, while it is not over. */
  roundMs: number;
  /** What it failed with. */
  failure?: unknown;
}

/** Rounds of dirty pages until the rest fits the downtime. What to do after each is {@link convergence}'s to say. */
export class PreCopy {
  readonly #options: PreCopyOptions;
  #history: number[] = [];
  #diskRests: number[] = [];
  #applyTimes: number[] = [];
  /** The least that there was left to copy of disks. */
  #diskRestLeast = Number.POSITIVE_INFINITY;
  /** ... and for the destination to apply of them. */
  #applyLeastMs = Number.POSITIVE_INFINITY;
  /**
   * Rounds that do not count against the limit: they were for the disks, because less was left of them after each, here or there, or while a flush was waited for, or until a
   * throttle that is harder than any before has had its time to work.
   */
  #roundsApart = 0;
  /** The last of them. */
  #apart = 0;
  /**
   * Of rounds after the first. A hypervisor that cannot tell what is dirty cuts its rounds as its own passes happen to end: of a short one alone
   * nobody knows in what time it was dirtied.
   */
  #dirtied = new RateMeter();
  #dirtiedBytes = 0;
  /** Since {@link PreCopy.run} was called. */
  #rounds = 0;
  #flushedMs: number | undefined;
  /** The rounds that fitted after a flush. */
  #fitted: Fitted[] = [];
  #throttle = 0;
  #throttleSetMs = Number.NEGATIVE_INFINITY;
  /** The hardest since the rounds began, or since the link was gone. Each is waited for once, so that there is an end to it. */
  #hardest = 0;
  #hardestWorksMs = Number.NEGATIVE_INFINITY;
  /** The last of the calls that set it, one after the other. */
  #throttling: Promise<void> = Promise.resolve();
  readonly #meter: ThrottleMeter;

  constructor(options: PreCopyOptions) {
    this.#options = options;
    this.#meter = new ThrottleMeter(options.environment.now());
  }

  /** The throttle in force, 0 to 1. */
  get throttle(): number {
    return this.#throttle;
  }

  /** The hardest throttle that was in force. */
  get throttleMax(): number {
    return this.#meter.max;
  }

  /** For how long the guest was slowed, in ms: while it ran. */
  get throttledMs(): number {
    return this.#meter.throttledMs(this.#options.environment.now());
  }

  /** What it lost of its processors' time by that, in ms. */
  get throttleLostMs(): number {
    return this.#meter.lostMs(this.#options.environment.now());
  }

  /**
   * Resolves when it is time to stun. Rejects with `not-converging` or `timeout` when that time will not come. May be called again, after a switchover
   * that came to nothing: what was seen before says nothing then, for the first round may be one of all pages again.
   */
  async run(): Promise<void> {
    const { environment, channel, memory, pace, signal } = this.#options;
    this.#history = [];
    this.#diskRests = [];
    this.#applyTimes = [];
    this.#diskRestLeast = Number.POSITIVE_INFINITY;
    this.#applyLeastMs = Number.POSITIVE_INFINITY;
    this.#roundsApart = 0;
    this.#apart = 0;
    this.#hardest = 0;
    this.#dirtied = new RateMeter();
    this.#rounds = 0;
    this.#fitted = [];
    pace.begin();
    let previous: Start | undefined;
    /** Undefined: both ends are to be flushed as soon as the rest fits. */
    let flush: Flush | undefined;
    for (;;) {
      const start = this.#start(previous);
      const bytes = await memory.sendRound({ signal, queueBytesMax: () => this.#queueBytes(queueWithin) });
      this.#rounds++;
      await memory.queueBelow(this.#queueBytes(queueBetween));
      await this.#untilRatesAreKnown();
      await this.#options.takeDirtyExtents();
      const durationMs = environment.now() - start.ms;
      previous = start;
      // Before the round: one that takes longer than that would have it flushed again and again, and never stun.
      if (flush !== undefined && start.ms - flush.overMs >= flushedMs) flush = undefined;
      const statistics = this.#statistics(bytes, durationMs, start, flush);
      const verdict = convergence(statistics, this.#policy);
      // What follows takes its time, and the queue becomes shorter meanwhile.
      const wait = new RoundWait(
        verdict,
        environment.now(),
        statistics.backlogBytes + statistics.diskRestBytes,
        channel.roundTripMs,
      );
      pace.weighed(statistics, verdict);
      this.#options.onRound({
        round: memory.rounds,
        bytes,
        durationMs,
        decision: verdict.decision,
        throttle: verdict.throttle,
      });
      throwIfAborted(signal);
      if (flush?.failure !== undefined) throw flush.failure;
      switch (verdict.decision) {
        case 'fail':
          throw this.#failure(verdict);
        case 'switchover':
          // Everything that can be flushed is flushed before the stun. How long that took is what the flush within the stun can take, and counts in
          // the verdicts for a second, but no longer: a destination that was slow once is asked again.
          if (flush?.durationMs !== undefined && !channel.isCut) {
            // A guest that stands still has no more to lose.
            this.#meter.set(environment.now(), 0);
            return;
          }
          // With the link gone it is also what waits for it.
          if (flush?.durationMs !== undefined) flush = undefined;
          flush ??= this.#beginFlush();
          await this.#untilFlushed(flush, verdict);
          break;
        case 'throttle':
        case 'continue':
          if (flush !== undefined && this.#mayTakeLess(flush, verdict)) {
            flush = this.#beginFlush(flush.durationMs);
            await this.#untilFlushed(flush, verdict);
            break;
          }
          if (verdict.fits) this.#fitted.push({ ms: environment.now(), restMs: verdict.restMs });
          await this.#setThrottle(verdict.throttle);
          await this.#untilOver(wait);
          break;
      }
    }
  }

  async #untilOver(wait: RoundWait): Promise<void> {
    const { environment, channel, signal } = this.#options;
    do {
      await delay(environment, Math.min(roundPauseMs, Math.max(0, wait.untilMs - environment.now())), signal);
    } while (!wait.isOver(environment.now(), this.#queuedBytes, channel.lateMs));
  }

  /** What is sent before anything that a round adds. */
  get #queuedBytes(): number {
    return this.#options.channel.delayingBytes + this.#options.diskRestBytes();
  }

  /** Whether the flush alone keeps the rest from fitting, and another one may take much less: one writes what has gathered since the one before, which may have been long ago. */
  #mayTakeLess({ durationMs, beforeMs }: Flush, { fits, expectedDowntimeMs }: ConvergenceVerdict): boolean {
    if (durationMs === undefined || fits) return false;
    if (expectedDowntimeMs - durationMs > this.#options.policy.downtimeMsMax) return false;
    return beforeMs === undefined || durationMs * flushShrink < beforeMs;
  }

  /** `beforeMs`: what the one before took, which this one follows at once. */
  #beginFlush(beforeMs?: number): Flush {
    const { environment, flushBothEnds, pace } = this.#options;
    const flush: Flush = {
      over: flushBothEnds().then((durationMs) => {
        flush.durationMs = durationMs;
        this.#flushedMs = durationMs;
        flush.overMs = environment.now();
      }),
      durationMs: undefined,
      beforeMs,
      applyMs: pace.applyMs,
      overMs: Number.POSITIVE_INFINITY,
      waitedSinceMs: environment.now(),
      hurriedSinceMs: undefined,
      roundMs: flushRoundMs.first,
    };
    flush.over.catch((error) => {
      flush.failure = error;
    });
    return flush;
  }

  /** Waits for it, or until it is time for another round: with the link gone that is never. Rejects when it takes too long. */
  async #untilFlushed(flush: Flush, verdict: ConvergenceVerdict): Promise<void> {
    const { environment, channel } = this.#options;
    const notYet = new MigrationError('timeout', 'the flush takes longer');
    do {
      try {
        return await withTimeout(environment, flush.roundMs, flush.over, () => notYet);
      } catch (error) {
        if (error !== notYet) throw error;
      }
      flush.roundMs = Math.min(2 * flush.roundMs, flushRoundMs.most);
      if (channel.isCut) {
        // An outage has a limit of its own.
        flush.waitedSinceMs = environment.now();
        flush.hurriedSinceMs = undefined;
      } else this.#checkPatience(flush, verdict);
    } while (channel.isCut);
    this.#countApart();
  }

  /** A guest that is to be stunned now waits for a flush no longer than it might stand still for it. */
  #checkPatience(flush: Flush, verdict: ConvergenceVerdict): void {
    const { environment, policy } = this.#options;
    const nowMs = environment.now();
    if (verdict.late || !verdict.fits) flush.hurriedSinceMs ??= nowMs;
    else flush.hurriedSinceMs = undefined;
    const waitedMs = nowMs - flush.waitedSinceMs;
    const hurriedMs = nowMs - (flush.hurriedSinceMs ?? nowMs);
    if (waitedMs <= flushMsMax && hurriedMs <= policy.stunMsMax) return;
    const why = `the disks are not flushed after ${Math.round(waitedMs)} ms`;
    throw new MigrationError(verdict.late ? 'timeout' : 'not-converging', `${why}: ${verdict.reason}`);
  }

  /** The round that is over does not count. */
  #countApart(): void {
    if (this.#apart === this.#rounds) return;
    this.#apart = this.#rounds;
    this.#roundsApart++;
  }

  /** A round begins. */
  #start(previous: Start | undefined): Start {
    const ms = this.#options.environment.now();
    const lostMs = this.#meter.lostMs(ms);
    if (previous === undefined) return { ms, lostMs, dirtyingMs: undefined, share: 1 };
    const dirtyingMs = ms - previous.ms;
    const share = dirtyingMs > 0 ? 1 - (lostMs - previous.lostMs) / dirtyingMs : 1;
    return { ms, lostMs, dirtyingMs, share };
  }

  #failure({ reason, late }: ConvergenceVerdict): MigrationError {
    if (!late) return new MigrationError('not-converging', reason);
    const { timeoutMs, stunMsMax } = this.#options.policy;
    const why = `the guest is not stunned within ${timeoutMs} ms, and what is left does not fit ${stunMsMax} ms either`;
    return new MigrationError('timeout', `${why}: ${reason}`);
  }

  /** What may wait in the queue. */
  #queueBytes({ ms, least, most }: typeof queueBetween): number {
    const { bytesPerSecond = Number.POSITIVE_INFINITY } = this.#options.channel;
    return Math.min(Math.max((bytesPerSecond * ms) / 1000, least), most);
  }

  get #policy(): ConvergencePolicy {
    const { policy, pace } = this.#options;
    return {
      ...policy,
      throttleMax: pace.throttleMax,
      roundsMax: policy.roundsMax + this.#roundsApart,
    };
  }

  /**
   * What is on its way tells how fast the link is, and what has arrived how fast the destination's disks are; until then there is but a guess, and the stun
   * would wait for all of it.
   */
  async #untilRatesAreKnown(): Promise<void> {
    const { channel, environment, pace, signal } = this.#options;
    const startMs = environment.now();
    const isUnknown = () =>
      (channel.bytesPerSecond === undefined && channel.backlogBytes > unmeasuredBytesMax) ||
      (pace.applyIsUnknown() && environment.now() < startMs + applyWaitMsMax);
    while (isUnknown() && environment.now() < startMs + rateWaitMsMax) {
      await delay(environment, roundPauseMs, signal);
    }
  }

  /** What the last flush took at the destination, in ms; undefined before the first. */
  get flushedMs(): number | undefined {
    return this.#flushedMs;
  }

  /** Takes the throttle off, if there is one. */
  async releaseThrottle(): Promise<void> {
    this.#hardest = 0;
    await this.#setThrottle(0);
  }

  #setThrottle(wanted: number): Promise<void> {
    this.#throttling = this.#throttling.catch(() => {}).then(() => this.#applyThrottle(wanted));
    return this.#throttling;
  }

  async #applyThrottle(wanted: number): Promise<void> {
    const { vm, channel } = this.#options;
    // While nothing can be sent there is nothing to wait for.
    const fraction = channel.isCut ? 0 : wanted;
    if (fraction === this.#throttle || !vm.capabilities.throttle) return;
    await vm.setThrottle(fraction);
    this.#throttle = fraction;
    this.#throttleSetMs = this.#options.environment.now();
    this.#meter.set(this.#throttleSetMs, fraction);
    if (fraction <= this.#hardest) return;
    this.#hardest = fraction;
    this.#hardestWorksMs = this.#throttleSetMs + throttleWorksMs;
  }

  #statistics(
    bytes: number,
    durationMs: number,
    start: Start,
    flush: Flush | undefined,
  ): ConvergenceStatistics {
    const { environment, channel, memory, pace, policy } = this.#options;
    const nowMs = environment.now();
    const flushed = flush === undefined ? undefined : measured(flush, nowMs);
    const diskRestBytes = this.#options.diskRestBytes();
    keepLast(this.#history, bytes);
    keepLast(this.#diskRests, diskRestBytes);
    if (diskRestBytes < this.#diskRestLeast) {
      if (diskRestBytes > 0 && this.#rounds > 1) this.#countApart();
      this.#diskRestLeast = diskRestBytes;
    }
    if (nowMs < this.#hardestWorksMs) this.#countApart();
    const disks = pace.figures();
    const { applyMs } = disks;
    keepLast(this.#applyTimes, applyMs);
    if (applyMs > 0 && applyMs < this.#applyLeastMs && this.#rounds > 1) this.#countApart();
    this.#applyLeastMs = applyMs > 0 ? Math.min(this.#applyLeastMs, applyMs) : Number.POSITIVE_INFINITY;
    // The flush that was measured waited for what was there then.
    const moreMs = Math.max(0, applyMs - (flushed?.applyMs ?? 0));
    const claimsMs = claimsMsCounted(this.#options.claimsMs(), policy.downtimeMsMax);
    const dirtyBytes = memory.dirtyBytes();
    return {
      round: this.#rounds,
      roundBytes: bytes,
      roundMs: durationMs,
      dirtyingMs: start.dirtyingMs,
      dirtyBytes,
      dirtyBytesPerSecond: this.#dirtyRate(bytes, start, dirtyBytes !== undefined),
      bytesPerSecond: channel.bytesPerSecond,
      gain: channel.gain,
      backlogBytes: channel.delayingBytes,
      lateMs: channel.lateMs,
      diskRestBytes,
      stateBytes: this.#options.stateBytes(),
      fixedMs: loadMsExpected + claimsMs + (flushed?.durationMs ?? 0) + moreMs,
      flushed,
      throttle: this.#throttle,
      throttleAgeMs: nowMs - this.#throttleSetMs,
      history: this.#history,
      diskRests: this.#diskRests,
      fitted: flushed === undefined ? undefined : this.#fitted.map(({ restMs }) => restMs),
      fittedAgesMs: this.#fitted.map(({ ms }) => nowMs - ms),
      roundTripMs: channel.roundTripMs,
      timeLeftMs: this.#options.timeLeftMs(),
      applyTimes: this.#applyTimes,
      ...disks,
    };
  }

  /** How fast the guest dirties memory with the throttle in force; undefined where nothing but the first pass has shown it. */
  #dirtyRate(bytes: number, { ms, dirtyingMs, share }: Start, told: boolean): number | undefined {
    if (this.#rounds > 1) this.#dirtiedBytes += bytes;
    this.#dirtied.look(ms, this.#dirtiedBytes, share);
    const { perSecond } = this.#dirtied;
    if (!told && perSecond !== undefined) return perSecond * (1 - this.#throttle);
    if (dirtyingMs === undefined || dirtyingMs <= 0) return undefined;
    return ((1000 * bytes) / (dirtyingMs * share)) * (1 - this.#throttle);
  }
}

/** What there was left, when it fitted: {@link ConvergenceVerdict.restMs}. */
interface Fitted {
  readonly ms: number;
  readonly restMs: number;
}

/** Undefined while it is not over. */
function measured({ durationMs, overMs, applyMs }: Flush, nowMs: number) {
  if (durationMs === undefined) return undefined;
  return { durationMs, countsMs: overMs + flushedMs - nowMs, applyMs: Math.min(applyMs, durationMs) };
}

/** When a round began. */
interface Start {
  readonly ms: number;
  /** What the guest had lost for being slowed. */
  readonly lostMs: number;
  /** Since the round before began; undefined for the first. */
  readonly dirtyingMs: number | undefined;
  /** How much of that time it was given: 0.01 to 1. */
  readonly share: number;
}

function keepLast(history: number[], value: number): void {
  history.push(value);
  if (history.length > historyRounds) history.shift();
}
