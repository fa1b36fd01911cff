// Goal: a migration over the simulated network completes however far and lossy it is, and whatever the
// network does before commit, it goes on when that is over; or, where it is not to outlast that, fails soon at
// whoever lives: the guest runs at the source, nothing is left open, and the next attempt succeeds.
// Method: the real engine with the in-memory backend, in virtual time; faults strike when a phase begins.
import { afterEach, describe, expect, test } from 'vitest';
import type { MigrationPolicy, Phase } from '../../src/index.ts';
import type { PathOptions } from '../../src/testing/sim/network-path.ts';
import { type Attempt, createNetworkWorld, type NetworkWorld, type Reports } from './network-world.ts';

const cleanUp: (() => void)[] = [];
afterEach(() => {
  for (const step of cleanUp.splice(0)) step();
});

function world(paths: readonly PathOptions[], seed = 1): NetworkWorld {
  const made = createNetworkWorld({ paths, seed });
  cleanUp.push(() => made.vm.destroy());
  return made;
}

function expectNothingOpen({ network }: NetworkWorld): void {
  const { openEnds, heldBytes } = network.statistics();
  expect({ openEnds, heldBytes, connections: network.connections() }).toEqual({
    openEnds: 0,
    heldBytes: 0,
    connections: [],
  });
}

async function expectCompletes(w: NetworkWorld, attempt: Attempt = w.attempt()): Promise<Reports> {
  const reports = await attempt.run();
  cleanUp.push(() => attempt.moved()?.destroy());
  expect(reports.source?.error).toBeUndefined();
  expect(reports.source).toMatchObject({ outcome: 'completed', owner: 'destination' });
  expect(reports.destination).toMatchObject({ outcome: 'completed', owner: 'destination' });
  expect(attempt.equal()).toBe(true);
  expectNothingOpen(w);
  return reports;
}

describe('two paths of unequal speed', () => {
  for (const congestion of ['cubic', 'bbr'] as const) {
    for (const rttMs of [0, 100, 200]) {
      for (const lossProbability of [0, 0.001, 0.005]) {
        test(`${congestion}, ${rttMs} ms, ${lossProbability * 100} % lost: it completes`, async () => {
          const common = { congestion, lossProbability, jitterMs: rttMs / 100 };
          const w = world([
            { ...common, name: 'fast', rateMbit: 400, delayMs: rttMs / 2 },
            { ...common, name: 'slow', rateMbit: 40, delayMs: rttMs, back: { rateMbit: 10 } },
          ]);
          const { source } = await expectCompletes(w);
          expect(source?.roundTripMs).toBeGreaterThanOrEqual(rttMs);
          const { fast, slow } = w.network.statistics().paths;
          for (const path of [fast, slow]) expect(path?.[0].deliveredBytes).toBeGreaterThan(10_000);
        });
      }
    }
  }
});

const wan = { name: 'wan', rateMbit: 200, delayMs: 10 };
const phases: readonly Phase[] = ['prepare', 'copyDisks', 'copyMemory', 'stun'];

/**
 * How soon an attempt has to be over once its network is broken: silence, the time for preparing, the stun.
 */
const overMsMax = 12_000;

/** Runs an attempt that a fault strikes when the source enters the phase. */
async function struck(
  w: NetworkWorld,
  phase: Phase,
  strike: (attempt: Attempt) => void,
  policy: MigrationPolicy = { outageMsMax: 0 },
): Promise<Reports & { readonly tookMs: number; readonly attempt: Attempt }> {
  const attempt = w.attempt(policy);
  let struckAt = Number.NaN;
  let overAt = Number.NaN;
  attempt.source.on('phase', (entered) => {
    if (entered === phase) {
      struckAt = w.environment.now();
      strike(attempt);
    } else if (entered === 'done') {
      overAt = w.environment.now();
    }
  });
  const reports = await attempt.run();
  return { ...reports, tookMs: overAt - struckAt, attempt };
}

describe('before commit', () => {
  const faults: Readonly<
    Record<string, { strike: (w: NetworkWorld) => void; heal?: (w: NetworkWorld) => void }>
  > = {
    'a cut path': { strike: (w) => w.network.cut(), heal: (w) => w.network.mend() },
    'a black hole': { strike: (w) => w.network.blackHole(true), heal: (w) => w.network.blackHole(false) },
    'a black hole on the way there': {
      strike: (w) => w.network.blackHole(true, { from: 'source' }),
      heal: (w) => w.network.blackHole(false),
    },
    'a black hole on the way back': {
      strike: (w) => w.network.blackHole(true, { from: 'destination' }),
      heal: (w) => w.network.blackHole(false),
    },
    'a reset of everything': { strike: (w) => w.network.resetAll() },
    'a reset in mid-frame': { strike: (w) => w.network.resetAfter(100, { from: 'source' }) },
    'a reset of an answer': { strike: (w) => w.network.resetAfter(3, { from: 'destination' }) },
    'a flipped bit on the way there': { strike: (w) => w.network.flipNextByte({ from: 'source' }) },
    'a flipped bit on the way back': { strike: (w) => w.network.flipNextByte({ from: 'destination' }) },
  };
  for (const [name, { strike, heal }] of Object.entries(faults)) {
    for (const phase of phases) {
      test(`${name} in ${phase} is outlasted`, async () => {
        const w = world([wan]);
        const attempt = w.attempt({ connectMsMax: 20_000, decideMsMax: 20_000 });
        attempt.source.on('phase', (entered) => {
          if (entered !== phase) return;
          strike(w);
          w.environment.setTimer(8000, () => heal?.(w));
        });
        const { source } = await expectCompletes(w, attempt);
        for (const { durationMs } of source?.outages ?? []) expect(durationMs).toBeLessThan(10_000);
        if (heal !== undefined) expect(source?.outages).toHaveLength(1);
      });
    }
  }

  for (const [name, { strike, heal }] of Object.entries(faults).filter(
    ([, { heal }]) => heal !== undefined,
  )) {
    for (const phase of phases) {
      test(`${name} in ${phase}, not to be outlasted: the guest runs at the source, and the next attempt succeeds`, async () => {
        const w = world([wan]);
        const { source, destination, tookMs } = await struck(w, phase, () => strike(w));
        expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
        expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
        expect(tookMs).toBeLessThan(overMsMax);
        expect(w.vm.state).toBe('running');
        await w.settle();
        heal?.(w);
        await w.settle();
        expectNothingOpen(w);
        await expectCompletes(w);
      });
    }
  }

  for (const phase of ['verify', 'handover'] as const) {
    test(`a link that is gone for 20 s from ${phase} on is waited for`, async () => {
      const w = world([wan]);
      const attempt = w.attempt({ stunMsMax: 2000, decideMsMax: 40_000 });
      let entries = 0;
      attempt.source.on('phase', (entered) => {
        if (entered !== phase || entries++ > 0) return;
        w.network.cut();
        w.environment.setTimer(20_000, () => w.network.mend());
      });
      const { source, destination } = await attempt.run();
      cleanUp.push(() => attempt.moved()?.destroy());
      expect(destination?.outcome).toBe(source?.outcome);
      expect(source).toMatchObject({ outcome: 'completed', owner: 'destination' });
      expect(attempt.moved()?.state).toBe('running');
      expect(w.vm.state).not.toBe('running');
      expect(attempt.equal()).toBe(true);
    });
  }

  test('a destination that is never heard of again is waited for as long as was asked', async () => {
    const w = world([wan]);
    const strike = ({ transports }: Attempt) => transports.destination.kill('silent');
    const { source, tookMs } = await struck(w, 'copyMemory', strike, { outageMsMax: 60_000 });
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'connection-lost', guest: 'running' },
    });
    expect(tookMs).toBeGreaterThan(60_000);
    expect(tookMs).toBeLessThan(66_000);
    await expectCompletes(w);
  });

  for (const how of ['reset', 'silent'] as const) {
    for (const phase of phases) {
      test(`a destination killed (${how}) in ${phase}: the guest runs at the source`, async () => {
        const w = world([wan]);
        const { source, destination, tookMs } = await struck(w, phase, ({ transports }) =>
          transports.destination.kill(how),
        );
        expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
        expect(destination).toBeUndefined();
        expect(tookMs).toBeLessThan(how === 'reset' ? 100 : overMsMax);
        expectNothingOpen(w);
        await expectCompletes(w);
      });

      test(`a source killed (${how}) in ${phase}: the destination ends, and keeps nothing`, async () => {
        const w = world([wan]);
        const { destination } = await struck(w, phase, ({ transports }) => transports.source.kill(how));
        expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
        expect(destination?.error?.code).toBe(how === 'reset' ? 'connection-lost' : 'timeout');
        expectNothingOpen(w);
      });
    }
  }

  test('a darkness of two seconds is lived through', async () => {
    const w = world([wan]);
    const attempt = w.attempt();
    attempt.source.on('phase', (phase) => {
      if (phase !== 'copyDisks') return;
      w.network.blackHole(true);
      w.environment.setTimer(2000, () => w.network.blackHole(false));
    });
    await expectCompletes(w, attempt);
  });
});

test('the same seed gives the same run, another one another', async () => {
  const run = async (seed: number) => {
    const w = world([{ ...wan, jitterMs: 2, lossProbability: 0.002 }], seed);
    await expectCompletes(w);
    return w.network.digest();
  };
  const first = await run(3);
  expect(await run(3)).toBe(first);
  expect(await run(4)).not.toBe(first);
});
