/**
 * Goal: a migration that is started again, or finds a replica at the destination, sends what differs and no
 * more; whatever was there, the VM is whole in the end. Method: real bytes in virtual time, with destination
 * disks that hold what an earlier attempt left, garbage, or that cannot be read. How much went over the wire
 * is in the reports of both ends.
 */
import { describe, expect, test } from 'vitest';
import { createMemoryDisk, type MemoryDisk, randomWriter } from '../../src/backends/memory/index.ts';
import {
  type BlockDevice,
  type MemoryLinkOptions,
  MigrationError,
  type MigrationPolicy,
} from '../../src/index.ts';
import { createPrng } from '../../src/util/prng.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { busyVm, createWorld, mebibyte, withChanges } from '../support/worlds.ts';

const compare: MigrationPolicy = { seed: 'compare' };

/** The VM's world, and disks at the destination that outlive an attempt. */
function createSeedWorld({ idle = true, latencyMs = 0, link = {} as MemoryLinkOptions } = {}) {
  const environment = createVirtualEnvironment();
  const vm = busyVm(environment, { idle });
  const disks = vm.disks.map(({ id, sizeBytes }) =>
    createMemoryDisk({ id, sizeBytes, latencyMs, environment }),
  );
  const attempt = (policy: MigrationPolicy, change: (disk: BlockDevice) => BlockDevice = (disk) => disk) =>
    createWorld({
      environment,
      vm,
      policy,
      link,
      disks,
      destinationVm: (prepared) => withChanges(prepared, { disks: prepared.disks.map(change) }),
    });
  return { environment, vm, disks, attempt };
}

function copyDisk(from: MemoryDisk, to: MemoryDisk): void {
  to.medium.write(0, from.medium.read(0, from.sizeBytes));
}

const diskBytes = 15 * mebibyte + 512;

describe('a migration that compares', () => {
  test('sends nothing of disks that are equal', async () => {
    const { vm, disks, attempt } = createSeedWorld();
    for (const [index, disk] of vm.disks.entries()) copyDisk(disk, disks[index] as MemoryDisk);
    const world = attempt(compare);
    const { source, destination } = await world.run();
    expect(source.outcome).toBe('completed');
    expect(world.comparison()?.equal).toBe(true);
    expect(source.bytes).toMatchObject({ disk: 0, mirror: 0 });
    expect(source.bytes.unchanged).toBeGreaterThan(5 * mebibyte);
    expect(destination.bytes.unchanged).toBe(source.bytes.unchanged);
    expect(source.bytes.wire - source.bytes.memory).toBeLessThan(0.03 * diskBytes);
  });

  test('sends all of what holds garbage, and of what is empty what is not', async () => {
    const { vm, disks, attempt } = createSeedWorld({ idle: false });
    const prng = createPrng(5);
    disks[0]?.medium.fill(1, prng);
    const world = attempt(compare);
    const { source } = await world.run();
    expect(source.outcome).toBe('completed');
    expect(world.comparison()?.equal).toBe(true);
    expect(source.bytes.unchanged).toBe(0);
    expect(source.bytes.disk).toBeGreaterThan(5 * mebibyte);
    vm.destroy();
  });

  test('goes on where one that failed half-way was cut off, with a guest that has written since', async () => {
    const { environment, vm, attempt } = createSeedWorld({ link: { rateMbit: 20 } });
    const hotBytes = mebibyte;
    vm.startWorkload(randomWriter({ disk: 'disk0', bytes: 8192, writesPerSecond: 200, hotBytes }));
    const abort = new AbortController();
    environment.setTimer(1500, () => abort.abort());
    const { source: failed } = await attempt({}).run({ source: abort.signal });
    expect(failed).toMatchObject({ outcome: 'failed', error: { phase: 'copyDisks' } });
    expect(failed.bytes.disk).toBeGreaterThan(2 * mebibyte);
    await environment.run(environment.now() + 500);

    const second = attempt(compare);
    const { source, destination } = await second.run();
    expect(source.outcome).toBe('completed');
    expect(second.comparison()?.equal).toBe(true);
    // What was on its way when it ended, and had been read to be sent, was lost.
    expect(source.bytes.unchanged).toBeGreaterThan(1.5 * mebibyte);
    const heldBytes = source.bytes.disk + source.bytes.unchanged;
    expect(heldBytes).toBeLessThan(8 * mebibyte + hotBytes);
    expect(source.bytes.wire - source.bytes.memory - source.bytes.mirror).toBeLessThan(0.9 * heldBytes);
    expect(destination.bytes.unchanged).toBe(source.bytes.unchanged);
    vm.destroy();
  });

  test('refuses a disk that is there already and has another size, and a seed that is none', async () => {
    const { environment, vm } = createSeedWorld();
    const disks = [createMemoryDisk({ id: 'disk0', sizeBytes: mebibyte })];
    const { source } = await createWorld({ environment, vm, disks, policy: compare }).run();
    expect(source.error).toMatchObject({ code: 'incompatible', message: expect.stringContaining('disk0') });
    const policy = { seed: 'guess' } as unknown as MigrationPolicy;
    expect(() => createWorld({ environment, vm, policy })).toThrow(/policy.seed/);
  });

  test('never runs its progress backwards, nor past the end, at either end', async () => {
    const { vm, disks, attempt } = createSeedWorld({ latencyMs: 2, link: { rateMbit: 50 } });
    copyDisk(vm.disks[0] as MemoryDisk, disks[0] as MemoryDisk);
    const world = attempt(compare);
    const seen = { source: [0], destination: [0] };
    for (const end of ['source', 'destination'] as const) {
      world[end].on('progress', ({ streams }) => {
        const [disk] = streams;
        if (disk !== undefined) seen[end].push(disk.doneBytes);
      });
    }
    await world.run();
    for (const done of Object.values(seen)) {
      expect(done).toEqual([...done].sort((a, b) => a - b));
      expect(done.at(-1)).toBe(vm.disks[0]?.sizeBytes);
    }
  });
});

describe('what cannot be read at the destination is sent', () => {
  const hang = () => new Promise<never>(() => {});
  const fail = (code: 'unsupported' | 'disk-read') => async () => {
    throw new MigrationError(code, 'cannot be read');
  };
  const reads: readonly (readonly [string, (disk: BlockDevice) => BlockDevice, boolean])[] = [
    ['a disk that is for writing only', (disk) => withChanges(disk, { read: fail('unsupported') }), true],
    ['a disk whose reads all fail', (disk) => withChanges(disk, { read: fail('disk-read') }), true],
    ['a disk whose reads hang', (disk) => withChanges(disk, { read: hang }), true],
    [
      'a disk of which a part is broken',
      (disk) =>
        withChanges(disk, {
          read: (offset, length, call) =>
            offset < 3 * mebibyte ? fail('disk-read')() : disk.read(offset, length, call),
        }),
      false,
    ],
  ];

  test.each(reads)('%s', async (_, change, all) => {
    const { vm, disks, attempt } = createSeedWorld({ idle: false });
    for (const [index, disk] of vm.disks.entries()) copyDisk(disk, disks[index] as MemoryDisk);
    const world = attempt(compare, change);
    const { source, destination } = await world.run();
    expect(source.error).toBeUndefined();
    expect(destination.outcome).toBe('completed');
    expect(world.comparison()?.equal).toBe(true);
    if (all) expect(source.bytes.unchanged).toBe(0);
    else expect(source.bytes.unchanged).toBeGreaterThan(mebibyte);
    vm.destroy();
  });
});
