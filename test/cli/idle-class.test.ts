/** Goal: while the program copies, what of it yields is preempted at once, and nothing of it stays so. Method: the rule, and this process itself. */
import { execFileSync } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { readFileSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { expect, it, vi } from 'vitest';
import { idleWhileCopying, isStarved } from '../../src/cli/idle-class.ts';
import type { Migration } from '../../src/index.ts';

it('is for threads that get a sixth of the processor and more', () => {
  expect(isStarved(100, 499)).toBe(false);
  expect(isStarved(100, 501)).toBe(true);
  expect(isStarved(0, 200)).toBe(false);
  expect(isStarved(0, 250)).toBe(true);
});

const why = whyNot();

it.skipIf(why !== undefined)(`is left when the copy is over${why ?? ''}`, { timeout: 20_000 }, async () => {
  const usual = getPriority(process.pid);
  const migration = new EventEmitter();
  const its = (name: number) => vi.waitFor(() => expect(scheduling()).toBe(name), { timeout: 5000 });
  try {
    idleWhileCopying(migration as unknown as Pick<Migration, 'on'>);
    migration.emit('phase', 'connect');
    setPriority(process.pid, usual + 5);
    migration.emit('phase', 'copyDisks');
    await its(5);
    migration.emit('phase', 'copyMemory');
    migration.emit('phase', 'stun');
    await its(0);
    expect(getPriority(process.pid)).toBe(usual + 5);
    migration.emit('phase', 'copyMemory');
    await its(5);
    // One that goes ahead again.
    setPriority(process.pid, usual);
    await its(0);
  } finally {
    migration.emit('phase', 'done');
    setPriority(process.pid, usual);
  }
});

function scheduling(): number {
  const stat = readFileSync(`/proc/self/task/${process.pid}/stat`, 'utf8');
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[38]);
}

/** What is lacking for it here. */
function whyNot(): string | undefined {
  if (process.platform !== 'linux') return ' (needs Linux)';
  try {
    execFileSync('sh', ['-c', 'chrt --idle --pid 0 $$ && chrt --other --pid 0 $$'], { stdio: 'ignore' });
    return scheduling() === 0 && getPriority(process.pid) <= 14
      ? undefined
      : ' (needs to be in SCHED_OTHER, and not nice)';
  } catch {
    return ' (needs chrt, and the right to leave SCHED_IDLE)';
  }
}
