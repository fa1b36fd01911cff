/** Goal: what little waits goes over lanes that deliver it soon. Method: the set alone, with lanes of known rates. */
import { expect, test } from 'vitest';
import type { Lane } from '../../src/channel/lane.ts';
import { LaneSet } from '../../src/channel/lane-set.ts';
import { LaneWindow } from '../../src/channel/lane-window.ts';

const nowMs = 1000;

/** One that has delivered so many bytes in each second, with so many on their way. */
function lane(index: number, bytesPerSecond: number, inFlightBytes: number): Lane {
  const window = new LaneWindow(200);
  window.begin(0);
  for (let atMs = 100; atMs <= nowMs; atMs += 100) window.acknowledged(bytesPerSecond / 10, atMs);
  return { index, window, inFlightBytes, retired: false } as Lane;
}

test('a lane that is idle because it is slow does not get what another one delivers sooner', () => {
  const [fast, slow] = [lane(1, 11e6, 80_000), lane(2, 0.7e6, 0)];
  const lanes = new LaneSet(256 << 20, 1);
  lanes.add(fast);
  lanes.add(slow);
  expect(lanes.isSlow(slow, 128 << 10, nowMs)).toBe(true);
  expect(lanes.isSlow(fast, 128 << 10, nowMs)).toBe(false);
  // A few bytes are there as soon over this one, and of much each takes its part.
  expect(lanes.isSlow(slow, 4 << 10, nowMs)).toBe(false);
  expect(lanes.isSlow(slow, 4 << 20, nowMs)).toBe(false);
});
