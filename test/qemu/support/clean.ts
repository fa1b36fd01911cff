/** What a QEMU is asked for to see whether an engine has left anything in it. */
import { expect } from 'vitest';
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
  expect(nodes.map((node) => node['node-name']).filter((name) => name.startsWith('longhaul-'))).toEqual([]);
  expect(await guest.qmp('query-block-exports')).toEqual([]);
  expect(await guest.qmp('query-jobs')).toEqual([]);
  await expect(guest.qmp('nbd-server-stop')).rejects.toThrow(/not running/);
  const { status = 'none' } = (await guest.qmp('query-migrate')) as { status?: string };
  expect(['none', 'completed', 'cancelled', 'failed']).toContain(status);
  expect(await throttlePercent(guest)).toBe(0);
}

/** By how much QEMU slows the guest's CPUs now. */
export async function throttlePercent(guest: Guest): Promise<number> {
  const migration = (await guest.qmp('query-migrate')) as { 'cpu-throttle-percentage'?: number };
  return migration['cpu-throttle-percentage'] ?? 0;
}
