import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';

/** The most and the least that a niceness can be. */
const nicenessMax = 19;
const nicenessMin = -20;

/** A thread of this process, as the kernel knows it. */
export interface KernelThread {
  readonly id: number;
  /** Its niceness now: -20, ahead of all, to 19. */
  readonly niceness: number;
}

/** The calling thread; undefined on systems whose threads have no priority of their own (other than Linux). */
export function callingThread(): KernelThread | undefined {
  try {
    const [pid, , id] = readlinkSync('/proc/thread-self').split('/').map(Number);
    // The /proc of another namespace has other numbers.
    if (pid !== process.pid || id === undefined) return undefined;
    return { id, niceness: getPriority(id) };
  } catch {
    return undefined;
  }
}

let usual = callingThread()?.niceness;

/** How nice the calling thread is while nobody changes that: as it was when this module was loaded. Undefined where threads have no priority. */
export function usualNiceness(): number | undefined {
  return usual;
}

/** A thread begins as nice as the one that starts it is at that moment, which may have yielded to others: it takes what is usual there, if it may. */
export function takeUsualNiceness(niceness: number | undefined): void {
  const thread = callingThread();
  if (thread !== undefined && niceness !== undefined && setNiceness(thread.id, niceness)) usual = niceness;
}

/** The threads of this process that have such a niceness. */
export function threadsAsNiceAs(niceness: number): readonly number[] {
  const isSo = (id: number): boolean => {
    try {
      return getPriority(id) === niceness;
    } catch {
      return false; // It has ended.
    }
  };
  return readdirSync('/proc/self/task').map(Number).filter(isSo);
}

/** Sets the niceness of a thread of this process, taken into its range. Returns whether that was done: the kernel may not allow it, or the thread be gone. */
export function setNiceness(threadId: number, niceness: number): boolean {
  // By now the number may be another process's.
  if (!existsSync(`/proc/self/task/${threadId}`)) return false;
  try {
    setPriority(threadId, Math.min(nicenessMax, Math.max(nicenessMin, niceness)));
    return true;
  } catch {
    return false;
  }
}

/**
 * Whether a thread that was made nicer could be taken back again (on Linux by CAP_SYS_NICE, or a limit that allows it). Tried upwards: what is refused has
 * changed nothing. So a limit of exactly its niceness does not count.
 */
export function mayBeLifted({ id, niceness }: KernelThread): boolean {
  return niceness > nicenessMin && setNiceness(id, niceness - 1) && setNiceness(id, niceness);
}
