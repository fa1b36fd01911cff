// Goal: a simulation does what its scenario says, judges it, and can be repeated. Method: stories, each a timeline.
import { describe, expect, test } from 'vitest';
import type { Action, Scenario, TimelineEntry } from '../../src/testing/sim/scenario.ts';
import { simulate } from '../../src/testing/sim/simulate.ts';
import { oltp, simulatedDirtier } from '../../src/testing/sim/workloads.ts';

const mebibyte = 1 << 20;

function scenarioOf(timeline: readonly TimelineEntry[], changes: Partial<Scenario> = {}): Scenario {
  return {
    vm: {
      memory: { sizeBytes: 2 * mebibyte, usedFraction: 0.7 },
      disks: [{ id: 'disk0', sizeBytes: 3 * mebibyte + 512, allocatedFraction: 0.5 }],
      workloads: [
        oltp({ disk: 'disk0', iops: 200, readFraction: 0.3 }),
        simulatedDirtier({ bytesPerSecond: mebibyte, hotBytes: mebibyte / 2 }),
      ],
    },
    paths: [{ name: 'wan', rateMbit: 200, delayMs: 5 }],
    policy: { connectMsMax: 3000, decideMsMax: 2000, stunMsMax: 5000 },
    registers: 'own',
    timeline,
    ...changes,
  };
}

const run = (timeline: readonly TimelineEntry[], changes?: Partial<Scenario>) =>
  simulate({ seed: 1, scenario: scenarioOf(timeline, changes), log: true });

describe('a simulation', () => {
  test('of a migration that nothing disturbs completes, and says what the guest noticed', async () => {
    const { reports, guest, violations, again } = await run([]);
    expect(violations).toEqual([]);
    expect(reports).toMatchObject({
      source: { outcome: 'completed' },
      destination: { outcome: 'completed' },
    });
    expect(again).toBeUndefined();
    expect(guest.map(({ label }) => label)).toEqual(['start', 'migration', 'after']);
    const during = guest[1];
    expect(during?.longestPauseMs).toBeGreaterThan(5);
    expect(during?.workloads['oltp-0']?.completed).toBeGreaterThan(10);
  });

  test('is the same again from the same seed and scenario, and another one from another seed', async () => {
    const cut: TimelineEntry = { at: { end: 'source', phase: 'copyMemory', afterMs: 5 }, do: { cut: '*' } };
    const scenario = scenarioOf([cut]);
    const digests: string[] = [];
    for (const seed of [1, 1, 2]) digests.push((await simulate({ seed, scenario })).digest);
    expect(digests[1]).toBe(digests[0]);
    expect(digests[2]).not.toBe(digests[0]);
  });

  test('of a link that is cut leaves the guest at the source, and moves it when the link is mended', async () => {
    const { reports, violations, again, performed } = await run([
      { at: { end: 'source', phase: 'copyMemory', afterMs: 5 }, do: { cut: 'wan' } },
    ]);
    expect(violations).toEqual([]);
    expect(performed).toEqual({ cut: 1 });
    expect(reports.source).toMatchObject({ outcome: 'failed', error: { guest: 'running' } });
    expect(again?.map(({ outcome }) => outcome)).toEqual(['completed', 'completed']);
  });
});

describe('a source that dies', () => {
  test.each([
    ['before its claim of given: runs its guest again', { end: 'source', step: 'claim' }, 'resumed'],
    ['with given: asks, and takes it back', { claim: 'given' }, 'reclaimed'],
    ['when the guest runs at the destination: lets go of it', { claim: 'owner', afterMs: 2 }, 'released'],
  ] as const)('%s', async (_, at, action) => {
    const { recoveries, violations, reports } = await run([
      { at, do: { kill: 'source', how: 'process' } },
      { at: { ms: 1000 }, do: { restart: 'source' } },
    ]);
    expect(violations).toEqual([]);
    expect(reports.source).toBeUndefined();
    expect(recoveries.at(-1)?.report?.action).toBe(action);
  });

  test('with its host, when it has given the VM: nothing is lost if the destination has it', async () => {
    const { violations, recoveries } = await run([
      { at: { claim: 'owner' }, do: { kill: 'source', how: 'host' } },
    ]);
    expect(violations).toEqual([]);
    expect(recoveries.at(-1)?.report).toMatchObject({ owner: 'destination' });
  });
});

describe('a destination that dies', () => {
  test.each([
    ['with owner: starts the guest when it is back', { claim: 'owner' }, 'started'],
    ['before it has decided: never starts it', { end: 'destination', step: 'claim' }, 'declined'],
  ] as const)('%s', async (_, at, action) => {
    const { recoveries, violations } = await run(
      [
        { at, do: { kill: 'destination', how: 'process' } },
        { at: { ms: 1500 }, do: { restart: 'destination' } },
      ],
      { namesAttempt: true },
    );
    expect(violations).toEqual([]);
    expect(recoveries.map(({ report }) => report?.action)).toContain(action);
  });

  test('in a hook: starts the guest when it is back, and calls no hook again', async () => {
    const hooks = { beforeStart: { ms: 10 }, afterStart: { ms: 10 } };
    const {
      recoveries,
      violations,
      log = [],
    } = await run(
      [
        {
          at: { end: 'destination', step: 'before-start', afterMs: 5 },
          do: { kill: 'destination', how: 'process' },
        },
        { at: { ms: 1500 }, do: { restart: 'destination' } },
      ],
      { hosts: { hooks } },
    );
    expect(violations).toEqual([]);
    expect(recoveries.map(({ report }) => report?.action)).toContain('started');
    expect(log.filter(({ what }) => what.startsWith('hook')).map(({ what }) => what)).toEqual([
      'hook beforeStart',
    ]);
  });

  test('with its host and the guest in it: the guest is lost, and nobody runs a copy of it', async () => {
    const { violations, recoveries, again } = await run([
      { at: { claim: 'owner', afterMs: 1 }, do: { kill: 'destination', how: 'host' } },
    ]);
    expect(violations).toEqual([]);
    expect(again).toBeUndefined();
    expect(recoveries.at(-1)?.report).toMatchObject({ owner: 'destination' });
  });
});

test('at every step of its handover either end can die, and the guest is somewhere once', async () => {
  const steps = [
    ...(['stun', 'save', 'tap-finish', 'seal', 'claim', 'release'] as const).map(
      (step) => ['source', step] as const,
    ),
    ...(['disk-flush', 'load', 'claim', 'start'] as const).map((step) => ['destination', step] as const),
  ];
  for (const [end, step] of steps) {
    for (const how of ['process', 'host'] as const) {
      const { performed, violations } = await run([{ at: { end, step }, do: { kill: end, how } }]);
      expect({ end, step, how, performed, violations }).toEqual({
        end,
        step,
        how,
        performed: { [`kill-${how}`]: 1 },
        violations: [],
      });
    }
  }
});

describe('what once broke a rule', () => {
  const hang: Action = { register: 'source', on: 'claim', value: 'reclaimed', does: 'hang' };

  test('a seal that is under way when the link breaks does not seal the guest that runs again', async () => {
    const { violations, reports } = await run(
      [{ at: { end: 'source', step: 'seal', afterMs: 1 }, do: { reset: '*' } }],
      { hosts: { source: { sealMs: 30 } }, policy: { stunMsMax: 5000, decideMsMax: 2000, outageMsMax: 0 } },
    );
    expect(violations).toEqual([]);
    expect(reports.source).toMatchObject({ outcome: 'failed', error: { guest: 'running' } });
  });

  test('a register that hangs over reclaimed does not keep the guest from running', async () => {
    const { violations, reports } = await run([
      { at: { ms: 0 }, do: hang },
      { at: { end: 'destination', phase: 'handover' }, do: { abort: 'destination' } },
    ]);
    expect(violations).toEqual([]);
    expect(reports.source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
  });

  const small: Partial<Scenario> = {
    vm: {
      memory: { sizeBytes: 2 * mebibyte },
      disks: [{ id: 'disk0', sizeBytes: 4 * mebibyte, allocatedFraction: 1 }],
      workloads: [
        oltp({ disk: 'disk0', iops: 20 }),
        simulatedDirtier({ bytesPerSecond: mebibyte, hotBytes: mebibyte / 2 }),
      ],
    },
    paths: [{ name: 'wan', rateMbit: 100, delayMs: 5 }],
    policy: { stunMsMax: 1000, downtimeMsMax: 300 },
  };

  test('a VM that is on its way as a whole is not stunned before the link was measured', async () => {
    const { violations, reports } = await run([], small);
    expect(violations).toEqual([]);
    expect(reports.source).toMatchObject({ outcome: 'completed' });
    expect(reports.source?.downtimeMs).toBeLessThan(300);
  });

  test('what a slow disk at the destination has not written yet is not waited for with the guest stunned', async () => {
    const { violations, reports } = await run([], {
      ...small,
      hosts: { disk: { bytesPerSecond: 4 * mebibyte } },
    });
    expect(violations).toEqual([]);
    expect(reports.source?.downtimeMs).toBeLessThan(300);
  });
});
