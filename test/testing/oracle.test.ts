// Goal: the oracle notices. Method: faults that no engine without an audit can see, judgements of worlds that are made up, and
// scenarios made smaller for as long as a rule is broken. That its other rules can fail, the mutants show.
import { describe, expect, test } from 'vitest';
import { MigrationError, type MigrationReport } from '../../src/index.ts';
import { createSimulatedBackend } from '../../src/testing/sim/hypervisor.ts';
import { Oracle } from '../../src/testing/sim/oracle.ts';
import type { Scenario, TimelineEntry } from '../../src/testing/sim/scenario.ts';
import { shrink } from '../../src/testing/sim/shrink.ts';
import { simulate } from '../../src/testing/sim/simulate.ts';
import { createSimulatedVm } from '../../src/testing/sim/vm.ts';
import { oltp, simulatedDirtier } from '../../src/testing/sim/workloads.ts';
import { createVirtualEnvironment } from '../../src/testing/virtual-time.ts';

const mebibyte = 1 << 20;

function scenarioOf(timeline: readonly TimelineEntry[]): Scenario {
  return {
    vm: {
      memory: { sizeBytes: mebibyte },
      disks: [{ id: 'disk0', sizeBytes: 2 * mebibyte, allocatedFraction: 0.5 }],
      workloads: [
        oltp({ disk: 'disk0', iops: 300, readFraction: 0 }),
        simulatedDirtier({ bytesPerSecond: 2 * mebibyte, hotBytes: mebibyte / 2 }),
      ],
    },
    paths: [{ name: 'wan', rateMbit: 100, delayMs: 5 }],
    policy: {},
    registers: 'own',
    timeline,
  };
}

describe('what nobody tells the engine', () => {
  test.each([
    ['a write that a tap lost', 'tap-write', 'disk disk0'],
    ['a page that a round left out', 'memory-batch', 'memory ram'],
  ] as const)('%s is found when the destination takes possession', async (_, point, where) => {
    const fault = { point, effect: 'drop', times: 5 } as const;
    const { violations } = await simulate({
      seed: 1,
      scenario: scenarioOf([{ at: { end: 'source', phase: 'copyMemory' }, do: { vm: 'source', fault } }]),
    });
    expect(violations.map(({ rule }) => rule)).toEqual(['equal']);
    expect(violations[0]?.message).toContain(where);
  });
});

describe('a made-up world', () => {
  function made() {
    const environment = createVirtualEnvironment();
    const disks = [{ id: 'disk0', sizeBytes: mebibyte }];
    const vm = createSimulatedVm({ environment, vmId: 'vm-1', memory: { sizeBytes: mebibyte }, disks });
    const oracle = new Oracle({
      scenario: scenarioOf([]),
      now: () => 0,
      vm,
      backend: createSimulatedBackend({ environment }),
      claims: () => [],
      bytesWereHurt: () => false,
      operatorPaused: () => false,
      leftDisks: [],
    });
    const rulesOf = () => oracle.violations.map(({ rule }) => rule);
    return { vm, oracle, rulesOf };
  }
  const at = { vmId: 'vm-1', atMs: 0 };
  const report = (changes: Partial<MigrationReport>): MigrationReport => ({
    role: 'source',
    vmId: 'vm-1',
    epoch: 1,
    outcome: 'failed',
    owner: 'source',
    totalMs: 0,
    downtimeMs: 0,
    switchoverAttempts: 1,
    phases: {},
    bytes: { memory: 0, disk: 0, unchanged: 0, mirror: 0, state: 0, wire: 0 },
    rounds: 0,
    throttleMax: 0,
    outages: [],
    guestWrites: { mirrored: 0, setBack: 0 },
    guestWriteHoldMs: 0,
    roundTripMs: 0,
    ...changes,
  });

  test('in which the guest runs at both ends', () => {
    const { oracle, rulesOf } = made();
    for (const host of ['source', 'destination']) {
      oracle.vmEvent({ kind: 'state', state: 'running', before: 'paused', host, ...at });
    }
    expect(rulesOf()).toEqual(['one-runs', 'owner-runs']);
  });

  test('in which an engine breaks a contract', () => {
    const { oracle, rulesOf } = made();
    oracle.vmEvent({ kind: 'violation', message: 'seal: the VM is running', host: 'source', ...at });
    expect(rulesOf()).toEqual(['contract']);
  });

  test.each([
    ['goes', ['tapped']],
    ['stays', []],
  ] as const)('in which a guest runs on after a failed switchover, and its tap %s', async (what, broken) => {
    const { vm, oracle, rulesOf } = made();
    const [disk] = vm.attachSource().disks;
    const tap = await disk?.tap({
      write: ({ release }) => release(),
      invalidate: () => {},
      broken: () => {},
    });
    oracle.vmEvent({ kind: 'state', state: 'stunning', before: 'running', host: 'source', ...at });
    if (what === 'goes') await tap?.remove();
    oracle.vmEvent({ kind: 'state', state: 'running', before: 'stunned', host: 'source', ...at });
    oracle.retreated();
    expect(rulesOf()).toEqual(broken);
  });

  test('in which a rehearsal says that it went well, and the guest stands still', () => {
    const { vm, oracle, rulesOf } = made();
    oracle.ended(report({ outcome: 'rehearsed' }));
    expect(rulesOf()).toEqual([]);
    void vm.pause();
    oracle.ended(report({ outcome: 'rehearsed' }));
    oracle.ended(report({ outcome: 'rehearsed', owner: 'undecided' }));
    expect(rulesOf()).toEqual(['restored', 'truth', 'truth', 'restored']);
  });

  test.each([
    ['that the guest is paused, and it runs', 'failed', 'source', 'paused', 'aborted', 'truth'],
    ['that the guest is lost, and it runs', 'failed', 'source', 'lost', 'aborted', 'truth'],
    [
      'that the destination owns it, and no claim stands',
      'completed',
      'destination',
      'running',
      'aborted',
      'truth',
    ],
    ['that nothing is decided, and who owns it', 'undecided', 'source', 'running', 'aborted', 'truth'],
    ['that the library has a bug', 'failed', 'source', 'running', 'internal', 'sane'],
    [
      'that the peer broke the protocol, and no bit was hurt',
      'failed',
      'source',
      'running',
      'protocol',
      'sane',
    ],
  ] as const)('in which a report says %s', (_, outcome, owner, guest, code, rule) => {
    const { oracle, rulesOf } = made();
    oracle.ended(report({ outcome, owner, error: new MigrationError(code, 'made up', { owner, guest }) }));
    expect(rulesOf()).toContain(rule);
  });

  test('in which all is as a report says', () => {
    const { oracle, rulesOf } = made();
    const error = new MigrationError('aborted', 'made up', { owner: 'source', guest: 'running' });
    oracle.ended(report({ error }));
    oracle.mended();
    oracle.over({ openEnds: 0, connections: 1, heldBytes: 0, heldBytesPeak: 10, paths: {} }, 0, 10);
    expect(rulesOf()).toEqual([]);
  });

  test('in which the guest died with nobody, and something stays open', () => {
    const { vm, oracle, rulesOf } = made();
    void vm.pause();
    oracle.mended();
    oracle.over({ openEnds: 1, connections: 1, heldBytes: 0, heldBytesPeak: 11, paths: {} }, 2, 10);
    expect(rulesOf()).toEqual(['somewhere', 'left-open', 'left-open', 'held']);
  });
});

test('a scenario is made smaller down to what breaks the rule', async () => {
  const cut: TimelineEntry = { at: { ms: 123.4 }, do: { cut: 'wan' } };
  const mend: TimelineEntry = { at: { ms: 200 }, do: { mend: 'wan' } };
  const abort: TimelineEntry = { at: { end: 'source', phase: 'stun', afterMs: 17 }, do: { abort: 'source' } };
  const breaks = async ({ timeline }: Scenario) => timeline.some(({ do: action }) => 'abort' in action);
  const { timeline, vm, hosts } = await shrink({ ...scenarioOf([cut, abort, mend]), hosts: {} }, breaks);
  expect(timeline).toEqual([{ at: { end: 'source', phase: 'stun', afterMs: 0 }, do: { abort: 'source' } }]);
  expect(vm).toMatchObject({ workloads: [], disks: [] });
  expect(hosts).toBeUndefined();
});
