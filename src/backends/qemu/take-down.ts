import { MigrationError } from '../../errors.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import type { QmpClient } from './qmp.ts';

/** A step of taking something away. */
export type Step = () => Promise<unknown>;

/** Each step takes QEMU some milliseconds, and one that is stuck has given up by itself before. Exported for its test. */
export const TAKE_DOWN_MS_MAX = 30_000;

/** Runs every step in order, whatever came of the others. Rejects with what the first that failed rejected with, once all are done. */
export async function everyStep(steps: readonly Step[]): Promise<void> {
  const errors: unknown[] = [];
  for (const step of steps) await step().catch((error: unknown) => errors.push(error));
  if (errors.length > 0) throw errors[0];
}

/** As {@link everyStep}, but all at once. */
export async function everyStepAtOnce(steps: readonly Step[]): Promise<void> {
  const results = await Promise.allSettled(steps.map((step) => step()));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/**
 * Takes away what is ours in a QEMU, as {@link everyStep} does. Where QEMU has ended, or ends, there is nothing to take away, and what failed of it
 * does not count. A QEMU that has not answered all of it in 30 s is left as it is: the connection to it is dropped, so that nothing waits
 * for it any more, and this rejects with `timeout`.
 */
export async function takeDown(qmp: QmpClient, steps: readonly Step[]): Promise<void> {
  const message = `QEMU has not answered for ${TAKE_DOWN_MS_MAX / 1000} s: what is ours in it was left there`;
  const late = new MigrationError('timeout', message);
  const cancel = nodeEnvironment.setTimer(TAKE_DOWN_MS_MAX, () => qmp.abort(late));
  try {
    await everyStep(steps);
  } catch (error) {
    if (qmp.failure === undefined || qmp.failure === late) throw error;
  } finally {
    cancel();
  }
  if (qmp.failure === late) throw late;
}
