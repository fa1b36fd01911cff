/** What every disk of a running VM owes the engine, and its tap or its dirty log if it has one. */
import type { SourceDisk, TapCapability } from '../../interfaces/block-device.ts';
import type { SourceVm } from '../../interfaces/hypervisor.ts';
import { check, checkBytes, checkEqual, checkRejects } from './check.ts';
import type { GuestDisk } from './guest-control.ts';
import { checkAborts, checkDescription, checkExtents, checkReadAborts, readBytes } from './readable-disk.ts';
import { tapLifeTests } from './tap-life.ts';
import { TapRecorder } from './tap-recorder.ts';
import { tapWriteTests } from './tap-writes.ts';
import { eachWith, type Fixture, type FixtureTest, type TestFunction } from './test-function.ts';
import { trackerLifeTests } from './tracker-life.ts';
import { trackerWriteTests } from './tracker-writes.ts';

/** A running VM and one of its disks, for one test. */
export interface SourceDiskFixture extends Fixture {
  /** The disk's VM, whose guest runs. */
  readonly vm: SourceVm;
  /** At least 1 MiB, and not read-only. */
  readonly disk: SourceDisk;
  /** What its guest does to the disk. */
  readonly guest: GuestDisk;
  /** Has the tap that is set, or the dirty log that is kept, lose track. Left out if that cannot be made to happen. */
  breakTap?(): Promise<void>;
  /**
   * Resolves when nothing has moved by itself for a while; some tens of milliseconds for a real hypervisor.
   */
  settle(): Promise<void>;
}

/** What {@link sourceDiskCompliance} takes. */
export interface SourceDiskComplianceOptions {
  /** The runner's test function. */
  readonly test: TestFunction;
  /** Called once for each test. */
  create(): Promise<SourceDiskFixture>;
}

/** Declares the tests that every {@link SourceDisk} passes, however its writes can be seen: it has to say how, and to refuse the other ways. */
export function sourceDiskCompliance({ test, create }: SourceDiskComplianceOptions): void {
  const withDisk = eachWith(test, create);
  readTests(withDisk);
  writeTimesTests(withDisk);
  const where =
    (capability: TapCapability, otherwise: (fixture: SourceDiskFixture) => Promise<void>) =>
    (name: string, run: (fixture: SourceDiskFixture) => Promise<void>) =>
      withDisk(name, (fixture) =>
        fixture.disk.tapCapability === capability ? run(fixture) : otherwise(fixture),
      );
  const withTap = where('ordered', expectNoTap);
  tapWriteTests(withTap);
  tapLifeTests(withTap);
  const withLog = where('extents', expectNoLog);
  trackerWriteTests(withLog);
  trackerLifeTests(withLog);
}

function readTests(test: FixtureTest<SourceDiskFixture>): void {
  test('describes itself, as its VM does', async ({ vm, disk }) => {
    checkDescription(disk);
    const { id, sizeBytes, blockBytes, readOnly } = disk;
    const described = vm.description.disks.find((candidate) => candidate.id === id);
    checkEqual(
      described && [described.sizeBytes, described.blockBytes, described.readOnly],
      [sizeBytes, blockBytes, readOnly],
      `what the VM says of disk ${id}`,
    );
    checkEqual(vm.disks.filter((candidate) => candidate.id === id).length, 1, `disks called ${id}`);
    check(['ordered', 'extents', 'none'].includes(disk.tapCapability), `its tap is '${disk.tapCapability}'`);
  });

  test('reads what the guest wrote, from any offset and of any length', async ({ disk, guest }) => {
    const { offset } = guest.scratch;
    const model = await readBytes(disk, offset, 65_536);
    for (const [index, [at, length]] of [
      [0, 4096],
      [8192, 16_384],
      [12_288, 4096],
    ].entries() as IterableIterator<[number, [number, number]]>) {
      await guest.write(offset + at, length, index + 1);
      model.fill(index + 1, at, at + length);
    }
    for (const [at, length] of [
      [0, 65_536],
      [1, 8190],
      [4095, 2],
      [12_287, 4098],
      [65_535, 1],
      [100, 0],
    ] as const) {
      const expected = model.subarray(at, at + length);
      checkBytes(await readBytes(disk, offset + at, length), expected, `${length} bytes at ${at}`);
    }
    const last = await readBytes(disk, disk.sizeBytes - 1, 1);
    checkEqual(last.byteLength, 1, 'bytes of a read of the last one');
  });

  test('what was read does not change with what the guest writes later', async ({ disk, guest }) => {
    const { offset } = guest.scratch;
    await guest.write(offset, 4096, 1);
    const reads = await Promise.all([disk.read(offset, 4096), disk.read(offset, 4096), disk.flush()]);
    await guest.write(offset, 4096, 2);
    for (const chunks of reads.slice(0, 2)) {
      checkBytes(chunks ?? [], new Uint8Array(4096).fill(1), 'what was read before the second write');
    }
  });

  test('extents cover the disk, and never call zero what the guest wrote', async ({ disk, guest }) => {
    const { offset, length } = guest.scratch;
    await guest.write(offset + 8192, 4096, 9);
    await checkExtents(disk, offset, length);
    await checkExtents(disk, offset + 5, length - 99);
    const extents = await disk.extents(0, disk.sizeBytes);
    checkEqual(
      extents.reduce((sum, extent) => sum + extent.length, 0),
      disk.sizeBytes,
      'bytes of all extents',
    );
  });

  test('what was read does not change when something else that was is recycled, and read into again', async ({
    disk,
    guest,
  }) => {
    const pieces = [1, 2, 3, 4].map((fill) => ({ at: guest.scratch.offset + 16_384 * (fill - 1), fill }));
    for (const { at, fill } of pieces) await guest.write(at, 16_384, fill);
    const read = ({ at }: { readonly at: number }) => disk.read(at, 16_384);
    const [first = [], ...kept] = await Promise.all(pieces.map(read));
    disk.recycle?.(first);
    const again = await Promise.all([...pieces, ...pieces].map(read));
    const fills = [2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4];
    for (const [index, chunks] of [...kept, ...again].entries()) {
      const expected = new Uint8Array(16_384).fill(fills[index] ?? 0);
      checkBytes(chunks, expected, `read ${index} of what was filled with ${fills[index]}`);
    }
  });

  test('refuses to read what does not lie on it', async ({ disk }) => {
    for (const [offset, length] of [
      [disk.sizeBytes - 1, 2],
      [disk.sizeBytes, 1],
      [-1, 1],
    ] as const) {
      const reading = disk.read(offset, length);
      await checkRejects(reading, ['invalid-argument', 'disk-read'], `reading ${length} at ${offset}`);
    }
  });

  test('reading takes a signal that is aborted before, during or after a call', async ({ disk }) => {
    await checkReadAborts(disk);
  });
}

function writeTimesTests(test: FixtureTest<SourceDiskFixture>): void {
  test('tells how many writes there were and how long they took, or that it does not know', async (fixture) => {
    const { disk, guest, settle } = fixture;
    const before = await disk.writeTimes();
    for (const fill of [1, 2, 3]) await guest.write(guest.scratch.offset, 4096, fill);
    let times = await disk.writeTimes();
    if (before === undefined) {
      return checkEqual(times, undefined, 'what is told of writes where nothing was told before');
    }
    // A hypervisor may count a little later than the guest is told.
    for (let turn = 0; turn < 20 && times !== undefined && times.writes < before.writes + 3; turn += 1) {
      await settle();
      times = await disk.writeTimes();
    }
    check(times !== undefined, 'nothing is told of writes any more');
    check(Number.isSafeInteger(before.writes) && before.writes >= 0, `${before.writes} writes were told`);
    check(times.writes >= before.writes + 3, `3 writes later, of ${before.writes} came ${times.writes}`);
    check(
      before.totalMs >= 0 && times.totalMs >= before.totalMs,
      `${before.totalMs} ms, then ${times.totalMs}`,
    );
    await checkAborts('writeTimes', (signal) => disk.writeTimes({ signal }));
  });

  test('what it tells of writes is never less than it was, nor is it of another kind', async (fixture) => {
    const { vm, disk, guest } = fixture;
    let last = await disk.writeTimes();
    const told = async (when: string) => {
      const times = await disk.writeTimes();
      checkEqual(typeof times, typeof last, `the type of what is told of writes ${when}`);
      if (times === undefined || last === undefined) return;
      check(times.writes >= last.writes, `${last.writes} writes, and ${when} ${times.writes}`);
      check(times.totalMs >= last.totalMs, `${last.totalMs} ms of writes, and ${when} ${times.totalMs}`);
      last = times;
    };
    await guest.write(guest.scratch.offset, 4096, 1);
    await told('after a write');
    await guest.write(guest.scratch.offset, 4096, 2);
    await vm.stun();
    await told('with the guest stunned');
    await vm.resume();
    await told('after resume()');
    await guest.write(guest.scratch.offset, 4096, 3);
    await told('after one more write');
  });
}

async function expectNoTap({ disk, guest }: SourceDiskFixture): Promise<void> {
  const recorder = new TapRecorder(guest.scratch);
  await checkRejects(disk.tap(recorder), 'unsupported', `tap() of a disk with '${disk.tapCapability}'`);
  await guest.write(guest.scratch.offset, 4096, 1);
  checkEqual(recorder.writes.length, 0, 'writes that a handler got whose tap was refused');
}

async function expectNoLog({ disk }: SourceDiskFixture): Promise<void> {
  await checkRejects(disk.track(), 'unsupported', `track() of a disk with '${disk.tapCapability}'`);
}
