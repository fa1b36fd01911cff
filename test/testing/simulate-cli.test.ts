// Goal: the simulator's command says how far it came when it is interrupted, and ends with what became of that. Method: the command itself, in a
// process of its own, with more seeds than it will ever do.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { buildSimulator, mutants } from './support/mutants.ts';

let simulator: string | undefined;
let child: ChildProcess | undefined;

afterEach(async () => {
  child?.kill('SIGKILL');
  if (simulator !== undefined) await rm(dirname(simulator), { recursive: true, force: true });
});

/** Sends it a signal as soon as it has said what is expected. Resolves to its last line, and what it ended with. */
async function interrupted(from: number, said: RegExp, signal: 'SIGINT' | 'SIGTERM') {
  const seeds = ['--from', String(from), '--seeds', '1000000', '--no-shrink'];
  const running = spawn(process.execPath, [simulator ?? '', ...seeds], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  child = running;
  const ended = once(running, 'close');
  let text = '';
  running.stdout.setEncoding('utf8').on('data', (more: string) => {
    const before = said.test(text);
    text += more;
    if (!before && said.test(text)) running.kill(signal);
  });
  const [code] = await ended;
  return { code, last: text.trimEnd().split('\n').at(-1) };
}

test('says how many seeds were done when it is interrupted, and by what it was', async () => {
  simulator = await buildSimulator(undefined, 'simulate-cli');
  const { code, last } = await interrupted(1, /^seeds 1 to 1000000$/m, 'SIGTERM');
  expect(last).toMatch(/^SIGTERM: \d+ of 1000000 seeds done, 0 broke a rule$/);
  expect(code).toBe(143);
});

test('ends with 1 all the same where a rule was broken before', async () => {
  const mutant = mutants.find(({ draw, seed }) => draw === undefined && seed < 12);
  simulator = await buildSimulator(mutant, 'simulate-cli-mutant');
  const { code, last } = await interrupted(mutant?.seed ?? 0, /^seed \d+ breaks /m, 'SIGINT');
  expect(last).toMatch(/^SIGINT: \d+ of 1000000 seeds done, [1-9]\d* broke a rule$/);
  expect(code).toBe(1);
});
