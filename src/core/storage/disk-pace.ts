import { RateMeter } from '../../util/rate-meter.ts';
import { workOf } from '../../wire/work.ts';
import { Lasting } from '../lasting.ts';

/** What is written to a disk, and what it may have. */
export interface DiskFlow {
  /** What the guest writes, in bytes a second. */
  readonly guestBytesPerSecond: number;
  /** What the link carries, or the destination writes, in bytes a second. */
  readonly bytesPerSecond: number;
}

/** What the destination has to do for a disk. */
export interface DiskBacklog {
  /** Work that was begun in all, and that is left, as of its last word. */
  readonly begun: number;
  readonly left: number;
  /** ... and that it has not spoken of yet: it is on its way, or still to be read. */
  readonly coming: number;
}

/** What is seen of a disk at a moment. */
export interface DiskLook {
  readonly nowMs: number;
  /** What the guest has written in all, and in how many writes; undefined if that is not known now. */
  readonly guest: { readonly bytes: number; readonly writes: number } | undefined;
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
 * How fast a guest writes to a disk, and how fast the destination does. As long as work is left there, what
 * is begun is what the disk can; and at that rate it takes a time until none is. With the guest stunned,
 * that would be a part of the downtime.
 *
 * The disk is slow if that is longer than the guest may stand still, and the guest makes more work than is
 * begun. Or if so much is under way that no more is sent than is applied, and the guest writes faster than
 * that. Not if it is slower than the bulk copy would like: all that is begun, bulk copy or not, shows what it
 * could do for the guest. Nor while it is the link that is waited for: then nothing is left there. Pure: the
 * clock comes in with the looks.
 */
export class DiskPace {
  readonly #downtimeMsMax: number;
  readonly #guestBytes = new RateMeter();
  readonly #guestWork = new RateMeter();
  readonly #sent = new RateMeter();
  /** Of the time in which something was left. */
  readonly #begun = new RateMeter();
  /** Its rate, the last time that it was long enough; undefined if that was long ago. */
  #begunPerSecond: number | undefined;
  readonly #slow = new Lasting();
  #backlog: DiskBacklog = { begun: 0, left: 0, coming: 0 };
  /** When something was left last. */
  #leftMs = Number.NEGATIVE_INFINITY;
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
  backlog(nowMs: number, said: DiskBacklog | undefined): void {
    const isNew =
      said !== undefined && (said.left !== this.#backlog.left || said.begun !== this.#backlog.begun);
    this.#backlog = said ?? this.#backlog;
    if (isNew) {
      this.#saidMs = nowMs;
      this.#measure(nowMs);
    }
    if (said !== undefined && said.left > 0) {
      this.#leftMs = nowMs;
      return;
    }
    this.#begun.forget();
    // A disk that has nothing left does not show how fast it has become.
    if (this.#begunPerSecond === 0 || nowMs - this.#leftMs > knownMs) this.#begunPerSecond = undefined;
  }

  look({ nowMs, guest, sentBytes, isHeld, throttle }: DiskLook): void {
    if (guest !== undefined) {
      this.#guestBytes.look(nowMs, guest.bytes, 1 - throttle);
      this.#guestWork.look(nowMs, workOf(guest.bytes, guest.writes), 1 - throttle);
    }
    this.#sent.look(nowMs, sentBytes);
    if (isHeld) {
      this.#heldMs = nowMs;
      // One that has all that it may have, and says nothing, does nothing.
      this.#measure(nowMs);
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

  #measure(nowMs: number): void {
    this.#begun.look(nowMs, this.#backlog.begun);
    // That nothing is begun in a moment says nothing.
    const perSecond = this.#begun.perSecondOver(spanMs) || this.#begun.perSecond;
    this.#begunPerSecond = perSecond ?? this.#begunPerSecond;
  }

  /** How fast the destination is, if it is what the disk's data waits for, in bytes a second. */
  #waitedForAt(nowMs: number): number | undefined {
    const isHeld = nowMs - this.#heldMs < passingMs;
    const isHeard = nowMs - this.#saidMs < passingMs;
    const { perSecond } = this.#begun;
    // A disk that stands still for a moment is not a slow one, as long as it may be sent more.
    const works = isHeld || (isHeard && Boolean(perSecond));
    if (works && this.applyMs > this.#downtimeMsMax) return this.#ofGuestWrites(perSecond);
    return isHeld ? this.#sent.perSecond : undefined;
  }

  /** So much work a second, in bytes of writes like the guest's. */
  #ofGuestWrites(workPerSecond: number | undefined): number | undefined {
    const work = this.#guestWork.perSecond;
    const bytes = this.#guestBytes.perSecond;
    if (workPerSecond === undefined || !work || bytes === undefined) return undefined;
    return (workPerSecond * bytes) / work;
  }

  /**
   * Whether the destination is what the disk's data waits for, and for how long has been long enough to see
   * how fast it is.
   */
  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** How long the destination takes for what is left there or coming, in ms, up to a minute; 0 if that is not known, as of a disk that never had anything left. */
  get applyMs(): number {
    const { left, coming } = this.#backlog;
    if (this.#begunPerSecond === undefined || left + coming === 0) return 0;
    return Math.min((1000 * (left + coming)) / this.#begunPerSecond, applyMsMost);
  }

  /** Whether something is left there, and it is not known how long that takes. */
  get isUnknown(): boolean {
    return this.#begunPerSecond === undefined && this.#backlog.left > 0;
  }

  /** What the guest writes, slowed by `throttle`, in bytes a second; 0 before that is known. */
  guestBytesPerSecond(throttle: number): number {
    return (this.#guestBytes.perSecond ?? 0) * (1 - throttle);
  }

  /** Both rates, if the disk is slow; also for ten seconds after it was seen to be. */
  slow(throttle: number): DiskFlow | undefined {
    if (!this.#isSlow || this.#bytesPerSecond === undefined) return undefined;
    return { guestBytesPerSecond: this.guestBytesPerSecond(throttle), bytesPerSecond: this.#bytesPerSecond };
  }

  /** Both rates as they are now, if what is left there would take too much of a downtime. */
  behind(throttle: number): DiskFlow | undefined {
    const bytesPerSecond = this.#ofGuestWrites(this.#begunPerSecond);
    if (!bytesPerSecond || this.applyMs <= applyPart * this.#downtimeMsMax) return undefined;
    return { guestBytesPerSecond: this.guestBytesPerSecond(throttle), bytesPerSecond };
  }
}
