import { deferred } from '../../util/promises.ts';
import { check, checkEqual, checkRejects } from './check.ts';
import type { SourceDiskFixture } from './source-disk.ts';
import { TapRecorder } from './tap-recorder.ts';
import type { FixtureTest } from './test-function.ts';

/** A tap from when it is set until it is gone. */
export function tapLifeTests(test: FixtureTest<SourceDiskFixture>): void {
  test('one tap at a time: a second one is refused, and the first works on', async ({ disk, guest }) => {
    const { scratch } = guest;
    const [first, second] = [new TapRecorder(scratch), new TapRecorder(scratch)];
    const tap = await disk.tap(first);
    await checkRejects(disk.tap(second), 'invalid-state', 'tap() of a disk that has a tap');
    await guest.write(scratch.offset, 4096, 1);
    checkEqual([first.writes.length, second.writes.length], [1, 0], 'writes at the first and at the second');
    first.release();
    await tap.remove();
  });

  test('two at once: one of them is refused', async ({ disk, guest }) => {
    const recorders = [new TapRecorder(guest.scratch), new TapRecorder(guest.scratch)];
    const outcomes = await Promise.allSettled(recorders.map((recorder) => disk.tap(recorder)));
    const set = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    checkEqual(set.length, 1, 'taps that were set');
    await Promise.all(set.map((tap) => tap.remove()));
  });

  test('with an aborted signal none is set', async ({ disk, guest }) => {
    const recorder = new TapRecorder(guest.scratch);
    const tapping = disk.tap(recorder, { signal: AbortSignal.abort() });
    await checkRejects(tapping, 'aborted', 'tap() with an aborted signal');
    await guest.write(guest.scratch.offset, 4096, 1);
    checkEqual(recorder.writes.length, 0, 'writes that a handler got whose tap was never set');
    await (await disk.tap(recorder)).remove();
  });

  test('a signal that is aborted meanwhile leaves a tap that was handed out, or none', async (fixture) => {
    const { disk, guest } = fixture;
    const controller = new AbortController();
    const recorder = new TapRecorder(guest.scratch);
    const tapping = disk.tap(recorder, { signal: controller.signal });
    controller.abort();
    const tap = await tapping.catch(() => undefined);
    await guest.write(guest.scratch.offset, 4096, 1);
    checkEqual(recorder.writes.length, tap === undefined ? 0 : 1, 'writes that reached the handler');
    recorder.release();
    await tap?.remove();
    await (await disk.tap(recorder)).remove();
  });

  test('removed, it gets nothing more, and can be set again', async ({ disk, guest }) => {
    const { scratch } = guest;
    const [first, second] = [new TapRecorder(scratch), new TapRecorder(scratch)];
    const old = await disk.tap(first);
    await Promise.all([old.remove(), old.remove()]);
    await guest.write(scratch.offset, 4096, 1);
    checkEqual(first.writes.length, 0, 'writes that reached a tap that was removed');
    const tap = await disk.tap(second);
    // The removal of the old one is not that of the new one.
    await old.remove();
    await guest.write(scratch.offset, 4096, 2);
    checkEqual([first.writes.length, second.writes.length], [0, 1], 'writes at the old and at the new tap');
    second.release();
    await tap.remove();
  });

  test('removed while it holds writes, it leaves none of them unanswered', async ({ disk, guest }) => {
    const { offset } = guest.scratch;
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    const called = deferred<void>();
    recorder.hold = new Promise(() => {});
    recorder.onWrite = () => called.resolve();
    const writing = Array.from({ length: guest.concurrent ? 4 : 1 }, (_, index) =>
      guest.write(offset + (index >> 1) * 4096, 8192, index + 1),
    );
    await called.promise;
    await tap.remove();
    await Promise.all(writing);
    await guest.write(offset, 4096, 9);
    recorder.release();
  });

  test('removed under load, it leaves no write unanswered', async ({ disk, guest }) => {
    const { offset } = guest.scratch;
    for (let turn = 0; turn < 3; turn += 1) {
      const recorder = new TapRecorder(guest.scratch);
      const tap = await disk.tap(recorder);
      const count = guest.concurrent ? 12 : 3;
      const writing = Array.from({ length: count }, (_, index) =>
        guest.write(offset + index * 4096, 8192, index + 1),
      );
      await tap.remove();
      await Promise.all(writing);
      recorder.release();
    }
  });

  test('finish() with the guest stunned: every write has been handed over, and the tap stays', async (fixture) => {
    const { vm, disk, guest } = fixture;
    const { offset } = guest.scratch;
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    await guest.write(offset, 4096, 1);
    await vm.stun();
    await tap.finish();
    checkEqual(recorder.writes.length, 1, 'writes that were handed over');
    await vm.resume();
    await guest.write(offset, 4096, 2);
    checkEqual(recorder.writes.length, 2, 'writes that were handed over once the guest ran on');
    await vm.stun();
    await tap.finish();
    await tap.finish();
    await tap.remove();
    await vm.resume();
    await guest.write(offset, 4096, 3);
    checkEqual(recorder.writes.length, 2, 'writes that were handed over after the removal');
    recorder.release();
  });

  test('finish() is refused while the guest runs, when aborted, and after remove()', async (fixture) => {
    const { vm, disk, guest } = fixture;
    const tap = await disk.tap(new TapRecorder(guest.scratch));
    await checkRejects(tap.finish(), 'invalid-state', 'finish() while the guest runs');
    await vm.stun();
    await checkRejects(
      tap.finish({ signal: AbortSignal.abort() }),
      'aborted',
      'finish() with an aborted signal',
    );
    await tap.finish();
    await tap.remove();
    await checkRejects(tap.finish(), 'invalid-state', 'finish() after remove()');
    await vm.resume();
  });

  test('broken, it says so once, hinders nobody, and never finishes', async (fixture) => {
    const { vm, disk, guest, breakTap } = fixture;
    if (breakTap === undefined) return;
    const { offset } = guest.scratch;
    const recorder = new TapRecorder(guest.scratch);
    const tap = await disk.tap(recorder);
    const [called, broken] = [deferred<void>(), deferred<void>()];
    // Where one write at a time is all that the guest can do, nothing else may be done while it is held.
    if (guest.concurrent) recorder.hold = new Promise(() => {});
    recorder.onWrite = () => called.resolve();
    recorder.onBroken = () => broken.resolve();
    const held = guest.write(offset, 4096, 1);
    await called.promise;
    if (!guest.concurrent) await held;
    await Promise.all([breakTap(), broken.promise]);
    await held;
    await guest.write(offset, 4096, 2);
    await fixture.settle();
    checkEqual(
      recorder.broke.map(({ code }) => code),
      ['tap-gap'],
      'what broken() was called with',
    );
    check(recorder.writes.length <= 2, 'more writes were handed over than there were');
    await vm.stun();
    await checkRejects(tap.finish(), 'tap-gap', 'finish() of a tap that is broken');
    await vm.resume();
    await tap.remove();
    const again = await disk.tap(new TapRecorder(guest.scratch));
    await vm.stun();
    await again.finish();
    await vm.resume();
    await again.remove();
    recorder.release();
  });
}
