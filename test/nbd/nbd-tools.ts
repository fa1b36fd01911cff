import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import type { NbdAddress } from '../../src/backends/nbd/nbd-server.ts';
import { untilListening } from './nbd-fixtures.ts';

/** Programs of others that speak NBD, which scripts/setup-nbd-tools.sh and scripts/setup-qemu.sh install. */

const TOOLS = ['nbdinfo', 'nbdcopy', 'nbdkit', 'fio', 'qemu-io', 'qemu-img', 'qemu-nbd'];

/** Those that are not here. */
export const missingTools: readonly string[] = TOOLS.filter(
  (tool) => spawnSync(tool, ['--version']).status !== 0,
);

/** Whether all of them are here. */
export const hasNbdTools = missingTools.length === 0;

/** The export as all these programs want to be told of it. */
export function uriOf(address: NbdAddress, exportName = ''): string {
  if ('path' in address) return `nbd+unix:///${exportName}?socket=${address.path}`;
  return `nbd://${address.host}:${address.port}/${exportName}`;
}

/**
 * An nbdkit that serves on a unix socket until it is stopped: options, filters, plugin and its parameters.
 */
export async function nbdkit(directory: string, ...args: readonly string[]): Promise<ServedByNbdkit> {
  const path = join(directory, `k${counter}`);
  counter += 1;
  const child = spawn('nbdkit', ['--foreground', '--exit-with-parent', `--unix=${path}`, ...args], {
    stdio: 'ignore',
  });
  await untilListening(path, child);
  return { child, path };
}

/** What {@link nbdkit} started. */
export interface ServedByNbdkit {
  readonly child: ChildProcess;
  /** Its unix socket. */
  readonly path: string;
}

let counter = 0;
