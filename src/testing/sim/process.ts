import type { Environment } from '../../interfaces/environment.ts';
import { createPrng } from '../../util/prng.ts';
import { ProcessTie } from './engine-process.ts';
import type { NetworkTransport } from './network-transport.ts';
import { repeatCodec } from './repeat-codec.ts';
import type { OnStep, StepName } from './steps.ts';

/**
 * An engine's process on a simulated host: its timers, its chance, its connections, its tie to whatever it calls. Its code goes on in this
 * JavaScript process after it was killed, but has no effect on anything any more.
 */
export class SimulatedProcess {
  /** What its engine runs on: the timers of a dead process never fire. */
  readonly environment: Environment;
  readonly transport: NetworkTransport;
  readonly tie = new ProcessTie();
  /** Aborted when its caller wants it to end. */
  readonly caller = new AbortController();
  /** Aborted when it is to answer no more questions. */
  readonly closing = new AbortController();
  readonly #timers = new Set<() => void>();
  readonly #onStep: OnStep;

  /** `codec`: whether there is one. */
  constructor(
    environment: Environment,
    seed: number,
    transport: NetworkTransport,
    onStep: OnStep,
    codec = false,
  ) {
    this.transport = transport;
    this.#onStep = onStep;
    const prng = createPrng(seed);
    const own: Environment = {
      now: () => environment.now(),
      setTimer: (delayMs, callback) => {
        if (this.dead) return () => {};
        const over = () => this.#timers.delete(cancel);
        const stop = environment.setTimer(delayMs, () => {
          over();
          callback();
        });
        const cancel = () => {
          over();
          stop();
        };
        this.#timers.add(cancel);
        return cancel;
      },
      randomBytes: (length) => {
        const bytes = new Uint8Array(length);
        prng.fill(bytes);
        return bytes;
      },
    };
    this.environment = codec ? { ...own, codecs: [repeatCodec(own)] } : own;
  }

  get dead(): boolean {
    return this.tie.dead;
  }

  /** A call of a plug point is about to be made. */
  readonly step = (step: StepName): void => {
    if (!this.dead) this.#onStep(step);
  };

  kill(how: 'reset' | 'silent'): void {
    this.tie.cut();
    for (const cancel of [...this.#timers]) cancel();
    this.transport.kill(how);
  }

  /** Its work is done. */
  async close(): Promise<void> {
    if (this.dead) return;
    this.closing.abort();
    await this.transport.close();
  }
}
