/** What {@link mirrorBound} goes by. */
export interface MirrorBoundInputs {
  /** The policy's bound, in bytes; undefined: automatic. */
  readonly bytesMax: number | undefined;
  /** The policy's. */
  readonly downtimeMsMax: number;
  /** What the link carries; undefined if nothing was measured. */
  readonly bytesPerSecond?: number | undefined;
  /** The smallest round trip seen, in ms; 0, the default, if none was. */
  readonly roundTripMs?: number;
  /**
   * How long the guest would stand still if it were stunned now, in ms. Default: Infinity, as long as that
   * is not the question.
   */
  readonly expectedDowntimeMs?: number;
  /**
   * As things are: the bound, what waits or is on its way, and for how long the bound has been what it is.
   * Default: there is none yet.
   */
  readonly now?: { readonly boundBytes: number; readonly bufferedBytes: number; readonly elapsedMs: number };
}

/** What a guest writes in a burst is to find room, whatever the link. */
const automaticBytesMin = 64 << 20;
/** Twice what is on its way over a link that is full: as much again may wait. */
const bandwidthDelays = 2;
/**
 * Of the downtime: the rest of it is for pages, the flush, the device state, and for what a guest that is
 * held may write beyond the bound.
 */
const drainPart = 1 / 4;
/** The policy's range. */
const bytesLeast = 1 << 20;
const bytesMost = 4 * 1024 ** 3;

/**
 * It falls by half of what the link carries: a guest that writes less than half of that finds room all the
 * while, as what waits becomes less just as fast.
 */
const fallPart = 1 / 2;
/** ... and at once to so many times what is in it. */
const roomOver = 2;

/**
 * How many bytes of guest writes may wait for the link now: 1 MiB to 4 GiB. What the policy says, or else 64
 * MiB, or twice the bandwidth-delay product where that is more.
 *
 * The nearer the switchover, the less: sent at the measured rate, all of it is to take no more than a
 * quarter of the downtime that is expected as things are, or of the one that is allowed, whichever is
 * longer. (On a slow link the 1 MiB takes longer; then what does wait is weighed, as everything is.) Far
 * from it there is no reason to be so strict: what finds no room is read again from the disk, 64 KiB for
 * each small write. For that reason, too, it falls no faster than it can be drained.
 */
export function mirrorBound(inputs: MirrorBoundInputs): number {
  const { bytesMax, downtimeMsMax, bytesPerSecond = 0, roundTripMs = 0 } = inputs;
  const { expectedDowntimeMs = Number.POSITIVE_INFINITY, now } = inputs;
  const carriedIn = (ms: number) => (bytesPerSecond * ms) / 1000;
  const atMost = bytesMax ?? Math.max(automaticBytesMin, bandwidthDelays * carriedIn(roundTripMs));
  const drained = carriedIn(drainPart * Math.max(downtimeMsMax, expectedDowntimeMs));
  // Of a link of which nothing is known there is no reason for less.
  const wanted = bytesPerSecond > 0 ? Math.min(atMost, Math.max(bytesLeast, drained)) : atMost;
  const least =
    now === undefined
      ? 0
      : Math.min(roomOver * now.bufferedBytes, now.boundBytes - fallPart * carriedIn(now.elapsedMs));
  return Math.floor(Math.min(bytesMost, Math.max(wanted, least)));
}
