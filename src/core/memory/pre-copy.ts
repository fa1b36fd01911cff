import type { Channel } from '../../channel/channel.ts';
import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { SourceVm } from '../../interfaces/hypervisor.ts';
import type { RoundStatistics } from '../../interfaces/migration.ts';
import { delay, throwIfAborted } from '../../util/promises.ts';
import { RateMeter } from '../../util/rate-meter.ts';
import type { GuestPace } from '../guest-pace.ts';
import type { ResolvedPolicy } from '../policy.ts';
import { type ConvergencePolicy, type ConvergenceStatistics, convergence } from './convergence.ts';
import type { MemorySender } from './memory-sender.ts';

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
  readonly onRound: (round: RoundStatistics) => void;
}

/**
 * Pages that may wait to be sent when the next round begins: the link stays busy, and what the round reads is fresh. What waits of the disks is
 * not for the round to wait for: a guest that outruns the link there would keep it from ever ending.
 */
const queueBytesMax = 1 << 20;
/** Time between two rounds at least: what a guest dirties in less is not worth a pass over its dirty log. */
const pauseMs = 5;
/** Device state before any was seen: what a small machine model of QEMU has. */
const stateBytesExpected = 160 << 10;
/** What the destination needs to load it and start, over its flush, before any was seen: some milliseconds in a hypervisor. */
const loadMsExpected = 20;
/** What the verdict may rest on while the link's rate is no more than assumed: so little takes a moment on any link. */
const unmeasuredBytesMax = 256 << 10;
/** ... and how long a round waits for a measurement: on a link that carries more than was assumed there may be none. */
const rateWaitMsMax = 1000;
/** How many rounds the rule looks back on. */
const historyRounds = 8;

/** Rounds of dirty pages until the rest fits the downtime. What to do after each is {@link convergence}'s to say. */
export class PreCopy {
  readonly #options: PreCopyOptions;
  #history: number[] = [];
  #diskRests: number[] = [];
  /** The least that there was left to copy of disks, and in how many rounds it became less: those were for the disks, and do not count against the limit. */
  #diskRestLeast = Number.POSITIVE_INFINITY;
  #roundsForDisks = 0;
  /**
   * Of rounds after the first. A hypervisor that cannot tell what is dirty cuts its rounds as its own passes happen to end: of a short one alone
   * nobody knows in what time it was dirtied.
   */
  #dirtied = new RateMeter();
  #dirtiedBytes = 0;
  /** Since {@link PreCopy.run} was called. */
  #rounds = 0;
  #throttle = 0;
  /** The last of the calls that set it, one after the other. */
  #throttling: Promise<void> = Promise.resolve();
  #throttleMax = 0;

  constructor(options: PreCopyOptions) {
    this.#options = options;
  }

  /** The throttle in force, 0 to 1. */
  get throttle(): number {
    return this.#throttle;
  }

  /** The hardest throttle that was in force. */
  get throttleMax(): number {
    return this.#throttleMax;
  }

  /**
   * Resolves when it is time to stun. Rejects with `not-converging` when that time will not come. May be called again, after a switchover
   * that came to nothing: what was seen before says nothing then, for the first round may be one of all pages again.
   */
  async run(): Promise<void> {
    const { environment, memory, pace, signal } = this.#options;
    this.#history = [];
    this.#diskRests = [];
    this.#diskRestLeast = Number.POSITIVE_INFINITY;
    this.#roundsForDisks = 0;
    this.#dirtied = new RateMeter();
    this.#rounds = 0;
    pace.begin();
    let previousStartMs: number | undefined;
    /** How long the destination took to flush just before this round; undefined if nothing was flushed then. */
    let flushMs: number | undefined;
    for (;;) {
      const startMs = environment.now();
      const bytes = await memory.sendRound({ signal });
      this.#rounds++;
      await memory.queueBelow(queueBytesMax);
      await this.#untilRateIsKnown();
      await this.#options.takeDirtyExtents();
      const durationMs = environment.now() - startMs;
      const dirtyingMs = previousStartMs === undefined ? undefined : startMs - previousStartMs;
      if (this.#rounds > 1) this.#dirtiedBytes += bytes;
      this.#dirtied.look(startMs, this.#dirtiedBytes, 1 - this.#throttle);
      previousStartMs = startMs;
      const statistics = this.#statistics(bytes, durationMs, dirtyingMs, flushMs ?? 0);
      const verdict = convergence(statistics, this.#policy);
      pace.weighed(statistics, verdict);
      this.#options.onRound({
        round: memory.rounds,
        bytes,
        durationMs,
        decision: verdict.decision,
        throttle: verdict.throttle,
      });
      throwIfAborted(signal);
      switch (verdict.decision) {
        case 'fail':
          throw new MigrationError('not-converging', verdict.reason);
        case 'switchover':
          // Everything that can be flushed is flushed before the stun; what was dirtied meanwhile is the next round's. How
          // long that took is what the flush within the stun can take, and counts in the next verdict, but no longer:
          // a destination that was slow once is asked again.
          // With the link gone it is also what waits for it.
          if (flushMs !== undefined && !this.#options.channel.isCut) return;
          flushMs = await this.#options.flushBothEnds();
          break;
        case 'throttle':
        case 'continue':
          flushMs = undefined;
          await this.#setThrottle(verdict.throttle);
          await delay(environment, Math.max(pauseMs, verdict.waitMs), signal);
          break;
      }
    }
  }

  get #policy(): ConvergencePolicy {
    const { policy, pace } = this.#options;
    return {
      ...policy,
      throttleMax: pace.throttleMax,
      roundsMax: policy.roundsMax + this.#roundsForDisks,
    };
  }

  /** What is on its way tells how fast the link is; until it has arrived there is but a guess, and the stun would wait for all of it. */
  async #untilRateIsKnown(): Promise<void> {
    const { channel, environment, signal } = this.#options;
    const deadlineMs = environment.now() + rateWaitMsMax;
    while (
      channel.statistics.bytesPerSecond === undefined &&
      channel.backlogBytes > unmeasuredBytesMax &&
      environment.now() < deadlineMs
    ) {
      await delay(environment, pauseMs, signal);
    }
  }

  /** Takes the throttle off, if there is one. */
  async releaseThrottle(): Promise<void> {
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
    this.#throttleMax = Math.max(this.#throttleMax, fraction);
  }

  #statistics(
    bytes: number,
    durationMs: number,
    dirtyingMs: number | undefined,
    flushMs: number,
  ): ConvergenceStatistics {
    const { channel, memory, pace } = this.#options;
    const diskRestBytes = this.#options.diskRestBytes();
    keepLast(this.#history, bytes);
    keepLast(this.#diskRests, diskRestBytes);
    if (diskRestBytes < this.#diskRestLeast) {
      if (diskRestBytes > 0 && this.#rounds > 1) this.#roundsForDisks++;
      this.#diskRestLeast = diskRestBytes;
    }
    const dirtyBytes = memory.dirtyBytes();
    const { perSecond } = this.#dirtied;
    const seen = dirtyBytes === undefined && perSecond !== undefined;
    return {
      round: this.#rounds,
      roundBytes: bytes,
      roundMs: durationMs,
      dirtyingMs,
      dirtyBytes,
      ...(seen ? { dirtyBytesPerSecond: perSecond * (1 - this.#throttle) } : {}),
      bytesPerSecond: channel.statistics.bytesPerSecond,
      backlogBytes: channel.delayingBytes,
      diskRestBytes,
      stateBytes: stateBytesExpected,
      fixedMs: loadMsExpected + flushMs,
      throttle: this.#throttle,
      history: this.#history,
      diskRests: this.#diskRests,
      ...pace.figures(),
    };
  }
}

function keepLast(history: number[], bytes: number): void {
  history.push(bytes);
  if (history.length > historyRounds) history.shift();
}
