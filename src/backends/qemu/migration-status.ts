import { MigrationError } from '../../errors.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import { delay } from '../../util/promises.ts';
import type { QmpClient } from './qmp.ts';
import { objectOf, optionalString } from './qmp-values.ts';

/** What `query-migrate` says. */
export interface MigrationStatus {
  /** `none` if there has not been any. */
  readonly status: string;
  /** Why it failed, or will fail. */
  readonly error: string | undefined;
}

/** A migration is over, or was never begun, in these. In any other it may change by itself. */
const SETTLED: ReadonlySet<string> = new Set(['none', 'completed', 'failed', 'cancelled']);

/** How long to wait for a change that takes QEMU a few milliseconds, before it is called stuck. */
const SETTLE_MS_MAX = 15_000;
/** QEMU tells of these changes by event only if asked to, and then also of each pass, of which there may be thousands a second. */
const POLL_MS = 1;

/** Whether a migration is over, or was never begun. */
export function isSettled({ status }: MigrationStatus): boolean {
  return SETTLED.has(status);
}

/** Asks once. */
export async function queryMigration(qmp: QmpClient, signal?: AbortSignal): Promise<MigrationStatus> {
  const answer = objectOf(await qmp.execute('query-migrate', undefined, { signal }), 'migration');
  return { status: optionalString(answer.status) ?? 'none', error: optionalString(answer['error-desc']) };
}

/** The run state, for example `running`, `paused`, `postmigrate`. */
export async function queryRunState(qmp: QmpClient, signal?: AbortSignal): Promise<string> {
  const answer = objectOf(await qmp.execute('query-status', undefined, { signal }), 'run state');
  return optionalString(answer.status) ?? 'unknown';
}

/** Asks until the migration is over. Rejects with `hypervisor` if that takes longer than anything that is not stuck. */
export async function settledMigration(qmp: QmpClient): Promise<MigrationStatus> {
  return await pollUntil(
    (signal) => queryMigration(qmp, signal),
    isSettled,
    ({ status }) => `QEMU's migration stays ${status}`,
  );
}

/** Asks until the answer is as wanted. Rejects with `hypervisor` past the limit, also when QEMU does not answer at all. */
export async function pollUntil<T>(
  ask: (signal: AbortSignal) => Promise<T>,
  wanted: (answer: T) => boolean,
  stuck: (answer: T) => string,
  limitMs: number = SETTLE_MS_MAX,
): Promise<T> {
  const limit = new AbortController();
  let complaint = 'QEMU does not answer';
  const cancel = nodeEnvironment.setTimer(limitMs, () =>
    limit.abort(new MigrationError('hypervisor', complaint)),
  );
  try {
    for (;;) {
      const answer = await ask(limit.signal);
      if (wanted(answer)) return answer;
      complaint = stuck(answer);
      await delay(nodeEnvironment, POLL_MS, limit.signal);
    }
  } finally {
    cancel();
  }
}
