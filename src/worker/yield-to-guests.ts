import { access } from 'node:fs';
import { MigrationError, type Phase } from '../errors.ts';
import type { MigrationEvents } from '../interfaces/migration.ts';
import { takeBreaks } from '../util/breaks.ts';
import {
  callingThread,
  mayBeLifted,
  setNiceness,
  threadsAsNiceAs,
  usualNiceness,
} from '../util/thread-priority.ts';

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
}

/** The migrations of this thread that have begun. */
const underWay = new Map<TellsPhases, UnderWay>();

/**
 * Lets the guests of this host go first while a migration copies: asks the kernel for less of a processor that others want, and from the stun on for as much as
 * before. The niceness of the calling thread, in which the migration's engine has to run, rises by 10 meanwhile, and it sleeps for a moment, some 80 µs, before
 * it reads or writes, once a millisecond at most; with several migrations in a thread, while all of them copy.
 * To be called before `run()`. Where that thread answers a guest's writes itself, as it does for `openQemuSource` without `tapThreads`, the guest waits for it: not to be called then.
 *
 * A process that does nothing but migrate says `all`: the helpers of Node's garbage collection are in no thread of JavaScript. Default: `own`. Threads and programs that
 * are started while a thread yields begin as nice as it is then, and stay so.
 *
 * Does nothing where that cannot be taken back again: a process that may not do so (Linux: without CAP_SYS_NICE, or a limit that allows it) would be slow in
 * the stun too; nor where a thread has no priority of its own (other systems than Linux). Returns whether it will. `createQemuSource` does this by itself.
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
  migration.on('phase', (phase) => {
    if (phase === 'done') {
      underWay.delete(migration);
      for (const id of its) setNiceness(id, usual);
    } else underWay.set(migration, { copies: copying.has(phase), threads: its });
    const all = [...underWay.values()];
    const copies = all.length > 0 && all.every(({ copies }) => copies);
    for (const { threads } of all) for (const id of threads) setNiceness(id, copies ? usual + behind : usual);
    takeBreaks(copies);
  });
  return true;
}

/** Throws `invalid-argument` for what is no {@link YieldingThreads}. */
export function checkYielding(threads: YieldingThreads | undefined): void {
  if (threads === undefined || threads === 'own' || threads === 'all') return;
  throw new MigrationError('invalid-argument', `yielding is own or all, not ${String(threads)}`);
}

/** An engine's thread has died, and may have left all threads of this process as they were while it copied: they are taken back. */
export function stopYielding(): void {
  const usual = usualNiceness();
  if (usual !== undefined && underWay.size === 0)
    for (const id of threadsAsNiceAs(usual + behind)) setNiceness(id, usual);
}
