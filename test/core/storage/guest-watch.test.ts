/**
 * Goal: that a hypervisor does not tell what guest writes take, any more or at all, holds up no bulk copy, and nothing is left of a watch that
 * is over. Method: copies that read nothing, in virtual time.
 */
import { describe, expect, it } from 'vitest';
import { GuestWatch, type WatchedCopy } from '../../../src/core/storage/guest-watch.ts';
import { MigrationError } from '../../../src/errors.ts';
import type { SourceDisk, WriteTimes } from '../../../src/index.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';

/** Beside a copy that reads all the time, of a disk that says what it is told to. */
function watched(id: string, answer: (asked: number) => Promise<WriteTimes | undefined>) {
  const seen = { asked: 0, looks: 0 };
  const disk = { id, writeTimes: () => answer(++seen.asked) } as unknown as SourceDisk;
  const copy: WatchedCopy = {
    disk,
    calm: () => false,
    looked: () => {
      seen.looks++;
    },
  };
  return { copy, disk, seen };
}

/** Writes that take ten times as long from the third look on. */
const slower = async (asked: number): Promise<WriteTimes> =>
  asked < 3
    ? { writes: 100 * asked, totalMs: 100 * asked }
    : { writes: 100 * asked, totalMs: 200 + 1000 * (asked - 2) };

describe('a watch of the guest', () => {
  it('takes back what the copies may use, and ends with the last of them', async () => {
    const environment = createVirtualEnvironment();
    const watch = new GuestWatch(environment);
    const { copy, disk, seen } = watched('a', slower);
    watch.enter(copy);
    watch.enter(copy);
    await environment.run(250);
    expect(watch.share).toBeLessThan(1);
    expect(watch.sees(disk)).toBe(true);
    expect(seen.asked).toBe(3);
    watch.leave(copy);
    watch.leave(copy);
    expect(watch.share).toBe(1);
    await environment.run();
    expect(environment.pendingTimers).toBe(0);
    expect(seen.asked).toBe(3);
  });

  it.each([
    ['tells nothing', async () => undefined],
    [
      'fails to tell',
      async () => {
        throw new MigrationError('hypervisor', 'it does not know');
      },
    ],
    ['never answers', () => new Promise<undefined>(() => {})],
  ])('is over for a disk whose hypervisor %s', async (_, answer) => {
    const environment = createVirtualEnvironment();
    const watch = new GuestWatch(environment);
    const { copy, disk, seen } = watched('a', (asked) => (asked === 4 ? answer() : slower(asked)));
    watch.enter(copy);
    await environment.run(250);
    expect(watch.share).toBeLessThan(1);
    await environment.run(5000);
    expect(watch.share).toBe(1);
    expect(watch.sees(disk)).toBe(false);
    watch.enter(copy);
    await environment.run();
    expect(environment.pendingTimers).toBe(0);
    expect(seen.asked).toBe(4);
  });

  it('goes on for the others', async () => {
    const environment = createVirtualEnvironment();
    const watch = new GuestWatch(environment);
    const untold = watched('a', async () => undefined);
    const told = watched('b', slower);
    watch.enter(untold.copy);
    watch.enter(told.copy);
    await environment.run(350);
    expect(watch.share).toBeLessThan(1);
    expect(untold.seen.asked).toBe(1);
    watch.leave(told.copy);
    await environment.run();
    expect(environment.pendingTimers).toBe(0);
  });

  it('says to a disk that nothing is told of when the share is another one: it would wait for ever for what it took back', async () => {
    const environment = createVirtualEnvironment();
    const watch = new GuestWatch(environment);
    const untold = watched('a', async () => undefined);
    const told = watched('b', slower);
    watch.enter(told.copy);
    watch.enter(untold.copy);
    await environment.run(350);
    expect(watch.share).toBeLessThan(1);
    const { looks } = untold.seen;
    await environment.run(550);
    expect(untold.seen.looks).toBeGreaterThan(looks);
    watch.leave(told.copy);
    expect(watch.share).toBe(1);
    expect(untold.seen.looks).toBeGreaterThan(looks + 1);
    watch.leave(untold.copy);
  });
});
