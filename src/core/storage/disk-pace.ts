import type { AtPeer } from '../../channel/send-stream.ts';
import { RateMeter } from '../../util/rate-meter.ts';
import { Lasting } from '../lasting.ts';

/** What is written to a disk, and what it may have. */
export interface DiskFlow {
  /** What the guest writes, in bytes a second. */
  readonly guestBytesPerSecond: number;
  /** What the link carries, or the destination writes, in bytes a second. */
  readonly bytesPerSecond: number;
}

/** What is seen of a disk at a moment. */
export interface DiskLook {
  readonly nowMs: number;
  /** What the guest has written in all; undefined if that is not known now. */
  readonly guestBytes: number | undefined;
  /** Whether more waits for the destination to apply what it has. */
  readonly isHeld: boolean;
  /** The throttle since the look before, 0 to 0.99. */
  readonly throttle: number;
}

/** A guest that writes as fast as the disk does is not outrunning it: the figures are of a moment or two. */
const margin = 1.1;
/**
 * What is seen at one look counts for so long, also where the next does not find it: what was let through
 * just then may wait for its turn.
 */
const passingMs = 500;
/** A disk that was slow may be faster later; and a guest that was slowed for it would never show that. */
const knownMs = 10_000;
/** A disk writes in bursts; over so long they tell how fast it is. */
const spanMs = 100;
/** A disk that does nothing at all is expected to begin again. */
const applyMsMost = 60_000;
/** Of the downtime: the rest of it is for pages, the flush and the device state. */
const applyPart = 1 / 2;

/**
 * How fast a guest writes to a disk, and how fast the destination does. As long as something waits there for
 * a writer, what is started is what the disk can; and at that rate it takes a time until nothing waits. With
 * the guest stunned, that would be a part of the downtime.
 *
 * The disk is slow if that is longer than the guest may stand still, and the guest writes faster than the
 * disk is written; what newer content came for is started, but not written. Or if so much is under way that no
 * more is sent, and the guest writes faster than it is started. Not if it is slower than the bulk copy would
 * like: all that is written, bulk copy or not, shows what it could do for the guest. Nor while it is the link
 * that is waited for: then nothing waits there. Pure: the clock comes in with the looks.
 */
export class DiskPace {
  readonly #downtimeMsMax: number;
  readonly #guest = new RateMeter();
  /** Of the time in which there was always something to apply. */
  readonly #started = new RateMeter();
  readonly #written = new RateMeter();
  /** The last time that it was long enough. */
  #perSecond: number | undefined;
  readonly #slow = new Lasting();
  #atPeer: AtPeer = { startedBytes: 0, writtenBytes: 0, waitingBytes: 0 };
  /** When the destination has said something new last. */
  #saidMs = Number.NEGATIVE_INFINITY;
  #heldMs = Number.NEGATIVE_INFINITY;
  #bytesPerSecond: number | undefined;
  #seenMs = 0;
  #isSlow = false;
  #isHeld = false;

  constructor(downtimeMsMax: number) {
    this.#downtimeMsMax = downtimeMsMax;
  }

  /**
   * What the destination has said last: to be told before {@link DiskPace.look}, and whenever anything is
   * decided by it. Undefined: it is not heard. As long as it says nothing new, nothing is known but what was.
   */
  backlog(nowMs: number, atPeer: AtPeer | undefined): void {
    const { startedBytes, waitingBytes } = this.#atPeer;
    if (atPeer === undefined || atPeer.waitingBytes === 0) {
      this.#started.forget();
      this.#written.forget();
    } else if (atPeer.startedBytes !== startedBytes || atPeer.waitingBytes !== waitingBytes) {
      this.#saidMs = nowMs;
      this.#measure(nowMs, atPeer);
    }
    this.#atPeer = atPeer ?? this.#atPeer;
  }

  look({ nowMs, guestBytes, isHeld, throttle }: DiskLook): void {
    if (guestBytes !== undefined) this.#guest.look(nowMs, guestBytes, 1 - throttle);
    if (isHeld) {
      this.#heldMs = nowMs;
      // One that has all that it may have, and says nothing, does nothing.
      this.#measure(nowMs, this.#atPeer);
    }
    const perSecond = this.#waitedForAt(nowMs);
    this.#isHeld = perSecond !== undefined;
    if (perSecond !== undefined) {
      this.#bytesPerSecond = perSecond;
      this.#seenMs = nowMs;
    } else if (nowMs - this.#seenMs > knownMs) {
      this.#bytesPerSecond = undefined;
      this.#isSlow = false;
    }
    const outrun = perSecond !== undefined && this.guestBytesPerSecond(throttle) > margin * perSecond;
    if (this.#slow.look(nowMs, outrun, perSecond ?? 0)) this.#isSlow = true;
  }

  #measure(nowMs: number, { startedBytes, writtenBytes }: AtPeer): void {
    this.#started.look(nowMs, startedBytes);
    this.#written.look(nowMs, writtenBytes);
    // That nothing is applied in a moment says nothing.
    const perSecond = this.#started.perSecondOver(spanMs) || this.#started.perSecond;
    this.#perSecond = perSecond ?? this.#perSecond;
  }

  /** How fast the destination is, if it is what the disk's data waits for. */
  #waitedForAt(nowMs: number): number | undefined {
    const isHeld = nowMs - this.#heldMs < passingMs;
    const isHeard = nowMs - this.#saidMs < passingMs;
    // A disk that stands still for a moment is not a slow one, as long as it may be sent more.
    const writes = isHeld || (isHeard && Boolean(this.#written.perSecond));
    if (writes && this.applyMs > this.#downtimeMsMax) return this.#written.perSecond;
    return isHeld ? this.#started.perSecond : undefined;
  }

  /**
   * Whether the destination is what the disk's data waits for, and for how long has been long enough to see
   * how fast it is.
   */
  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** How long the destination takes to apply what it has, in ms, up to a minute; 0 if that is not known. */
  get applyMs(): number {
    const { waitingBytes } = this.#atPeer;
    if (this.#perSecond === undefined || waitingBytes === 0) return 0;
    return Math.min((1000 * waitingBytes) / this.#perSecond, applyMsMost);
  }

  /** What the guest writes, slowed by `throttle`, in bytes a second; 0 before that is known. */
  guestBytesPerSecond(throttle: number): number {
    return (this.#guest.perSecond ?? 0) * (1 - throttle);
  }

  /** Both rates, if the disk is slow; also for ten seconds after it was seen to be. */
  slow(throttle: number): DiskFlow | undefined {
    if (!this.#isSlow || this.#bytesPerSecond === undefined) return undefined;
    return { guestBytesPerSecond: this.guestBytesPerSecond(throttle), bytesPerSecond: this.#bytesPerSecond };
  }

  /** Both rates as they are now, if what waits there would take too much of a downtime. */
  behind(throttle: number): DiskFlow | undefined {
    const bytesPerSecond = this.#written.perSecondOver(spanMs);
    if (bytesPerSecond === undefined || this.applyMs <= applyPart * this.#downtimeMsMax) return undefined;
    return { guestBytesPerSecond: this.guestBytesPerSecond(throttle), bytesPerSecond };
  }
}
