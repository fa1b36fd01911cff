/**
 * Goal: a guest that writes all the while arrives whole, and whatever fails, the guest is in one place, runs where it may, and nothing
 * of the migration is left around it. Method: the real engine, channel and in-memory backend over a simulated link, in one process and in virtual time;
 * faults are wrappers around the ordinary parts. After each failure a second migration must succeed.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { createMemoryVm, type MemoryVm, memoryDirtier } from '../../src/backends/memory/index.ts';
import {
  type ClaimValue,
  type DestinationVm,
  type ErrorCode,
  MigrationError,
  memoryRegister,
  type Outage,
  type OwnershipRegister,
  type Phase,
  type SourceVm,
} from '../../src/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { busyVm, createWorld, mebibyte, type World, withChanges } from '../support/worlds.ts';

const vms: MemoryVm[] = [];
function world(...args: Parameters<typeof createWorld>): World {
  const made = createWorld(...args);
  vms.push(made.vm);
  return made;
}
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** The guest runs at the source, its writes go through unhindered, and it can be migrated as if nothing had been. */
async function expectUntouched({ vm, environment }: World): Promise<void> {
  expect(vm.state).toBe('running');
  await environment.run(vm.guest.writeDisk('disk0', 100, new Uint8Array(5000).fill(7)));
  const again = createWorld({ vm, environment });
  const { source } = await again.run();
  expect(source.error).toBeUndefined();
  expect(source.outcome).toBe('completed');
  expect(again.comparison()?.equal).toBe(true);
  again.backend.vm?.destroy();
}

describe('a migration', () => {
  it('moves memory and disks under load, and both ends say the same', async () => {
    const w = world();
    const phases: Phase[] = [];
    w.source.on('phase', (phase) => phases.push(phase));
    const { source, destination } = await w.run();
    expect(source.error).toBeUndefined();
    expect(w.comparison()).toMatchObject({ equal: true });
    expect(phases).toEqual([
      'connect',
      'prepare',
      'copyDisks',
      'copyMemory',
      'stun',
      'verify',
      'handover',
      'release',
      'done',
    ]);
    for (const report of [source, destination]) {
      expect(report).toMatchObject({
        outcome: 'completed',
        owner: 'destination',
        epoch: source.epoch,
        vmId: 'vm-1',
      });
      expect(Object.isFrozen(report)).toBe(true);
    }
    expect(source.epoch).toBeGreaterThanOrEqual(1);
    expect(source.bytes).toMatchObject({ memory: destination.bytes.memory, disk: destination.bytes.disk });
    expect(source.bytes.mirror).toBeGreaterThan(0);
    expect(source.guestWriteHoldMs).toBe(0);
    expect(source.downtimeMs).toBeGreaterThan(0);
    expect(source.downtimeMs).toBeLessThan(1000);
    expect(w.vm.state).toBe('released');
    expect(w.backend.vm?.state).toBe('running');
    await w.environment.run(
      w.backend.vm?.guest.writeDisk('disk0', 0, new Uint8Array(512)) ?? Promise.reject(),
    );
    w.backend.vm?.destroy();
  });

  it('goes back again, as a later attempt', async () => {
    const w = world();
    const { epoch } = (await w.run()).source;
    const there = w.backend.vm;
    if (there === undefined) throw new Error('nothing arrived');
    const back = world({
      environment: w.environment,
      vm: there,
      registers: { source: w.registers.destination, destination: w.registers.source },
    });
    const { source } = await back.run();
    expect(source.outcome).toBe('completed');
    expect(source.epoch).toBeGreaterThan(epoch);
    expect(back.comparison()?.equal).toBe(true);
    back.backend.vm?.destroy();
  });

  it('sends a sparse disk and empty memory as ranges', async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({
      environment,
      vmId: 'sparse',
      memoryBytes: 64 * mebibyte,
      fill: 'zero',
      disks: [{ id: 'big', sizeBytes: 100 * 1024 * mebibyte }],
    });
    await vm.guest.writeDisk('big', 70 * 1024 * mebibyte + 3, new Uint8Array(100).fill(1));
    const w = world({ environment, vm });
    const { source } = await w.run();
    expect(source.outcome).toBe('completed');
    expect(w.comparison()?.equal).toBe(true);
    expect(source.bytes.wire).toBeLessThan(4 * mebibyte);
    w.backend.vm?.destroy();
  });

  it('leaves a VM that was paused from the start paused at the other end', async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({
      environment,
      vmId: 'paused',
      memoryBytes: mebibyte,
      paused: true,
    });
    const w = world({ environment, vm });
    const { source } = await w.run();
    expect(source.outcome).toBe('completed');
    expect(w.backend.vm?.state).toBe('paused');
    expect(w.comparison()?.equal).toBe(true);
    w.backend.vm?.destroy();
  });

  it('sets extents back when the mirror buffer is full, holds no write, and still ends equal', async () => {
    const environment = createVirtualEnvironment();
    const vm = busyVm(environment, { idle: true });
    const w = world({
      environment,
      vm,
      link: { rttMs: 40, rateMbit: 100 },
      policy: { mirrorBufferBytesMax: mebibyte },
    });
    let writing = true;
    const burst = (async () => {
      const block = new Uint8Array(256 << 10);
      for (let round = 0; writing && vm.state === 'running'; round++) {
        block.fill(round & 0xff);
        for (let at = 0; at < 2 * mebibyte && vm.state === 'running'; at += block.byteLength) {
          await vm.guest.writeDisk('disk1', at, block.slice()).catch(() => {});
        }
        await new Promise<void>((resolve) => environment.setTimer(20, resolve));
        if (round > 30) writing = false;
      }
    })();
    const { source } = await w.run();
    writing = false;
    await burst;
    expect(source.error).toBeUndefined();
    expect(source.guestWrites.setBack).toBeGreaterThan(0);
    expect(source.guestWriteHoldMs).toBe(0);
    expect(w.comparison()?.equal).toBe(true);
    w.backend.vm?.destroy();
  });

  it('throttles a guest that dirties faster than the link carries, and takes the throttle off with a failure', async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'hot', memoryBytes: 16 * mebibyte });
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 60 * mebibyte, hotBytes: 15 * mebibyte }));
    const throttles: number[] = [];
    const sourceVm = (inner: SourceVm) =>
      withChanges<SourceVm>(inner, {
        setThrottle: async (fraction) => {
          throttles.push(fraction);
          await inner.setThrottle(fraction);
        },
      });
    const w = world({ environment, vm, sourceVm, link: { rttMs: 1, rateMbit: 200 } });
    const { source } = await w.run();
    expect(source.error).toBeUndefined();
    expect(source.throttleMax).toBeGreaterThan(0);
    expect(source.throttleMax).toBeLessThanOrEqual(0.8);
    expect(w.comparison()?.equal).toBe(true);
    w.backend.vm?.destroy();
  });

  it('says so when it cannot converge, and the guest runs on without a throttle', async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'hotter', memoryBytes: 16 * mebibyte });
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 60 * mebibyte, hotBytes: 15 * mebibyte }));
    const w = world({
      environment,
      vm,
      link: { rttMs: 1, rateMbit: 100 },
      policy: { throttleMax: 0, roundsMax: 4, downtimeMsMax: 30 },
    });
    const { source, destination } = await w.run();
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'not-converging', guest: 'running' },
    });
    expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(vm.state).toBe('running');
  });

  it('runs once', async () => {
    const w = world({ idle: true });
    await w.run();
    await expect(w.source.run()).rejects.toMatchObject({ code: 'invalid-state' });
    w.backend.vm?.destroy();
  });

  it('refuses settings out of range before anything is touched', () => {
    for (const policy of [
      { connections: 0 },
      { throttleMax: 1 },
      { downtimeMsMax: Number.NaN },
      { nonsense: 1 },
    ]) {
      expect(() => world({ policy: policy as object })).toThrow(
        expect.objectContaining({ code: 'invalid-argument' }),
      );
    }
    expect(() => world({ policy: { disks: { nodisk: 'copy' } } })).toThrow(/nodisk/);
  });
});

const phasesBeforeCommit: readonly Phase[] = [
  'connect',
  'prepare',
  'copyDisks',
  'copyMemory',
  'stun',
  'verify',
];

describe('before commit', () => {
  it('is over in four round trips and a little: the destination prepares while the lanes are dialled', async () => {
    const w = world({ link: { rttMs: 100, rateMbit: 1000 } });
    const { connect = 0, prepare = 0 } = (await w.run()).source.phases;
    expect(connect + prepare).toBeLessThan(450);
    expect(connect).toBeGreaterThan(350);
  });

  for (const phase of phasesBeforeCommit) {
    it(`an abort at the source in ${phase} leaves the guest as it was`, async () => {
      const w = world();
      const controller = new AbortController();
      w.source.on('phase', (entered) => {
        if (entered === phase) controller.abort();
      });
      const stop = new AbortController();
      const running = w.run({ source: controller.signal, destination: stop.signal });
      // Aborted before it connected, the source never reaches its destination.
      if (phase === 'connect') w.environment.setTimer(50, () => stop.abort());
      const { source, destination } = await running;
      expect(source).toMatchObject({
        outcome: 'failed',
        owner: 'source',
        error: { code: 'aborted', phase, guest: 'running' },
      });
      expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
      await expectUntouched(w);
    });

    it(`a cut link in ${phase}, not to be outlasted, leaves the guest as it was`, async () => {
      const w = world({ policy: { outageMsMax: 0 } });
      const stop = new AbortController();
      w.source.on('phase', (entered) => {
        if (entered === phase) w.link.cut();
      });
      const running = w.run({ destination: stop.signal });
      if (phase === 'connect') w.environment.setTimer(50, () => stop.abort());
      const { source, destination } = await running;
      expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
      expect(destination.outcome).toBe('failed');
      await expectUntouched(w);
    });

    if (phase !== 'connect')
      it(`connections that are cut in ${phase} are replaced, and nothing is lost`, async () => {
        const w = world();
        w.source.on('phase', (entered) => {
          if (entered === phase) w.link.cut();
        });
        const outages: Outage[] = [];
        w.source.on('outage', (outage) => outages.push(outage));
        const { source, destination } = await w.run();
        expect(source).toMatchObject({ outcome: 'completed', owner: 'destination' });
        expect(destination.outcome).toBe('completed');
        expect(source.outages).toEqual(outages);
        expect(outages).toHaveLength(1);
        expect(w.comparison()?.equal).toBe(true);
        w.backend.vm?.destroy();
      });

    it(`an abort at the destination in ${phase} leaves the guest as it was`, async () => {
      const w = world({ policy: { connectMsMax: 300 } });
      const controller = new AbortController();
      w.destination.on('phase', (entered) => {
        if (entered === phase) controller.abort();
      });
      const { source, destination } = await w.run({ destination: controller.signal });
      expect(destination).toMatchObject({ outcome: 'failed', error: { code: 'aborted' } });
      expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
      await expectUntouched(w);
    });
  }
});

const boom = (code: ErrorCode) => () => Promise.reject(new MigrationError(code, 'as the test wants it'));

describe('a fault of a plug point', () => {
  const sourceFaults: Readonly<
    Record<string, { code: ErrorCode; make: (vm: SourceVm) => Partial<SourceVm> }>
  > = {
    'stun() fails': { code: 'hypervisor', make: () => ({ stun: boom('hypervisor') }) },
    'stun() never ends': {
      code: 'stun-timeout',
      make: () => ({
        stun: ({ signal } = {}) =>
          new Promise((_, reject) =>
            signal?.addEventListener('abort', () => reject(signal.reason), { once: true }),
          ),
      }),
    },
    'saving the device state fails half-way': {
      code: 'device-state',
      make: () => ({
        saveDeviceState: async function* () {
          yield new Uint8Array(10);
          throw new MigrationError('device-state', 'as the test wants it');
        },
      }),
    },
    'seal() fails': { code: 'hypervisor', make: () => ({ seal: boom('hypervisor') }) },
    'a disk cannot be read': {
      code: 'disk-read',
      make: (vm) => ({ disks: vm.disks.map((disk) => withChanges(disk, { read: boom('disk-read') })) }),
    },
    'a disk cannot be tapped': {
      code: 'unsupported',
      make: (vm) => ({ disks: vm.disks.map((disk) => withChanges(disk, { tap: boom('unsupported') })) }),
    },
    'a tap has lost a write and says so at the end': {
      code: 'tap-gap',
      make: (vm) => ({
        disks: vm.disks.map((disk) =>
          withChanges(disk, {
            tap: async (handler) => withChanges(await disk.tap(handler), { finish: boom('tap-gap') }),
          }),
        ),
      }),
    },
    'a memory round fails': {
      code: 'memory',
      make: (vm) => ({
        memory: withChanges(vm.memory, {
          round: async function* () {
            yield* vm.memory.round();
            throw new MigrationError('memory', 'as the test wants it');
          },
        }),
      }),
    },
  };
  for (const [name, { code, make }] of Object.entries(sourceFaults)) {
    it(`at the source: ${name}`, async () => {
      const w = world({ sourceVm: (vm) => withChanges(vm, make(vm)), policy: { stunMsMax: 500 } });
      const { source, destination } = await w.run();
      expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code, guest: 'running' } });
      expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
      await expectUntouched(w);
    });
  }

  const destinationFaults: Readonly<
    Record<string, { code: ErrorCode; make: (vm: DestinationVm) => Partial<DestinationVm> }>
  > = {
    'the device state cannot be loaded': {
      code: 'device-state',
      make: () => ({ loadDeviceState: boom('device-state') }),
    },
    'a disk cannot be written': {
      code: 'disk-write',
      make: (vm) => ({ disks: vm.disks.map((disk) => withChanges(disk, { write: boom('disk-write') })) }),
    },
    'a disk cannot be flushed': {
      code: 'disk-write',
      make: (vm) => ({ disks: vm.disks.map((disk) => withChanges(disk, { flush: boom('disk-write') })) }),
    },
    'memory cannot be written': {
      code: 'memory',
      make: (vm) => ({ memory: withChanges(vm.memory, { write: boom('memory') }) }),
    },
  };
  for (const [name, { code, make }] of Object.entries(destinationFaults)) {
    it(`at the destination: ${name}`, async () => {
      const w = world({ destinationVm: (vm) => withChanges(vm, make(vm)) });
      const { source, destination } = await w.run();
      expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code, guest: 'running' } });
      expect(destination).toMatchObject({ outcome: 'failed', owner: 'source', error: { code } });
      await expectUntouched(w);
    });
  }

  it('the destination refuses the VM, and says every difference', async () => {
    const w = world({
      wrapBackend: (backend) => withChanges(backend, { prepare: boom('incompatible') }),
    });
    const { source } = await w.run();
    expect(source).toMatchObject({
      outcome: 'failed',
      error: { code: 'incompatible', phase: 'prepare', guest: 'running' },
    });
    await expectUntouched(w);
  });

  it('the guest powers off by itself', async () => {
    const w = world();
    w.source.on('phase', (phase) => {
      if (phase === 'copyMemory') w.vm.guest.powerOff();
    });
    const { source } = await w.run();
    expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'guest-stopped' } });
  });

  it('a lost tapped write that nobody audits is noticed by the comparison alone: the harness itself can fail', async () => {
    let dropped = 0;
    const w = world({
      policy: { audit: 'off' },
      sourceVm: (vm) =>
        withChanges(vm, {
          disks: vm.disks.map((disk) =>
            withChanges(disk, {
              tap: (handler) =>
                disk.tap({
                  ...handler,
                  write: (write) => {
                    if (disk.id !== 'disk1' || ++dropped > 1e9) return handler.write(write);
                    write.release();
                    return undefined;
                  },
                  invalidate: (range) => handler.invalidate(range),
                  broken: (error) => handler.broken(error),
                }),
            }),
          ),
        }),
    });
    let written = false;
    w.source.on('phase', (phase) => {
      if (phase !== 'copyMemory' || written) return;
      written = true;
      w.vm.guest.writeDisk('disk1', 1234, new Uint8Array(999).fill(3)).catch(() => {});
    });
    await w.run();
    expect(w.comparison()?.equal).toBe(false);
    w.backend.vm?.destroy();
  });
});

/** A register that does something before or after it claims a value. */
function meddling(value: ClaimValue, meddle: { before?: () => void; after?: () => void }): OwnershipRegister {
  const inner = memoryRegister();
  return {
    read: (vmId) => inner.read(vmId),
    claim: async (vmId, epoch, role, claimed) => {
      if (claimed === value) meddle.before?.();
      const standing = await inner.claim(vmId, epoch, role, claimed);
      if (claimed === value) meddle.after?.();
      return standing;
    },
  };
}

describe('around commit', () => {
  it('a link cut before GO arrives: the destination declines, the source asks, reclaims and resumes', async () => {
    let cut = () => {};
    const registers = { source: meddling('given', { before: () => cut() }), destination: memoryRegister() };
    const w = world({ registers, policy: { outageMsMax: 0 } });
    cut = () => w.link.cut();
    const { source, destination } = await w.run();
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'declined', guest: 'running' },
    });
    expect(destination).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(await registers.source.read('vm-1')).toContainEqual({
      epoch: source.epoch,
      role: 'return',
      value: 'reclaimed',
    });
    expect(await registers.destination.read('vm-1')).toContainEqual({
      epoch: source.epoch,
      role: 'destination',
      value: 'declined',
    });
    await expectUntouched(w);
  });

  it('a link cut after the destination claimed: it runs there, and the source learns it by asking', async () => {
    let cut = () => {};
    const registers = { source: memoryRegister(), destination: meddling('owner', { after: () => cut() }) };
    const w = world({ registers });
    cut = () => w.link.cut();
    const { source, destination } = await w.run();
    expect(source).toMatchObject({ outcome: 'completed', owner: 'destination' });
    expect(destination).toMatchObject({ outcome: 'completed', owner: 'destination' });
    expect(w.comparison()?.equal).toBe(true);
    expect(w.vm.state).toBe('released');
    expect(w.backend.vm?.state).toBe('running');
    w.backend.vm?.destroy();
  });

  it('an abort after commit is ignored', async () => {
    const controller = new AbortController();
    const registers = {
      source: meddling('given', { after: () => controller.abort() }),
      destination: memoryRegister(),
    };
    const w = world({ registers });
    const { source } = await w.run({ source: controller.signal });
    expect(source.outcome).toBe('completed');
    w.backend.vm?.destroy();
  });

  it('a destination that vanishes after READY leaves the owner undecided, and the guest paused', async () => {
    const lost = () => Promise.reject(new MigrationError('register', 'gone'));
    let gone = false;
    let cut = () => {};
    const registers = {
      source: meddling('given', { after: () => cut() }),
      destination: { read: async () => (gone ? lost() : []), claim: lost } satisfies OwnershipRegister,
    };
    const w = world({ registers, policy: { decideMsMax: 600 } });
    cut = () => {
      gone = true;
      w.link.cut();
    };
    const { source, destination } = await w.run();
    expect(source).toMatchObject({
      outcome: 'undecided',
      owner: 'undecided',
      error: { code: 'owner-undecided', guest: 'paused' },
    });
    expect(destination.outcome).toBe('undecided');
    expect(w.vm.state).not.toBe('running');
    expect(w.backend.vm).toBeUndefined();
  });

  it('a source register that fails at the claim: no GO, the destination declines, the guest runs on', async () => {
    const inner = memoryRegister();
    const registers = {
      source: {
        read: (vmId: string) => inner.read(vmId),
        claim: (vmId: string, epoch: number, role: 'source' | 'destination' | 'return', value: ClaimValue) =>
          value === 'given'
            ? Promise.reject(new MigrationError('register', 'disk full'))
            : inner.claim(vmId, epoch, role, value),
      },
      destination: memoryRegister(),
    };
    const w = world({ registers });
    const { source } = await w.run();
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'declined', guest: 'running' },
    });
    expect(source.error?.message).toContain('disk full');
    await expectUntouched(w);
  });

  it('a start that fails: the destination owns it all the same, and the source lets go', async () => {
    const w = world({ destinationVm: (vm) => withChanges(vm, { start: boom('hypervisor') }) });
    const { source, destination } = await w.run();
    expect(source).toMatchObject({ outcome: 'completed', owner: 'destination' });
    expect(destination).toMatchObject({
      outcome: 'failed',
      owner: 'destination',
      error: { code: 'hypervisor', guest: 'unknown' },
    });
    expect(w.vm.state).toBe('released');
  });
});
