/** Cancels a timer; calling it again, or after it fired, does nothing. */
export type CancelTimer = () => void;

/**
 * Time and chance for the engine, which has no other source of either. The default is the running process; a
 * simulator brings its own.
 */
export interface Environment {
  /** A monotonic clock in milliseconds, with fractions. Its zero means nothing. */
  now(): number;
  /** Calls `callback` once, `delayMs` (>= 0) from now at the earliest. */
  setTimer(delayMs: number, callback: () => void): CancelTimer;
  /** `length` unpredictable bytes: session identities and nonces. */
  randomBytes(length: number): Uint8Array;
}
