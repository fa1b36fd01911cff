// Goal: the oracle notices. Method: faults that no engine without an audit can see, judgements of worlds that are made up, and
// scenarios made smaller for as long as a rule is broken. That its other rules can fail, the mutants show.
import { describe, expect, test } from 'vitest';
import { MigrationError, type MigrationReport } from '../../src/index.ts';
import type { TapHandler } from '../../src/interfaces/block-device.ts';
import type { Warning } from '../../src/interfaces/migration.ts';
import type { Claim } from '../../src/interfaces/register.ts';
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
  function made(changes: Partial<Scenario> = {}, claims: readonly Claim[] = []) {
    const environment = createVirtualEnvironment();
    const disks = [{ id: 'disk0', sizeBytes: mebibyte }];
    const backend = createSimulatedBackend({ environment });
    const vm = createSimulatedVm({ environment, vmId: 'vm-1', memory: { sizeBytes: mebibyte }, disks });
    const oracle = new Oracle({
      scenario: { ...scenarioOf([]), ...changes },
      now: () => 0,
      vm,
      backend,
      claims: () => claims,
      bytesWereHurt: () => false,
      operatorPaused: () => false,
      leftDisks: [],
    });
    const rulesOf = () => oracle.violations.map(({ rule }) => rule);
    return { environment, vm, backend, oracle, rulesOf };
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

  const alone: Partial<Scenario> = { policy: { memory: 'none' } };
  /** The guest is stunned, and the destination has its disk as it is then, or not. */
  async function copy(world: ReturnType<typeof made>, isEqual: boolean): Promise<void> {
    const { vm, backend, oracle } = world;
    oracle.begins({ memory: 'none' });
    await vm.guest.writeDisk('disk0', 0, 4096);
    const source = vm.attachSource();
    await source.stun();
    oracle.vmEvent({ kind: 'state', state: 'stunned', before: 'stunning', host: 'source', ...at });
    const there = await backend.prepare({ ...vm.description, memory: [] }, { memory: 'none' });
    const content = await source.disks[0]?.read(0, 4096);
    if (isEqual && content !== undefined) await there.disks[0]?.write(0, content);
    await there.disks[0]?.flush();
    await source.resume();
    await there.handOver();
    const state = { state: 'handed-over', before: 'prepared', host: 'destination' } as const;
    oracle.vmEvent({ kind: 'state', ...state, ...at });
  }

  test.each([
    ['as they were', true, []],
    ['otherwise', false, ['copied']],
  ] as const)('in which disks alone are handed over %s at the stun', async (_, isEqual, broken) => {
    const world = made(alone);
    await copy(world, isEqual);
    world.oracle.ended(report({ outcome: 'copied' }));
    expect(world.rulesOf()).toEqual(broken);
  });

  test('in which disks alone are copied, and a claim stands', async () => {
    const world = made(alone, [{ epoch: 1, role: 'source', value: 'given' }]);
    await copy(world, true);
    world.oracle.ended(report({ outcome: 'copied' }));
    expect(world.rulesOf()).toEqual(['copied']);
  });

  test('in which disks alone are said to be copied, and nothing was handed over', () => {
    const { oracle, rulesOf } = made(alone);
    oracle.begins({ memory: 'none' });
    oracle.ended(report({ outcome: 'copied' }));
    expect(rulesOf()).toEqual(['truth']);
  });

  test.each([
    ['a tap', { kind: 'tap', disk: 'disk0', set: true }],
    ['a throttle', { kind: 'throttle', fraction: 0.5 }],
    ['a stun', { kind: 'state', state: 'stunning', before: 'running' }],
  ] as const)('in which a migration was refused, and there was %s', (_, event) => {
    const { oracle, rulesOf } = made({ hosts: { disk: { capacityBytes: 0 } } });
    oracle.begins({});
    const refused = () => {
      const where = { owner: 'source', guest: 'running', phase: 'prepare' } as const;
      oracle.ended(report({ error: new MigrationError('disk-full', 'made up', where) }));
    };
    refused();
    expect(rulesOf()).toEqual([]);
    oracle.vmEvent({ host: 'source', ...event, ...at });
    refused();
    expect(rulesOf()).toContain('untouched');
  });

  test.each([
    ['a full disk, and there is room', 'disk-full', {}, ['excused']],
    ['a full disk, and it has a bound', 'disk-full', { hosts: { disk: { capacityBytes: 9 } } }, []],
    ['writes that cannot be seen, and they can', 'unsupported', {}, ['excused']],
    ['a disk that cannot be read, and none failed', 'disk-read', {}, ['excused']],
  ] as const)('in which an error tells of %s', (_, code, changes, broken) => {
    const { oracle, rulesOf } = made(changes);
    oracle.ended(
      report({ error: new MigrationError(code, 'made up', { owner: 'source', guest: 'running' }) }),
    );
    expect(rulesOf()).toEqual(broken);
  });

  test('in which a guest write was held for longer than is allowed', async () => {
    const { environment, vm, oracle, rulesOf } = made({ policy: { guestWriteHoldMsMax: 20 } });
    const holds = (ms: number): TapHandler => ({
      write: () => new Promise((resolve) => environment.setTimer(ms, () => resolve())),
      invalidate: () => {},
      broken: () => {},
    });
    const [disk] = vm.attachSource().disks;
    for (const ms of [20, 21]) {
      const tap = await disk?.tap(holds(ms));
      await environment.run(vm.guest.writeDisk('disk0', 0, 4096));
      await tap?.remove();
      oracle.over({ openEnds: 0, connections: 1, heldBytes: 0, heldBytesPeak: 0, paths: {} }, 0, 0);
      expect(rulesOf()).toEqual(ms === 20 ? [] : ['prompt']);
    }
  });

  const slow: Warning = {
    kind: 'slow-disk',
    disk: 'disk0',
    guestBytesPerSecond: 2,
    bytesPerSecond: 1,
    message: 'made up',
  };
  test.each([
    ['a slow disk', slow, { hosts: { disk: { iops: 10 } } }, []],
    ['a slow disk, and it is not', slow, {}, ['truth']],
    ['a disk that is not there', { ...slow, disk: 'disk9' }, { hosts: { disk: { iops: 10 } } }, ['truth']],
    ['a link that carries more', { ...slow, kind: 'slow-link', bytesPerSecond: 3 }, {}, ['truth']],
  ] as const)('in which a warning tells of %s', (_, warning, changes, broken) => {
    const { oracle, rulesOf } = made(changes);
    oracle.begins({});
    oracle.warned(warning);
    expect(rulesOf()).toEqual(broken);
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
