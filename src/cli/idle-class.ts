/**
 * While this process copies, the threads of it that yield to guests (`yieldToGuests`) are in the scheduling class SCHED_IDLE, too. Niceness alone lets whoever runs finish its slice, some
 * milliseconds in which a guest's thread waits; from a thread of that class any other takes the processor at once.
 *
 * Node has no call for it. The program `chrt` (util-linux) does it, and a shell runs that, which is started once: a process of our size takes 10 ms to start another one. The shell reads lines,
 * and ends with its input, also when this process is killed. Where there is no such program, or no right to leave the class again, only the niceness counts. Nothing here throws.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { getPriority } from 'node:os';
import type { Migration, Phase } from '../index.ts';

const copying: ReadonlySet<Phase> = new Set(['copyDisks', 'copyMemory']);
/** How often it is looked at which threads yield, and what they get. */
const lookMs = 1000;
/** Against a program that always wants the processor a thread that is nicer by 10 waits nine times as long as it runs: up to 5 the class costs it no more than that. */
const waitedTimesMax = 5;
/** Waits that are shorter in all hold up nothing. */
const waitedMsMin = 250;

const shell = `
chrt --idle --pid 0 $$ && chrt --other --pid 0 $$ || exit
while read -r class threads; do
  if [ $class = all ]; then chrt --all-tasks --other --pid 0 $PPID; fi
  for thread in $threads; do
    if [ -e /proc/$PPID/task/$thread ]; then chrt --$class --pid 0 $thread; fi
  done
done`;

/** As the kernel numbers them. */
const classes = { other: 0, idle: 5 };

interface Thread {
  readonly id: number;
  readonly niceness: number;
  readonly class: number;
  readonly ranMs: number;
  readonly waitedMs: number;
}

/** Whether threads that ran and waited for a processor for so long, together and since the last look, get too little in the class. Pure. */
export function isStarved(ranMs: number, waitedMs: number): boolean {
  return waitedMs >= waitedMsMin && waitedMs > waitedTimesMax * ranMs;
}

/**
 * Has those threads in the class while this migration copies, and none in all other phases. A host whose processors other programs want all the time would leave them next to nothing there: then
 * they are out of it for the rest of the migration. To be called before `run()`, in a process that does nothing else.
 */
export function idleWhileCopying(migration: Pick<Migration, 'on'>): void {
  if (process.platform !== 'linux') return;
  const usual = threads().find(({ id }) => id === process.pid);
  // Who was put in another class is to stay there, and a kernel that does not count what threads get cannot say when it is too little.
  if (usual?.class !== classes.other || usual.ranMs === 0) return;
  const tell = startShell();
  let timer: NodeJS.Timeout | undefined;
  let before = new Map<number, Thread>();
  let starved = false;
  const leave = (): void => {
    clearInterval(timer);
    timer = undefined;
    tell('all');
  };
  const look = (): void => {
    const now = threads();
    const isIdle = (thread: Thread) => thread.class === classes.idle;
    const grown = (key: 'ranMs' | 'waitedMs') =>
      now
        .filter(isIdle)
        .reduce((sum, thread) => sum + thread[key] - (before.get(thread.id)?.[key] ?? thread[key]), 0);
    starved = isStarved(grown('ranMs'), grown('waitedMs'));
    before = new Map(now.map((thread) => [thread.id, thread]));
    if (starved) {
      leave();
      return;
    }
    const yields = now.filter((thread) => thread.niceness > usual.niceness && thread.class === classes.other);
    // One that goes ahead, the tap's, may have been started by one that yields.
    const goesAhead = now.filter((thread) => thread.niceness <= usual.niceness && isIdle(thread));
    if (yields.length > 0) tell(`idle ${yields.map(({ id }) => id).join(' ')}`);
    if (goesAhead.length > 0) tell(`other ${goesAhead.map(({ id }) => id).join(' ')}`);
  };
  migration.on('phase', (phase) => {
    if (!copying.has(phase)) leave();
    else if (!starved) timer ??= setInterval(look, lookMs).unref();
  });
}

function startShell(): (line: string) => void {
  try {
    const child = spawn('sh', ['-c', shell], {
      cwd: '/',
      env: { PATH: process.env.PATH },
      stdio: ['pipe', 'ignore', 'ignore'],
      // In a session of its own: a Ctrl-C is not meant for it.
      detached: true,
    });
    child.on('error', () => {});
    // Where no more files can be opened there is none.
    const stdin = child.stdin as Socket | undefined;
    stdin?.on('error', () => {});
    child.unref();
    stdin?.unref();
    return (line) => stdin?.write(`${line}\n`);
  } catch {
    return () => {};
  }
}

/** Those of this process; none where that cannot be read. */
function threads(): readonly Thread[] {
  const found: Thread[] = [];
  for (const id of threadIds()) {
    try {
      const stat = readFileSync(`/proc/self/task/${id}/stat`, 'utf8');
      const [ran = 0, waited = 0] = readFileSync(`/proc/self/task/${id}/schedstat`, 'utf8')
        .split(' ')
        .map(Number);
      // The second field is a name, which may have anything in it; the class is the 41st.
      const its = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[38]);
      found.push({ id, niceness: getPriority(id), class: its, ranMs: ran / 1e6, waitedMs: waited / 1e6 });
    } catch {
      // It has ended, or the kernel does not count.
    }
  }
  return found;
}

function threadIds(): readonly number[] {
  try {
    return readdirSync('/proc/self/task').map(Number);
  } catch {
    return [];
  }
}
