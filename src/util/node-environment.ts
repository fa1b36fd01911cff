import { randomBytes } from 'node:crypto';
import type { Environment } from './environment.ts';
import { nodeCodecs } from './node-codecs.ts';

/** The running process's own clock, timers and randomness, and the codecs that it can have. */
export const nodeEnvironment: Environment = {
  now: () => performance.now(),
  setTimer(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
  randomBytes: (length) => new Uint8Array(randomBytes(length)),
  get codecs() {
    return nodeCodecs();
  },
};
