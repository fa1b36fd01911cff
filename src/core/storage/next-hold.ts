import { outpace } from '../memory/throttle-control.ts';
import type { DiskFlow } from './disk-pace.ts';

/** What {@link nextHold} goes by. */
export interface HoldInputs {
  /** For how long a guest write may be held now, in ms: 0 to `holdMsMax`. */
  readonly holdMs: number;
  /** The longest that is allowed, in ms. */
  readonly holdMsMax: number;
  /**
   * What is written to disks, and what they may have: all of them over the link, and each that is slow at
   * the destination.
   */
  readonly flows: readonly DiskFlow[];
  /** Whether what the guest writes has to be set back. */
  readonly behind: boolean;
}

/** The first hold is this part of the longest: five looks from nothing to all of it. */
const firstPart = 1 / 16;

/**
 * For how long a guest write may be held from now on, in ms: 0 to `holdMsMax`. Twice as long while the guest
 * writes so much that nothing is left for what was set back; half as long, and then none, when it does not.
 * While it is the hold that makes it fit, the hold stays.
 */
export function nextHold({ holdMs, holdMsMax, flows, behind }: HoldInputs): number {
  const first = firstPart * holdMsMax;
  const outruns = flows.some(
    ({ guestBytesPerSecond, bytesPerSecond }) => outpace * guestBytesPerSecond > bytesPerSecond,
  );
  if (!outruns) return holdMs / 2 < first ? 0 : holdMs / 2;
  return behind ? Math.min(holdMsMax, Math.max(first, 2 * holdMs)) : holdMs;
}
