/**
 * Goal: a disk in memory is a disk: what was written is read, holes read as zeros, `extents` never calls data
 * zero, big empty disks cost nothing. Method: random operations on a disk over several allocation steps and
 * on a plain buffer, which must agree; single cases for latency, failures and limits, on a virtual clock.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createMemoryDisk, createMemoryVm } from '../../../src/backends/memory/index.ts';
import { failureCode } from './support/failure-code.ts';
import { createVirtualEnvironment } from './support/virtual-environment.ts';

const MIB = 1024 * 1024;

test('reads, writes, zeroes, discards and extents agree with a plain buffer', async () => {
  // Not a multiple of anything: the last step is shorter than the others.
  const sizeBytes = 2 * MIB + 12_345;
  const interesting = [0, 1, 511, 512, MIB - 1, MIB, MIB + 1, 2 * MIB, sizeBytes - 1, sizeBytes];
  const position = fc.oneof(fc.constantFrom(...interesting), fc.nat(sizeBytes));
  const operation = fc.record({
    what: fc.constantFrom('write', 'write', 'writeZeroes', 'discard'),
    range: fc
      .tuple(position, position)
      .map(([a, b]) => ({ offset: Math.min(a, b), length: Math.abs(a - b) })),
    value: fc.integer({ min: 1, max: 255 }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(operation, { maxLength: 12 }),
      fc.constantFrom(0, 0.5),
      async (operations, allocatedFraction) => {
        const disk = createMemoryDisk({ id: 'disk', sizeBytes, allocatedFraction, seed: 9 });
        const model = Buffer.concat(await disk.read(0, sizeBytes));
        for (const { what, range, value } of operations) {
          const { offset, length } = range;
          if (what === 'write') {
            const half = length >>> 1;
            await disk.write(offset, [
              new Uint8Array(half).fill(value),
              new Uint8Array(length - half).fill(value ^ 1),
            ]);
            model.fill(value, offset, offset + half);
            model.fill(value ^ 1, offset + half, offset + length);
          } else if (what === 'writeZeroes') {
            await disk.writeZeroes(offset, length);
            model.fill(0, offset, offset + length);
          } else {
            await disk.discard(offset, length);
            Buffer.concat(await disk.read(offset, length)).copy(model, offset);
          }
          expect(Buffer.concat(await disk.read(0, sizeBytes)).equals(model)).toBe(true);
          expect(
            Buffer.concat(await disk.read(offset, length)).equals(model.subarray(offset, offset + length)),
          ).toBe(true);
          let at = offset;
          for (const extent of await disk.extents(offset, length)) {
            expect(extent.offset).toBe(at);
            at += extent.length;
            if (extent.zero) expect(model.subarray(extent.offset, at).every((byte) => byte === 0)).toBe(true);
          }
          expect(at).toBe(offset + length);
        }
      },
    ),
    { numRuns: 30 },
  );
});

describe('a disk', () => {
  test('of 8 TiB that is empty costs nothing, and says that it is zero', async () => {
    const sizeBytes = 8 * 2 ** 40;
    const disk = createMemoryDisk({ id: 'disk', sizeBytes });
    await disk.write(sizeBytes - 3, [Uint8Array.of(1, 2, 3)]);
    expect([...Buffer.concat(await disk.read(sizeBytes - 4, 4))]).toEqual([0, 1, 2, 3]);
    const tail = await disk.extents(sizeBytes - 4 * MIB, 4 * MIB);
    expect(tail.map(({ length, zero }) => [length / MIB, zero])).toEqual([
      [3, true],
      [1, false],
    ]);
  });

  test('is filled from its seed, to the fraction that was asked for', async () => {
    const make = (seed: number) =>
      createMemoryDisk({ id: 'disk', sizeBytes: 32 * MIB, allocatedFraction: 0.25, seed });
    const content = async (seed: number) => Buffer.concat(await make(seed).read(0, 32 * MIB));
    const [one, same, other] = [await content(1), await content(1), await content(2)];
    expect(one.equals(same)).toBe(true);
    expect(one.equals(other)).toBe(false);
    const data = (await make(1).extents(0, 32 * MIB)).reduce(
      (sum, { zero, length }) => sum + (zero ? 0 : length),
      0,
    );
    expect(data / MIB).toBeGreaterThan(2);
    expect(data / MIB).toBeLessThan(16);
  });

  test('gives back the steps that were zeroed whole', async () => {
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: 3 * MIB, allocatedFraction: 1 });
    await disk.writeZeroes(MIB, MIB);
    expect((await disk.extents(0, 3 * MIB)).map(({ zero }) => zero)).toEqual([false, true, false]);
  });

  test('gives the reader chunks that nothing changes later', async () => {
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: MIB });
    const before = await disk.read(0, 16);
    await disk.write(0, [new Uint8Array(16).fill(1)]);
    expect(Buffer.concat(before).every((byte) => byte === 0)).toBe(true);
  });

  test('takes its latency: a write is on the medium half-way, a read may be old when it arrives', async () => {
    const environment = createVirtualEnvironment();
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: MIB, latencyMs: 10, environment });
    const events: string[] = [];
    const write = disk.write(0, [Uint8Array.of(1)]).then(() => events.push('written'));
    await environment.advance(4);
    expect(disk.medium.read(0, 1)[0]).toBe(0);
    const read = disk.read(0, 1).then((chunks) => events.push(`read ${Buffer.concat(chunks)[0]}`));
    await environment.advance(2);
    expect(disk.medium.read(0, 1)[0]).toBe(1);
    expect(events).toEqual([]);
    await environment.advance(4);
    expect(events).toEqual(['written']);
    disk.medium.write(0, Uint8Array.of(2));
    await environment.advance(10);
    await Promise.all([write, read]);
    expect(events).toEqual(['written', 'read 1']);
  });

  test('stops waiting when the caller aborts', async () => {
    const environment = createVirtualEnvironment();
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: MIB, latencyMs: 10, environment });
    const aborter = new AbortController();
    const read = failureCode(disk.read(0, 1, { signal: aborter.signal }));
    aborter.abort();
    expect(await read).toBe('aborted');
    expect(await failureCode(disk.flush({ signal: AbortSignal.abort() }))).toBe('aborted');
  });

  test('can fail a write, torn, once', async () => {
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: MIB });
    disk.failNextWrite(3);
    expect(await failureCode(disk.write(0, [Uint8Array.of(1, 2), Uint8Array.of(3, 4)]))).toBe('disk-write');
    expect([...disk.medium.read(0, 4)]).toEqual([1, 2, 3, 0]);
    await disk.write(0, [Uint8Array.of(5, 6, 7, 8)]);
    disk.failNextWrite(2);
    expect(await failureCode(disk.writeZeroes(0, 4))).toBe('disk-write');
    expect([...disk.medium.read(0, 4)]).toEqual([0, 0, 7, 8]);
  });

  test('refuses what does not lie on it', async () => {
    const disk = createMemoryDisk({ id: 'disk', sizeBytes: 1000 });
    for (const [offset, length] of [
      [-1, 2],
      [999, 2],
      [0.5, 1],
      [0, Number.NaN],
      [2 ** 53, 1],
    ] as const) {
      expect(await failureCode(disk.read(offset, length))).toBe('invalid-argument');
    }
    expect(await failureCode(disk.write(999, [new Uint8Array(2)]))).toBe('invalid-argument');
  });

  test('cannot be made with sizes that no disk has', () => {
    const make = (options: object) => () => createMemoryDisk({ id: 'disk', sizeBytes: MIB, ...options });
    for (const options of [
      { id: '' },
      { sizeBytes: 0 },
      { sizeBytes: 1.5 },
      { blockBytes: 256 },
      { blockBytes: 1000 },
      { blockBytes: 131_072 },
      { allocatedFraction: 1.1 },
      { latencyMs: -1 },
    ]) {
      expect(make(options), JSON.stringify(options)).toThrow(
        expect.objectContaining({ code: 'invalid-argument' }),
      );
    }
  });
});

describe('a thin disk', () => {
  test('has room for so many steps, and says disk-full of a write that needs more', async () => {
    const disk = createMemoryDisk({ id: 'thin', sizeBytes: 3 * MIB + 5, capacityBytes: 2 * MIB + 5 });
    expect(disk.allocatedBytes).toBe(0);
    await disk.write(MIB - 1, [Uint8Array.of(1, 2)]);
    expect(disk.allocatedBytes).toBe(2 * MIB);
    // The last step is smaller than the others, and fits.
    await disk.write(3 * MIB + 4, [Uint8Array.of(3)]);
    expect(disk.allocatedBytes).toBe(2 * MIB + 5);
    expect(await failureCode(disk.write(2 * MIB - 1, [Uint8Array.of(8, 9)]))).toBe('disk-full');
    // Nothing of it was written; what is there can be written over, and zeros take no room.
    expect(disk.medium.read(2 * MIB - 1, 2)).toEqual(Buffer.alloc(2));
    await disk.write(0, [new Uint8Array(2 * MIB).fill(7)]);
    await disk.writeZeroes(0, 3 * MIB);
    expect(disk.allocatedBytes).toBe(5);
    await disk.write(2 * MIB - 1, [Uint8Array.of(8, 9)]);
    await disk.discard(MIB, MIB);
    expect(disk.allocatedBytes).toBe(MIB + 5);
    disk.free();
    expect(disk.allocatedBytes).toBe(0);
  });

  test('holds at first no more than it has room for', () => {
    const sizeBytes = 8 * MIB;
    const disk = createMemoryDisk({
      id: 'thin',
      sizeBytes,
      capacityBytes: 3 * MIB + 7,
      allocatedFraction: 1,
    });
    expect(disk.allocatedBytes).toBe(3 * MIB);
  });

  test('of a guest fails its writes, and the guest is told', async () => {
    const disks = [{ id: 'thin', sizeBytes: 2 * MIB, capacityBytes: MIB }];
    const vm = createMemoryVm({ vmId: 'vm', disks });
    await vm.guest.writeDisk('thin', 0, Uint8Array.of(1));
    expect(await failureCode(vm.guest.writeDisk('thin', MIB, Uint8Array.of(1)))).toBe('disk-full');
    expect(vm.guest.statistics()).toMatchObject({ writes: 1, failedWrites: 1 });
  });

  test('refuses a capacity below 0, and a tap that is none', () => {
    const invalid = expect.objectContaining({ code: 'invalid-argument' });
    const shape = { id: 'disk', sizeBytes: MIB };
    expect(() => createMemoryDisk({ ...shape, capacityBytes: -1 })).toThrow(invalid);
    expect(() => createMemoryDisk({ ...shape, tap: 'some' as never })).toThrow(invalid);
  });
});
