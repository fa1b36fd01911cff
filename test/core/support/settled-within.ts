import type { MigrationReport } from '../../../src/index.ts';
import type { VirtualEnvironment } from '../../support/virtual-environment.ts';
import type { World } from '../../support/worlds.ts';

/**
 * Runs virtual time until the promise settles, and hands on how. Rejects if it has not within `limitMs`, as
 * of a migration that hangs.
 */
export async function settledWithin<T>(
  environment: VirtualEnvironment,
  limitMs: number,
  promise: Promise<T>,
): Promise<T> {
  let cancel = () => {};
  const late = new Promise<never>((_, reject) => {
    cancel = environment.setTimer(limitMs, () => reject(new Error(`not settled after ${limitMs} ms`)));
  });
  try {
    return await environment.run(Promise.race([promise, late]));
  } finally {
    cancel();
  }
}

/**
 * Runs both ends of a migration to their reports, each with its signal. Rejects if they take more than
 * `limitMs`.
 */
export async function runWithin(
  { environment, source, destination }: World,
  limitMs: number,
  signals: { readonly source?: AbortSignal; readonly destination?: AbortSignal } = {},
): Promise<{ readonly source: MigrationReport; readonly destination: MigrationReport }> {
  const both = Promise.all([
    source.run({ signal: signals.source }),
    destination.run({ signal: signals.destination }),
  ]);
  const [sourceReport, destinationReport] = await settledWithin(environment, limitMs, both);
  return { source: sourceReport, destination: destinationReport };
}
