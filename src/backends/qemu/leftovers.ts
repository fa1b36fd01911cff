import { MigrationError } from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import { isSettled, pollUntil, queryMigration, queryRunState } from './migration-status.ts';
import { ownExports, removeExports } from './nbd-exports.ts';
import { OWN_PREFIX } from './own-prefix.ts';
import { type QmpClient, type QmpObject, qmpCommandError } from './qmp.ts';
import { objectsOf } from './qmp-values.ts';

/**
 * A migration whose reader died fails within some milliseconds, whatever its state, and QEMU runs the guest on. One that is
 * under way after this is somebody's, and is not cancelled: QEMU would run the guest, which may run at its destination already.
 */
const ABANDONED_MS_MAX = 1000;

/**
 * A node that is there while the guest stands still by a `stop` of ours, and ran before. After a migration that died QEMU runs its guest on by itself;
 * after that `stop` nobody would. Such a guest was never given away: it stands still for a copy of its disks.
 */
const RUN_ON_MARK = `${OWN_PREFIX}run-on`;

/** What a mirror job is before it is ready. */
const BEGINNING: ReadonlySet<unknown> = new Set(['created', 'running', 'paused']);

/**
 * Takes away what an engine that died has left in this QEMU, and runs on a guest that it has stopped. A completed migration stays as it is: who owns the guest then is written in
 * the register, not here. Rejects with `invalid-state` if somebody else's migration is under way, `hypervisor`, `aborted`.
 */
export async function cleanLeftovers(qmp: QmpClient, options: CallOptions = {}): Promise<void> {
  await awaitAbandonedMigration(qmp);
  await removeMirrors(qmp, options);
  await runOn(qmp);
  await removeNodes(qmp, options);
  if ((await ownExports(qmp, options.signal)).length === 0) return;
  await removeExports(qmp, options);
  const others = objectsOf(await qmp.execute('query-block-exports', undefined, options), 'block exports');
  if (others.length === 0) await qmp.execute('nbd-server-stop', undefined, options);
}

/** To be called before a guest that runs is stopped for a copy of its disks: {@link runOn} runs it then, whoever calls that. Rejects with `hypervisor`, `aborted`. */
export async function markToRunOn(qmp: QmpClient, options: CallOptions = {}): Promise<void> {
  await qmp.execute('blockdev-add', { driver: 'null-co', 'node-name': RUN_ON_MARK }, options);
}

/** Runs a guest that stands still and was marked for it, and takes the mark away. Rejects with `hypervisor`. */
export async function runOn(qmp: QmpClient): Promise<void> {
  if (!(await ownNodes(qmp)).includes(RUN_ON_MARK)) return;
  if ((await queryRunState(qmp)) === 'paused') await continueGuest(qmp);
  await removeNode(qmp, RUN_ON_MARK);
}

/** Runs the guest, and makes sure that it does. Rejects with `hypervisor`. */
export async function continueGuest(qmp: QmpClient): Promise<void> {
  await pollUntil(
    async (signal) => {
      await qmp.execute('cont', undefined, { signal });
      return await queryRunState(qmp, signal);
    },
    (runState) => runState === 'running',
    (runState) => `told to run, the guest stays in ${runState}`,
  );
}

async function awaitAbandonedMigration(qmp: QmpClient): Promise<void> {
  try {
    await pollUntil(
      (signal) => queryMigration(qmp, signal),
      isSettled,
      ({ status }) => `it stays ${status}`,
      ABANDONED_MS_MAX,
    );
  } catch (error) {
    throw new MigrationError('invalid-state', 'a migration of this QEMU is under way already', {
      cause: error,
    });
  }
}

/** Ends the mirror jobs of ours. */
async function removeMirrors(qmp: QmpClient, options: CallOptions): Promise<void> {
  for (const job of await ownJobs(qmp, options.signal)) {
    const id = String(job.id);
    // Nobody answers a dead engine's mirror any more. Cancelled while it waits for an answer, it would stop all of QEMU.
    await yank(qmp, id, options);
    await cancelMirror(qmp, id);
  }
}

/** Cuts a node's connection, so that nothing waits for it any more. */
async function yank(qmp: QmpClient, nodeName: string, options: CallOptions): Promise<void> {
  try {
    await qmp.execute('yank', { instances: [{ type: 'block-node', 'node-name': nodeName }] }, options);
  } catch (error) {
    // It has none any more.
    if (qmpCommandError(error) === undefined) throw error;
  }
}

/**
 * Ends a mirror job whose server answers, or is gone, and resolves when it is over. Rejects with `hypervisor`.
 *
 * It is asked, not forced, and not before it is ready, when asking would be forcing: a job that is forced to
 * its end first frees its bitmaps, and only then waits for the guest's writes that are under way, which still
 * change them (seen in QEMU 10.0). QEMU then crashes now and then, with the guest in it. Asked, it waits first.
 */
export async function cancelMirror(qmp: QmpClient, id: string): Promise<void> {
  const status = async (signal: AbortSignal): Promise<unknown> =>
    (await ownJobs(qmp, signal)).find((job) => job.id === id)?.status;
  await pollUntil(
    status,
    (now) => !BEGINNING.has(now),
    () => `the mirror job ${id} does not begin`,
  );
  // One that has ended by itself cannot be cancelled. Commands are answered in order, so what follows has its limit for both.
  qmp.execute('block-job-cancel', { device: id }).catch(() => undefined);
  await pollUntil(
    status,
    (now) => now === undefined,
    () => `the mirror job ${id} does not end`,
  );
}

async function ownJobs(qmp: QmpClient, signal?: AbortSignal): Promise<readonly QmpObject[]> {
  const jobs = objectsOf(await qmp.execute('query-jobs', undefined, { signal }), 'jobs');
  return jobs.filter(({ id }) => String(id).startsWith(OWN_PREFIX));
}

/** A node whose server is dead fails every later migration, so none may be left. */
async function removeNodes(qmp: QmpClient, options: CallOptions): Promise<void> {
  for (const name of await ownNodes(qmp, options)) {
    await qmp.execute('blockdev-del', { 'node-name': name }, options);
  }
}

/** Removes a node of ours; one that is gone already counts as removed. Rejects with `hypervisor`. */
export async function removeNode(qmp: QmpClient, name: string): Promise<void> {
  if ((await ownNodes(qmp)).includes(name)) await qmp.execute('blockdev-del', { 'node-name': name });
}

async function ownNodes(qmp: QmpClient, options: CallOptions = {}): Promise<readonly string[]> {
  const nodes = objectsOf(
    await qmp.execute('query-named-block-nodes', { flat: true }, options),
    'block nodes',
  );
  return nodes.map((node) => String(node['node-name'])).filter((name) => name.startsWith(OWN_PREFIX));
}
