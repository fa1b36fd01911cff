/**
 * Goal: zeros, holes and discards travel as ranges, and what is sparse stays so; nothing of what the destination's disk held before is left, since it
 * skips zeros only where its disk itself says that it reads as such.
 *
 * Method: the real engine over the in-memory backend in virtual time. What the link carried, and what is allocated at the destination, is counted.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  createMemoryDisk,
  createMemoryVm,
  type MemoryDiskOptions,
  type MemoryVm,
} from '../../../src/backends/memory/index.ts';
import type { BlockDevice } from '../../../src/index.ts';
import { createPrng } from '../../../src/util/prng.ts';
import { delay } from '../../../src/util/promises.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import { createWorld, mebibyte, type WorldOptions, withChanges } from '../../support/worlds.ts';

const tebibyte = 2 ** 40;

const vms: MemoryVm[] = [];
let environment: VirtualEnvironment;
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** A VM with one disk, and next to no memory. */
function createVm(disk: Omit<MemoryDiskOptions, 'id'>): MemoryVm {
  environment = createVirtualEnvironment();
  const disks = [{ id: 'disk', ...disk }];
  const vm = createMemoryVm({ environment, vmId: 'vm', memoryBytes: mebibyte, fill: 'zero', disks });
  vms.push(vm);
  return vm;
}

/** Moves it while its guest does something, and returns what came of its disk. */
async function moved(
  vm: MemoryVm,
  options: WorldOptions = {},
  meanwhile: () => Promise<void> = async () => {},
) {
  const world = createWorld({ ...options, environment, vm });
  // What it is about to do when it stops here is not done here any more.
  const guest = meanwhile().catch((error: unknown) => {
    if (vm.state === 'running') throw error;
  });
  const { source } = await world.run();
  await guest;
  const there = world.backend.vm;
  if (there !== undefined) vms.push(there);
  expect(source.outcome).toBe('completed');
  expect(world.comparison()?.equal).toBe(true);
  const disk = there?.disks[0];
  if (disk === undefined) throw new Error('no disk has arrived');
  return { source, disk };
}

const random = (bytes: number) => {
  const content = new Uint8Array(bytes);
  createPrng(3).fill(content);
  return content;
};

describe('a disk', () => {
  it('of a tebibyte with a little data moves in few bytes, and stays sparse', async () => {
    const vm = createVm({ sizeBytes: tebibyte });
    for (const place of [0, 0.3, 0.7]) {
      const offset = Math.floor((tebibyte * place) / mebibyte) * mebibyte;
      await vm.guest.writeDisk('disk', offset, random(mebibyte));
    }
    await vm.guest.writeDisk('disk', tebibyte - 512, random(512));
    const { source, disk } = await moved(vm);
    expect(source.bytes.wire).toBeLessThan(5 * mebibyte);
    expect(disk.allocatedBytes).toBe(4 * mebibyte);
  }, 60_000);

  it('arrives as it is over one that held something else, and what is zero is freed there', async () => {
    const vm = createVm({ sizeBytes: 64 * mebibyte, allocatedFraction: 0.25 });
    // Zeros that the disk does not tell of, in part and whole.
    await vm.guest.writeDisk('disk', 0, new Uint8Array(2 * mebibyte));
    const old = createMemoryDisk({ id: 'disk', sizeBytes: 64 * mebibyte, allocatedFraction: 1, seed: 9 });
    const { source, disk } = await moved(vm, { disks: [old] });
    expect(disk).toBe(old);
    expect(disk.allocatedBytes).toBeLessThanOrEqual(vm.disks[0]?.allocatedBytes ?? 0);
    expect(source.bytes.wire).toBeLessThan(disk.allocatedBytes + 2 * mebibyte);
  });

  it('is filled with zeros where the destination cannot tell that it has them', async () => {
    const vm = createVm({ sizeBytes: 16 * mebibyte, allocatedFraction: 0.25 });
    const zeroed: number[] = [];
    const blind = (disk: BlockDevice): BlockDevice =>
      withChanges(disk, {
        extents: async (offset, length) => [{ offset, length, zero: false }],
        writeZeroes: async (offset, length) => {
          zeroed.push(length);
          await disk.writeZeroes(offset, length);
        },
      });
    const { disk } = await moved(vm, {
      destinationVm: (prepared) => withChanges(prepared, { disks: prepared.disks.map(blind) }),
    });
    const total = zeroed.reduce((sum, length) => sum + length, 0);
    expect(total).toBe(disk.sizeBytes - disk.allocatedBytes);
  });

  it('whose guest discards while it is copied, and after, is as sparse as it is at the source', async () => {
    const vm = createVm({ sizeBytes: 64 * mebibyte, allocatedFraction: 1, latencyMs: 2 });
    const { disk } = await moved(vm, { link: { rateMbit: 400 } }, async () => {
      // Ahead of the copy, behind it, and in its midst; whole steps, parts of them, and what it writes again.
      for (let step = 0; vm.state === 'running'; step++) {
        await delay(environment, 12);
        if (step === 100) return;
        const offset = ((step * 37) % 64) * mebibyte;
        await vm.guest.discard('disk', offset, mebibyte);
        await vm.guest.discard('disk', (offset + 5 * mebibyte + 4096) % (60 * mebibyte), mebibyte + 512);
        if (step % 3 === 0) await vm.guest.writeDisk('disk', offset + 512, random(8192));
      }
    });
    expect(disk.allocatedBytes).toBe(vm.disks[0]?.allocatedBytes);
    expect(disk.allocatedBytes).toBeLessThan(48 * mebibyte);
  });

  it('of which everything is discarded once it was copied is nothing at the destination', async () => {
    const vm = createVm({ sizeBytes: 32 * mebibyte, allocatedFraction: 1 });
    const world = createWorld({ environment, vm });
    world.source.on('phase', async (phase) => {
      if (phase === 'copyMemory') await vm.guest.discard('disk', 0, 32 * mebibyte);
    });
    const { source } = await world.run();
    const there = world.backend.vm;
    if (there !== undefined) vms.push(there);
    expect(source.outcome).toBe('completed');
    expect(source.bytes.disk).toBe(32 * mebibyte);
    expect(world.comparison()?.equal).toBe(true);
    expect(there?.disks[0]?.allocatedBytes).toBe(0);
  });
});
