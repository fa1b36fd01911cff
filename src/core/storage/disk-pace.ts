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
  /** What was sent in all. */
  readonly sentBytes: number;
  /** Whether more waits for the destination to apply what it has. */
  readonly isHeld: boolean;
  /** The throttle since the look before, 0 to 0.99. */
  readonly throttle: number;
}

/** A guest that writes as fast as the disk does is not outrunning it: the figures are of a moment or two. */
const margin = 1.1;
/**
 * So many looks in a row have to find that nothing is held: at one alone what was let through just then may
 * wait for its turn.
 */
const freeLooks = 2;
/** A disk that was slow may be faster later; and a guest that was slowed for it would never show that. */
const knownMs = 10_000;

/**
 * How fast a guest writes to a disk, and how fast the destination does. What may be under way and not
 * applied is bounded, so while it is that bound which holds a disk's data back, as much is sent as is
 * applied; while it is the link, nothing is known of the disk.
 *
 * The disk is slow if the guest writes faster than that. Not if it is slower than the bulk copy would like:
 * all that is applied, bulk copy or not, shows what it could do for the guest. Pure: the clock comes in with
 * the looks.
 */
export class DiskPace {
  readonly #guest = new RateMeter();
  /** Of the time in which the destination was waited for. */
  readonly #held = new RateMeter();
  readonly #slow = new Lasting();
  #freeLooks = freeLooks;
  #bytesPerSecond: number | undefined;
  #seenMs = 0;
  #isSlow = false;

  look({ nowMs, guestBytes, sentBytes, isHeld, throttle }: DiskLook): void {
    if (guestBytes !== undefined) this.#guest.look(nowMs, guestBytes, 1 - throttle);
    this.#freeLooks = isHeld ? 0 : this.#freeLooks + 1;
    if (this.#freeLooks < freeLooks) this.#held.look(nowMs, sentBytes);
    else this.#held.forget();
    const { perSecond } = this.#held;
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

  /**
   * Whether the destination is what the disk's data waits for, and for how long has been long enough to see
   * how fast it is.
   */
  get isHeld(): boolean {
    return this.#held.perSecond !== undefined;
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
}
