import type { DiskFlow } from '../storage/disk-pace.ts';

/** What {@link nextThrottle} goes by. */
export interface ThrottleInputs {
  /** The throttle in force while the guest dirtied at `dirtyBytesPerSecond`: 0 to 0.99. */
  readonly throttle: number;
  /** The hardest that is allowed: 0 to 0.99. */
  readonly throttleMax: number;
  /** How fast the guest dirtied memory, 0 or more. */
  readonly dirtyBytesPerSecond: number;
  /** How fast the link carries everything, more than 0. */
  readonly sendBytesPerSecond: number;
  /** How fast the guest wrote to disks, 0 or more. Default 0. */
  readonly diskBytesPerSecond?: number;
  /** Whether more has gathered of what is written to disks than a switchover could take along. Default false. */
  readonly behind?: boolean;
  /** Disks that the destination writes slowly. Default none. */
  readonly slowDisks?: readonly DiskFlow[];
}

/**
 * Send so many times faster than the guest dirties. Every round is then half of the one before at most: from 64 GiB to what a
 * gigabit carries in 300 ms are 11 rounds, and a guest below it is not slowed at all. Three times would save four rounds
 * and cost the guest a third of what is left to it.
 */
export const outpace = 2;
/**
 * The throttle rises by this in one round at most. That fewer pages are dirtied shows only a round later, and a guest is not always
 * slowed in proportion: a larger step overshoots. (QEMU's auto-converge begins with the same 20 %.)
 */
const stepUpPercent = 20;
/** It is released more slowly than it rises, so that one quiet round does not undo it. */
const stepDownPercent = 5;
/** Keeps what is a whole per cent but for rounding from being taken for the next one. */
const rounding = 1e-6;

/**
 * The throttle for the next round, just enough for all of these, in limited steps:
 *
 * - Memory is sent {@link outpace} times faster than it is dirtied, with what mirrored guest writes leave of the link.
 * - Where too much has gathered, written to disks and not sent, the guest's writes take no more than one part in as many of the link: the mirror's share of it
 *   when everything wants it, so that nothing more is set back, and the rest becomes less.
 * - They take no more than that of what a slow disk at the destination writes, so that what waits for it there becomes less.
 *
 * Takes for granted that a guest dirties memory and writes disks in proportion to the time it is given; where it does not (a
 * small set of pages, dirtied again and again), the following rounds show it and the throttle goes on rising. In whole per cent, since
 * hypervisors take no finer ones; 0 to `throttleMax`. Never falls when the guest dirties or writes faster, or the link or a disk gets slower.
 */
export function nextThrottle(inputs: ThrottleInputs): number {
  const { throttle, throttleMax, dirtyBytesPerSecond, sendBytesPerSecond } = inputs;
  const { diskBytesPerSecond = 0, behind = false, slowDisks = [] } = inputs;
  const needed = Math.max(
    neededFor(outpace * dirtyBytesPerSecond + diskBytesPerSecond, sendBytesPerSecond, throttle),
    behind ? neededFor(outpace * diskBytesPerSecond, sendBytesPerSecond, throttle) : 0,
    ...slowDisks.map((disk) => neededFor(outpace * disk.guestBytesPerSecond, disk.bytesPerSecond, throttle)),
  );
  const now = Math.round(throttle * 100);
  const stepped = clamp(Math.ceil(needed * 100 - rounding), now - stepDownPercent, now + stepUpPercent);
  return clamp(stepped, 0, Math.floor(throttleMax * 100 + rounding)) / 100;
}

/** The throttle with which a load that was seen with `throttle` would be `bytesPerSecond`; below 0 if it would be less without one. */
function neededFor(load: number, bytesPerSecond: number, throttle: number): number {
  return load > 0 ? 1 - (bytesPerSecond * (1 - throttle)) / load : 0;
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(Math.max(value, min), max);
}
