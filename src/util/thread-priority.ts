import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';

/** The most and the least that a niceness can be. */
const nicenessMax = 19;
const nicenessMin = -20;

/** The kernel's number of the class that threads are in as a rule. */
export const otherClass = 0;
/** That of SCHED_IDLE, whose threads any thread of the other classes takes the processor from at once, and in which niceness counts for nothing. */
export const idleClass = 5;

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

let usual = nicenessThatCounts(callingThread());

function nicenessThatCounts(thread: KernelThread | undefined): number | undefined {
  return thread === undefined || classOf(thread.id) === idleClass ? undefined : thread.niceness;
}

/**
 * How nice the calling thread is while nobody changes that: as it was when this module was loaded. Undefined where threads have no priority, and for one that
 * began in the class SCHED_IDLE and was told of no other place.
 */
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
  return threadsOfProcess().filter(isSo);
}

/** The ids of all threads that this process has. On Linux alone. */
export function threadsOfProcess(): readonly number[] {
  return readdirSync('/proc/self/task').map(Number);
}

/** The number of the class that a thread of this process is in; undefined if it has ended. */
export function classOf(threadId: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/self/task/${threadId}/stat`, 'utf8');
    // The second field is a name, which may have anything in it; the class is the 41st.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[38]);
  } catch {
    return undefined;
  }
}

/** For how long a thread has run, and waited for a processor while it could have run. */
export interface RunTimes {
  readonly ranMs: number;
  readonly waitedMs: number;
}

/** The times of a thread of this process since it began; undefined if it has ended, or where the kernel does not count them. */
export function runTimesOf(threadId: number): RunTimes | undefined {
  try {
    const [ran, waited] = readFileSync(`/proc/self/task/${threadId}/schedstat`, 'utf8')
      .split(' ')
      .map(Number);
    // Of a kernel that is told not to count: all are 0.
    if (!ran || waited === undefined) return undefined;
    return { ranMs: ran / 1e6, waitedMs: waited / 1e6 };
  } catch {
    return undefined;
  }
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
