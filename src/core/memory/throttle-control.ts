/** What {@link nextThrottle} goes by. */
export interface ThrottleInputs {
  /** The throttle in force while the guest dirtied at `dirtyBytesPerSecond`: 0 to 0.99. */
  readonly throttle: number;
  /** The hardest that is allowed: 0 to 0.99. */
  readonly throttleMax: number;
  /** How fast the guest dirtied memory, 0 or more. */
  readonly dirtyBytesPerSecond: number;
  /** How fast memory is sent, more than 0. */
  readonly sendBytesPerSecond: number;
}

/**
 * Send so many times faster than the guest dirties. Every round is then half of the one before at most: from 64 GiB to what a
 * gigabit carries in 300 ms are 11 rounds, and a guest below it is not slowed at all. Three times would save four rounds
 * and cost the guest a third of what is left to it.
 */
const outpace = 2;
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
 * The throttle for the next round: just enough that memory is sent {@link outpace} times faster than it is dirtied, in
 * limited steps. Takes for granted that a guest dirties in proportion to the time it is given; where it does not (a
 * small set of pages, dirtied again and again), the following rounds show it and the throttle goes on rising. In whole per cent, since
 * hypervisors take no finer ones; 0 to `throttleMax`. Never falls when the guest dirties faster or the link gets slower.
 */
export function nextThrottle(inputs: ThrottleInputs): number {
  const { throttle, throttleMax, dirtyBytesPerSecond, sendBytesPerSecond } = inputs;
  const unthrottled = dirtyBytesPerSecond / (1 - throttle);
  const needed = unthrottled > 0 ? 1 - sendBytesPerSecond / (outpace * unthrottled) : 0;
  const now = Math.round(throttle * 100);
  const stepped = clamp(Math.ceil(needed * 100 - rounding), now - stepDownPercent, now + stepUpPercent);
  return clamp(stepped, 0, Math.floor(throttleMax * 100 + rounding)) / 100;
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(Math.max(value, min), max);
}
