/**
 * Goal: what a tap or a dirty log in memory shows, and when, to the millisecond; how long writes are said to take. What every tap owes is tested in
 * test/testing/compliance. Method: handlers that record what they get, a random story of overlapping writes with latency on a virtual clock,
 * replayed from what the tap saw.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';
import type { MigrationError } from '../../../src/errors.ts';
import type { GuestWrite, TapCapability, TapHandler } from '../../../src/interfaces/block-device.ts';
import type { ByteRange } from '../../../src/interfaces/content.ts';
import { failureCode } from './support/failure-code.ts';
import { createVirtualEnvironment } from './support/virtual-environment.ts';

const SIZE = 64 * 1024;

/** A handler that notes what it is told. */
class Recorder implements TapHandler {
  readonly writes: GuestWrite[] = [];
  readonly invalid: ByteRange[] = [];
  readonly broke: MigrationError[] = [];

  write(write: GuestWrite): void {
    this.writes.push(write);
  }

  invalidate(range: ByteRange): void {
    this.invalid.push(range);
  }

  broken(error: MigrationError): void {
    this.broke.push(error);
  }
}

interface Shape {
  latencyMs?: number;
  environment?: ReturnType<typeof createVirtualEnvironment>;
  tap?: TapCapability;
  sizeBytes?: number;
}

function makeVm(shape: Shape = {}): MemoryVm {
  const {
    latencyMs = 0,
    environment = createVirtualEnvironment(),
    tap = 'ordered',
    sizeBytes = SIZE,
  } = shape;
  return createMemoryVm({ vmId: 'vm', disks: [{ id: 'disk', sizeBytes, latencyMs, tap }], environment });
}

function sourceDisk(vm: MemoryVm) {
  const [disk] = vm.source().disks;
  if (disk === undefined) throw new Error('the VM has no disk');
  return disk;
}

function bytesOf({ content, length }: GuestWrite): Buffer {
  return content === 'zero' ? Buffer.alloc(length) : Buffer.concat(content);
}

describe('a tap', () => {
  test('gets zeroes as zeroes', async () => {
    const vm = makeVm();
    const recorder = new Recorder();
    await sourceDisk(vm).tap(recorder);
    await vm.guest.writeZeroes('disk', 100, 50);
    expect(recorder.writes.map(({ offset, length, content }) => [offset, length, content])).toEqual([
      [100, 50, 'zero'],
    ]);
  });

  test('gets content that the guest does not change afterwards', async () => {
    const vm = makeVm();
    const recorder = new Recorder();
    await sourceDisk(vm).tap(recorder);
    const buffer = Buffer.alloc(16, 1);
    await vm.guest.writeDisk('disk', 0, buffer);
    buffer.fill(2);
    await vm.guest.writeDisk('disk', 0, buffer);
    expect(recorder.writes.map((write) => bytesOf(write)[0])).toEqual([1, 2]);
    for (const write of recorder.writes) write.release();
  });

  test('holds an overlapping write back from the medium until the first one was handed over, others not', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm({ latencyMs: 10, environment });
    const recorder = new Recorder();
    await sourceDisk(vm).tap(recorder);
    const medium = vm.disk('disk').medium;
    void vm.guest.writeDisk('disk', 0, Buffer.alloc(1024, 1));
    void vm.guest.writeDisk('disk', 512, Buffer.alloc(1024, 2));
    void vm.guest.writeDisk('disk', 4096, Buffer.alloc(1024, 3));
    await environment.advance(9);
    // The first is on the medium but not completed, so not handed over yet.
    expect([medium.read(512, 1)[0], medium.read(1024, 1)[0], medium.read(4096, 1)[0]]).toEqual([1, 0, 3]);
    await environment.advance(1);
    expect(recorder.writes.map(({ offset }) => offset)).toEqual([0, 4096]);
    await environment.advance(9);
    expect(medium.read(512, 1)[0]).toBe(2);
    await environment.advance(1);
    expect(recorder.writes.map(({ offset }) => offset)).toEqual([0, 4096, 512]);
  });

  test('that is set while a write is on its way gets it, if the medium did not have it before', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm({ latencyMs: 10, environment });
    void vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
    await environment.advance(3);
    const recorder = new Recorder();
    await sourceDisk(vm).tap(recorder);
    expect(vm.disk('disk').medium.read(0, 1)[0]).toBe(0);
    await environment.advance(20);
    expect(recorder.writes.length).toBe(1);
  });

  test('reports a torn write as invalid, and the guest learns of it too', async () => {
    const vm = makeVm();
    const recorder = new Recorder();
    await sourceDisk(vm).tap(recorder);
    vm.disk('disk').failNextWrite(4);
    expect(await failureCode(vm.guest.writeDisk('disk', 512, new Uint8Array(8).fill(1)))).toBe('disk-write');
    expect(recorder.invalid).toEqual([{ offset: 512, length: 8 }]);
    expect(recorder.writes).toEqual([]);
    expect(vm.guest.statistics()).toMatchObject({ writes: 0, failedWrites: 1 });
    await vm.guest.writeDisk('disk', 512, new Uint8Array(8).fill(2));
    expect(recorder.writes.length).toBe(1);
  });

  test('whose handler throws or rejects is broken, and the guest goes on', async () => {
    for (const misbehave of [
      () => {
        throw new Error('thrown');
      },
      () => Promise.reject(new Error('rejected')),
    ]) {
      const vm = makeVm();
      const recorder = new Recorder();
      const tap = await sourceDisk(vm).tap(Object.assign(recorder, { write: misbehave }));
      await vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
      expect(recorder.broke.map(({ code }) => code)).toEqual(['tap-gap']);
      await vm.source().stun();
      expect(await failureCode(tap.finish())).toBe('tap-gap');
    }
  });
});

describe('a discard', () => {
  const MIB = 1024 * 1024;

  test('is zeros to the tap if all of it reads as zeros then, else a range that is not known', async () => {
    const vm = makeVm({ sizeBytes: 3 * MIB + 5 });
    await vm.guest.writeDisk('disk', 0, new Uint8Array(3 * MIB + 5).fill(1));
    const recorder = new Recorder();
    await sourceDisk(vm).tap(recorder);
    await vm.guest.discard('disk', MIB, MIB);
    expect(recorder.writes.map(({ offset, length, content }) => [offset, length, content])).toEqual([
      [MIB, MIB, 'zero'],
    ]);
    // Only what lies whole in it is freed; the rest keeps its content.
    await vm.guest.discard('disk', 100, 2 * MIB);
    await vm.guest.discard('disk', 2 * MIB + 1, 1000);
    expect(recorder.writes.length).toBe(1);
    expect(recorder.invalid).toEqual([
      { offset: 100, length: 2 * MIB },
      { offset: 2 * MIB + 1, length: 1000 },
    ]);
    expect(
      [0, 99, 100, MIB, 2 * MIB - 1, 2 * MIB].map((at) => vm.disk('disk').medium.read(at, 1)[0]),
    ).toEqual([1, 1, 1, 0, 0, 1]);
    // The last step is smaller, and was covered to its end.
    await vm.guest.discard('disk', 3 * MIB, 5);
    expect(recorder.writes.length).toBe(2);
    expect(vm.disk('disk').allocatedBytes).toBe(2 * MIB);
  });

  test('waits for its turn among writes that it overlaps, and is no write', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm({ latencyMs: 10, environment, sizeBytes: MIB });
    const recorder = new Recorder();
    await sourceDisk(vm).tap(recorder);
    void vm.guest.writeDisk('disk', 5, Uint8Array.of(1, 2, 3));
    void vm.guest.discard('disk', 0, MIB);
    void vm.guest.writeDisk('disk', 7, Uint8Array.of(9));
    await environment.advance(30);
    expect(recorder.writes.map(({ offset, content }) => [offset, content === 'zero'])).toEqual([
      [5, false],
      [0, true],
      [7, false],
    ]);
    expect([...vm.disk('disk').medium.read(5, 3)]).toEqual([0, 0, 9]);
    expect(vm.guest.statistics().writes).toBe(2);
    expect((await sourceDisk(vm).writeTimes())?.writes).toBe(2);
  });

  test('of a disk that cannot be written, or beyond its end, is refused', async () => {
    const disks = [{ id: 'cd', sizeBytes: SIZE, readOnly: true }];
    const vm = createMemoryVm({ vmId: 'vm', disks });
    expect(await failureCode(vm.guest.discard('cd', 0, 512))).toBe('disk-write');
    expect(await failureCode(makeVm().guest.discard('disk', SIZE, 1))).toBe('invalid-argument');
  });
});

describe('a dirty log', () => {
  const GRAIN = 64 * 1024;

  test('marks 64 KiB at a time, adjoining ones as one range, up to the end of the disk', async () => {
    const sizeBytes = 10 * GRAIN + 3;
    const vm = makeVm({ tap: 'extents', sizeBytes });
    await vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
    const tracker = await sourceDisk(vm).track();
    expect(await tracker.take()).toEqual([]);
    await vm.guest.writeDisk('disk', GRAIN - 1, Uint8Array.of(1, 2));
    await vm.guest.writeZeroes('disk', 5 * GRAIN, 1);
    await vm.guest.discard('disk', 7 * GRAIN, GRAIN);
    await vm.guest.writeDisk('disk', sizeBytes - 1, Uint8Array.of(1));
    await vm.guest.writeDisk('disk', 3 * GRAIN, new Uint8Array(0));
    expect(await tracker.take()).toEqual([
      { offset: 0, length: 2 * GRAIN },
      { offset: 5 * GRAIN, length: GRAIN },
      { offset: 7 * GRAIN, length: GRAIN },
      { offset: 10 * GRAIN, length: 3 },
    ]);
    expect(await tracker.take()).toEqual([]);
  });

  test('marks a write after the medium has it and before the guest is told, a torn one too', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm({ tap: 'extents', latencyMs: 10, environment });
    const tracker = await sourceDisk(vm).track();
    let told = '';
    const write = (failing: boolean) => {
      if (failing) vm.disk('disk').failNextWrite(3);
      const writing = vm.guest.writeDisk('disk', 0, Uint8Array.of(1, 2, 3, 4));
      void writing.then(
        () => {
          told += 'done ';
        },
        () => {
          told += 'failed ';
        },
      );
      return writing;
    };
    for (const failing of [false, true]) {
      void write(failing).catch(() => {});
      await environment.advance(4);
      expect([vm.disk('disk').medium.read(0, 1)[0], await tracker.take()]).toEqual([failing ? 1 : 0, []]);
      await environment.advance(7);
      expect(await tracker.take()).toEqual([{ offset: 0, length: SIZE }]);
    }
    expect(told).toBe('done failed ');
  });

  test('is not there, nor a tap, unless the disk has it', async () => {
    const codes = async (tap: TapCapability) => {
      const disk = sourceDisk(makeVm({ tap }));
      return [await failureCode(disk.tap(new Recorder())), await failureCode(disk.track())];
    };
    expect(await codes('ordered')).toEqual(['none', 'unsupported']);
    expect(await codes('extents')).toEqual(['unsupported', 'none']);
    expect(await codes('none')).toEqual(['unsupported', 'unsupported']);
  });
});

describe('the times of writes', () => {
  test('are from when the guest issued each until it was told, with what a handler held, on the clock of the VM', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm({ latencyMs: 10, environment });
    const disk = sourceDisk(vm);
    const times = () => disk.writeTimes();
    expect(await times()).toEqual({ writes: 0, totalMs: 0 });
    void vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
    await environment.advance(9);
    expect(await times()).toEqual({ writes: 0, totalMs: 0 });
    await environment.advance(1);
    expect(await times()).toEqual({ writes: 1, totalMs: 10 });
    // One behind another that it overlaps waits for its turn, too.
    void vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
    void vm.guest.writeZeroes('disk', 0, 512);
    await environment.advance(20);
    expect(await times()).toEqual({ writes: 3, totalMs: 40 });
    let letGo = () => {};
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const tap = await disk.tap({ write: () => held, invalidate: () => {}, broken: () => {} });
    void vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
    await environment.advance(150);
    expect(await times()).toEqual({ writes: 3, totalMs: 40 });
    letGo();
    await environment.advance(0);
    expect(await times()).toEqual({ writes: 4, totalMs: 190 });
    await tap.remove();
    // What failed was never completed.
    vm.disk('disk').failNextWrite();
    void vm.guest.writeDisk('disk', 0, Uint8Array.of(1)).catch(() => {});
    await environment.advance(20);
    expect(await times()).toEqual({ writes: 4, totalMs: 190 });
  });
});

test('a disk that is replayed from what the tap saw, in its order, equals the medium at every moment', async () => {
  const write = fc.record({
    block: fc.nat(7),
    blocks: fc.integer({ min: 1, max: 4 }),
    zero: fc.boolean(),
    fails: fc.constantFrom(false, false, false, true),
    pauseMs: fc.nat(12),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(write, { maxLength: 30 }),
      fc.constantFrom(0, 10),
      async (writes, latencyMs) => {
        const environment = createVirtualEnvironment();
        const vm = makeVm({ latencyMs, environment });
        const replica = Buffer.alloc(SIZE);
        const undefinedAt = new Set<number>();
        const medium = vm.disk('disk').medium;
        const blocksOf = ({ offset, length }: ByteRange) =>
          Array.from({ length: length / 512 }, (_, index) => offset / 512 + index);
        await sourceDisk(vm).tap({
          write(guestWrite) {
            const content = bytesOf(guestWrite);
            const { offset, length } = guestWrite;
            // No overlapping write has reached the medium since: this is what the contract's order promises.
            expect(medium.read(offset, length).equals(content)).toBe(true);
            content.copy(replica, offset);
            for (const block of blocksOf(guestWrite)) undefinedAt.delete(block);
            guestWrite.release();
          },
          invalidate(range) {
            for (const block of blocksOf(range)) undefinedAt.add(block);
          },
          broken(error) {
            throw error;
          },
        });
        const settled = writes.map(async () => {});
        for (const [index, { block, blocks, zero, fails, pauseMs }] of writes.entries()) {
          if (fails) vm.disk('disk').failNextWrite(700);
          const length = blocks * 512;
          const promise = zero
            ? vm.guest.writeZeroes('disk', block * 512, length)
            : vm.guest.writeDisk('disk', block * 512, Buffer.alloc(length, index + 1));
          settled.push(promise.catch(() => {}));
          await environment.advance(pauseMs);
        }
        await environment.advance(10_000);
        await Promise.all(settled);
        for (let block = 0; block < SIZE / 512; block += 1) {
          if (undefinedAt.has(block)) continue;
          const here = medium.read(block * 512, 512);
          expect(here.equals(replica.subarray(block * 512, block * 512 + 512)), `block ${block}`).toBe(true);
        }
      },
    ),
    { numRuns: 150 },
  );
});
