import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';

/** A QEMU with no machine and no guest, which has a QMP monitor and a block layer and starts in a moment. */

/** Whether QEMU itself can be run here. */
export const hasQemuSystem = spawnSync('qemu-system-x86_64', ['--version']).status === 0;

/** Starts it; its QMP socket appears at `socket` a little later. */
export function spawnQemu(directory: string): { readonly child: ChildProcess; readonly socket: string } {
  const socket = join(directory, 'qmp');
  const args = [
    '-machine',
    'none',
    '-nodefaults',
    '-nographic',
    '-S',
    '-qmp',
    `unix:${socket},server=on,wait=off`,
  ];
  return { child: spawn('qemu-system-x86_64', args, { stdio: 'ignore' }), socket };
}
