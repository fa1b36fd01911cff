import type { Codec } from './codec.ts';

/** Cancels a timer; calling it again, or after it fired, does nothing. */
export type CancelTimer = () => void;

/**
 * Time, chance and codecs, for code that has no other source of them. The default is the running process; a
 * simulator brings its own.
 */
export interface Environment {
  /** A monotonic clock in milliseconds, with fractions. Its zero means nothing. */
  now(): number;
  /** Calls `callback` once, `delayMs` (>= 0) from now at the earliest. */
  setTimer(delayMs: number, callback: () => void): CancelTimer;
  /** `length` unpredictable bytes: session identities and nonces. */
  randomBytes(length: number): Uint8Array;
  /** Codecs that content may be compressed with, those to be preferred first. Default: none, and then nothing is compressed. */
  readonly codecs?: readonly Codec[];
}
