import type { Channel } from '../channel/channel.ts';
import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Warning } from '../interfaces/migration.ts';
import { delay } from '../util/promises.ts';
import { Lasting } from './lasting.ts';
import { type ConvergenceStatistics, type ConvergenceVerdict, outrunsLink } from './memory/convergence.ts';
import type { ResolvedPolicy } from './policy.ts';
import { type DiskFlow, type DiskLook, DiskPace } from './storage/disk-pace.ts';
import type { DiskSender } from './storage/disk-sender.ts';
import { mirrorBound } from './storage/mirror-bound.ts';
import type { MirrorBuffer } from './storage/mirror-buffer.ts';
import { nextHold } from './storage/next-hold.ts';

export interface GuestPaceOptions {
  readonly disks: readonly DiskSender[];
  readonly buffer: MirrorBuffer;
  readonly channel: Channel;
  readonly environment: Environment;
  readonly policy: ResolvedPolicy;
  /** Whether the guest can be slowed at all. */
  readonly canThrottle: boolean;
  /** The throttle in force, 0 to 1. */
  readonly throttle: () => number;
  readonly onWarning: (warning: Warning) => void;
  /** The policy says that this ends the migration. */
  readonly failed: (error: MigrationError) => void;
}

/** What {@link ConvergenceStatistics} asks of the disks. */
type DiskFigures = Required<
  Pick<ConvergenceStatistics, 'diskBytesPerSecond' | 'slowDisks' | 'disksBehind' | 'applyMs'>
>;

interface Watched {
  readonly sender: DiskSender;
  readonly pace: DiskPace;
}

/** Between two looks. */
const lookMs = 250;
/** A change of the hold shows only after so long in what the guest writes. */
const holdStepMs = 1000;

/**
 * Looks at how fast the guest writes to its disks, and at what the link and the destination's disks make of
 * it, from the first tap to the last round: says early what will not go well, bounds the mirror's buffer,
 * and lets guest writes be held as far as the policy allows.
 */
export class GuestPace {
  readonly #options: GuestPaceOptions;
  readonly #disks: readonly Watched[];
  readonly #linkOutrun = new Lasting();
  readonly #roundsOutrun = new Lasting();
  readonly #warned = new Set<string>();
  readonly #over = new AbortController();
  #expectedDowntimeMs = Number.POSITIVE_INFINITY;
  /** When the bound was set. */
  #boundMs: number;
  #holdMs = 0;
  #holdChangedMs = 0;

  constructor(options: GuestPaceOptions) {
    this.#options = options;
    this.#boundMs = options.environment.now();
    this.#disks = options.disks.map((sender) => ({
      sender,
      pace: new DiskPace(options.policy.downtimeMsMax),
    }));
  }

  /** The hardest throttle that there can be, 0 to 0.99. */
  get throttleMax(): number {
    return this.#options.canThrottle ? this.#options.policy.throttleMax : 0;
  }

  /** Looks now, as the disks are tapped, and then again and again until {@link GuestPace.stop}. */
  start(): void {
    for (const { sender, pace } of this.#disks) this.#lookAt(sender, pace, sender.guestWritten);
    this.#run().catch(() => {});
  }

  stop(): void {
    this.#over.abort();
  }

  /** Rounds begin, and how far off the switchover is nobody knows. */
  begin(): void {
    this.#expectedDowntimeMs = Number.POSITIVE_INFINITY;
    this.#setBound();
  }

  /**
   * What the rule of convergence has to know of the disks. To be called when their dirty logs have just been
   * taken.
   */
  figures(): DiskFigures {
    for (const { sender, pace } of this.#disks) {
      if (showsEachWrite(sender)) this.#lookAtBacklog(sender, pace);
      else this.#lookAt(sender, pace, sender.guestWritten);
    }
    return {
      diskBytesPerSecond: this.#guestBytesPerSecond,
      slowDisks: this.#slowDisks,
      disksBehind: this.#disksBehind,
      applyMs: this.applyMs,
    };
  }

  /** Looks whether something waits for a writer at the destination, and it is not known how long that takes. */
  applyIsUnknown(): boolean {
    for (const { sender, pace } of this.#disks) this.#lookAtBacklog(sender, pace);
    return this.#disks.some(({ pace }) => pace.isUnknown);
  }

  /** How long the destination takes to apply what it has of the disks, in ms; as it was when that was last looked at. */
  get applyMs(): number {
    return Math.max(0, ...this.#disks.map(({ pace }) => pace.applyMs));
  }

  /** A round is over, and this is what is made of it. */
  weighed(statistics: ConvergenceStatistics, verdict: ConvergenceVerdict): void {
    const nowMs = this.#options.environment.now();
    this.#expectedDowntimeMs = verdict.expectedDowntimeMs;
    this.#setBound();
    if (verdict.decision === 'switchover') return;
    const { guestBytesPerSecond, sendBytesPerSecond } = verdict;
    const outrun = verdict.outruns && !this.#waitsForDisks;
    if (this.#roundsOutrun.look(nowMs, outrun, sendBytesPerSecond)) {
      this.#warnOfLink(guestBytesPerSecond, sendBytesPerSecond);
    }
    this.#setHold(nowMs, statistics, verdict);
  }

  async #run(): Promise<void> {
    for (;;) {
      await delay(this.#options.environment, lookMs, this.#over.signal);
      this.#look();
    }
  }

  #look(): void {
    const { environment, channel } = this.#options;
    const nowMs = environment.now();
    this.#setBound();
    for (const { sender, pace } of this.#disks) {
      this.#lookAt(sender, pace, showsEachWrite(sender) ? sender.guestWritten : undefined);
    }
    const { bytesPerSecond = 0 } = channel;
    const guestBytesPerSecond = this.#guestBytesPerSecond;
    const outrun =
      bytesPerSecond > 0 &&
      channel.isBusy &&
      !channel.isCut &&
      !this.#waitsForDisks &&
      outrunsLink({
        guestBytesPerSecond,
        throttle: this.#options.throttle(),
        throttleMax: this.throttleMax,
        bytesPerSecond,
      });
    if (this.#linkOutrun.look(nowMs, outrun, bytesPerSecond)) {
      this.#warnOfLink(guestBytesPerSecond, bytesPerSecond);
    }
  }

  #lookAt(sender: DiskSender, pace: DiskPace, guest: DiskLook['guest']): void {
    const { environment, channel, throttle } = this.#options;
    this.#lookAtBacklog(sender, pace);
    pace.look({
      nowMs: environment.now(),
      guest,
      sentBytes: sender.stream.sentBytes,
      isHeld: sender.stream.isHeld && !channel.isSilent,
      throttle: throttle(),
    });
    // At once: the guest may be slowed for it, and then it is the slowed one's rate that is known.
    const flow = pace.slow(throttle());
    if (flow !== undefined) this.#warnOfDisk(sender.disk.id, flow);
  }

  #lookAtBacklog({ stream, restBytes }: DiskSender, pace: DiskPace): void {
    const { channel, environment } = this.#options;
    const said = { ...stream.backlog, coming: stream.workOnTheWay + restBytes };
    pace.backlog(environment.now(), channel.isSilent ? undefined : said);
  }

  /** Then what is sent says nothing of the link. */
  get #waitsForDisks(): boolean {
    return this.#disks.some(({ pace }) => pace.isHeld);
  }

  get #guestBytesPerSecond(): number {
    const throttle = this.#options.throttle();
    return this.#disks.reduce((sum, { pace }) => sum + pace.guestBytesPerSecond(throttle), 0);
  }

  get #slowDisks(): readonly DiskFlow[] {
    const throttle = this.#options.throttle();
    return this.#disks.map(({ pace }) => pace.slow(throttle)).filter((flow) => flow !== undefined);
  }

  get #disksBehind(): readonly DiskFlow[] {
    const throttle = this.#options.throttle();
    return this.#disks.map(({ pace }) => pace.behind(throttle)).filter((flow) => flow !== undefined);
  }

  #setBound(): void {
    const { buffer, channel, policy, environment } = this.#options;
    const { bytesPerSecond, roundTripMs } = channel;
    const nowMs = environment.now();
    const elapsedMs = nowMs - this.#boundMs;
    this.#boundMs = nowMs;
    buffer.bound(
      mirrorBound({
        bytesMax: policy.mirrorBufferBytesMax,
        bytesPerSecond,
        roundTripMs,
        expectedDowntimeMs: this.#expectedDowntimeMs,
        downtimeMsMax: policy.downtimeMsMax,
        now: { boundBytes: buffer.boundBytes, bufferedBytes: buffer.bytes, elapsedMs },
      }),
    );
  }

  #setHold(nowMs: number, statistics: ConvergenceStatistics, verdict: ConvergenceVerdict): void {
    const { buffer, policy } = this.#options;
    if (nowMs - this.#holdChangedMs < holdStepMs) return;
    const { diskBytesPerSecond = 0, slowDisks = [] } = statistics;
    const holdMs = nextHold({
      holdMs: this.#holdMs,
      holdMsMax: policy.guestWriteHoldMsMax,
      flows: [
        { guestBytesPerSecond: diskBytesPerSecond, bytesPerSecond: verdict.sendBytesPerSecond },
        ...slowDisks,
      ],
      behind: verdict.behind || slowDisks.length > 0,
    });
    if (holdMs === this.#holdMs) return;
    this.#holdMs = holdMs;
    this.#holdChangedMs = nowMs;
    buffer.holdFor(holdMs);
  }

  #warnOfLink(guestBytesPerSecond: number, bytesPerSecond: number): void {
    const { policy } = this.#options;
    const slowed =
      this.throttleMax > 0
        ? `, and would also if it were slowed by ${Math.round(100 * this.throttleMax)} %`
        : ', and is not slowed';
    const then =
      policy.guestWriteHoldMsMax > 0
        ? `before the switchover its writes will be held, for up to ${policy.guestWriteHoldMsMax} ms each`
        : 'unless it comes to less, this will not converge';
    const message = `the guest writes faster than the link carries, ${rates(guestBytesPerSecond, bytesPerSecond)}${slowed}: ${then}`;
    this.#warn({ kind: 'slow-link', guestBytesPerSecond, bytesPerSecond, message });
  }

  #warnOfDisk(disk: string, { guestBytesPerSecond, bytesPerSecond }: DiskFlow): void {
    const { policy, failed } = this.#options;
    const what = `the guest writes to disk ${disk} faster than the destination, ${rates(guestBytesPerSecond, bytesPerSecond)}`;
    const fails = policy.slowDisk === 'fail';
    const then = fails
      ? 'by policy.slowDisk this ends the migration'
      : this.throttleMax > 0
        ? 'it will be slowed'
        : 'it is not slowed, and unless it writes less this will not converge';
    const message = `${what}: ${then}`;
    this.#warn({ kind: 'slow-disk', disk, guestBytesPerSecond, bytesPerSecond, message });
    // The first reason counts: to say it again does nothing.
    if (fails) failed(new MigrationError('not-converging', message));
  }

  #warn(warning: Warning): void {
    const key = `${warning.kind} ${warning.disk ?? ''}`;
    if (this.#warned.has(key)) return;
    this.#warned.add(key);
    this.#options.onWarning(warning);
  }
}

/** Others are asked now and then what has changed, and what they say then is of all the time since. */
function showsEachWrite({ disk }: DiskSender): boolean {
  return disk.tapCapability === 'ordered';
}

function rates(guestBytesPerSecond: number, bytesPerSecond: number): string {
  return `${(guestBytesPerSecond / 1e6).toFixed(1)} MB/s to ${(bytesPerSecond / 1e6).toFixed(1)} MB/s`;
}
