/** Goal: while a migration copies its thread goes behind the guests, and from the stun on it does not. Method: the threads of this test, as the kernel has them. */
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { Phase } from '../../src/index.ts';
import { yieldToGuests } from '../../src/qemu.ts';
import { stopYielding } from '../../src/worker/yield-to-guests.ts';

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

/** As the kernel numbers them. */
const [other, batch, idle] = [0, 3, 5];
const noProgram = spawnSync('chrt', ['--max']).status === 0 ? undefined : 'there is no chrt';
const whyNoClass = why ?? noProgram;
const classes = 'the class of all threads of a migration';

describe.skipIf(whyNoClass !== undefined)(
  whyNoClass === undefined ? classes : `${classes} (skipped: ${whyNoClass})`,
  () => {
    const workers: Worker[] = [];
    const threadAt = async (niceness: number): Promise<number> => {
      const { worker, id } = await thread(niceness);
      workers.push(worker);
      return id;
    };
    afterEach(async () => {
      vi.unstubAllEnvs();
      for (const worker of workers.splice(0)) await worker.terminate();
      // What changes the class ends with the migration.
      await expect.poll(children, patiently).toEqual([]);
    });

    it('is SCHED_IDLE while disks and memory are copied, and the usual one in no other phase', async () => {
      const usual = niceness();
      const alike = await threadAt(usual);
      const { migration, tell } = listening();
      yieldToGuests(migration, 'all');
      const its = readdirSync('/proc/self/task')
        .map(Number)
        .filter((id) => getPriority(id) === usual);
      expect(its).toEqual(expect.arrayContaining([ownThread(), alike]));
      const seen = async (phase: Phase, expected: number): Promise<void> => {
        tell(phase);
        await settled(its, expected);
      };
      await seen('connect', other);
      await seen('copyDisks', idle);
      await seen('copyMemory', idle);
      await seen('stun', other);
      await seen('copyMemory', idle);
      await seen('verify', other);
      await seen('copyMemory', idle);
      await seen('done', other);
      expect(its.map((id) => getPriority(id))).toEqual(its.map(() => usual));
    });

    it('stays what it is where the niceness differs', async () => {
      const usual = niceness();
      const [ahead, behind] = [await threadAt(usual - 1), await threadAt(usual + 1)];
      const { migration, tell } = listening();
      yieldToGuests(migration, 'all');
      const seen = async (phase: Phase, expected: number): Promise<void> => {
        tell(phase);
        await settled([ownThread()], expected);
        expect([ahead, behind].map((id) => [classOf(id), getPriority(id)])).toEqual([
          [other, usual - 1],
          [other, usual + 1],
        ]);
      };
      await seen('copyDisks', idle);
      await seen('done', other);
    });

    it('stays what it is where it is another one', async () => {
      const batched = await threadAt(niceness());
      execFileSync('chrt', ['--batch', '--pid', '0', String(batched)]);
      const { migration, tell } = listening();
      yieldToGuests(migration, 'all');
      tell('copyDisks');
      await settled([ownThread()], idle);
      expect(classOf(batched)).toBe(batch);
      tell('done');
      await settled([ownThread()], other);
      expect(classOf(batched)).toBe(batch);
    });

    it('is left by threads that were started meanwhile', async () => {
      const { migration, tell } = listening();
      yieldToGuests(migration, 'all');
      tell('copyDisks');
      await settled([ownThread()], idle);
      const late = await threadAt(niceness());
      expect(classOf(late)).toBe(idle);
      tell('done');
      await settled([ownThread(), late], other);
    });

    it('is SCHED_IDLE again for a migration that goes on when another one is over', async () => {
      const [one, two] = [listening(), listening()];
      for (const { migration } of [one, two]) yieldToGuests(migration, 'all');
      one.tell('copyDisks');
      two.tell('copyDisks');
      await settled([ownThread()], idle);
      two.tell('stun');
      await settled([ownThread()], other);
      two.tell('done');
      await settled([ownThread()], idle);
      one.tell('done');
      await settled([ownThread()], other);
    });

    it('is left also if the program that does it was killed', async () => {
      const { migration, tell } = listening();
      yieldToGuests(migration, 'all');
      tell('copyDisks');
      await settled([ownThread()], idle);
      const [helper] = children();
      process.kill(helper as number, 'SIGKILL');
      await expect.poll(children, patiently).toEqual([]);
      tell('stun');
      await settled([ownThread()], other);
      tell('done');
    });

    it('is left by all threads when an engine’s thread has died', async () => {
      const id = await threadAt(niceness());
      for (const each of [id, ownThread()]) execFileSync('chrt', ['--idle', '--pid', '0', String(each)]);
      stopYielding();
      await settled([id, ownThread()], other);
    });

    it('takes a program that is there from the first phase to the last, and none for a thread of its own', async () => {
      const [own, all] = [listening(), listening()];
      yieldToGuests(own.migration);
      own.tell('copyDisks');
      expect(children()).toEqual([]);
      own.tell('done');
      yieldToGuests(all.migration, 'all');
      expect(children()).toEqual([]);
      all.tell('connect');
      const first = children();
      expect(first).toHaveLength(1);
      for (const phase of ['copyDisks', 'stun', 'copyMemory', 'stun'] as const) all.tell(phase);
      expect(children().filter((id) => first.includes(id))).toEqual(first);
      all.tell('done');
    });

    it('stays what it is without a program to change it, and the niceness changes all the same', async () => {
      const usual = niceness();
      vi.stubEnv('PATH', '/nowhere');
      const { migration, tell } = listening();
      yieldToGuests(migration, 'all');
      const seen: number[] = [];
      for (const phase of ['connect', 'copyDisks', 'stun', 'done'] as const) {
        seen.push(tell(phase));
        await setImmediate();
        expect(classOf(ownThread())).toBe(other);
      }
      expect(seen).toEqual([usual, Math.min(19, usual + 10), usual, usual]);
    });
  },
);

/** A program changes the class, and says nothing when it has. */
const patiently = { timeout: 20_000, interval: 2 };

async function settled(threads: readonly number[], expected: number): Promise<void> {
  await expect.poll(() => threads.map(classOf), patiently).toEqual(threads.map(() => expected));
}

/** The number of a thread's class. */
function classOf(id: number): number {
  const [, fields = ''] = readFileSync(`/proc/self/task/${id}/stat`, 'utf8').split(') ');
  return Number(fields.split(' ')[38]);
}

/** The programs that this process has started and that have not ended, but those that they have started. */
function children(): readonly number[] {
  return readdirSync('/proc/self/task')
    .flatMap((id) => readFileSync(`/proc/self/task/${id}/children`, 'utf8').split(' '))
    .filter((id) => id !== '')
    .map(Number);
}

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
