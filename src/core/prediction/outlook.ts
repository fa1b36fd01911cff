import type { Phase } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { Interval, ProgressPrediction, RoundStatistics } from '../../interfaces/migration.ts';
import { RateMeter } from '../../util/rate-meter.ts';
import { flushMsExpected, hypervisorMsExpected, slowRoundTripsExpected } from '../expected.ts';
import type { ResolvedPolicy } from '../policy.ts';
import type { SourceParts } from '../source-figures.ts';
import type { DiskSender } from '../storage/disk-sender.ts';
import {
  type Audited,
  auditMsExpected,
  disksExpected,
  gainsExpected,
  type Measured,
  setupMsExpected,
} from './estimate.ts';
import type { DiskForecast, ForecastInputs } from './forecast.ts';
import { Fraction } from './fraction.ts';
import { later, predict, usualDoubts } from './predict.ts';
import { lateMsExpected } from './try-codec.ts';
import { dirtiedIn, scaled, type WorkingSet } from './working-set.ts';

/** Where a migration stands. */
export interface OutlookView {
  readonly phase: Phase;
  readonly elapsedMs: number;
  /** For how long the guest has stood still by now; undefined: it runs here. */
  readonly stunnedMs: number | undefined;
  /** How long it stood still, once it runs at the destination. */
  readonly downtimeMs: number | undefined;
  readonly parts: SourceParts;
  /** What a claim takes. */
  readonly claimMs: number;
  /** It is over, and went well. */
  readonly done: boolean;
}

/** How far it is, and how it goes on. */
export interface Outlooked {
  readonly fraction: number;
  readonly prediction?: ProgressPrediction;
}

/** What is done shows what is left to be like once it is so much of the whole. */
const partSeenMin = 0.05;
/** What a guest was never seen to dirty it is taken to: so much of the link. */
const dirtyShareAssumed = 0.1;

/** By then a link has shown what it carries, and what disks can be copied at: from when content is sent on, in ms and round trips. */
const linkSeen = { ms: 2000, roundTrips: 10 };
/** A guest that dirties so many times as much, or as little, has become another one. */
const scaleMax = 10;

interface LastRound {
  readonly bytes: number;
  readonly startMs: number;
  readonly endMs: number;
  /** How much of the time the guest was given. */
  readonly share: number;
}

/** What is made of a source's progress: how far all of it is, and how it goes on. Keeps what it has to remember for that. */
export class Outlook {
  readonly #environment: Environment;
  readonly #policy: ResolvedPolicy;
  readonly #memoryBytes: number;
  readonly #auditedBytes: number;
  readonly #copied = new RateMeter();
  readonly #guestWrites = new Map<DiskSender, RateMeter>();
  #measured: Measured | undefined;
  readonly #fraction = new Fraction();
  #lastRound: LastRound | undefined;
  #memoryStartMs: number | undefined;
  /** Since when content has been sent. */
  #sendingSinceMs: number | undefined;
  /** What the guest dirties, as it was seen before the migration, or in its first round. */
  #base: WorkingSet | undefined;
  /** How many times as much it dirties now. */
  #scale = 1;

  /** `policy`: with the hardest throttle that there can be. `memoryBytes`: what moves of memory; `auditedBytes`: what of that an audit can read. */
  constructor(
    environment: Environment,
    policy: ResolvedPolicy,
    { memoryBytes, auditedBytes }: { readonly memoryBytes: number; readonly auditedBytes: number },
  ) {
    this.#environment = environment;
    this.#policy = policy;
    this.#memoryBytes = memoryBytes;
    this.#auditedBytes = auditedBytes;
  }

  /** What an estimate before has seen, if there was one. */
  get measured(): Measured | undefined {
    return this.#measured;
  }

  set measured(measured: Measured) {
    this.#measured = measured;
    this.#base = measured.workingSet;
  }

  /** A round is over; `throttle`: in force while it was sent. */
  round({ bytes, durationMs, round }: RoundStatistics, throttle: number): void {
    const nowMs = this.#environment.now();
    const last = this.#lastRound;
    this.#lastRound = { bytes, startMs: nowMs - durationMs, endMs: nowMs, share: 1 - throttle };
    if (last === undefined || round <= 1) return;
    // What it sent was dirtied since the one before began.
    this.#learn(bytes, Math.max(1, this.#lastRound.startMs - last.startMs) * last.share);
  }

  look(view: OutlookView): Outlooked {
    if (view.done) return { fraction: this.#fraction.done() };
    const prediction = this.#predict(view);
    const fraction = this.#fraction.look(view.elapsedMs, prediction?.eta);
    return prediction === undefined ? { fraction } : { fraction, prediction };
  }

  /** So much was dirtied in that time, as if without a throttle. */
  #learn(bytes: number, durationMs: number): void {
    this.#base ??= { bytesPerSecond: (1000 * bytes) / durationMs, sizeBytes: this.#memoryBytes };
    const expected = dirtiedIn(this.#base, durationMs);
    if (expected <= 0 || bytes <= 0) return;
    // Half of the way: a round is a moment, and cut as it happens.
    const scale = Math.sqrt((this.#scale * bytes) / expected);
    this.#scale = Math.min(scaleMax, Math.max(1 / scaleMax, scale));
  }

  /** What the guest dirties: as it did before, so many times as much. */
  get #workingSet(): WorkingSet | undefined {
    return this.#base && scaled(this.#base, this.#scale);
  }

  #predict(view: OutlookView): ProgressPrediction | undefined {
    const inputs = this.#inputs(view);
    if (inputs === undefined) return undefined;
    const { rest, downtime, converges, throttle } = predict(inputs, usualDoubts);
    const known: Interval | undefined =
      view.downtimeMs === undefined ? undefined : { lowMs: view.downtimeMs, highMs: view.downtimeMs };
    return {
      total: later(rest, view.elapsedMs),
      downtime: known ?? downtime,
      converges,
      throttle,
      eta: rest,
    };
  }

  #inputs(view: OutlookView): ForecastInputs | undefined {
    const { parts, phase } = view;
    const { channel, preCopy, disks } = parts;
    const measured = this.#measured;
    const before = phase === 'idle' || phase === 'connect' || phase === 'prepare';
    if (!before) this.#sendingSinceMs ??= this.#environment.now();
    const link = this.#link(view);
    if (link === undefined) return undefined;
    const roundTripMs = channel?.roundTripMs ?? measured?.link.roundTripMs ?? 0;
    const throttle = preCopy?.throttle ?? 0;
    const backlogBytes = channel?.backlogBytes ?? 0;
    /** Before it was compressed. */
    const queuedBytes = (channel?.gain ?? 1) * backlogBytes;
    const inDisks = before || phase === 'copyDisks';
    const memory = this.#memory(view, inDisks);
    const gains = this.#gains(view, inDisks, link);
    const disksAlone = this.#policy.memory === 'none';
    return {
      setupMs: (before ? this.#setupMs(view) : 0) + this.#lateMs(gains.diskGain, link, roundTripMs),
      disks:
        before && disks.length === 0
          ? disksExpected(measured?.disks ?? [])
          : disks.map((disk) => this.#disk(disk, throttle, inDisks ? queuedBytes / disks.length : 0)),
      stunBytes: disks.reduce((sum, disk) => sum + (disk.isUnseen ? disk.disk.sizeBytes : 0), 0),
      copyBytesPerSecond: this.#copyRate(parts, backlogBytes),
      passRestBytes: disksAlone ? 0 : memory.restBytes + (inDisks ? 0 : queuedBytes),
      passedMs: memory.passedMs,
      workingSet: this.#workingSet ?? {
        bytesPerSecond: dirtyShareAssumed * link,
        sizeBytes: this.#memoryBytes,
      },
      linkBytesPerSecond: link,
      ...gains,
      roundTripMs,
      claimMs: view.claimMs || (measured?.registerMs ?? 0),
      flushMs: parts.preCopy?.flushedMs ?? flushMsExpected,
      hypervisorMs: hypervisorMsExpected,
      stateBytes: parts.stateBytesExpected,
      auditMs: auditMsExpected(this.#policy, this.#audited(disks)),
      slowRoundTrips: slowRoundTripsExpected,
      handover: this.#policy.handover,
      throttle,
      policy: this.#policy,
      rounds: parts.memory?.rounds ?? 0,
      stunnedMs: view.downtimeMs ?? view.stunnedMs,
      disksAlone,
    };
  }

  /** Undefined while nothing is known. Disks may be what limits the copy of disks; and at first a link carries less than it can. */
  #link({ phase, parts }: OutlookView): number | undefined {
    const before = this.#measured?.link.bytesPerSecond;
    const now = parts.channel?.bytesPerSecond;
    if (before === undefined || now === undefined) return before ?? now;
    return phase === 'copyDisks' || !this.#isSeen(parts) ? Math.max(before, now) : now;
  }

  /** Whether content has been sent for long enough to show how fast that is. */
  #isSeen({ channel }: SourceParts): boolean {
    const { ms, roundTrips } = linkSeen;
    const sinceMs = this.#sendingSinceMs ?? Number.POSITIVE_INFINITY;
    return this.#environment.now() - sinceMs >= ms + roundTrips * (channel?.roundTripMs ?? 0);
  }

  /** As was expected, until content has been sent for long enough; of memory also while disks are sent. */
  #gains(
    { phase, parts }: OutlookView,
    inDisks: boolean,
    link: number,
  ): Pick<ForecastInputs, 'gain' | 'diskGain'> {
    const { channel } = parts;
    const now = channel?.gain ?? 1;
    const agreed = phase === 'idle' || phase === 'connect' || phase === 'prepare' || channel?.compression;
    if (this.#measured === undefined || !agreed) return { gain: now, diskGain: now };
    const expected = gainsExpected(this.#measured, link);
    if (!this.#isSeen(parts)) return expected;
    return { gain: inDisks ? expected.gain : now, diskGain: now };
  }

  /** What is left of the time in which nothing is compressed. */
  #lateMs(gain: number, bytesPerSecond: number, roundTripMs: number): number {
    if (this.#measured === undefined) return 0;
    const nowMs = this.#environment.now();
    const sinceMs = nowMs - (this.#sendingSinceMs ?? nowMs);
    return Math.max(0, lateMsExpected(gain, this.#memoryBytes, { bytesPerSecond, roundTripMs }) - sinceMs);
  }

  #setupMs({ elapsedMs }: OutlookView): number {
    const wholeMs = setupMsExpected(this.#measured ?? {});
    return Math.max(wholeMs / 4, wholeMs - elapsedMs);
  }

  /** Without an estimate how fast disks are read is not known. */
  #audited(senders: readonly DiskSender[]): Audited {
    const unseen = senders.map(({ disk: { sizeBytes } }) => ({
      sizeBytes,
      contentBytes: sizeBytes,
      bytesPerSecond: undefined,
      readMs: 0,
    }));
    return { memoryBytes: this.#auditedBytes, disks: this.#measured?.disks ?? unseen };
  }

  #disk(sender: DiskSender, throttle: number, backlogBytes: number): DiskForecast {
    const { sizeBytes, id } = sender.disk;
    const seen = this.#measured?.disks.find((disk) => disk.id === id);
    const done = sizeBytes - sender.restBytes;
    let content = sender.restBytes;
    if (seen !== undefined)
      content = Math.min(
        content,
        Math.max(
          seen.contentBytes - sender.bulkBytes,
          (content * seen.contentBytes) / Math.max(1, sizeBytes) / 2,
        ),
      );
    else if (done > partSeenMin * sizeBytes) content *= Math.min(1, sender.bulkBytes / done);
    return {
      restBytes: content + backlogBytes,
      guestBytesPerSecond: this.#guestRate(sender, throttle) ?? seen?.guestBytesPerSecond ?? 0,
      bytesPerSecondMax: undefined,
    };
  }

  #guestRate(sender: DiskSender, throttle: number): number | undefined {
    let meter = this.#guestWrites.get(sender);
    if (meter === undefined) {
      meter = new RateMeter();
      this.#guestWrites.set(sender, meter);
    }
    meter.look(this.#environment.now(), sender.guestWritten.bytes, 1 - throttle);
    return meter.perSecond;
  }

  /** Of all disks together, in the last two seconds, what has arrived. */
  #copyRate(parts: SourceParts, backlogBytes: number): number | undefined {
    const { disks } = parts;
    const bulkBytes = disks.reduce((sum, disk) => sum + disk.bulkBytes, 0);
    const restBytes = disks.reduce((sum, disk) => sum + disk.restBytes, 0);
    if (restBytes === 0) return undefined;
    this.#copied.look(this.#environment.now(), Math.max(0, bulkBytes - backlogBytes));
    const { perSecond } = this.#copied;
    return perSecond !== undefined && perSecond > 0 && this.#isSeen(parts) ? perSecond : undefined;
  }

  #memory(
    { parts }: OutlookView,
    inDisks: boolean,
  ): { readonly restBytes: number; readonly passedMs: number } {
    const { memory } = parts;
    const nowMs = this.#environment.now();
    const totalBytes = this.#memoryBytes;
    const usedBytes = this.#measured?.usedBytes;
    if (inDisks || memory === undefined) return { restBytes: usedBytes ?? totalBytes, passedMs: 0 };
    this.#memoryStartMs ??= nowMs;
    if (memory.rounds === 0) {
      const left = Math.max(0, totalBytes - memory.offeredBytes);
      const share =
        memory.offeredBytes > partSeenMin * totalBytes ? memory.contentBytes / memory.offeredBytes : 1;
      const restBytes =
        usedBytes === undefined ? left * share : Math.min(left, Math.max(0, usedBytes - memory.contentBytes));
      return { restBytes, passedMs: nowMs - this.#memoryStartMs };
    }
    const last = this.#lastRound;
    const told = memory.dirtyBytes();
    return {
      restBytes: told ?? (last?.bytes ?? 0) / 2,
      passedMs: last === undefined ? 0 : nowMs - last.endMs,
    };
  }
}
