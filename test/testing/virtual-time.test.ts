// Goal: virtual time fires every timer once, by time and then in the order of setting, with all that follows
// from one before the next, however many there are and however many are cancelled.
// Method: random sets of timers against a sorted list; and the corners of `run`.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createVirtualEnvironment } from '../../src/testing/virtual-time.ts';

test('fires what a sorted list would, with timers set and cancelled on the way', async () => {
  const timer = fc.record({
    delayMs: fc.integer({ min: 0, max: 20 }),
    /** Sets another one when it fires. */
    next: fc.option(fc.integer({ min: 0, max: 20 })),
    /** Cancels the timer of that number when it fires. */
    cancels: fc.option(fc.nat({ max: 60 })),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(timer, { maxLength: 60 }), async (timers) => {
      const environment = createVirtualEnvironment();
      const fired: string[] = [];
      const expected: string[] = [];
      const waiting: { at: number; name: string; timer: (typeof timers)[number] | undefined }[] = [];
      const cancel = timers.map((own, index) => {
        waiting.push({ at: own.delayMs, name: `${index}`, timer: own });
        return environment.setTimer(own.delayMs, () => {
          fired.push(`${index}@${environment.now()}`);
          if (own.next !== null)
            environment.setTimer(own.next, () => fired.push(`after ${index}@${environment.now()}`));
          if (own.cancels !== null) cancel[own.cancels]?.();
        });
      });
      const gone = new Set<string>();
      while (waiting.length > 0) {
        // A stable sort keeps the order of setting.
        waiting.sort((one, other) => one.at - other.at);
        const first = waiting.shift();
        if (first === undefined || gone.has(first.name)) continue;
        expected.push(`${first.name}@${first.at}`);
        const own = first.timer;
        if (own === undefined) continue;
        if (own.next !== null)
          waiting.push({ at: first.at + own.next, name: `after ${first.name}`, timer: undefined });
        if (own.cancels !== null) gone.add(`${own.cancels}`);
      }
      await environment.run();
      expect(fired).toEqual(expected);
      expect(environment.firedTimers).toBe(expected.length);
      expect(environment.pendingTimers).toBe(0);
    }),
    { seed: 1 },
  );
});

test('keeps no room for a hundred thousand timers that were cancelled', async () => {
  const environment = createVirtualEnvironment();
  let fired = 0;
  environment.setTimer(1, () => (fired += 1));
  const cancels = Array.from({ length: 100_000 }, (_, index) =>
    environment.setTimer(1_000_000 - index, () => (fired += 1)),
  );
  expect(environment.pendingTimers).toBe(100_001);
  for (const cancel of cancels) cancel();
  for (const cancel of cancels) cancel();
  expect(environment.pendingTimers).toBe(1);
  await environment.run();
  expect([fired, environment.now(), environment.pendingTimers]).toEqual([1, 1, 0]);
});

test('a timer sees everything that followed from the one before, of the same time too', async () => {
  const environment = createVirtualEnvironment();
  const log: number[] = [];
  for (let index = 0; index < 500; index++) {
    environment.setTimer(index % 2, async () => {
      const turn = log.length;
      for (let wait = 0; wait < 20; wait++) await undefined;
      log.push(turn);
    });
  }
  await environment.run();
  expect(log).toEqual(Array.from({ length: 500 }, (_, index) => index));
});

test('stops in the moment in which the promise settles', async () => {
  const environment = createVirtualEnvironment();
  for (let at = 0; at < 1000; at++) environment.setTimer(at, () => {});
  for (const at of [3, 100, 777.5]) {
    const start = environment.now();
    await environment.run(new Promise<void>((resolve) => environment.setTimer(at - start, resolve)));
    expect(environment.now()).toBe(at);
  }
});

test('rejects with what a timer throws, and can be run on', async () => {
  const environment = createVirtualEnvironment();
  environment.setTimer(1, () => {
    throw new Error('broken timer');
  });
  environment.setTimer(2, () => {});
  await expect(environment.run()).rejects.toThrow('broken timer');
  expect([environment.now(), environment.pendingTimers]).toEqual([1, 1]);
  await environment.run();
  expect(environment.now()).toBe(2);
});

test('refuses timers that would never fire, or in the past', () => {
  const environment = createVirtualEnvironment();
  for (const delayMs of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => environment.setTimer(delayMs, () => {})).toThrow(
      expect.objectContaining({ code: 'invalid-argument' }),
    );
  }
});

test('says that a promise will never settle', async () => {
  const environment = createVirtualEnvironment();
  await expect(environment.run(new Promise(() => {}))).rejects.toMatchObject({ code: 'timeout' });
});
