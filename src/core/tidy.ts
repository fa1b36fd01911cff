import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import { withTimeout } from '../util/promises.ts';

/** A step that takes longer than this does not keep the others waiting: hypervisors answer within milliseconds. */
const stepMsMax = 10_000;

/** Runs every step in order, whatever the others did; resolves to what they threw, or failed to finish. */
export async function tidy(
  environment: Environment,
  steps: readonly (() => Promise<unknown>)[],
): Promise<readonly unknown[]> {
  const problems: unknown[] = [];
  const late = () => new MigrationError('timeout', `a clean-up step took more than ${stepMsMax} ms`);
  for (const step of steps) {
    try {
      await withTimeout(environment, stepMsMax, step(), late);
    } catch (error) {
      problems.push(error);
    }
  }
  return problems;
}
