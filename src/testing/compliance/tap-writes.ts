import { createPrng } from '../../util/prng.ts';
import { deferred } from '../../util/promises.ts';
import { check, checkBytes, checkEqual, contentBytes, watch } from './check.ts';
import { readBytes } from './readable-disk.ts';
import type { SourceDiskFixture } from './source-disk.ts';
import { TapRecorder } from './tap-recorder.ts';
import type { FixtureTest } from './test-function.ts';

/** What a tap shows of guest writes, and when. */
export function tapWriteTests(test: FixtureTest<SourceDiskFixture>): void {
  test('a tap gets every write from when it is set, as it was written', async ({ disk, guest }) => {
    const { scratch } = guest;
    const recorder = new TapRecorder(scratch);
    await guest.write(scratch.offset, 4096, 1);
    const tap = await disk.tap(recorder);
    checkEqual(recorder.writes.length, 0, 'writes from before the tap was set');
    const places = [
      [0, 4096],
      [8192, 65_536],
      [8192, 512 * Math.ceil(disk.blockBytes / 512)],
      [scratch.length - 4096, 4096],
    ] as const;
    for (const [index, [at, length]] of places.entries()) {
      await guest.write(scratch.offset + at, length, index + 10);
      const write = recorder.writes[index];
      checkEqual(write && [write.offset - scratch.offset, write.length], [at, length], `write ${index}`);
      check(write !== undefined && recorder.writes.length === index + 1, `write ${index} came as several`);
      const bytes = contentBytes(write.content, write.length);
      checkBytes(bytes, new Uint8Array(length).fill(index + 10), `the content of write ${index}`);
    }
    recorder.release();
    await tap.remove();
  });

  test('a write that zeroes comes as zeros', async ({ disk, guest }) => {
    if (guest.zero === undefined) return;
    const { offset } = guest.scratch;
    await guest.write(offset, 8192, 1);
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    await guest.zero(offset, 8192);
    const replica = await readBytes(disk, offset, guest.scratch.length);
    replica.fill(1, 0, 8192);
    recorder.replay(replica);
    checkBytes(replica.subarray(0, 8192), new Uint8Array(8192), 'what a replica holds');
    recorder.release();
    await tap.remove();
  });

  test('of a discard the tap says what the range holds then, or that it is not known', async (fixture) => {
    const { disk, guest } = fixture;
    if (guest.discard === undefined) return;
    const { scratch } = guest;
    await guest.write(scratch.offset, scratch.length, 1);
    const recorder = new TapRecorder(scratch);
    const replica = await readBytes(disk, scratch.offset, scratch.length);
    const tap = await disk.tap(recorder);
    await guest.discard(scratch.offset + 4096, 8192);
    await guest.discard(scratch.offset, scratch.length);
    recorder.replay(replica);
    for (const { offset, length } of recorder.invalid) {
      const from = Math.max(offset, scratch.offset);
      const to = Math.min(offset + length, scratch.offset + scratch.length);
      if (from < to) replica.set(await readBytes(disk, from, to - from), from - scratch.offset);
    }
    const medium = await readBytes(disk, scratch.offset, scratch.length);
    checkBytes(replica, medium, 'a replica that did what the tap was told, against the medium');
    recorder.release();
    await tap.remove();
  });

  test('a write is handed over after the medium has it and before the guest is told', async (fixture) => {
    const { disk, guest, settle } = fixture;
    const { offset } = guest.scratch;
    await guest.write(offset, 4096, 1);
    // What reading sets up is set up before a write is held: some hypervisors set up nothing meanwhile.
    await readBytes(disk, offset, 4096);
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    const hold = deferred<void>();
    const called = deferred<void>();
    recorder.hold = hold.promise;
    recorder.onWrite = () => called.resolve();
    const told = watch(guest.write(offset, 4096, 2));
    await called.promise;
    checkBytes(await readBytes(disk, offset, 4096), new Uint8Array(4096).fill(2), 'what the medium holds');
    await settle();
    check(!told.settled, 'the guest was told although the handler has not finished');
    hold.resolve();
    await told.promise;
    recorder.release();
    await tap.remove();
  });

  test('what a write holds does not change until it is released', async ({ disk, guest }) => {
    const { offset } = guest.scratch;
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    for (let fill = 1; fill <= 40; fill += 1) await guest.write(offset, 8192, fill);
    checkEqual(recorder.writes.length, 40, 'writes handed over');
    for (const [index, { content, length }] of recorder.writes.entries()) {
      const what = `the content of write ${index + 1}, after the later ones`;
      checkBytes(contentBytes(content, length), new Uint8Array(8192).fill(index + 1), what);
    }
    recorder.release();
    await tap.remove();
  });

  test('overlapping writes at once: their order at the tap is that of the medium', async (fixture) => {
    const { disk, guest } = fixture;
    const { scratch } = guest;
    const replica = await readBytes(disk, scratch.offset, scratch.length);
    const recorder = new TapRecorder(scratch);
    const tap = await disk.tap(recorder);
    const prng = createPrng(3);
    for (let turn = 0; turn < 4; turn += 1) {
      const writing = Array.from({ length: guest.concurrent ? 24 : 6 }, (_, index) => {
        const at = prng.below(16) * 4096;
        return guest.write(scratch.offset + at, 4096 * (1 + prng.below(8)), 1 + turn * 50 + index);
      });
      await Promise.all(writing);
    }
    recorder.replay(replica);
    const medium = await readBytes(disk, scratch.offset, scratch.length);
    checkBytes(
      replica,
      medium,
      'a replica that did what the tap was shown, in its order, against the medium',
    );
    recorder.release();
    await tap.remove();
  });

  test('a later write is held from the medium until the handler of the first was called', async (fixture) => {
    const { disk, guest } = fixture;
    if (!guest.concurrent) return;
    const { offset } = guest.scratch;
    await guest.write(offset, 4096, 1);
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    // The first is in flight for as long as it takes; all the while the disk is read.
    const writes = Promise.all([guest.write(offset, 8192, 2), guest.write(offset, 4096, 3)]);
    const writing = watch(writes);
    while (!writing.settled) {
      const bytes = await readBytes(disk, offset, 4096);
      const early = bytes[0] === 3 && recorder.writes.length === 0;
      check(!early, 'the second write was on the medium before the handler of the first was called');
    }
    await writes;
    const order = recorder.writes.map(({ content, length }) => contentBytes(content, length)[0]);
    checkEqual(order, [2, 3], 'the writes in the order in which the handler got them');
    recorder.release();
    await tap.remove();
  });

  test('a later write waits for the call of the first handler, not for its promise', async (fixture) => {
    const { disk, guest } = fixture;
    if (!guest.concurrent) return;
    const { offset } = guest.scratch;
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    const hold = deferred<void>();
    const all = deferred<void>();
    recorder.hold = hold.promise;
    recorder.onWrite = () => recorder.writes.length === 3 && all.resolve();
    const writing = [1, 2, 3].map((fill) => guest.write(offset, 4096, fill));
    await all.promise;
    hold.resolve();
    await Promise.all(writing);
    recorder.release();
    await tap.remove();
  });

  test('of a write that failed the tap says that its range is not known, or that it lost track', async (fixture) => {
    const { disk, guest } = fixture;
    if (guest.failWrite === undefined) return;
    const { offset } = guest.scratch;
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    await guest.failWrite(offset + 4096, 8192).catch(() => {});
    const known = recorder.invalid.some(
      (range) => range.offset <= offset + 4096 && range.offset + range.length >= offset + 12_288,
    );
    check(known || recorder.broke.length > 0, 'a guest write failed, and the tap said nothing of it');
    recorder.release();
    await tap.remove();
  });
}
