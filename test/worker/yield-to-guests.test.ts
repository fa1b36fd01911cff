/** Goal: while a migration copies its thread goes behind the guests, and from the stun on it does not. Method: the thread of this test, as the kernel has it. */
import { readlinkSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { describe, expect, it } from 'vitest';
import type { Phase } from '../../src/index.ts';
import { yieldToGuests } from '../../src/qemu.ts';

const ownThread = (): number => Number(readlinkSync('/proc/thread-self').split('/').at(-1));
const niceness = (): number => getPriority(ownThread());

/** Why it cannot be seen here; undefined: it can. */
function obstacle(): string | undefined {
  if (process.platform !== 'linux') return 'only Linux has threads with a priority each';
  try {
    const usual = niceness();
    setPriority(ownThread(), usual + 1);
    setPriority(ownThread(), usual);
    return undefined;
  } catch {
    return 'this user may not raise a priority again';
  }
}

const why = obstacle();
const suite = 'the thread of a migration';

describe.skipIf(why !== undefined)(why === undefined ? suite : `${suite} (skipped: ${why})`, () => {
  it('yields while disks and memory are copied, and in no other phase', () => {
    const usual = niceness();
    const listeners: ((phase: Phase) => void)[] = [];
    expect(yieldToGuests({ on: (_event, listener) => listeners.push(listener) })).toBe(true);
    const seen = (phase: Phase): number => {
      for (const listener of listeners) listener(phase);
      return niceness() - usual;
    };
    const phases = [
      'connect',
      'copyDisks',
      'copyMemory',
      'stun',
      'copyMemory',
      'stun',
      'verify',
      'done',
    ] as const;
    expect(phases.map(seen)).toEqual([0, 10, 10, 0, 10, 0, 0, 0]);
  });
});
