import { access } from 'node:fs';
import { MigrationError, type Phase } from '../errors.ts';
import type { MigrationEvents } from '../interfaces/migration.ts';
import { emptyIdleClass } from '../util/idle-class.ts';
import {
  callingThread,
  mayBeLifted,
  setNiceness,
  threadsAsNiceAs,
  usualNiceness,
} from '../util/thread-priority.ts';
import { IdleThreads } from './idle-threads.ts';

/** What {@link yieldToGuests} needs of a migration. */
export interface TellsPhases {
  /** Listens to an event. */
  on(event: 'phase', listener: MigrationEvents['phase']): unknown;
}

/** `own`: the calling thread. `all`: all threads that the process has now, as far as they are as nice as this one. */
export type YieldingThreads = 'own' | 'all';

/** A tenth of what a guest's processor gets, where both want the same one; what nobody else wants is had all the same. */
const behind = 10;
/** Background work: a guest runs meanwhile. In all other phases one stands still, or is waited for. */
const copying: ReadonlySet<Phase> = new Set(['copyDisks', 'copyMemory']);

interface UnderWay {
  readonly copies: boolean;
  /** Their ids. */
  readonly threads: readonly number[];
  /** Undefined: they stay in their class. */
  readonly idle: IdleThreads | undefined;
}

/** The migrations of this thread that have begun. */
const underWay = new Map<TellsPhases, UnderWay>();

/**
 * Lets the guests of this host go first while a migration copies: asks the kernel for less of a processor that others want, and from the stun on for as much as
 * before. The niceness of the calling thread, in which the migration's engine has to run, rises by 10 meanwhile; with several migrations in a thread, while all of them copy.
 * To be called before `run()`. Where that thread answers a guest's writes itself, as it does for `openQemuSource` without `tapThreads`, the guest waits for it: not to be called then.
 *
 * A process that does nothing but migrate says `all`: the helpers of Node's garbage collection are in no thread of JavaScript. Default: `own`. Threads and programs that
 * are started while a thread yields begin as nice as it is then, and stay so.
 *
 * With `all` those of the threads that are in the scheduling class SCHED_OTHER are in SCHED_IDLE meanwhile: a guest's thread that wakes up takes the processor from them at
 * once, where a niceness lets whoever runs finish its slice, some milliseconds. The program `chrt` (util-linux), found on the PATH, does it, in a shell that is
 * started with the migration's first phase and ends with its last one, or with this process; a change takes it some milliseconds. Where there is none, or it fails, or the kernel does not say what threads
 * get (`/proc/self/task/ID/schedstat`), only the niceness changes. From the stun on, and at the end, all threads of the process are in SCHED_OTHER that were in SCHED_IDLE, whoever put
 * them there. A host whose processors other programs want all the time leaves that class next to nothing: once the threads have waited, together and within a second, more than 5 times as long as they ran,
 * and 250 ms or more, they go back to SCHED_OTHER for the rest of that migration, as nice as they are. Threads and programs that are started meanwhile begin in the class; such threads leave
 * it with the others (a tap's at once), programs do not.
 *
 * Does nothing where that cannot be taken back again: a process that may not do so (Linux: without CAP_SYS_NICE, or a limit that allows it) would be slow in
 * the stun too; nor where a thread has no priority of its own (other systems than Linux), or is in SCHED_IDLE from the start, where no niceness counts. Returns whether it will. `createQemuSource` does this by itself.
 *
 * Throws `invalid-argument` for other threads than these.
 */
export function yieldToGuests(migration: TellsPhases, threads: YieldingThreads = 'own'): boolean {
  checkYielding(threads);
  const own = callingThread();
  const usual = usualNiceness();
  if (own === undefined || usual === undefined || !mayBeLifted(own)) return false;
  // Node's pool begins with its first task, and its threads stay as nice as whoever gave it that.
  access('/', () => {});
  const its = threads === 'all' ? threadsAsNiceAs(own.niceness) : [own.id];
  const idle = threads === 'all' ? new IdleThreads(its) : undefined;
  migration.on('phase', (phase) => {
    if (phase === 'done') {
      underWay.delete(migration);
      for (const id of its) setNiceness(id, usual);
    } else {
      idle?.open();
      underWay.set(migration, { copies: copying.has(phase), threads: its, idle });
    }
    const all = [...underWay.values()];
    const yields = all.every(({ copies }) => copies);
    const niceness = yields ? usual + behind : usual;
    for (const { threads } of all) for (const id of threads) setNiceness(id, niceness);
    // After the niceness: who changes the class of a thread sets the niceness, too, that it had a moment before.
    if (phase === 'done') idle?.close();
    if (phase === 'done' || !yields) for (const { idle } of all) idle?.leave();
    if (yields) for (const { idle } of all) idle?.enter();
  });
  return true;
}

/** Throws `invalid-argument` for what is no {@link YieldingThreads}. */
export function checkYielding(threads: YieldingThreads | undefined): void {
  if (threads === undefined || threads === 'own' || threads === 'all') return;
  throw new MigrationError('invalid-argument', `yielding is own or all, not ${String(threads)}`);
}

/** An engine's thread has died, and may have left all threads of this process as they were while it copied: they are taken back, and out of SCHED_IDLE a few milliseconds later. */
export function stopYielding(): void {
  const usual = usualNiceness();
  if (usual === undefined || underWay.size > 0) return;
  for (const id of threadsAsNiceAs(usual + behind)) setNiceness(id, usual);
  emptyIdleClass();
}
