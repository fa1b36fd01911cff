/**
 * Goal: what the destination would run is what the source has, also where a hypervisor cheats. Method: the real engine over a simulated link in virtual time, with a guest
 * that writes; its memory does not offer a page, or its tap misses a write, and the audit finds it, or not, as often as it says. Seeds are fixed, so the counts are.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';
import {
  type AuditMode,
  type DestinationVm,
  MigrationError,
  type MigrationPolicy,
  type Retreat,
  type SourceVm,
} from '../../../src/index.ts';
import { deafTo, withoutPages } from '../../support/cheats.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import {
  busyVm,
  createWorld,
  mebibyte,
  type World,
  type WorldOptions,
  withChanges,
} from '../../support/worlds.ts';

const worlds: World[] = [];
function world(options: WorldOptions): World {
  const made = createWorld(options);
  worlds.push(made);
  return made;
}
afterEach(() => {
  for (const { vm, backend } of worlds.splice(0)) {
    vm.destroy();
    backend.vm?.destroy();
  }
});

const pageBytes = 4096;

interface Cheat {
  readonly audit: AuditMode;
  readonly seed?: number;
  readonly policy?: MigrationPolicy;
  /** There are no more units than a sample has. */
  readonly small?: boolean;
}

/** 2,817 units, of which a sample draws 1,024. */
function idleVm(environment: VirtualEnvironment, seed: number): MemoryVm {
  return createMemoryVm({
    environment,
    vmId: 'vm-1',
    memoryBytes: 8 * mebibyte,
    disks: [{ id: 'disk1', sizeBytes: 3 * mebibyte + 512 }],
    fill: 'zero',
    seed,
  });
}

const hiddenPageOfLarge = 1500;

/** A guest that writes to one page after the first round, and whose memory keeps that to itself. */
function pageNeverOffered({ audit, seed = 1, policy, small = false }: Cheat, again = true): World {
  const environment = createVirtualEnvironment(seed);
  const vm = small
    ? createMemoryVm({ environment, vmId: 'vm-1', memoryBytes: 1024 * pageBytes, seed })
    : idleVm(environment, seed);
  const hiddenPage = small ? 300 : hiddenPageOfLarge;
  const made = world({
    environment,
    vm,
    policy: { audit, ...policy },
    sourceVm: (source) =>
      withChanges<SourceVm>(source, {
        memory: withoutPages(source.memory, { firstPage: hiddenPage, again }),
      }),
  });
  made.source.on('round', ({ round }) => {
    if (round === 1)
      void vm.guest.writeMemory(0, hiddenPage * pageBytes + 7, Uint8Array.of(1, 2, 3)).catch(() => {});
  });
  return made;
}

const missedAt = 1 * mebibyte;

/** A guest that writes to one block of a disk, when all of it is copied, or to several, and whose tap misses it. */
function writeNeverTapped({ audit, seed = 1, policy }: Cheat, missed: readonly number[] = [missedAt]): World {
  const environment = createVirtualEnvironment(seed);
  const vm = idleVm(environment, seed);
  const made = world({
    environment,
    vm,
    policy: { audit, ...policy },
    sourceVm: (source) =>
      withChanges<SourceVm>(source, {
        disks: source.disks.map((disk) => (disk.id === 'disk1' ? missed.reduce(deafTo, disk) : disk)),
      }),
  });
  made.source.on('phase', (phase) => {
    if (phase !== 'copyMemory') return;
    for (const at of missed)
      void vm.guest.writeDisk('disk1', at, new Uint8Array(512).fill(9)).catch(() => {});
  });
  return made;
}

function retreatsOf({ source }: World): Retreat[] {
  const heard: Retreat[] = [];
  source.on('retreat', (retreat) => heard.push(retreat));
  return heard;
}

describe('an audit of everything', () => {
  it.each([
    ['a page that was never offered', pageNeverOffered],
    ['a write that was never tapped', writeNeverTapped],
  ])('finds %s, has it sent again, and the VM arrives equal', async (_, cheat) => {
    const w = cheat({ audit: 'full' });
    const retreats = retreatsOf(w);
    const { source, destination } = await w.run();
    expect(source.error).toBeUndefined();
    expect(retreats).toMatchObject([{ attempt: 1, error: { code: 'audit-mismatch', guest: 'running' } }]);
    for (const report of [source, destination]) {
      expect(report).toMatchObject({ outcome: 'completed', switchoverAttempts: 2 });
      expect(report.audit).toMatchObject({ mode: 'full', differing: 1, missChance: 0 });
      expect(report.audit.bytes).toBe(11 * mebibyte + 512);
    }
    expect(w.comparison()).toMatchObject({ equal: true });
  });

  it('finds nothing where nothing is wrong', async () => {
    const w = world({ policy: { audit: 'full' } });
    const { source, destination } = await w.run();
    expect(source).toMatchObject({ outcome: 'completed', switchoverAttempts: 1 });
    expect(source.audit).toEqual(destination.audit);
    expect(source.audit).toMatchObject({ differing: 0, missChance: 0 });
  });
});

describe('what stays wrong', () => {
  it('ends the migration at its second time, guest at the source, nothing lost', async () => {
    const w = pageNeverOffered({ audit: 'full', policy: { switchoverAttemptsMax: 9 } }, false);
    const retreats = retreatsOf(w);
    const { source, destination } = await w.run();
    expect(retreats).toHaveLength(1);
    for (const report of [source, destination]) {
      expect(report).toMatchObject({
        outcome: 'failed',
        owner: 'source',
        switchoverAttempts: 2,
        error: { code: 'audit-mismatch' },
        audit: { differing: 2 },
      });
    }
    expect(source.error).toMatchObject({ guest: 'running' });
    // In units of 64 KiB.
    expect(source.error?.message).toContain(
      `memory ram, 65536 bytes at ${(hiddenPageOfLarge - 12) * pageBytes}`,
    );
    expect(w.vm.state).toBe('running');
    await expect(w.registers.source.read('vm-1')).resolves.toEqual([]);
  });

  it('ends it at the first time where there is no second switchover', async () => {
    const w = writeNeverTapped({ audit: 'full', policy: { switchoverAttemptsMax: 1 } });
    const { source } = await w.run();
    expect(source).toMatchObject({ outcome: 'failed', error: { code: 'audit-mismatch' } });
    expect(w.vm.state).toBe('running');
  });

  it('is declined where the VM is given in one flight', async () => {
    const w = pageNeverOffered({ audit: 'sample', small: true, policy: { handover: 'one-flight' } });
    const { source, destination } = await w.run();
    expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'declined' } });
    expect(destination).toMatchObject({ outcome: 'failed', error: { code: 'audit-mismatch' } });
    expect(w.vm.state).toBe('running');
  });
});

describe('a sample', () => {
  /** How many of so many migrations it found it in, and how many it should have, as it says itself. */
  async function found(cheat: (how: Cheat) => World, seeds: number) {
    let times = 0;
    const missChances: number[] = [];
    for (let seed = 1; seed <= seeds; seed++) {
      const w = cheat({ audit: 'sample', seed });
      const retreats = retreatsOf(w);
      const { source } = await w.run();
      expect(source.outcome).toBe('completed');
      // The report is of the last audit: of the first where it found nothing.
      if (retreats.length === 0) missChances.push(source.audit.missChance);
      times += retreats.length;
      // What it found is right in the end, and what it did not find is not.
      expect(w.comparison()?.equal).toBe(retreats.length > 0);
      w.vm.destroy();
      w.backend.vm?.destroy();
    }
    const missChance = missChances.reduce((sum, chance) => sum + chance, 0) / missChances.length;
    return {
      times,
      expected: seeds * (1 - missChance),
      deviation: Math.sqrt(seeds * missChance * (1 - missChance)),
    };
  }

  it('finds a page that was never offered as often as it says', async () => {
    const { times, expected, deviation } = await found(pageNeverOffered, 120);
    expect(Math.abs(times - expected)).toBeLessThan(2.5 * deviation);
  }, 120_000);

  it('finds a write that was never tapped as often as it says', async () => {
    const { times, expected, deviation } = await found(writeNeverTapped, 120);
    expect(Math.abs(times - expected)).toBeLessThan(2.5 * deviation);
  }, 120_000);

  it('that hits one of several writes which were never tapped has all of them mended', async () => {
    let found = 0;
    for (let seed = 1; seed <= 8; seed++) {
      const places = Array.from({ length: 8 }, (_, index) => missedAt + index * 131_072);
      const w = writeNeverTapped({ audit: 'sample', seed }, places);
      const retreats = retreatsOf(w);
      const { source } = await w.run();
      expect(source.outcome).toBe('completed');
      expect(w.comparison()?.equal).toBe(retreats.length > 0);
      if (retreats.length > 0) found++;
      w.vm.destroy();
      w.backend.vm?.destroy();
    }
    expect(found).toBeGreaterThan(0);
  }, 60_000);

  it('looks above all at what was written last', async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const environment = createVirtualEnvironment(seed);
      const vm = busyVm(environment, { seed, idle: true });
      const hot = Array.from({ length: 16 }, (_, index) => (100 + 7 * index) * pageBytes);
      let writes = 0;
      const w = world({
        environment,
        vm,
        destinationVm: (prepared) =>
          withChanges<DestinationVm>(prepared, {
            memory: withChanges(prepared.memory, {
              write: async (runs, call) => {
                // One page of those that come again by themselves is lost, once.
                const lost = (at: number) => at === hot[5] && ++writes === 1;
                await prepared.memory.write(
                  runs.filter(({ offset }) => !lost(offset)),
                  call,
                );
              },
            }),
          }),
      });
      w.source.on('round', ({ round }) => {
        if (round > 1) return;
        for (const offset of hot) void vm.guest.writeMemory(0, offset, Uint8Array.of(seed)).catch(() => {});
      });
      const retreats = retreatsOf(w);
      await w.run();
      expect(retreats[0]?.error.code).toBe('audit-mismatch');
    }
  });

  it('says what it compared, and the chance of what it did not', async () => {
    const w = world({});
    const { source, destination } = await w.run();
    expect(source.audit).toEqual(destination.audit);
    // What was written last may also be drawn, and counts once.
    expect(source.audit.units).toBeGreaterThan(900);
    expect(source.audit.units).toBeLessThanOrEqual(1024);
    const units = 2048 + (12 * 256 + 1) + 3 * 256;
    expect(source.audit.missChance).toBeLessThanOrEqual(1 - 512 / units);
    expect(source.audit.missChance).toBeGreaterThan(1 - 1024 / units);
  });

  it('of a VM that has no more units is of everything', async () => {
    const w = pageNeverOffered({ audit: 'sample', small: true });
    const { source } = await w.run();
    expect(source).toMatchObject({ outcome: 'completed', switchoverAttempts: 2 });
    expect(source.audit).toMatchObject({ units: 1024, differing: 1, missChance: 0 });
  });

  it('is off when it is to be', async () => {
    const w = pageNeverOffered({ audit: 'off' });
    const { source, destination } = await w.run();
    expect(w.comparison()?.equal).toBe(false);
    for (const { outcome, audit } of [source, destination]) {
      expect(outcome).toBe('completed');
      expect(audit).toEqual({ mode: 'off', units: 0, bytes: 0, differing: 0, missChance: 1 });
    }
  });

  it('goes on where memory cannot be read, and says that it has not seen it', async () => {
    const w = world({
      idle: true,
      policy: { audit: 'full' },
      sourceVm: (vm) =>
        withChanges<SourceVm>(vm, {
          capabilities: { ...vm.capabilities, auditMemory: false },
          memory: withChanges(vm.memory, {
            read: async () => {
              throw new MigrationError('internal', 'it was said that this cannot be');
            },
          }),
        }),
    });
    const { source } = await w.run();
    expect(source.outcome).toBe('completed');
    expect(source.audit.missChance).toBeCloseTo(8 / (8 + 12 + 3), 1);
  });

  it.each(['source', 'destination'] as const)('gives in when the %s cannot read in time', async (end) => {
    const environment = createVirtualEnvironment();
    const slow = <T extends { read(...args: never[]): Promise<unknown> }>(memory: T): T =>
      withChanges(memory, {
        read: (async (...args: Parameters<T['read']>) => {
          await new Promise<void>((resolve) => environment.setTimer(20, resolve));
          return memory.read(...args);
        }) as T['read'],
      } as Partial<T>);
    const w = world({
      environment,
      vm: busyVm(environment, { idle: true }),
      sourceVm: (vm) => (end === 'source' ? withChanges(vm, { memory: slow(vm.memory) }) : vm),
      destinationVm: (vm) => (end === 'destination' ? withChanges(vm, { memory: slow(vm.memory) }) : vm),
    });
    const { source, destination } = await w.run();
    expect(source.outcome).toBe('completed');
    expect(source.audit).toEqual(destination.audit);
    expect(source.audit.units).toBeLessThan(900);
    expect(source.audit.units).toBeGreaterThan(100);
    expect(source.downtimeMs).toBeLessThan(120);
  });
});
