/**
 * A guest and its disk moved by QEMU alone, as well as it can do so without losing writes: the disk with
 * blockdev-mirror in write-blocking mode over NBD, then memory with multifd, each QEMU in its own namespace.
 * How an orchestrator does it: the guest is stopped, the mirror ends, the destination's NBD server is closed,
 * and the migration completes.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { watchCpu } from './guest-moves.js';

const mirrorPort = 10809;
const migrationPort = 4444;
const channels = 4;
/** How often QEMU is asked how far it is, in ms. */
const pollMs = 10;

/**
 * @typedef {import('./guest-moves.js').Stage} Stage
 * @typedef {import('./guest-moves.js').Moved} Moved
 * @typedef {import('../support/guest-load.js').Guest} Guest
 */

/** @returns {(stage: Stage) => Promise<Moved>} */
export function byQemu() {
  return async (stage) => {
    const { laboratory, source, destination, holds, begin } = stage;
    stage.howFar = async () => {
      const [job] = /** @type {any[]} */ (await source.qmp('query-block-jobs'));
      const { status = 'none' } = /** @type {any} */ (await source.qmp('query-migrate'));
      const mirrored = job === undefined ? '' : `, ${((100 * job.offset) / job.len).toFixed(0)} % mirrored`;
      return `migration ${status}${mirrored}`;
    };
    const host = laboratory.addresses[0]?.b ?? '';
    await destination.qmp('nbd-server-start', {
      addr: { type: 'inet', data: { host, port: String(mirrorPort) } },
    });
    const exported = { type: 'nbd', id: 'disk', 'node-name': 'disk0', name: 'disk0', writable: true };
    await destination.qmp('block-export-add', exported);
    for (const guest of [source, destination]) await prepare(guest);
    await destination.qmp('migrate-incoming', { uri: `tcp:${host}:${migrationPort}` });

    const usage = watchCpu({ 'source QEMU': source.pid, 'destination QEMU': destination.pid });
    await begin();
    await usage.begin();
    const startMs = performance.now();
    const { bytesWritten: bytesAtStart } = await source.stats();
    const server = { type: 'inet', host, port: String(mirrorPort) };
    await source.qmp('blockdev-add', { driver: 'nbd', 'node-name': 'target', server, export: 'disk0' });
    await source.qmp('blockdev-mirror', {
      'job-id': 'mirror',
      device: 'disk0',
      target: 'target',
      sync: 'full',
      'copy-mode': 'write-blocking',
      granularity: 8192,
    });
    await until(source, 'query-block-jobs', (jobs) => {
      if (jobs.length === 0) throw new Error('the mirror has ended');
      return jobs[0].ready;
    });
    const mirroredMs = performance.now() - startMs;
    await source.qmp('migrate', { uri: `tcp:${host}:${migrationPort}` });
    await until(source, 'query-migrate', isAt('pre-switchover'));
    const stunMs = performance.now();
    const cpu = await usage.end();
    await source.qmp('block-job-cancel', { device: 'mirror' });
    await until(source, 'query-block-jobs', (jobs) => jobs.length === 0);
    await destination.qmp('nbd-server-stop');
    await source.qmp('migrate-continue', { state: 'pre-switchover' });
    const migration = await until(source, 'query-migrate', isAt('completed'));
    await until(destination, 'query-status', ({ status }) => status === 'running');
    const totalMs = performance.now() - startMs;
    // A few writes more than were mirrored: those that it has made there since.
    const { bytesWritten: bytesAtEnd } = await destination.stats();
    return {
      startMs,
      stunMs,
      totalMs,
      downtimeMs: migration.downtime,
      bytes: {
        first: holds.memory + holds.disk,
        mirrored: bytesAtEnd - bytesAtStart,
        again: migration.ram.transferred - holds.memory,
      },
      cpu,
      told: { mirroredMs, migration },
    };
  };
}

/** @param {Guest} guest */
async function prepare(guest) {
  const on = ['multifd', 'pause-before-switchover'];
  await guest.qmp('migrate-set-capabilities', {
    capabilities: on.map((capability) => ({ capability, state: true })),
  });
  await guest.qmp('migrate-set-parameters', { 'multifd-channels': channels, 'max-bandwidth': 10 ** 11 });
}

/** @param {string} wanted */
function isAt(wanted) {
  return (/** @type {any} */ { status, 'error-desc': reason }) => {
    if (status === 'failed' || status === 'cancelled') throw new Error(`the migration ${status}: ${reason}`);
    return status === wanted;
  };
}

/**
 * Asks until the answer is right, and resolves to it.
 *
 * @param {Guest} guest @param {string} command @param {(answer: any) => boolean} isRight
 */
async function until(guest, command, isRight) {
  for (;;) {
    const answer = /** @type {any} */ (await guest.qmp(command));
    if (isRight(answer)) return answer;
    await sleep(pollMs);
  }
}
