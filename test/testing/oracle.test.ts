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
import type { VmFault } from '../../src/testing/sim/vm-faults.ts';
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
  const cheats = [
    ['a write that a tap lost', 'tap-write', 'disk disk0'],
    ['a page that a round left out', 'memory-batch', 'memory ram'],
  ] as const;
  const cheated = (point: 'tap-write' | 'memory-batch', audit: 'off' | 'full') => {
    const fault = { point, effect: 'drop', times: 5 } as const;
    const timeline: TimelineEntry[] = [
      { at: { end: 'source', phase: 'copyMemory' }, do: { vm: 'source', fault } },
    ];
    // Nobody writes there again.
    const [, ...disksAndMemory] = scenarioOf([]).vm.workloads;
    const workloads = point === 'tap-write' ? scenarioOf([]).vm.workloads.slice(0, 1) : disksAndMemory;
    const scenario = { ...scenarioOf(timeline), policy: { audit } };
    return simulate({ seed: 1, scenario: { ...scenario, vm: { ...scenario.vm, workloads } }, log: true });
  };

  test.each(cheats)('%s: an audit of everything finds it', async (_, point, where) => {
    const { violations, reports, log = [] } = await cheated(point, 'full');
    expect(violations).toEqual([]);
    expect(reports.source?.audit.differing).toBeGreaterThan(0);
    const said = log.map(({ what }) => what).filter((what) => what.includes('audit-mismatch'));
    expect(said[0]).toContain(where);
  });

  test.each(cheats)('%s: without an audit it moves, and that is no bug', async (_, point) => {
    const { violations, reports } = await cheated(point, 'off');
    expect(violations).toEqual([]);
    expect(reports.source?.outcome).toBe('completed');
  });
});

describe('a made-up world', () => {
  function made(changes: Partial<Scenario> = {}, claims: readonly Claim[] = [], now = () => 0) {
    const environment = createVirtualEnvironment();
    const disks = [{ id: 'disk0', sizeBytes: mebibyte }];
    const backend = createSimulatedBackend({ environment });
    const vm = createSimulatedVm({ environment, vmId: 'vm-1', memory: { sizeBytes: mebibyte }, disks });
    const oracle = new Oracle({
      scenario: { ...scenarioOf([]), ...changes },
      now,
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
    throttledMs: 0,
    outages: [],
    lost: { throttleMs: 0, holdMs: 0, pauseMs: 0 },
    guestWrites: { mirrored: 0, setBack: 0 },
    guestWriteHoldMs: 0,
    roundTripMs: 0,
    audit: { mode: 'off', units: 0, bytes: 0, differing: 0, missChance: 1 },
    ...changes,
  });

  test('in which the guest runs at both ends', () => {
    const { oracle, rulesOf } = made();
    for (const host of ['source', 'destination']) {
      oracle.vmEvent({ kind: 'state', state: 'running', before: 'paused', host, ...at });
    }
    expect(rulesOf()).toEqual(['one-runs', 'owner-runs']);
  });

  const audit = { mode: 'full', units: 2, bytes: 8192, differing: 0, missChance: 0 } as const;
  /** A VM that has arrived, and is not what left; and with what in `struck`. */
  async function arrived(policy: Scenario['policy'], ...struck: readonly VmFault[]) {
    const claims = [
      { epoch: 1, role: 'source', value: 'given' },
      { epoch: 1, role: 'destination', value: 'owner' },
    ] as const;
    const { vm, backend, oracle, rulesOf } = made({ policy }, claims);
    const there = await backend.prepare(vm.description);
    oracle.begins({ ...scenarioOf([]), policy });
    for (const fault of struck) oracle.vmEvent({ kind: 'fault', fault, host: 'source', ...at });
    const source = vm.attachSource();
    await source.stun();
    const state: Uint8Array[] = [];
    for await (const chunk of source.saveDeviceState()) state.push(chunk);
    for (const disk of there.disks) await disk.flush();
    await there.loadDeviceState(state);
    await there.start({ run: false });
    oracle.vmEvent({ kind: 'started', run: true, host: 'destination', ...at });
    return { oracle, rulesOf };
  }

  test('in which what arrives is not what left', async () => {
    const { oracle, rulesOf } = await arrived({ audit: 'full' });
    expect(rulesOf()).toEqual(['equal']);
    expect(oracle.violations[0]?.message).toContain('memory ram');
  });

  test('in which it is not, and a hypervisor has cheated: only an audit of everything should have found that', async () => {
    const cheat = { point: 'memory-batch', effect: 'drop' } as const;
    const { oracle, rulesOf } = await arrived({ audit: 'full' }, cheat);
    expect(rulesOf()).toEqual([]);
    oracle.ended(report({ ...completed, audit: { ...audit, mode: 'sample', missChance: 0.9 } }));
    expect(rulesOf()).toEqual([]);
    oracle.ended(report({ ...completed, audit }));
    expect(rulesOf()).toEqual(['audited']);
  });

  test.each([
    ['finds what is not there', { ...audit, differing: 1 }],
    ['leaves out what could be read', { ...audit, missChance: 0.1 }],
    ['was off, and says that it compared something', { ...audit, mode: 'off', missChance: 1 }],
    ['claims more than can be', { ...audit, missChance: -0.1 }],
  ] as const)('in which an audit %s', (_, wrong) => {
    const { oracle, rulesOf } = made();
    oracle.ended(report({ outcome: 'copied', owner: 'source', audit: wrong }));
    expect(rulesOf()).toContain('audited');
  });

  const parts = {
    ...{ quiesceMs: 1, lastRoundsMs: 0, stateMs: 0, mirrorMs: 0, flightMs: 5, applyMs: 0, flushMs: 0 },
    ...{ verifyMs: 0, loadMs: 2, sealMs: 0, claimsMs: 1, hooksMs: 0, startMs: 1, uncertaintyMs: 2 },
  };
  const completed = { outcome: 'completed', owner: 'destination', downtimeMs: 10, downtime: parts } as const;

  test.each([
    ['is what the guest saw', 10, 10, []],
    ['is off by no more than it may be', 10, 12, []],
    ['is less than the guest saw', 10, 13, ['downtime']],
    ['is more than its parts', 15, 15, ['downtime']],
    ['is much more than the guest saw', 100, 10, ['downtime', 'downtime']],
  ])('in which the downtime %s', (_, downtimeMs, stoodMs, broken) => {
    let now = 0;
    const claims = [{ epoch: 1, role: 'destination', value: 'owner' }] as const;
    const { oracle, rulesOf } = made({}, claims, () => now);
    oracle.vmEvent({ kind: 'state', state: 'stunning', before: 'running', host: 'source', ...at });
    now = stoodMs;
    oracle.vmEvent({ kind: 'state', state: 'running', before: 'loaded', host: 'destination', ...at });
    oracle.ended(report({ ...completed, downtimeMs }));
    oracle.ended(report({ ...completed, downtimeMs, role: 'destination' }));
    expect(rulesOf().filter((rule) => rule === 'downtime')).toEqual(broken);
  });

  test.each([
    ['in time', 'cancel', 1000, []],
    ['late, as it is forced', 'force', 1001, []],
    ['late, though it was to end', 'cancel', 1001, ['timely']],
  ] as const)('in which a guest is stunned %s', (_, onTimeout, atMs, broken) => {
    let now = 0;
    const { oracle, rulesOf } = made({}, [], () => now);
    oracle.begins({ ...scenarioOf([]), policy: { timeoutMs: 1000, onTimeout } });
    now = atMs;
    oracle.vmEvent({ kind: 'state', state: 'stunning', before: 'running', host: 'source', ...at });
    expect(rulesOf()).toEqual(broken);
  });

  describe('with hooks', () => {
    const owns = [{ epoch: 1, role: 'destination', value: 'owner' }] as const;
    const hooks = { beforeStart: { ms: 5 }, afterStart: { ms: 3, does: 'reject' }, msMax: 100 } as const;
    const failed = new MigrationError('hook-failed', 'afterStart failed: it rejects', {
      owner: 'destination',
    });
    const ended = (changes: Partial<MigrationReport>) =>
      report({
        ...completed,
        role: 'destination',
        hooks: { beforeStartMs: 5, afterStartMs: 3 },
        error: failed,
        ...changes,
      });

    function hooked(claims: readonly Claim[], attempt: Partial<Scenario> = {}) {
      const world = made({ hosts: { hooks } }, claims);
      world.oracle.begins({ ...scenarioOf([]), hosts: { hooks }, ...attempt });
      return world;
    }

    test('one is called before it is this end\u2019s', () => {
      const { oracle, rulesOf } = hooked([]);
      oracle.hookCalled('beforeStart');
      expect(rulesOf()).toEqual(['hooks']);
    });

    test.each([
      ['twice', ['beforeStart', 'beforeStart'], {}],
      ['after a start that never was', ['afterStart'], {}],
      ['in a rehearsal', ['beforeStart'], { rehearse: true }],
      ['for disks alone', ['beforeStart'], { policy: { memory: 'none' } }],
    ] as const)('one is called %s', (_, names, attempt) => {
      const { oracle, rulesOf } = hooked(owns, attempt);
      for (const name of names) oracle.hookCalled(name);
      expect(rulesOf()).toEqual(['hooks']);
    });

    test.each([
      ['all is told', {}, false],
      ['one was not called, and it completed', { hooks: { beforeStartMs: 5 } }, true],
      ['one took too long', { hooks: { beforeStartMs: 101, afterStartMs: 3 } }, true],
      ['it is not said that one failed', { error: undefined }, true],
      ['the wrong one is said to have', { error: new MigrationError('hook-failed', 'beforeStart') }, true],
    ])('%s', (_, changes, broken) => {
      const { oracle, rulesOf } = hooked(owns);
      oracle.hookCalled('beforeStart');
      // Nothing was started in this world.
      oracle.hookCalled('afterStart');
      const before = rulesOf().length;
      const { error, ...rest } = ended(changes as Partial<MigrationReport>);
      oracle.ended(error === undefined ? rest : { ...rest, error });
      expect(rulesOf().slice(before).includes('hooks')).toBe(broken);
    });
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
    oracle.begins({ ...scenarioOf([]), policy: { memory: 'none' } });
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
    oracle.begins({ ...scenarioOf([]), policy: { memory: 'none' } });
    oracle.ended(report({ outcome: 'copied' }));
    expect(rulesOf()).toEqual(['truth']);
  });

  test.each([
    ['a tap', { kind: 'tap', disk: 'disk0', set: true }],
    ['a throttle', { kind: 'throttle', fraction: 0.5 }],
    ['a stun', { kind: 'state', state: 'stunning', before: 'running' }],
  ] as const)('in which a migration was refused, and there was %s', (_, event) => {
    const { oracle, rulesOf } = made({ hosts: { disk: { capacityBytes: 0 } } });
    oracle.begins(scenarioOf([]));
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
    oracle.begins(scenarioOf([]));
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
