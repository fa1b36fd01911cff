/**
 * Goal: the comparison finds every difference, says where it is, and nothing else. Method: single bytes
 * flipped at chosen and random places of two equal VMs; differences without number.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { compareVms, createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 3 * MIB + 700;

function makeVm(): MemoryVm {
  return createMemoryVm({
    vmId: 'vm',
    regions: [
      { name: 'low', sizeBytes: 2 * MIB + 4096, pageBytes: 4096 },
      { name: 'high', sizeBytes: MIB, pageBytes: 65536 },
    ],
    fill: 0.5,
    disks: [{ id: 'disk', sizeBytes: DISK_BYTES, blockBytes: 4096, allocatedFraction: 0.5 }],
  });
}

function flip(vm: MemoryVm, region: number, offset: number): void {
  vm.memory.write(region, offset, Uint8Array.of((vm.memory.read(region, offset, 1)[0] ?? 0) ^ 0x80));
}

function flipDisk(vm: MemoryVm, offset: number): void {
  const { medium } = vm.disk('disk');
  medium.write(offset, Uint8Array.of((medium.read(offset, 1)[0] ?? 0) ^ 1));
}

test('equal VMs are equal, also where one has zeros and the other a hole', () => {
  const [a, b] = [makeVm(), makeVm()];
  a.disk('disk').medium.zero(0, DISK_BYTES);
  b.disk('disk').medium.zero(0, DISK_BYTES);
  b.disk('disk').medium.write(MIB, Buffer.alloc(100));
  expect(compareVms(a, b)).toEqual({ equal: true, memory: [], disks: [], memoryBytes: 0, diskBytes: 0 });
});

test('a single flipped byte is found, in its page or block', () => {
  const [a, b] = [makeVm(), makeVm()];
  const places = fc.oneof(fc.constantFrom(0, MIB - 1, MIB, 2 * MIB, 2 * MIB + 4095), fc.nat(2 * MIB + 4095));
  fc.assert(
    fc.property(places, (offset) => {
      flip(b, 0, offset);
      const page = offset - (offset % 4096);
      expect(compareVms(a, b)).toEqual({
        equal: false,
        memory: [{ region: 'low', offset: page, length: 4096 }],
        disks: [],
        memoryBytes: 4096,
        diskBytes: 0,
      });
      flip(b, 0, offset);
    }),
    { numRuns: 30 },
  );
  fc.assert(
    fc.property(fc.oneof(fc.constant(DISK_BYTES - 1), fc.nat(DISK_BYTES - 1)), (offset) => {
      flipDisk(b, offset);
      const block = offset - (offset % 4096);
      const length = Math.min(4096, DISK_BYTES - block);
      expect(compareVms(a, b)).toEqual({
        equal: false,
        memory: [],
        disks: [{ disk: 'disk', offset: block, length }],
        memoryBytes: 0,
        diskBytes: length,
      });
      flipDisk(b, offset);
    }),
    { numRuns: 30 },
  );
});

test('adjoining differences are one, those of the next region another', () => {
  const [a, b] = [makeVm(), makeVm()];
  for (const offset of [MIB - 1, MIB, MIB + 8192]) flip(b, 0, offset);
  flip(b, 1, 0);
  expect(compareVms(a, b).memory).toEqual([
    { region: 'low', offset: MIB - 4096, length: 8192 },
    { region: 'low', offset: MIB + 8192, length: 4096 },
    { region: 'high', offset: 0, length: 65536 },
  ]);
});

test('lists a hundred ranges and counts all', () => {
  const [a, b] = [makeVm(), makeVm()];
  for (let page = 0; page < 500; page += 2) flip(b, 0, page * 4096);
  const { memory, memoryBytes } = compareVms(a, b);
  expect(memory.length).toBe(100);
  expect(memory.at(-1)).toEqual({ region: 'low', offset: 198 * 4096, length: 4096 });
  expect(memoryBytes).toBe(250 * 4096);
});

test('what only one of them has differs from end to end', () => {
  const bare = createMemoryVm({ vmId: 'vm', memoryBytes: MIB, fill: 'zero' });
  const withDisk = createMemoryVm({ vmId: 'vm', disks: [{ id: 'disk', sizeBytes: MIB }] });
  for (const [a, b] of [
    [bare, withDisk],
    [withDisk, bare],
  ] as const) {
    expect(compareVms(a, b)).toMatchObject({
      equal: false,
      memory: [{ region: 'ram', offset: 0, length: MIB }],
      disks: [{ disk: 'disk', offset: 0, length: MIB }],
    });
  }
});

test('a destroyed VM cannot be compared', () => {
  const [a, b] = [makeVm(), makeVm()];
  b.destroy();
  b.destroy();
  expect(() => compareVms(a, b)).toThrow(expect.objectContaining({ code: 'invalid-state' }));
});
