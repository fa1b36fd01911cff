// Goal: the oracle can fail. Method: each mutant is the library with one bug in it, and the swarm has to find it.
// LONGHAUL_MUTANTS=1000 looks from seed 1 on through so many, and prints which seed catches what.
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { buildSimulator, firstCatch, mutants } from './support/mutants.ts';

const seedsMax = Number(process.env.LONGHAUL_MUTANTS ?? 0);
const nearby = 25;
const built: string[] = [];
const table: string[] = [];

afterAll(async () => {
  if (seedsMax > 0) process.stdout.write(`${table.join('\n')}\n`);
  for (const file of built) await rm(dirname(file), { recursive: true, force: true });
});

test.each(mutants.map((mutant, index) => [mutant.name, index] as const))(
  '%s',
  async (name, index) => {
    const mutant = mutants[index];
    if (mutant === undefined) throw new Error('there is no such mutant');
    const simulator = await buildSimulator(mutant, `mutant-${index}`);
    built.push(simulator);
    const [from, seeds] = seedsMax > 0 ? [1, seedsMax] : [mutant.seed, nearby];
    const found = await firstCatch(simulator, from, seeds, mutant.draw);
    table.push(`${name}: seed ${found?.seed}, ${found?.rule}: ${found?.message}`);
    expect(mutant.rules).toContain(found?.rule);
  },
  300_000,
);
