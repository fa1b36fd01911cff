/** Goal: what a guest stood still for is told right, while it does, after it, and over several times. Method: the book alone, in virtual time. */
import { expect, it } from 'vitest';
import { GuestPauses } from '../../src/core/guest-pauses.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';

it('adds up the pauses after which the guest ran on, and the one that is under way', async () => {
  const environment = createVirtualEnvironment();
  const pauses = new GuestPauses(environment);
  const pass = (ms: number) => environment.run(environment.now() + ms);
  pauses.end();
  expect([pauses.isOn, pauses.nowMs, pauses.lastMs, pauses.allMs]).toEqual([false, undefined, 0, 0]);
  pauses.begin(environment.now());
  await pass(30);
  expect([pauses.isOn, pauses.nowMs, pauses.lastMs, pauses.allMs]).toEqual([true, 30, 0, 30]);
  pauses.ranOn();
  await pass(100);
  expect([pauses.isOn, pauses.nowMs, pauses.lastMs, pauses.allMs]).toEqual([false, undefined, 30, 30]);
  pauses.begin(environment.now());
  await pass(50);
  pauses.end(-20);
  await pass(1000);
  expect([pauses.isOn, pauses.nowMs, pauses.lastMs, pauses.allMs]).toEqual([true, 30, 30, 60]);
});
