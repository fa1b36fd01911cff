import { readlinkSync } from 'node:fs';
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
    const id = Number(readlinkSync('/proc/thread-self').split('/').at(-1));
    return { id, niceness: getPriority(id) };
  } catch {
    return undefined;
  }
}

/** Sets the niceness of a thread, taken into its range. Returns whether the kernel did it: it may not allow it, or the thread is gone. */
export function setNiceness(threadId: number, niceness: number): boolean {
  try {
    setPriority(threadId, Math.min(nicenessMax, Math.max(nicenessMin, niceness)));
    return true;
  } catch {
    return false;
  }
}

/** Whether a thread that was made nicer could be taken back again (on Linux by CAP_SYS_NICE, or a limit that allows it). */
export function mayBeLifted({ id, niceness }: KernelThread): boolean {
  return niceness < nicenessMax && setNiceness(id, niceness + 1) && setNiceness(id, niceness);
}
