/** What every disk that the engine fills owes it. */
import type { BlockDevice } from '../../interfaces/block-device.ts';
import { createPrng } from '../../util/prng.ts';
import { randomBytes } from './bytes.ts';
import { checkBytes, checkEqual, checkRejects } from './check.ts';
import { checkAborts, checkDescription, checkExtents, checkReadAborts, readBytes } from './readable-disk.ts';
import { eachWith, type Fixture, type FixtureTest, type TestFunction } from './test-function.ts';

/** A disk for one test. */
export interface BlockDeviceFixture extends Fixture {
  /**
   * At least 1 MiB, which may hold anything. Nobody else writes it, and the guest may write it: not
   * read-only.
   */
  readonly disk: BlockDevice;
}

/** What {@link blockDeviceCompliance} takes. */
export interface BlockDeviceComplianceOptions {
  /** The runner's test function. */
  readonly test: TestFunction;
  /** Called once for each test. */
  create(): Promise<BlockDeviceFixture>;
}

/** Where the tests write: from the disk's start, and up to its end. */
const windowBytes = 512 * 1024;

/** Declares the tests that every {@link BlockDevice} passes. */
export function blockDeviceCompliance({ test, create }: BlockDeviceComplianceOptions): void {
  const withDisk = eachWith(test, create);
  contentTests(withDisk);
  orderTests(withDisk);
  refusalTests(withDisk);
}

function contentTests(test: FixtureTest<BlockDeviceFixture>): void {
  test('describes itself', async ({ disk }) => checkDescription(disk));

  test('reads, writes and zeroes of any offset and length agree with a plain buffer', async ({ disk }) => {
    for (const base of [0, disk.sizeBytes - windowBytes]) {
      const prng = createPrng(base + 1);
      const model = await readBytes(disk, base, windowBytes);
      for (let step = 0; step < 40; step += 1) {
        // Every other one lies on blocks or ends where the window does: that is where mistakes are.
        const grain = step % 2 === 0 ? 1 : disk.blockBytes;
        const offset = Math.floor(prng.below(windowBytes) / grain) * grain;
        const rest = windowBytes - offset;
        const length = step % 5 === 0 ? rest : Math.min(rest, 1 + prng.below(70_000));
        if (step % 3 === 2) {
          await disk.writeZeroes(base + offset, length);
          model.fill(0, offset, offset + length);
        } else {
          const bytes = randomBytes(length, step + 1);
          const half = length >> 1;
          await disk.write(base + offset, [bytes.subarray(0, half), new Uint8Array(0), bytes.subarray(half)]);
          model.set(bytes, offset);
        }
        // With a little of what lies around it, at offsets of its own.
        const from = Math.max(0, offset - 1 - prng.below(700));
        const part = await readBytes(disk, base + from, Math.min(windowBytes, offset + length + 701) - from);
        checkBytes(part, model.subarray(from, from + part.byteLength), `step ${step}, from ${base + from}`);
      }
      checkBytes(await readBytes(disk, base, windowBytes), model, `all that was written from ${base}`);
      await checkExtents(disk, base, windowBytes);
      await checkExtents(disk, base + 777, 99_999);
    }
  });

  test('extents cover the whole disk, and never call data zero', async ({ disk }) => {
    await disk.writeZeroes(0, windowBytes);
    await disk.write(100_000, [Uint8Array.of(1)]);
    await checkExtents(disk, 0, disk.sizeBytes);
    const extents = await disk.extents(0, windowBytes);
    const hit = extents.find(({ offset, length }) => offset <= 100_000 && 100_000 < offset + length);
    checkEqual(hit?.zero, false, 'whether the extent around a byte that is not zero is zero');
  });

  test('nothing is read, written and zeroed where nothing is asked for', async ({ disk }) => {
    const before = await readBytes(disk, 0, 8192);
    checkEqual((await readBytes(disk, 4096, 0)).byteLength, 0, 'bytes of a read of nothing');
    await disk.write(4096, []);
    await disk.write(4096, [new Uint8Array(0)]);
    await disk.writeZeroes(4096, 0);
    checkBytes(await readBytes(disk, 0, 8192), before, 'the disk after writes of nothing');
  });

  test('a discarded range may hold anything, its neighbours what they held', async ({ disk }) => {
    const bytes = randomBytes(windowBytes, 7);
    await disk.write(0, [bytes]);
    await disk.discard(65_536, 196_608);
    await disk.discard(300_001, 3);
    checkBytes(await readBytes(disk, 0, 65_536), bytes.subarray(0, 65_536), 'what lies before');
    const behind = bytes.subarray(300_004);
    checkBytes(await readBytes(disk, 300_004, behind.byteLength), behind, 'what lies behind');
    await checkExtents(disk, 0, windowBytes);
    await disk.write(65_536, [bytes.subarray(0, 196_608)]);
    checkBytes(await readBytes(disk, 65_536, 196_608), bytes.subarray(0, 196_608), 'written again');
  });

  test('a flush leaves everything as it is, also with writes under way', async ({ disk }) => {
    const bytes = randomBytes(65_536, 8);
    await disk.write(0, [bytes]);
    await Promise.all([disk.flush(), disk.write(65_536, [bytes]), disk.flush(), disk.flush()]);
    await disk.flush();
    for (const at of [0, 65_536]) checkBytes(await readBytes(disk, at, 65_536), bytes, `what lies at ${at}`);
  });
}

function orderTests(test: FixtureTest<BlockDeviceFixture>): void {
  test('does many writes and reads at once, side by side', async ({ disk }) => {
    const lengths = Array.from({ length: 48 }, (_, index) => 1 + ((index * 4099) % 9000));
    const places: { offset: number; bytes: Uint8Array }[] = [];
    let at = 1;
    for (const [index, length] of lengths.entries()) {
      places.push({ offset: at, bytes: randomBytes(length, index + 20) });
      at += length;
    }
    await Promise.all(places.map(({ offset, bytes }) => disk.write(offset, [bytes])));
    const reading = places.map(({ offset, bytes }) => readBytes(disk, offset, bytes.byteLength));
    for (const [index, bytes] of (await Promise.all(reading)).entries()) {
      checkBytes(bytes, places[index]?.bytes ?? new Uint8Array(0), `what was written as number ${index}`);
    }
  });

  test('a write that follows another shows, whatever is under way elsewhere', async ({ disk }) => {
    const elsewhere = Array.from({ length: 8 }, (_, index) =>
      disk.write(200_000 + index * 10_000, [randomBytes(10_000, index)]),
    );
    for (const fill of [1, 2, 3]) {
      await disk.write(5, [new Uint8Array(3000).fill(fill)]);
      checkBytes(await readBytes(disk, 5, 3000), new Uint8Array(3000).fill(fill), `write ${fill}`);
    }
    await Promise.all(elsewhere);
  });

  test('what was read does not change with what is written later', async ({ disk }) => {
    await disk.write(0, [new Uint8Array(8192).fill(1)]);
    const chunks = await disk.read(0, 8192);
    await disk.write(0, [new Uint8Array(8192).fill(2)]);
    checkBytes(chunks, new Uint8Array(8192).fill(1), 'what was read before the second write');
  });

  test('what was written does not change with the buffer that it came from', async ({ disk }) => {
    const buffer = new Uint8Array(8192).fill(1);
    await disk.write(0, [buffer]);
    buffer.fill(2);
    checkBytes(await readBytes(disk, 0, 8192), new Uint8Array(8192).fill(1), 'what is on the disk');
  });
}

function refusalTests(test: FixtureTest<BlockDeviceFixture>): void {
  test('refuses what does not lie on it, and changes nothing', async ({ disk }) => {
    const { sizeBytes } = disk;
    const end = sizeBytes - 4096;
    const before = await readBytes(disk, end, 4096);
    for (const [offset, length] of [
      [sizeBytes - 1, 2],
      [sizeBytes, 1],
      [-1, 1],
      [0.5, 1],
    ] as const) {
      const range = `${length} bytes at ${offset} of ${sizeBytes}`;
      const refused = (code: 'disk-read' | 'disk-write') => ['invalid-argument', code] as const;
      await checkRejects(disk.read(offset, length), refused('disk-read'), `reading ${range}`);
      const ones = new Uint8Array(length).fill(1);
      await checkRejects(disk.write(offset, [ones]), refused('disk-write'), `writing ${range}`);
      await checkRejects(disk.writeZeroes(offset, length), refused('disk-write'), `zeroing ${range}`);
      await checkRejects(disk.discard(offset, length), refused('disk-write'), `discarding ${range}`);
    }
    checkBytes(await readBytes(disk, end, 4096), before, 'the end of the disk');
  });

  test('takes a signal that is aborted before, during or after a call', async ({ disk }) => {
    await checkReadAborts(disk);
    const content = [new Uint8Array(4096).fill(3)];
    await checkAborts('write', (signal) => disk.write(0, content, { signal }));
    await checkAborts('writeZeroes', (signal) => disk.writeZeroes(4096, 4096, { signal }));
    await checkAborts('discard', (signal) => disk.discard(8192, 4096, { signal }));
    await disk.flush();
    // Nobody was ever answered about what was aborted, so it is written again.
    await disk.write(0, content);
    checkBytes(await readBytes(disk, 0, 4096), new Uint8Array(4096).fill(3), 'what is on the disk');
  });

  test('a write with an aborted signal writes nothing', async ({ disk }) => {
    await disk.write(0, [new Uint8Array(4096).fill(1)]);
    const signal = AbortSignal.abort();
    await checkRejects(disk.write(0, [new Uint8Array(4096)], { signal }), 'aborted', 'write');
    await checkRejects(disk.writeZeroes(0, 4096, { signal }), 'aborted', 'writeZeroes');
    await checkRejects(disk.discard(0, 4096, { signal }), 'aborted', 'discard');
    checkBytes(await readBytes(disk, 0, 4096), new Uint8Array(4096).fill(1), 'what is on the disk');
  });
}
