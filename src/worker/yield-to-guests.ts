import { readlinkSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import type { Phase } from '../errors.ts';
import type { MigrationEvents } from '../interfaces/migration.ts';

/** What {@link yieldToGuests} needs of a migration. */
export interface TellsPhases {
  /** Listens to an event. */
  on(event: 'phase', listener: MigrationEvents['phase']): unknown;
}

/** A tenth of what a guest's processor gets, where both want the same one; what nobody else wants it has all the same. */
const copyingNiceness = 10;
/** Background work: a guest runs meanwhile. In all other phases one stands still, or is waited for. */
const copying: ReadonlySet<Phase> = new Set(['copyDisks', 'copyMemory']);

/**
 * Lets the guests of this host go first while a migration copies: the calling thread, in which its engine has to run, asks the kernel for less of a processor that others want
 * (its niceness rises by 10), and from the stun on for as much as before. To be called before `run()`.
 *
 * Does nothing where that cannot be taken back again: a process that may not do so (Linux: without CAP_SYS_NICE, or a limit that allows it) would be slow in
 * the stun too; nor where a thread has no priority of its own (other systems than Linux). Returns whether it will. `createQemuSource` does this by itself.
 */
export function yieldToGuests(migration: TellsPhases): boolean {
  const thread = threadWithPriority();
  if (thread === undefined) return false;
  migration.on('phase', (phase) =>
    thread.setNiceness(copying.has(phase) ? thread.usual + copyingNiceness : thread.usual),
  );
  return true;
}

function threadWithPriority(): { readonly usual: number; setNiceness(niceness: number): void } | undefined {
  try {
    const id = Number(readlinkSync('/proc/thread-self').split('/').at(-1));
    const usual = getPriority(id);
    setPriority(id, Math.min(19, usual + 1));
    setPriority(id, usual);
    return { usual, setNiceness: (niceness) => setPriority(id, Math.min(19, niceness)) };
  } catch {
    return undefined;
  }
}
