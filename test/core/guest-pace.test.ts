/**
 * Goal: a guest that writes to its disks faster than the link carries, or than the destination's disk takes, is slowed or held as far as the policy allows, and
 * moved; else that is said within seconds, and the guest runs on untouched; and what waits for the link is bounded, whatever becomes of it.
 *
 * Method: such guests in virtual time, with each of the policies; a destination whose disk writes so many bytes a second; a tap whose writes are counted
 * until they are given back.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
} from '../../src/backends/memory/index.ts';
import type { BlockDevice, DestinationVm, MigrationPolicy, SourceVm, Warning } from '../../src/index.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte, type World, type WorldOptions, withChanges } from '../support/worlds.ts';
import { runWithin } from './support/settled-within.ts';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

interface Told extends Warning {
  readonly elapsedMs: number;
}

/** A guest with a disk of some size, and what it is told of its migration. */
function createCase({ diskMebibytes = 12, ...options }: WorldOptions & { readonly diskMebibytes?: number }) {
  const environment = options.environment ?? createVirtualEnvironment();
  const disks = [{ id: 'disk0', sizeBytes: diskMebibytes * mebibyte, allocatedFraction: 1 }];
  const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes: 4 * mebibyte, disks });
  vms.push(vm);
  const world = createWorld({ ...options, environment, vm });
  const told: Told[] = [];
  world.source.on('warning', (warning) => told.push({ ...warning, elapsedMs: environment.now() }));
  return { environment, vm, world, told };
}

function writesTo(vm: MemoryVm, bytesPerSecond: number, hotBytes: number): void {
  const bytes = 65_536;
  const writesPerSecond = bytesPerSecond / bytes;
  vm.startWorkload(randomWriter({ disk: 'disk0', bytes, writesPerSecond, hotBytes }));
}

function expectMoved(world: World): void {
  expect(world.comparison()?.equal).toBe(true);
  world.backend.vm?.destroy();
}

describe('a guest that writes to its disk twice as fast as the link carries', () => {
  const link = { rttMs: 2, rateMbit: 100 };
  const linkBytes = 12.5e6;
  const rules = { downtimeMsMax: 300, roundsMax: 60, mirrorBufferBytesMax: 8 * mebibyte };
  const twice = (policy: MigrationPolicy, options: WorldOptions = {}) => {
    const all = createCase({ ...options, link, diskMebibytes: 16, policy: { ...rules, ...policy } });
    writesTo(all.vm, 2 * linkBytes, 16 * mebibyte);
    return all;
  };

  it('is slowed until it leaves room, and moved', async () => {
    const { world, told } = twice({});
    const { source } = await runWithin(world, 120_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.throttleMax).toBeGreaterThanOrEqual(0.5);
    expect(source.guestWriteHoldMs).toBe(0);
    expect(source.downtimeMs).toBeLessThanOrEqual(310);
    expect(told).toEqual([]);
    expectMoved(world);
  });

  it('is held, where it is not to be slowed, no longer than it may be, and moved', async () => {
    const { world, told } = twice({ throttleMax: 0, guestWriteHoldMsMax: 400 });
    const { source } = await runWithin(world, 120_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.throttleMax).toBe(0);
    expect(source.guestWriteHoldMs).toBeGreaterThan(0);
    expect(source.guestWriteHoldMs).toBeLessThanOrEqual(400);
    expect(source.downtimeMs).toBeLessThanOrEqual(310);
    expect(told).toMatchObject([{ kind: 'slow-link', message: expect.stringContaining('400 ms') }]);
    expectMoved(world);
  });

  const cannotBeSlowed = (vm: SourceVm) =>
    withChanges(vm, { capabilities: { ...vm.capabilities, throttle: false, throttleAlone: false } });
  it.each([
    ['policy', { throttleMax: 0 }, {}],
    ['hypervisor', {}, { sourceVm: cannotBeSlowed }],
  ])(
    'is not touched where the %s allows neither, and that is said within seconds',
    async (_, policy, options) => {
      const { world, vm, told } = twice({ ...policy, roundsMax: 15 }, options);
      const { source } = await runWithin(world, 120_000);
      expect(source).toMatchObject({
        outcome: 'failed',
        owner: 'source',
        throttleMax: 0,
        guestWriteHoldMs: 0,
        downtimeMs: 0,
        error: { code: 'not-converging', guest: 'running' },
      });
      expect(source.error?.message).toMatch(/disks are written at 2\d\.\d MB\/s.* sent at 1\d\.\d MB\/s/);
      expect(told).toHaveLength(1);
      const [warning] = told as [Told];
      expect(warning.kind).toBe('slow-link');
      expect(warning.disk).toBeUndefined();
      expect(warning.elapsedMs).toBeLessThan(6000);
      expect(warning.guestBytesPerSecond / linkBytes).toBeCloseTo(2, 0);
      expect(warning.bytesPerSecond / linkBytes).toBeCloseTo(1, 0);
      expect(vm.source().runState()).toBe('running');
    },
  );
});

describe('a guest that dirties memory', () => {
  it('faster than the link carries is warned of, where it is not to be slowed', async () => {
    const policy = { throttleMax: 0, roundsMax: 12 };
    const { world, vm, told } = createCase({ link: { rttMs: 2, rateMbit: 20 }, policy, diskMebibytes: 1 });
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 20 * mebibyte }));
    const { source } = await runWithin(world, 120_000);
    expect(source.error?.code).toBe('not-converging');
    expect(told).toMatchObject([{ kind: 'slow-link' }]);
  });
});

/** Writes so many bytes a second, one write behind the other. */
function slowDisk(disk: BlockDevice, environment: VirtualEnvironment, bytesPerSecond: number): BlockDevice {
  let freeMs = 0;
  return withChanges(disk, {
    write: async (offset, chunks, options) => {
      const bytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
      freeMs = Math.max(freeMs, environment.now()) + (1000 * bytes) / bytesPerSecond;
      await new Promise<void>((resolve) => environment.setTimer(freeMs - environment.now(), resolve));
      await disk.write(offset, chunks, options);
    },
  });
}

describe("a destination's disk that writes half as fast as the guest", () => {
  const diskBytes = 4 * mebibyte;
  /** The disk is of more than a destination takes on credit. */
  const slow = (policy: MigrationPolicy, load = 2, diskMebibytes = 40) => {
    const environment = createVirtualEnvironment();
    const destinationVm = (vm: DestinationVm) =>
      withChanges<DestinationVm>(vm, {
        disks: vm.disks.map((disk) => slowDisk(disk, environment, diskBytes)),
      });
    const link = { rttMs: 2, rateMbit: 400 };
    const bounded = { mirrorBufferBytesMax: 4 * mebibyte, ...policy };
    const all = createCase({ environment, link, policy: bounded, destinationVm, diskMebibytes });
    writesTo(all.vm, load * diskBytes, diskMebibytes * mebibyte);
    return all;
  };

  it('is warned of early, and the guest slowed for it and moved', async () => {
    const { world, told } = slow({});
    const { source } = await runWithin(world, 300_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.throttleMax).toBeGreaterThanOrEqual(0.7);
    expect(source.downtimeMs).toBeLessThanOrEqual(400);
    expect(told).toHaveLength(1);
    const [warning] = told as [Told];
    expect(warning).toMatchObject({ kind: 'slow-disk', disk: 'disk0' });
    expect(warning.elapsedMs).toBeLessThan(7000);
    expect(warning.guestBytesPerSecond / diskBytes).toBeCloseTo(2, 0);
    expect(warning.bytesPerSecond / diskBytes).toBeCloseTo(1, 0);
    expectMoved(world);
  });

  it('ends the migration early, with figures, where the policy says so', async () => {
    const { world, told } = slow({ slowDisk: 'fail' });
    const { source } = await runWithin(world, 10_000);
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      throttleMax: 0,
      error: { code: 'not-converging', phase: 'copyDisks', guest: 'running', message: told[0]?.message },
    });
    expect(source.error?.message).toMatch(/disk disk0 .* 8\.\d MB\/s to [345]\.\d MB\/s/);
  });

  it('is none that a slower guest is told of, however long its bulk copy takes', async () => {
    const { world, told } = slow({ slowDisk: 'fail' }, 0.5, 64);
    const { source } = await runWithin(world, 300_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.phases.copyDisks).toBeGreaterThan(5000);
    expect(told).toEqual([]);
    expectMoved(world);
  });
});

/** Counts what the engine has taken of the guest's writes and not given back. */
function countLent(vm: SourceVm, onLent: (bytes: number) => void): SourceVm {
  let lent = 0;
  return withChanges(vm, {
    disks: vm.disks.map((disk) =>
      withChanges(disk, {
        tap: (handler, options) =>
          disk.tap(
            {
              ...handler,
              write: (write) => {
                lent += write.length;
                const given = handler.write({
                  ...write,
                  release: () => {
                    lent -= write.length;
                    write.release();
                  },
                });
                onLent(lent);
                return given;
              },
            },
            options,
          ),
      }),
    ),
  });
}

/** From `fromMs` on the link is gone for `forMs`: no connection outlives a greeting. */
function cutFor({ environment, link }: World, fromMs: number, forMs: number): void {
  const cut = () => {
    link.cut();
    if (environment.now() < fromMs + forMs) environment.setTimer(1, cut);
  };
  environment.setTimer(fromMs, cut);
}

describe('what waits for the link', () => {
  const guestBytes = 16 * mebibyte;
  it.each([
    ['of the policy', { mirrorBufferBytesMax: 2 * mebibyte }, 2 * mebibyte],
    ['that is automatic', {}, 64 * mebibyte],
  ])(
    'keeps to the bound %s over an outage, and what is beyond it is copied again',
    async (_, policy, bound) => {
      let mostBytes = 0;
      const sourceVm = (vm: SourceVm) =>
        countLent(vm, (bytes) => {
          mostBytes = Math.max(mostBytes, bytes);
        });
      const link = { rttMs: 2, rateMbit: 1000 };
      const { vm, world, told } = createCase({ sourceVm, link, policy, diskMebibytes: 24 });
      writesTo(vm, guestBytes, 24 * mebibyte);
      cutFor(world, 300, 6000);
      const { source } = await runWithin(world, 60_000);
      expect(source.error?.message).toBeUndefined();
      expect(source.outages).toHaveLength(1);
      expect(source.guestWrites.setBack).toBeGreaterThan(0);
      expect(mostBytes).toBeGreaterThan(0.9 * bound);
      expect(mostBytes).toBeLessThanOrEqual(bound);
      expect(source.downtimeMs).toBeLessThanOrEqual(310);
      // A link that is gone is no slow one.
      expect(told).toEqual([]);
      expectMoved(world);
    },
  );
});
