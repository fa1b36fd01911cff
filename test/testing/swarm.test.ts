// Goal: whatever goes wrong, in whatever mixture, no rule of the oracle is broken. Method: seeds; each draws its own world, policy, and
// faults. `npm run simulate` goes on from there, and names the seed of what it finds.
import { expect, test } from 'vitest';
import { outcomeOf, runSeed } from '../../src/testing/sim/swarm.ts';

const seeds = 200;
/** Seeds that broke a rule when they were first run ... */
const kept: readonly number[] = [1931, 5317, 1201474, 1207808, 1231446];
/** ... those with disks of every shape ... */
const keptOfStorage: readonly number[] = [
  24261, 30695, 34841, 202376, 202501, 501365, 9100535, 9204271, 9204844, 9205729, 9213788, 9304054, 9331881,
  9332993, 9335638, 9337916, 9338011, 9343101, 9350648, 9352222,
];
/** ... and those with switchovers of every kind. */
const keptOfSwitchover: readonly number[] = [119, 700808];

const outcomes = new Map<string, number>();
const classes = new Set<string>();
let retreats = 0;

async function check(seed: number): Promise<void> {
  const { result } = await runSeed(seed);
  outcomes.set(outcomeOf(result), (outcomes.get(outcomeOf(result)) ?? 0) + 1);
  for (const name of Object.keys(result.performed)) classes.add(name);
  if (result.reports.source?.outcome === 'completed' && result.reports.source.switchoverAttempts > 1)
    retreats++;
  expect({ seed, violations: result.violations }).toEqual({ seed, violations: [] });
}

test(`seeds 1 to ${seeds}`, { timeout: 120_000 }, async () => {
  for (let seed = 1; seed <= seeds; seed++) await check(seed);
});

test('seeds 1 to 100, with the link gone for a while in each', { timeout: 120_000 }, async () => {
  let outlasted = 0;
  for (let seed = 1; seed <= 100; seed++) {
    const { result } = await runSeed(seed, { outages: true });
    expect({ seed, violations: result.violations }).toEqual({ seed, violations: [] });
    const { source } = result.reports;
    if (source?.outcome === 'completed' && source.outages.length > 0) outlasted++;
  }
  // A sweep in which nothing is outlasted would show nothing.
  expect(outlasted).toBeGreaterThan(20);
});

test('seeds 1 to 100, with disks of every shape, and what goes wrong with them', {
  timeout: 120_000,
}, async () => {
  const ways = new Map<string, number>();
  const struck = new Set<string>();
  for (let seed = 1; seed <= 100; seed++) {
    const { result } = await runSeed(seed, { storage: true });
    expect({ seed, violations: result.violations }).toEqual({ seed, violations: [] });
    const way = outcomeOf(result);
    ways.set(way, (ways.get(way) ?? 0) + 1);
    for (const name of Object.keys(result.performed)) struck.add(name.replace(/-[a-z]+$/, ''));
  }
  expect(ways.get('completed')).toBeGreaterThan(30);
  expect(ways.get('copied')).toBeGreaterThan(8);
  expect([...ways.keys()]).toEqual(expect.arrayContaining(['failed', 'refused', 'rehearsed']));
  expect([...struck]).toEqual(
    expect.arrayContaining(['read', 'write', 'flush', 'extents', 'take'].map((name) => `vm-disk-${name}`)),
  );
});

test('seeds 1 to 100, with switchovers of every kind, and hypervisors that cheat', {
  timeout: 120_000,
}, async () => {
  const seen = { audited: 0, found: 0, inOneFlight: 0, hooks: 0, hooksFailed: 0 };
  for (let seed = 1; seed <= 100; seed++) {
    const { result, scenario } = await runSeed(seed, { switchover: true });
    expect({ seed, violations: result.violations }).toEqual({ seed, violations: [] });
    const { source, destination } = result.reports;
    if (source?.audit.missChance === 0) seen.audited++;
    if ((source?.audit.differing ?? 0) > 0) seen.found++;
    if (source?.outcome === 'completed' && scenario.policy.handover === 'one-flight') seen.inOneFlight++;
    if (destination?.hooks !== undefined) seen.hooks++;
    if (destination?.error?.code === 'hook-failed') seen.hooksFailed++;
  }
  expect(seen.audited).toBeGreaterThan(10);
  expect(seen.found).toBeGreaterThan(2);
  expect(seen.inOneFlight).toBeGreaterThan(10);
  expect(seen.hooks).toBeGreaterThan(15);
  expect(seen.hooksFailed).toBeGreaterThan(3);
});

test.each(kept)('seed %i', check);

test.each(keptOfStorage)('seed %i, with disks of every shape', async (seed) => {
  const { result } = await runSeed(seed, { storage: true });
  expect(result.violations).toEqual([]);
});

test.each(keptOfSwitchover)('seed %i, with switchovers of every kind', async (seed) => {
  const { result } = await runSeed(seed, { switchover: true });
  expect(result.violations).toEqual([]);
});

test('each way to end and each kind of fault was among them', () => {
  expect([...outcomes.keys()].sort()).toEqual([
    'completed',
    'died',
    'failed',
    'recovered',
    'rehearsed',
    'undecided',
  ]);
  expect(outcomes.get('completed')).toBeGreaterThan(seeds / 5);
  expect(retreats).toBeGreaterThan(seeds / 50);
  expect([...classes]).toEqual(
    expect.arrayContaining([
      ...['cut', 'mend', 'darken', 'lighten', 'reset', 'reset-after', 'flip', 'change'],
      ...['kill-process', 'kill-host', 'restart', 'abort', 'pause'],
      ...['register-fail', 'register-fail-afterwards', 'register-delay', 'register-hang'],
    ]),
  );
  expect([...classes].filter((name) => name.startsWith('vm-')).length).toBeGreaterThan(15);
});
