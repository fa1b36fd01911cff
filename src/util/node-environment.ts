import { randomBytes } from 'node:crypto';
import type { Environment } from './environment.ts';

/** The running process's own clock, timers and randomness. */
export const nodeEnvironment: Environment = {
  now: () => performance.now(),
  setTimer(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
  randomBytes: (length) => new Uint8Array(randomBytes(length)),
};
