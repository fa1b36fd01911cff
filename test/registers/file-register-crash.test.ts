/**
 * Goal: a host that dies at any moment leaves a file register that holds a claim or does not, never half of
 * one; a claim that resolved is there after it; and a claim that was once read is never gone again.
 *
 * Method: the register runs on a file system that dies at each of its operations in turn, before, after and
 * half-way through it, and then forgets every subset of what was not synced (power.ts). Then another process
 * reads, claims the opposite, and the host dies again.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { fileRegister } from '../../src/registers/file-register.ts';
import { type Dying, power } from './power.ts';

vi.mock('node:fs/promises', async (original) => (await import('./power.ts')).withPower(await original()));

const vmId = 'web 1';
const everything = 2 ** 20 - 1;
let base: string;

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'register-'));
});

afterEach(async () => {
  await power.cut(0);
  rmSync(base, { recursive: true });
});

interface How {
  readonly dying: Dying;
  readonly ready: boolean;
}

function filesIn(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' });
}

/** One run: claims `owner`, made `ready` for it or not, and dies on the way; `cases` is how many different things may be left of it. */
async function run(directory: string, at: number, { dying, ready }: How, lost: number) {
  const claiming = fileRegister(directory);
  power.dieAt(at, dying);
  if (ready) await claiming.prepare?.(vmId).catch(() => {});
  const resolved = await claiming.claim(vmId, 1, 'destination', 'owner').catch(() => undefined);
  const died = !power.on;
  const cases = 2 ** power.undecided;
  await power.cut(lost);
  return { died, resolved, cases };
}

/** What must hold on the host when it is back. */
async function verify(directory: string, resolved: string | undefined): Promise<'owner' | 'declined'> {
  const seen = await fileRegister(directory).read(vmId);
  if (resolved !== undefined) expect(seen).toEqual([{ epoch: 1, role: 'destination', value: 'owner' }]);
  await power.cut(everything);
  expect(await fileRegister(directory).read(vmId)).toEqual(seen);
  const other = fileRegister(directory);
  const standing = await other.claim(vmId, 1, 'destination', 'declined');
  expect(standing).toBe(seen[0]?.value ?? 'declined');
  expect(filesIn(directory).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  await power.cut(everything);
  expect(await fileRegister(directory).claim(vmId, 1, 'destination', 'owner')).toBe(standing);
  expect(await fileRegister(directory).read(vmId)).toEqual([
    { epoch: 1, role: 'destination', value: standing },
  ]);
  return standing as 'owner' | 'declined';
}

const ways: readonly How[] = (['before', 'half', 'after'] as const).flatMap((dying) => [
  { dying, ready: false },
  { dying, ready: true },
]);

describe.each(ways)('the host dies $dying an operation (made ready: $ready)', (how) => {
  it('and the claim stands or does not, for good', async () => {
    const standing = new Set<string>();
    let runs = 0;
    let died = true;
    for (let at = 0; died; at += 1) {
      let cases = 1;
      for (let lost = 0; lost < cases; lost += 1) {
        const directory = join(base, `${at}-${lost}`, 'registers');
        const result = await run(directory, at, how, lost);
        ({ died, cases } = result);
        standing.add(await verify(directory, result.resolved));
        runs += 1;
      }
      if (!died) expect(at).toBeGreaterThan(15);
    }
    expect(runs).toBeGreaterThan(30);
    expect([...standing].sort()).toEqual(['declined', 'owner']);
  });
});

it('what one process read stays, also if the one that wrote it died before it was durable', async () => {
  const directory = join(base, 'registers');
  let at = 0;
  // Up to the first operation after which the record has its name: nothing is synced then.
  for (; ; at += 1) {
    rmSync(directory, { recursive: true, force: true });
    await run(directory, at, { dying: 'after', ready: false }, 0);
    if (filesIn(base).some((name) => name.endsWith('1.destination'))) break;
  }
  rmSync(directory, { recursive: true, force: true });
  power.dieAt(at, 'after');
  await fileRegister(directory)
    .claim(vmId, 1, 'destination', 'owner')
    .catch(() => undefined);
  // The process died, the host did not.
  power.on = true;
  power.dieAt(Number.POSITIVE_INFINITY, 'before');
  expect(await fileRegister(directory).read(vmId)).toHaveLength(1);
  await power.cut(everything);
  expect(await fileRegister(directory).read(vmId)).toHaveLength(1);
});

it('does no more for the first claim than for any other once it was made ready for it', async () => {
  const register = fileRegister(join(base, 'far', 'away'));
  const operationsOf = async (act: () => Promise<unknown>) => {
    const before = power.operations;
    await act();
    return power.operations - before;
  };
  const first = await operationsOf(() => register.claim('a', 1, 'source', 'given'));
  await register.prepare?.(vmId);
  const ready = await operationsOf(() => register.claim(vmId, 1, 'source', 'given'));
  expect(await operationsOf(() => register.claim(vmId, 2, 'source', 'given'))).toBe(ready);
  expect(first).toBeGreaterThan(ready);
});
