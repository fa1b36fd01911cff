/**
 * Goal: a switchover that fails is not a migration that fails. Method: the real engine over a simulated link in virtual time, its guest
 * writing all the while; what fails does so in the first switchover, and the VM arrives equal in a later one. What another switchover
 * cannot mend ends the migration as it did before there were several.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { type DestinationVm, MigrationError, type Retreat, type SourceVm } from '../../src/index.ts';
import { simulate } from '../../src/testing/sim/simulate.ts';
import { delay } from '../../src/util/promises.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, type World, withChanges } from '../support/worlds.ts';
import { cutLink } from './support/cut-link.ts';

const worlds: World[] = [];
function world(...args: Parameters<typeof createWorld>): World {
  const made = createWorld(...args);
  worlds.push(made);
  return made;
}
afterEach(() => {
  for (const { vm, backend } of worlds.splice(0)) {
    vm.destroy();
    backend.vm?.destroy();
  }
});

/** The retreats that both ends tell of. */
function retreats({ source, destination }: World): Record<'source' | 'destination', Retreat[]> {
  const heard = { source: [] as Retreat[], destination: [] as Retreat[] };
  source.on('retreat', (retreat) => heard.source.push(retreat));
  destination.on('retreat', (retreat) => heard.destination.push(retreat));
  return heard;
}

/** The function itself, but that its first call does what `first` does. */
function atFirst<F extends (...args: never[]) => unknown>(first: NoInfer<F>, then: F): F {
  let calls = 0;
  return ((...args: never[]) => (calls++ === 0 ? first(...args) : then(...args))) as F;
}

const boom = (code: 'hypervisor' | 'device-state') => async () => {
  throw new MigrationError(code, 'as the test wants it');
};

async function expectSecondTry(w: World, code: string, there: string = code): Promise<void> {
  const heard = retreats(w);
  const { source, destination } = await w.run();
  expect(source.error).toBeUndefined();
  for (const report of [source, destination]) {
    expect(report).toMatchObject({ outcome: 'completed', owner: 'destination', switchoverAttempts: 2 });
  }
  expect(w.comparison()).toMatchObject({ equal: true });
  expect(heard.source).toMatchObject([{ attempt: 1, error: { code, owner: 'source', guest: 'running' } }]);
  expect(heard.destination).toMatchObject([{ attempt: 1, error: { code: there } }]);
}

describe('a switchover that fails once is followed by another', () => {
  it('whose stun took too long, and goes on where it was', async () => {
    const w = world({
      policy: { stunMsMax: 500 },
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, {
          stun: atFirst(async ({ signal } = {}) => delay(w.environment, 60_000, signal), vm.stun.bind(vm)),
        }),
    });
    await expectSecondTry(w, 'stun-timeout');
  });

  it('whose READY did not come in time: what the destination had loaded is filled again', async () => {
    const w = world({
      policy: { stunMsMax: 1000 },
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          loadDeviceState: atFirst(async (state, call) => {
            await vm.loadDeviceState(state, call);
            await delay(w.environment, 60_000, call?.signal);
          }, vm.loadDeviceState.bind(vm)),
        }),
    });
    const heard = retreats(w);
    const { source } = await w.run();
    expect(source).toMatchObject({ outcome: 'completed', switchoverAttempts: 2 });
    expect(w.comparison()).toMatchObject({ equal: true });
    expect(heard.source[0]?.stunnedMs).toBeGreaterThan(999);
    expect(heard.source[0]?.stunnedMs).toBeLessThan(1100);
    expect(heard.destination[0]?.stunnedMs).toBeGreaterThan(900);
    // The downtime is that of the switchover that was.
    expect(source.downtimeMs).toBeLessThan(500);
  });

  it.each([['at once'], ['half-way']])('whose state could not be saved, %s', async (when) => {
    const w = world({
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, {
          saveDeviceState: atFirst(async function* (call) {
            if (when === 'half-way') yield* vm.saveDeviceState(call);
            throw new MigrationError('device-state', 'as the test wants it');
          }, vm.saveDeviceState.bind(vm)),
        }),
    });
    await expectSecondTry(w, 'device-state');
  });

  it('whose state could not be loaded', async () => {
    const w = world({
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          loadDeviceState: atFirst(boom('device-state'), vm.loadDeviceState.bind(vm)),
        }),
    });
    await expectSecondTry(w, 'device-state');
  });

  it('whose guest could not be stunned', async () => {
    const w = world({
      sourceVm: (vm) => withChanges<SourceVm>(vm, { stun: atFirst(boom('hypervisor'), vm.stun.bind(vm)) }),
    });
    await expectSecondTry(w, 'hypervisor');
  });

  it('whose memory feed ended with the stun, and begins again with every page', async () => {
    const w = world({
      policy: { stunMsMax: 500 },
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, {
          memory: withChanges(vm.memory, { keepsUnsentPages: false }),
          resume: async () => {
            await vm.resume();
            // What QEMU does: its migration is over, and with it what it knew of dirty pages.
            await vm.memory.stop();
          },
          saveDeviceState: atFirst(async function* (call) {
            yield* [new Uint8Array(300_000)];
            await delay(w.environment, 60_000, call?.signal);
          }, vm.saveDeviceState.bind(vm)),
        }),
    });
    await expectSecondTry(w, 'stun-timeout');
  });

  it('after a READY that came too late, which is not taken for the next', async () => {
    const policy = { stunMsMax: 1000 };
    const link = { rttMs: 300 };
    let [loads, readyAtMs] = [0, 0];
    const w = world({
      policy,
      link,
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          loadDeviceState: async (state, call) => {
            loads++;
            // READY is on its way when the source's time is up. In the second try it takes as long as it may.
            if (loads === 1) await delay(w.environment, stunnedAtMs + 900 - w.environment.now());
            else await delay(w.environment, 300);
            await vm.loadDeviceState(state, call);
            readyAtMs = w.environment.now();
          },
        }),
    });
    let stunnedAtMs = 0;
    w.source.on('phase', (phase) => {
      if (phase === 'stun') stunnedAtMs = w.environment.now();
      if (phase === 'handover') expect([loads, w.environment.now() >= readyAtMs + 150]).toEqual([2, true]);
    });
    await expectSecondTry(w, 'stun-timeout');
    expect(loads).toBe(2);
  });

  it('and the phases say so, with the rate limit back for the rounds between', async () => {
    const w = world({
      idle: true,
      policy: { rateBytesPerSecondMax: 40 << 20 },
      sourceVm: (vm) => withChanges<SourceVm>(vm, { stun: atFirst(boom('hypervisor'), vm.stun.bind(vm)) }),
    });
    const phases: string[] = [];
    w.source.on('phase', (phase) => phases.push(phase));
    const { source, destination } = await w.run();
    expect(source.outcome).toBe('completed');
    const again = ['copyMemory', 'stun', 'copyMemory', 'stun', 'verify', 'handover', 'release', 'done'];
    expect(phases).toEqual(['connect', 'prepare', 'copyDisks', ...again]);
    expect(source.bytes).toMatchObject({
      memory: destination.bytes.memory,
      mirror: destination.bytes.mirror,
    });
  });
});

describe('it ends the migration', () => {
  const failing = (vm: DestinationVm) => withChanges(vm, { loadDeviceState: boom('device-state') });

  it('when as many as were allowed have failed, with the last error at both ends', async () => {
    const w = world({ destinationVm: failing, policy: { switchoverAttemptsMax: 4 } });
    const heard = retreats(w);
    const { source, destination } = await w.run();
    for (const report of [source, destination]) {
      expect(report).toMatchObject({
        outcome: 'failed',
        owner: 'source',
        switchoverAttempts: 4,
        error: { code: 'device-state', owner: 'source', guest: 'running' },
      });
    }
    expect(heard.source.map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
    expect(heard.destination.map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
    expect(w.vm.state).toBe('running');
  });

  it('at once when only one is allowed', async () => {
    const w = world({ destinationVm: failing, policy: { switchoverAttemptsMax: 1 } });
    const heard = retreats(w);
    const { source } = await w.run();
    expect(source).toMatchObject({
      outcome: 'failed',
      switchoverAttempts: 1,
      error: { code: 'device-state' },
    });
    expect(heard.source).toEqual([]);
  });

  it('when the destination cannot take content again: its failed load is the only one', async () => {
    const w = world({
      destinationVm: (vm) =>
        withChanges(failing(vm), {
          capabilities: { refill: false, disksAlone: true, auditMemory: true },
        }),
    });
    const { source, destination } = await w.run();
    for (const report of [source, destination]) {
      expect(report).toMatchObject({
        outcome: 'failed',
        switchoverAttempts: 1,
        error: { code: 'device-state' },
      });
    }
    expect(w.vm.state).toBe('running');
  });

  it('when the destination cannot take content again, and was loading when time was up', async () => {
    const w = world({
      policy: { stunMsMax: 500 },
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          capabilities: { refill: false, disksAlone: true, auditMemory: true },
          loadDeviceState: (_, call) => delay(w.environment, 60_000, call?.signal),
        }),
    });
    const { source, destination } = await w.run();
    for (const report of [source, destination]) {
      expect(report).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'stun-timeout' } });
      expect(report.error?.message).toContain('takes no more content');
    }
    expect(w.vm.state).toBe('running');
    expect(w.vm.source().runState()).toBe('running');
  });

  it('when a plug point does not stop: the guest runs all the same', async () => {
    const w = world({
      policy: { stunMsMax: 500 },
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, {
          saveDeviceState: async function* () {
            yield* [new Uint8Array(10)];
            await new Promise(() => {});
          },
        }),
    });
    const { source } = await w.run();
    expect(source).toMatchObject({
      outcome: 'failed',
      switchoverAttempts: 1,
      error: { code: 'stun-timeout', guest: 'running' },
    });
    expect(w.vm.state).toBe('running');
  });

  it('when the guest cannot be resumed, and the roll-back is the one that resumes it', async () => {
    const w = world({
      destinationVm: failing,
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, { resume: atFirst(boom('hypervisor'), vm.resume.bind(vm)) }),
    });
    const { source } = await w.run();
    expect(source).toMatchObject({ outcome: 'failed', error: { code: 'device-state', guest: 'running' } });
    expect(w.vm.state).toBe('running');
  });

  it('when the caller aborts while the guest is being resumed', async () => {
    const caller = new AbortController();
    const w = world({
      destinationVm: failing,
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, {
          resume: async () => {
            caller.abort();
            await vm.resume();
          },
        }),
    });
    const { source } = await w.run({ source: caller.signal });
    expect(source).toMatchObject({ outcome: 'failed', error: { code: 'aborted', guest: 'running' } });
    expect(w.vm.state).toBe('running');
  });

  it('when the guest powers off while it runs on', async () => {
    const w = world({
      destinationVm: failing,
      policy: { switchoverAttemptsMax: 100 },
    });
    w.source.on('retreat', ({ attempt }) => {
      if (attempt === 3) w.vm.guest.powerOff();
    });
    const { source } = await w.run();
    expect(source).toMatchObject({ outcome: 'failed', error: { code: 'guest-stopped', guest: 'lost' } });
  });
});

describe('a rehearsal', () => {
  async function expectNothingLeft(w: World): Promise<void> {
    expect(w.vm.state).toBe('running');
    expect(w.backend.vm).toBeUndefined();
    expect(await w.registers.source.read('vm-1')).toEqual([]);
    expect(await w.registers.destination.read('vm-1')).toEqual([]);
    await w.environment.run(w.vm.guest.writeDisk('disk0', 100, new Uint8Array(5000).fill(7)));
    const again = world({ vm: w.vm, environment: w.environment, registers: w.registers });
    const { source } = await again.run();
    expect(source.outcome).toBe('completed');
    expect(again.comparison()).toMatchObject({ equal: true });
  }

  it('goes as far as READY, says how long the guest would have stood still, and leaves nothing behind', async () => {
    const w = world({ link: { rttMs: 40 } });
    const phases: string[] = [];
    w.source.on('phase', (phase) => phases.push(phase));
    const { source, destination } = await w.rehearse();
    expect(source.error).toBeUndefined();
    expect(destination.error).toBeUndefined();
    for (const report of [source, destination]) {
      expect(report).toMatchObject({ outcome: 'rehearsed', owner: 'source', switchoverAttempts: 1 });
    }
    expect(phases.slice(-2)).toEqual(['verify', 'done']);
    // Data and READY, there and back, and half of another one.
    expect(source.downtimeMs).toBeGreaterThanOrEqual(60);
    expect(source.downtimeMs).toBeLessThan(200);
    expect(source.bytes).toMatchObject({ memory: destination.bytes.memory, disk: destination.bytes.disk });
    await expectNothingLeft(w);
  });

  it('tells what the migration then takes', async () => {
    const environment = createVirtualEnvironment();
    const w = world({ environment, link: { rttMs: 40 } });
    const rehearsed = (await w.rehearse()).source.downtimeMs;
    const real = world({ environment, vm: w.vm, link: { rttMs: 40 } });
    const { source } = await real.run();
    expect(source.outcome).toBe('completed');
    expect(Math.abs(source.downtimeMs - rehearsed)).toBeLessThan(15);
  });

  it('tries again as a migration does, and fails as one', async () => {
    let loads = 0;
    const w = world({
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          loadDeviceState: (state, call) =>
            ++loads === 1 ? boom('device-state')() : vm.loadDeviceState(state, call),
        }),
    });
    const { source } = await w.rehearse();
    expect(source).toMatchObject({ outcome: 'rehearsed', switchoverAttempts: 2 });
    await expectNothingLeft(w);
    const failing = world({
      destinationVm: (vm) => withChanges(vm, { loadDeviceState: boom('device-state') }),
    });
    const reports = await failing.rehearse();
    expect(reports.source).toMatchObject({ outcome: 'failed', error: { code: 'device-state' } });
    expect(reports.destination).toMatchObject({ outcome: 'failed', error: { code: 'device-state' } });
  });

  it('that cannot resume the guest says that it failed', async () => {
    const w = world({
      sourceVm: (vm) => withChanges<SourceVm>(vm, { resume: boom('hypervisor') }),
    });
    const { source, destination } = await w.rehearse();
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'hypervisor', guest: 'unknown' },
    });
    expect(destination).toMatchObject({ outcome: 'rehearsed' });
  });

  it('is the one run that there is', async () => {
    const w = world();
    const running = w.rehearse();
    await expect(w.source.run()).rejects.toMatchObject({ code: 'invalid-state' });
    await running;
    await expect(w.source.rehearse()).rejects.toMatchObject({ code: 'invalid-state' });
  });

  it('of a guest that is paused leaves it paused', async () => {
    const w = world({ idle: true });
    await w.environment.run(w.vm.pause());
    const { source } = await w.rehearse();
    expect(source.outcome).toBe('rehearsed');
    expect(w.vm.state).toBe('paused');
  });
});

describe('a link that is gone in the middle of a switchover', () => {
  it.each([
    ['as the guest is stunned', { end: 'source', phase: 'stun' }],
    ['as FINAL has come', { end: 'destination', phase: 'verify' }],
    ['as READY is on its way', { end: 'destination', phase: 'handover' }],
  ] as const)(
    '%s, for longer than anybody would wait: the guest runs on until it is there again',
    async (_, at) => {
      const { reports, guest, violations } = await simulate({ seed: 1, scenario: cutLink(at, 20_000) });
      expect(violations).toEqual([]);
      for (const report of [reports.source, reports.destination]) {
        expect(report).toMatchObject({ outcome: 'completed', switchoverAttempts: 2, outages: [{}] });
      }
      const paused = guest.find(({ label }) => label === 'migration')?.longestPauseMs;
      expect(paused).toBeGreaterThan(900);
      expect(paused).toBeLessThan(1200);
    },
  );

  it('as GO is on its way: the destination, which is asked, declines, and the source has it back', async () => {
    const cut = cutLink({ claim: 'given' }, 20_000);
    const { reports, violations } = await simulate({ seed: 1, scenario: cut });
    expect(violations).toEqual([]);
    expect(reports.source?.owner).not.toBe('destination');
  });
});
