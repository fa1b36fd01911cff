/** What a QEMU is asked for to see whether an engine has left anything in it; of no test framework. */
import assert from 'node:assert/strict';
import type { Guest } from './guest.ts';

/** Everything about migrations that can be set. */
export interface MigrationSettingsSeen {
  readonly capabilities: unknown;
  readonly parameters: unknown;
}

/** How QEMU's migration is set up now. */
export async function migrationSettings(guest: Guest): Promise<MigrationSettingsSeen> {
  return {
    capabilities: await guest.qmp('query-migrate-capabilities'),
    parameters: await guest.qmp('query-migrate-parameters'),
  };
}

/**
 * Nothing of ours is left: no node, no job, no export, no NBD server, no migration under way, no throttle.
 */
export async function expectClean(guest: Guest): Promise<void> {
  const nodes = (await guest.qmp('query-named-block-nodes', { flat: true })) as { 'node-name': string }[];
  const ours = nodes.map((node) => node['node-name']).filter((name) => name.startsWith('longhaul-'));
  assert.deepEqual(ours, [], 'nodes are left');
  assert.deepEqual(await guest.qmp('query-block-exports'), [], 'exports are left');
  assert.deepEqual(await guest.qmp('query-jobs'), [], 'jobs are left');
  await assert.rejects(guest.qmp('nbd-server-stop'), /not running/, 'an NBD server is left');
  const { status = 'none' } = (await guest.qmp('query-migrate')) as { status?: string };
  assert(['none', 'completed', 'cancelled', 'failed'].includes(status), `a migration is ${status}`);
  assert.equal(await throttlePercent(guest), 0, 'a throttle is left');
}

/** By how much QEMU slows the guest's CPUs now. */
export async function throttlePercent(guest: Guest): Promise<number> {
  const migration = (await guest.qmp('query-migrate')) as { 'cpu-throttle-percentage'?: number };
  return migration['cpu-throttle-percentage'] ?? 0;
}
