import { access, readdirSync, readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import type { MigrationEvents } from '../interfaces/migration.ts';
import { callingThread, mayBeLifted, setNiceness } from '../util/thread-priority.ts';
import { type ProcessorTime, Yielding } from './yielding.ts';

/** What {@link yieldToGuests} needs of a migration. */
export interface TellsPhases {
  /** Listens to an event. */
  on(event: 'phase', listener: MigrationEvents['phase']): unknown;
}

/** `own`: the calling thread. `all`: all threads that the process has now, as far as they are as nice as this one. */
export type YieldingThreads = 'own' | 'all';

const lookMs = 1000;

/**
 * Lets the guests of this host go first while a migration copies: asks the kernel for less of a processor that others want, and from the stun on for as much as
 * before. The niceness of the calling thread, in which the migration's engine has to run, rises by 19 at most; by 10 where that leaves it nothing. To be called before `run()`.
 *
 * A process that does nothing but migrate says `all`: the helpers of Node's garbage collection, which are in no thread of JavaScript, are two fifths of its work. Default: `own`.
 *
 * Does nothing where that cannot be taken back again: a process that may not do so (Linux: without CAP_SYS_NICE, or a limit that allows it) would be slow in
 * the stun too; nor where a thread has no priority of its own (other systems than Linux). Returns whether it will. `createQemuSource` does this by itself.
 */
export function yieldToGuests(migration: TellsPhases, threads: YieldingThreads = 'own'): boolean {
  const own = callingThread();
  if (own === undefined || !mayBeLifted(own)) return false;
  // Node's pool begins with its first task, and its threads stay as nice as whoever gave it that.
  access('/', () => {});
  const yielding = threads === 'own' ? [own.id] : threadsAsNiceAs(own.niceness);
  const how = new Yielding({
    usual: own.niceness,
    setNiceness: (niceness) => {
      for (const id of yielding) setNiceness(id, niceness);
    },
    processorTime: () => processorTime(own.id),
  });
  let looking: NodeJS.Timeout | undefined;
  migration.on('phase', (phase) => {
    clearInterval(looking);
    how.phase(phase);
    if (phase !== 'done') looking = setInterval(() => how.look(), lookMs).unref();
  });
  return true;
}

function threadsAsNiceAs(niceness: number): readonly number[] {
  const isSo = (id: number): boolean => {
    try {
      return getPriority(id) === niceness;
    } catch {
      return false; // It has ended.
    }
  };
  return readdirSync('/proc/self/task').map(Number).filter(isSo);
}

/** As the kernel counts it (schedstat), if it does. */
function processorTime(threadId: number): ProcessorTime | undefined {
  try {
    const [ranNs = 0, waitedNs = 0] = readFileSync(`/proc/self/task/${threadId}/schedstat`, 'utf8')
      .split(' ')
      .map(Number);
    return { ranMs: ranNs / 1e6, waitedMs: waitedNs / 1e6 };
  } catch {
    return undefined;
  }
}
