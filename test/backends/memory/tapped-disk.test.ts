/**
 * Goal: what a tap in memory shows, and when, to the millisecond. What every tap owes is tested in
 * test/testing/compliance. Method: handlers that record what they get, a random story of overlapping writes with latency on a virtual clock,
 * replayed from what the tap saw.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';
import type { MigrationError } from '../../../src/errors.ts';
import type { GuestWrite, TapHandler } from '../../../src/interfaces/block-device.ts';
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

function makeVm(
  options: { latencyMs?: number; environment?: ReturnType<typeof createVirtualEnvironment> } = {},
): MemoryVm {
  const { latencyMs = 0, environment = createVirtualEnvironment() } = options;
  return createMemoryVm({ vmId: 'vm', disks: [{ id: 'disk', sizeBytes: SIZE, latencyMs }], environment });
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
