import { asMigrationError, type ErrorCode, MigrationError } from '../../errors.ts';
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
/** In its last pass QEMU may be deaf, and what it would say is not worth waiting for. */
const EXPLAIN_MS_MAX = 500;
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

/** How often QEMU has looked for dirty pages in the migration that is under way: each time it begins a pass. 0 if there is none. */
export async function queryPasses(qmp: QmpClient, signal?: AbortSignal): Promise<number> {
  const { ram } = objectOf(await qmp.execute('query-migrate', undefined, { signal }), 'migration');
  const count = ram === undefined ? 0 : objectOf(ram, 'RAM')['dirty-sync-count'];
  return typeof count === 'number' ? count : 0;
}

/** The run state, for example `running`, `paused`, `postmigrate`. */
export async function queryRunState(qmp: QmpClient, signal?: AbortSignal): Promise<string> {
  const answer = objectOf(await qmp.execute('query-status', undefined, { signal }), 'run state');
  return optionalString(answer.status) ?? 'unknown';
}

/** An error with that code, and with what QEMU says of its migration, if it can be asked. What is no failure of QEMU's stays as it is. */
export async function explain(qmp: QmpClient, error: unknown, code: ErrorCode): Promise<MigrationError> {
  const known = asMigrationError(error, code);
  if (known.code !== 'hypervisor') return known;
  const reason = await within(
    EXPLAIN_MS_MAX,
    () => 'QEMU does not answer',
    async (signal) => (await queryMigration(qmp, signal)).error,
  ).catch(() => undefined);
  const message = reason === undefined ? known.message : `${known.message} (${reason})`;
  return new MigrationError(code, message, { cause: error });
}

/** Asks until the migration is over. Rejects with `hypervisor` if that takes longer than anything that is not stuck. */
export async function settledMigration(qmp: QmpClient): Promise<MigrationStatus> {
  return await pollUntil(
    (signal) => queryMigration(qmp, signal),
    isSettled,
    ({ status }) => `QEMU's migration stays ${status}`,
  );
}

/** Does what has to be done within a time. Past it the signal is aborted with `hypervisor` and the complaint. */
export async function within<T>(
  limitMs: number,
  complaint: () => string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const limit = new AbortController();
  const cancel = nodeEnvironment.setTimer(limitMs, () =>
    limit.abort(new MigrationError('hypervisor', complaint())),
  );
  try {
    return await work(limit.signal);
  } finally {
    cancel();
  }
}

/** Asks until the answer is as wanted. Rejects with `hypervisor` past the limit, also when QEMU does not answer at all. */
export async function pollUntil<T>(
  ask: (signal: AbortSignal) => Promise<T>,
  wanted: (answer: T) => boolean,
  stuck: (answer: T) => string,
  limitMs: number = SETTLE_MS_MAX,
): Promise<T> {
  let complaint = 'QEMU does not answer';
  return await within(
    limitMs,
    () => complaint,
    async (signal) => {
      for (;;) {
        const answer = await ask(signal);
        if (wanted(answer)) return answer;
        complaint = stuck(answer);
        await delay(nodeEnvironment, POLL_MS, signal);
      }
    },
  );
}
