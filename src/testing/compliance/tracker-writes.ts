import type { DirtyTracker } from '../../interfaces/block-device.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import { createPrng } from '../../util/prng.ts';
import { check, checkBytes, checkEqual, watch } from './check.ts';
import { readBytes } from './readable-disk.ts';
import type { SourceDiskFixture } from './source-disk.ts';
import type { FixtureTest } from './test-function.ts';

/** What a dirty log has of guest writes, and when. */
export function trackerWriteTests(test: FixtureTest<SourceDiskFixture>): void {
  test('a dirty log has every write that the guest was told of', async ({ disk, guest }) => {
    const { offset, length } = guest.scratch;
    const tracker = await disk.track();
    const places = [
      [0, 4096],
      [8192, 65_536],
      [8192, 512 * Math.ceil(disk.blockBytes / 512)],
      [length - 4096, 4096],
    ] as const;
    for (const [index, [at, bytes]] of places.entries()) {
      await guest.write(offset + at, bytes, index + 1);
      const taken = await tracker.take();
      checkWithin(taken, disk.sizeBytes);
      checkHas(taken, { offset: offset + at, length: bytes }, `write ${index}`);
    }
    // Several at once, far apart from each other.
    for (const [index, [at, bytes]] of places.entries()) await guest.write(offset + at, bytes, index + 9);
    const taken = await tracker.take();
    for (const [index, [at, bytes]] of places.entries()) {
      checkHas(taken, { offset: offset + at, length: bytes }, `write ${index}, among others`);
    }
    await tracker.remove();
  });

  test('what was taken is not in the next take, until it is written again', async ({ disk, guest }) => {
    const { offset } = guest.scratch;
    const tracker = await disk.track();
    await guest.write(offset, 4096, 1);
    await tracker.take();
    checkHasNothing(await tracker.take(), guest.scratch, 'a take with nothing written since the one before');
    await guest.write(offset, 4096, 2);
    checkHas(await tracker.take(), { offset, length: 4096 }, 'what was written again');
    checkHasNothing(await tracker.take(), guest.scratch, 'the take after that');
    await tracker.remove();
  });

  test('what the guest zeroes, discards or fails to write is in a dirty log, too', async ({
    disk,
    guest,
  }) => {
    const { offset, length } = guest.scratch;
    await guest.write(offset, length, 1);
    const tracker = await disk.track();
    const kinds: Record<string, ((offset: number, length: number) => Promise<void>) | undefined> = {
      'a zeroed range': guest.zero?.bind(guest),
      'a discarded range': guest.discard?.bind(guest),
      'a write that failed': guest.failWrite?.bind(guest),
    };
    for (const [what, act] of Object.entries(kinds)) {
      if (act === undefined) continue;
      const range = { offset: offset + 8192, length: 16_384 };
      await act(range.offset, range.length).catch(() => {});
      checkHas(await tracker.take(), range, what);
    }
    await tracker.remove();
  });

  test('no write falls between two takes, however the two meet', async (fixture) => {
    const { disk, guest } = fixture;
    const { offset, length } = guest.scratch;
    const replica = new Replica(fixture, await disk.track());
    await replica.copyAll();
    const prng = createPrng(4);
    // Each has a part of its own, so that no later write of another one makes good what is lost, and ends at a time of its own.
    const partBytes = Math.floor(length / 4 / 4096) * 4096;
    const writer = async (part: number, turn: number) => {
      for (let step = 0; step < part + 2; step += 1) {
        const places = guest.concurrent ? [0, 1] : [0];
        const writing = places.map((place) => {
          const at = prng.below(partBytes / 4096 - 1) * 4096;
          return guest.write(offset + part * partBytes + at, 8192, 1 + turn * 40 + step * 2 + place);
        });
        await Promise.all(writing);
      }
    };
    for (let turn = 0; turn < 4; turn += 1) {
      const writing = watch(Promise.all([0, 1, 2, 3].map((part) => writer(part, turn))));
      while (!writing.settled) {
        await replica.update();
        // A disk takes its time; a dirty log may answer at once for ever, and time would stand still.
        await readBytes(disk, offset, 4096);
      }
      await writing.promise;
      await replica.update();
      await replica.check('what was read after each take, against the disk');
    }
    await replica.remove();
  });

  test('with the guest stunned the last take has all that is left, each time that it is stunned', async (fixture) => {
    const { vm, guest } = fixture;
    const { offset } = guest.scratch;
    const replica = new Replica(fixture, await fixture.disk.track());
    await replica.copyAll();
    for (let turn = 1; turn <= 3; turn += 1) {
      // On their way when the guest is stunned, which waits for them.
      const writing = Array.from({ length: guest.concurrent ? 8 : 1 }, (_, index) =>
        guest.write(offset + index * 12_288, 8192, turn * 10 + index),
      );
      await vm.stun();
      await replica.update();
      await replica.check(`what was read with the guest stunned for the ${turn}. time, against the disk`);
      await vm.resume();
      await Promise.all(writing);
    }
    await replica.remove();
  });
}

/** What somebody has of the scratch range who knows nothing but a dirty log. */
class Replica {
  readonly #fixture: SourceDiskFixture;
  readonly #tracker: DirtyTracker;
  #bytes: Uint8Array = new Uint8Array(0);

  constructor(fixture: SourceDiskFixture, tracker: DirtyTracker) {
    this.#fixture = fixture;
    this.#tracker = tracker;
  }

  async copyAll(): Promise<void> {
    const { disk, guest } = this.#fixture;
    this.#bytes = await readBytes(disk, guest.scratch.offset, guest.scratch.length);
  }

  /** One take, and a read of all that it brought. */
  async update(): Promise<void> {
    const { disk, guest } = this.#fixture;
    for (const range of await this.#tracker.take()) {
      const part = cutTo(range, guest.scratch);
      if (part === undefined) continue;
      this.#bytes.set(await readBytes(disk, part.offset, part.length), part.offset - guest.scratch.offset);
    }
  }

  async check(what: string): Promise<void> {
    const { disk, guest } = this.#fixture;
    checkBytes(this.#bytes, await readBytes(disk, guest.scratch.offset, guest.scratch.length), what);
  }

  remove(): Promise<void> {
    return this.#tracker.remove();
  }
}

function checkWithin(taken: readonly ByteRange[], sizeBytes: number): void {
  for (const { offset, length } of taken) {
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length > 0;
    check(whole && offset + length <= sizeBytes, `${length} bytes at ${offset} were taken of ${sizeBytes}`);
  }
}

/** Throws unless the ranges together cover all of `range`. */
export function checkHas(taken: readonly ByteRange[], range: ByteRange, what: string): void {
  let at = range.offset;
  for (const { offset, length } of [...taken].sort((a, b) => a.offset - b.offset)) {
    if (offset <= at) at = Math.max(at, offset + length);
  }
  check(at >= range.offset + range.length, `${what} is not in what was taken: byte ${at} is missing`);
}

function checkHasNothing(taken: readonly ByteRange[], scratch: ByteRange, what: string): void {
  checkEqual(
    taken.filter((range) => cutTo(range, scratch) !== undefined),
    [],
    `ranges of ${what}`,
  );
}

/** The part of a range that lies in another one. */
function cutTo(range: ByteRange, frame: ByteRange): ByteRange | undefined {
  const offset = Math.max(range.offset, frame.offset);
  const end = Math.min(range.offset + range.length, frame.offset + frame.length);
  return end > offset ? { offset, length: end - offset } : undefined;
}
