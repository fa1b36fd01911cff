import type { Outcome, Owner } from '../index.ts';

/** What the program's exit tells: who has the VM. The help says what each means. */
export const exitCodes = {
  /** Moved; or, as it was asked for, rehearsed, or its disks copied. */
  completed: 0,
  /** Not moved: the source owns the VM. */
  failed: 1,
  /** The owner is undecided, or the program ended in a way that leaves it unknown. */
  undecided: 2,
  /** The destination owns the VM, but its guest was not started there. */
  notStarted: 3,
  /** As sysexits.h has it. */
  usage: 64,
} as const;

/** The exit code for how a migration ended, at either end. */
export function exitCodeOf({ outcome, owner }: { readonly outcome: Outcome; readonly owner: Owner }): number {
  if (outcome === 'completed' || outcome === 'rehearsed' || outcome === 'copied') return exitCodes.completed;
  if (outcome === 'undecided') return exitCodes.undecided;
  return exitCodeOfFailure(owner);
}

/** The exit code for a failure that leaves the VM with `owner`. */
export function exitCodeOfFailure(owner: Owner): number {
  if (owner === 'undecided') return exitCodes.undecided;
  return owner === 'destination' ? exitCodes.notStarted : exitCodes.failed;
}

/** The exit codes, for the help. */
export const exitCodeHelp: readonly string[] = [
  '0   completed, or rehearsed or disks copied where that was asked for',
  '1   failed: the VM stays with the source',
  '2   the owner is undecided: run the guest nowhere until `longhaul recover` has settled it',
  '3   the destination owns the VM, but its guest did not start there',
  '64  wrong usage: nothing was opened or changed',
];
