import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Hook } from '../index.ts';
import { printable } from './units.ts';
import { UsageError } from './usage-error.ts';

/** For a program's last lines once it has ended; what it left running may have them open for ever. */
const lastLinesMsMax = 100;

/**
 * A program as a hook. It is run as it is, without a shell and without arguments, with `LONGHAUL_VM_ID` and `LONGHAUL_EPOCH` in its
 * environment; what it prints goes to `say`, line by line. The hook rejects if it cannot be run, or does not end with 0. When the hook's time
 * is over it is killed, with all that it has started and that did not leave its process group.
 *
 * Throws {@link UsageError}, which names `option`, for a path at which no program is.
 */
export function hookProgram(
  option: string,
  program: string,
  env: NodeJS.ProcessEnv,
  say: (line: string) => void,
): Hook {
  if (program.includes('/')) requireExecutable(option, program);
  return async ({ vmId, epoch, signal }) => {
    const child = spawn(program, [], {
      env: { ...env, LONGHAUL_VM_ID: vmId, LONGHAUL_EPOCH: String(epoch) },
      stdio: ['ignore', 'pipe', 'pipe'],
      // In a group of its own: a Ctrl-C is meant for us, and what it has started can be killed with it.
      detached: true,
    });
    const kill = () => killGroup(child);
    signal.addEventListener('abort', kill, { once: true });
    for (const stream of [child.stdout, child.stderr]) {
      createInterface(stream).on('line', (line) => say(`${option}: ${printable(line)}`));
    }
    try {
      const how = await ended(child);
      if (how !== undefined) throw new Error(`${program} ended with ${how}`);
    } finally {
      signal.removeEventListener('abort', kill);
      child.stdout.destroy();
      child.stderr.destroy();
    }
  };
}

function requireExecutable(option: string, program: string): void {
  try {
    accessSync(program, constants.X_OK);
  } catch (error) {
    throw new UsageError(`${option}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Resolves to how it failed, if it did; rejects if it cannot be run. */
async function ended(child: ChildProcess): Promise<string | undefined> {
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const how = await new Promise<string | undefined>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code === 0 ? undefined : (signal ?? `code ${code}`)));
  });
  let timer: NodeJS.Timeout | undefined;
  const enough = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, lastLinesMsMax);
  });
  await Promise.race([closed, enough]);
  clearTimeout(timer);
  return how;
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}
