/** Goal: while a migration copies its thread goes behind the guests, and from the stun on it does not. Method: the thread of this test, as the kernel has it. */
import { once } from 'node:events';
import { readFileSync, readlinkSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import type { Phase } from '../../src/index.ts';
import { yieldToGuests } from '../../src/qemu.ts';
import { breakIfDue } from '../../src/util/breaks.ts';

const ownThread = (): number => Number(readlinkSync('/proc/thread-self').split('/').at(-1));
const niceness = (): number => getPriority(ownThread());
/** How often this thread has left its processor by itself. */
const sleeps = (): number =>
  Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[1]);

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
    const yielding = Math.min(19, usual + 10);
    const listeners: ((phase: Phase) => void)[] = [];
    expect(yieldToGuests({ on: (_event, listener) => listeners.push(listener) })).toBe(true);
    const seen = (phase: Phase): number => {
      for (const listener of listeners) listener(phase);
      return niceness();
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
    expect(phases.map(seen)).toEqual([usual, yielding, yielding, usual, yielding, usual, usual, usual]);
  });

  it('yields with several migrations while all of them copy, for the guest of one of them may stand still', () => {
    const usual = niceness();
    const migrations = [listening(), listening()] as const;
    for (const { migration } of migrations) yieldToGuests(migration);
    const [one, other] = migrations;
    const seen = [
      one.tell('copyDisks'),
      other.tell('connect'),
      other.tell('copyDisks'),
      one.tell('stun'),
      one.tell('done'),
      other.tell('done'),
    ];
    const yielding = Math.min(19, usual + 10);
    expect(seen).toEqual([yielding, usual, yielding, usual, yielding, usual]);
  });

  it('yields with one that begins when another, that was there as early, is over', () => {
    const usual = niceness();
    const [one, other] = [listening(), listening()];
    for (const { migration } of [one, other]) yieldToGuests(migration);
    const seen = [one.tell('copyDisks'), one.tell('done'), other.tell('copyDisks'), other.tell('done')];
    expect(seen).toEqual([Math.min(19, usual + 10), usual, Math.min(19, usual + 10), usual]);
  });

  it('sleeps for a moment once a millisecond while it yields and reads or writes, and never in the stun', () => {
    const { migration, tell } = listening();
    yieldToGuests(migration);
    const breaksIn = (phase: Phase): number => {
      tell(phase);
      let breaks = 0;
      const until = performance.now() + 50;
      while (performance.now() < until) if (breakIfDue()) breaks++;
      return breaks;
    };
    const before = sleeps();
    const copying = breaksIn('copyMemory');
    expect(sleeps() - before).toBeGreaterThanOrEqual(copying);
    expect(copying).toBeGreaterThanOrEqual(3);
    expect(copying).toBeLessThanOrEqual(51);
    expect([breaksIn('stun'), breaksIn('done')]).toEqual([0, 0]);
  });

  it('yields with its own thread or all, and nothing else', () => {
    const { migration } = listening();
    for (const threads of ['none', null, 3])
      expect(() => yieldToGuests(migration, threads as never)).toThrow(/yielding/);
  });

  it('takes all threads of the process along where it is told to, but those that differ in niceness', async () => {
    const usual = niceness();
    const yielding = Math.min(19, usual + 10);
    const [alike, ahead] = [await thread(usual), await thread(usual - 1)];
    const listeners: ((phase: Phase) => void)[] = [];
    yieldToGuests({ on: (_event, listener) => listeners.push(listener) }, 'all');
    const tell = (phase: Phase): void => {
      for (const listener of listeners) listener(phase);
    };
    tell('copyDisks');
    expect([alike, ahead].map(({ id }) => getPriority(id))).toEqual([yielding, usual - 1]);
    tell('done');
    expect([alike, ahead].map(({ id }) => getPriority(id))).toEqual([usual, usual - 1]);
    for (const { worker } of [alike, ahead]) await worker.terminate();
  });
});

/** A migration that tells its phases when it is told to, and how nice this thread is then. */
function listening() {
  const listeners: ((phase: Phase) => void)[] = [];
  const tell = (phase: Phase): number => {
    for (const listener of listeners) listener(phase);
    return niceness();
  };
  return {
    migration: { on: (_event: 'phase', listener: (phase: Phase) => void) => listeners.push(listener) },
    tell,
  };
}

/** A thread that waits, at such a niceness. */
async function thread(at: number): Promise<{ readonly worker: Worker; readonly id: number }> {
  const program = `
    const { parentPort } = require('node:worker_threads');
    parentPort.postMessage(Number(require('node:fs').readlinkSync('/proc/thread-self').split('/').at(-1)));
    parentPort.on('message', () => {});
  `;
  const worker = new Worker(program, { eval: true });
  const [id] = (await once(worker, 'message')) as [number];
  setPriority(id, at);
  return { worker, id };
}
