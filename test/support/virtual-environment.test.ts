// Goal: virtual time is what tests take it for: timers in order, promises in between, and no waiting for what
// will never happen.
// Method: a few timelines.
import { expect, test } from 'vitest';
import { createVirtualEnvironment } from './virtual-environment.ts';

test('fires timers by time, then in the order of setting, and settles promises in between', async () => {
  const environment = createVirtualEnvironment();
  const log: string[] = [];
  const note = (what: string) => () => {
    log.push(`${what}@${environment.now()}`);
  };
  environment.setTimer(20, note('d'));
  environment.setTimer(10, async () => {
    note('b')();
    for (let turn = 0; turn < 10; turn++) await undefined;
    environment.setTimer(0, note('after b'));
  });
  environment.setTimer(10, note('c'));
  environment.setTimer(5, note('a'));
  const cancel = environment.setTimer(7, note('never'));
  cancel();
  cancel();
  await environment.run();
  expect(log).toEqual(['a@5', 'b@10', 'c@10', 'after b@10', 'd@20']);
});

test('runs until a time, and time is that then', async () => {
  const environment = createVirtualEnvironment();
  let fired = 0;
  environment.setTimer(10, () => (fired += 1));
  environment.setTimer(11, () => (fired += 1));
  await environment.run(10);
  expect([fired, environment.now()]).toEqual([1, 10]);
  await environment.run(10.5);
  expect([fired, environment.now()]).toEqual([1, 10.5]);
  await environment.run();
  expect([fired, environment.now()]).toEqual([2, 11]);
});

test('runs until a promise settles, hands on how, and says when it never will', async () => {
  const environment = createVirtualEnvironment();
  environment.setTimer(1000, () => {});
  const soon = new Promise<string>((resolve) => environment.setTimer(10, () => resolve('done')));
  expect(await environment.run(soon)).toBe('done');
  expect(environment.now()).toBe(10);
  await expect(environment.run(Promise.reject(new Error('no')))).rejects.toThrow('no');
  await expect(environment.run(new Promise(() => {}))).rejects.toThrow(
    /nothing is left to happen at 1000 ms/,
  );
});

test('gives the same random bytes for the same seed only', () => {
  const bytes = (seed: number) => [...createVirtualEnvironment(seed).randomBytes(16)];
  expect(bytes(3)).toEqual(bytes(3));
  expect(bytes(3)).not.toEqual(bytes(4));
});
