import { checkEqual, checkRejects } from './check.ts';
import type { SourceDiskFixture } from './source-disk.ts';
import type { FixtureTest } from './test-function.ts';
import { checkHas } from './tracker-writes.ts';

/** A dirty log from when it is kept until it is gone. */
export function trackerLifeTests(test: FixtureTest<SourceDiskFixture>): void {
  test('one dirty log at a time: a second one is refused, and the first works on', async ({
    disk,
    guest,
  }) => {
    const { offset } = guest.scratch;
    const tracker = await disk.track();
    await checkRejects(disk.track(), 'invalid-state', 'track() of a disk that has a dirty log');
    await guest.write(offset, 4096, 1);
    checkHas(await tracker.take(), { offset, length: 4096 }, 'a write after the second one was refused');
    await tracker.remove();
  });

  test('two dirty logs at once: one of them is refused', async ({ disk }) => {
    const outcomes = await Promise.allSettled([disk.track(), disk.track()]);
    const kept = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    checkEqual(kept.length, 1, 'dirty logs that are kept');
    await Promise.all(kept.map((tracker) => tracker.remove()));
  });

  test('with an aborted signal no dirty log is kept', async ({ disk }) => {
    const tracking = disk.track({ signal: AbortSignal.abort() });
    await checkRejects(tracking, 'aborted', 'track() with an aborted signal');
    await (await disk.track()).remove();
  });

  test('a signal that is aborted meanwhile leaves a dirty log that was handed out, or none', async (fixture) => {
    const { disk } = fixture;
    const controller = new AbortController();
    const tracking = disk.track({ signal: controller.signal });
    controller.abort();
    const tracker = await tracking.catch(() => undefined);
    await tracker?.remove();
    await (await disk.track()).remove();
  });

  test('a take that is aborted before it began loses nothing', async ({ disk, guest }) => {
    const { offset } = guest.scratch;
    const tracker = await disk.track();
    await guest.write(offset, 4096, 1);
    await checkRejects(
      tracker.take({ signal: AbortSignal.abort() }),
      'aborted',
      'take() with an aborted signal',
    );
    checkHas(await tracker.take(), { offset, length: 4096 }, 'a write from before the take that was aborted');
    await tracker.remove();
  });

  test('a dirty log that was removed tells nothing more, and another one can be kept', async (fixture) => {
    const { disk, guest } = fixture;
    const { offset } = guest.scratch;
    const old = await disk.track();
    await guest.write(offset, 4096, 1);
    await Promise.all([old.remove(), old.remove()]);
    await checkRejects(old.take(), ['invalid-state', 'tap-gap'], 'take() after remove()');
    const tracker = await disk.track();
    // The removal of the old one is not that of the new one.
    await old.remove();
    await guest.write(offset, 4096, 2);
    checkHas(await tracker.take(), { offset, length: 4096 }, 'a write after the old one was removed again');
    await tracker.remove();
  });

  test('a dirty log that lost track says so at each take, and hinders nobody', async (fixture) => {
    const { disk, guest, breakTap, settle } = fixture;
    if (breakTap === undefined) return;
    const { offset } = guest.scratch;
    const tracker = await disk.track();
    await guest.write(offset, 4096, 1);
    await breakTap();
    await settle();
    await checkRejects(tracker.take(), 'tap-gap', 'take() of a dirty log that lost track');
    await guest.write(offset, 4096, 2);
    await checkRejects(tracker.take(), 'tap-gap', 'the next take()');
    await tracker.remove();
    const again = await disk.track();
    await guest.write(offset, 4096, 3);
    checkHas(await again.take(), { offset, length: 4096 }, 'a write to the dirty log that is kept then');
    await again.remove();
  });
}
