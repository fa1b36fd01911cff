/**
 * Threads of this process go into the scheduling class SCHED_IDLE, and come back. Node has no call for that, so the program `chrt` (util-linux) does it, and a shell
 * runs it that is started once: a process of our size takes 10 ms to start another one. The shell reads lines, and ends with them, also when this process is killed:
 *
 *   idle ID ...     these threads go into the class
 *   other ID ...    these threads go back to SCHED_OTHER
 *   all             all threads of this process do
 *
 * Their niceness stays. Nothing here throws, and what fails changes nothing.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { classOf, idleClass, otherClass, threadsOfProcess } from './thread-priority.ts';

/**
 * Whoever may not take a thread back out of the class must not put one in; the shell tries that with itself, for it has not always the rights of its parent. By
 * the time that a line is read the number of a thread that has ended may be that of another process.
 */
const program = `
chrt --idle --pid 0 $$ && chrt --other --pid 0 $$ || exit
while read -r class threads; do
  if [ $class = all ]; then chrt --all-tasks --other --pid 0 $PPID; fi
  for thread in $threads; do
    if [ -e /proc/$PPID/task/$thread ]; then chrt --$class --pid 0 $thread; fi
  done
done`;

let helper: ChildProcess | undefined;
let users = 0;
/** Those that were told to go in since all were told to leave. They may not be there yet. */
let entered: readonly number[] = [];

/** Starts the helper, unless this thread has it. To be called before anything yields: it begins as nice as the calling thread is. */
export function openIdleClass(): void {
  users += 1;
  if (users === 1) helper = start();
}

/** The helper ends with its last user, once it has done what it was told. */
export function closeIdleClass(): void {
  users -= 1;
  if (users === 0) end();
}

/** Those of these threads go into the class that are in SCHED_OTHER, a few milliseconds later. */
export function enterIdleClass(threads: readonly number[]): void {
  entered = threads.filter((id) => classOf(id) === otherClass);
  tell(`idle ${entered.join(' ')}`);
}

/** A thread leaves the class, a few milliseconds later. */
export function leaveIdleClass(threadId: number): void {
  tell(`other ${threadId}`);
}

/** All threads of this process leave the class, a few milliseconds later: also those that were started by one that was in it. Those of other classes stay there. */
export function emptyIdleClass(): void {
  const classes = classesOfThreads();
  const idle = classes.filter(({ its }) => its === idleClass).map(({ id }) => id);
  if (idle.length === 0 && (entered.length === 0 || !isAlive())) return;
  if (!isAlive()) helper = start();
  // One program is faster than one for each.
  const alone = classes.every(({ its }) => its === otherClass || its === idleClass);
  tell(alone ? 'all' : `other ${[...new Set([...idle, ...entered])].join(' ')}`);
  entered = [];
  if (users === 0) end();
}

function classesOfThreads(): readonly { readonly id: number; readonly its: number }[] {
  try {
    return threadsOfProcess().map((id) => ({ id, its: classOf(id) ?? otherClass }));
  } catch {
    return []; // No more files can be opened.
  }
}

function start(): ChildProcess | undefined {
  try {
    const child = spawn('sh', ['-c', program], {
      cwd: '/',
      env: { PATH: process.env.PATH },
      stdio: ['pipe', 'ignore', 'ignore'],
      // In a session of its own: a Ctrl-C is not meant for it.
      detached: true,
    });
    child.on('error', () => {});
    child.stdin?.on('error', () => {});
    child.unref();
    (child.stdin as Socket | null)?.unref();
    return child;
  } catch {
    return undefined;
  }
}

function end(): void {
  helper?.stdin?.end();
  helper = undefined;
}

function isAlive(): boolean {
  return helper?.pid !== undefined && helper.exitCode === null && helper.signalCode === null;
}

function tell(line: string): void {
  if (isAlive()) helper?.stdin?.write(`${line}\n`);
}
