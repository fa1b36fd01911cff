import { MigrationError } from '../../errors.ts';
import { isSettled, pollUntil, queryMigration, settledMigration } from './migration-status.ts';
import { ownExports, removeExports } from './nbd-exports.ts';
import { OWN_PREFIX } from './own-prefix.ts';
import type { QmpClient } from './qmp.ts';
import { objectsOf } from './qmp-values.ts';

/** A migration whose reader died fails within some milliseconds. One that is still active after this is somebody's. */
const ABANDONED_MS_MAX = 1000;

/** In these a migration stays for ever when its engine died, with the guest stopped. */
const STUCK: ReadonlySet<string> = new Set(['pre-switchover', 'device', 'cancelling']);

/**
 * Takes away what an engine that died has left in this QEMU. A completed migration stays as it is: who owns the guest then is written in
 * the register, not here. Rejects with `invalid-state` if somebody else's migration is under way.
 */
export async function cleanLeftovers(qmp: QmpClient): Promise<void> {
  await endAbandonedMigration(qmp);
  await removeMirrors(qmp);
  await removeNodes(qmp);
  if ((await ownExports(qmp)).length === 0) return;
  await removeExports(qmp);
  const others = objectsOf(await qmp.execute('query-block-exports'), 'block exports');
  if (others.length === 0) await qmp.execute('nbd-server-stop');
}

async function endAbandonedMigration(qmp: QmpClient): Promise<void> {
  try {
    await pollUntil(
      (signal) => queryMigration(qmp, signal),
      (migration) => isSettled(migration) || STUCK.has(migration.status),
      () => 'a migration of this QEMU is under way already',
      ABANDONED_MS_MAX,
    );
  } catch (error) {
    throw new MigrationError('invalid-state', 'a migration of this QEMU is under way already', {
      cause: error,
    });
  }
  if (isSettled(await queryMigration(qmp))) return;
  await qmp.execute('migrate_cancel');
  await settledMigration(qmp);
}

/** Ends the mirror jobs of ours. */
async function removeMirrors(qmp: QmpClient): Promise<void> {
  for (const id of await ownJobs(qmp)) {
    // Nobody answers a dead engine's mirror any more. Cancelled while it waits for an answer, it would stop all of QEMU.
    await yank(qmp, id);
    await cancelMirror(qmp, id);
  }
}

/** Cuts a node's connection, so that nothing waits for it any more. */
async function yank(qmp: QmpClient, nodeName: string): Promise<void> {
  await qmp
    .execute('yank', { instances: [{ type: 'block-node', 'node-name': nodeName }] })
    // It has none any more.
    .catch(() => undefined);
}

/** Ends a mirror job whose server answers, or is gone, and resolves when it is over. Rejects with `hypervisor`. */
export async function cancelMirror(qmp: QmpClient, id: string): Promise<void> {
  // One that has ended by itself cannot be cancelled.
  await qmp.execute('block-job-cancel', { device: id, force: true }).catch(() => undefined);
  await pollUntil(
    (signal) => ownJobs(qmp, signal),
    (jobs) => !jobs.includes(id),
    () => `the mirror job ${id} does not end`,
  );
}

async function ownJobs(qmp: QmpClient, signal?: AbortSignal): Promise<readonly string[]> {
  const jobs = objectsOf(await qmp.execute('query-jobs', undefined, { signal }), 'jobs');
  return jobs.map(({ id }) => String(id)).filter((id) => id.startsWith(OWN_PREFIX));
}

/** A node whose server is dead fails every later migration, so none may be left. */
async function removeNodes(qmp: QmpClient): Promise<void> {
  const nodes = objectsOf(await qmp.execute('query-named-block-nodes', { flat: true }), 'block nodes');
  for (const node of nodes) {
    const name = String(node['node-name']);
    if (name.startsWith(OWN_PREFIX)) await qmp.execute('blockdev-del', { 'node-name': name });
  }
}
