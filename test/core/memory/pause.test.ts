/**
 * Goal: between two rounds it is waited no longer than for what is in front of the link, so that a link which was thought to be slow does not stand idle, and with the rest small for
 * what is late. Method: the rounds alone, in virtual time, over a link that is told what to say of itself.
 */
import { expect, test } from 'vitest';
import type { Channel } from '../../../src/channel/channel.ts';
import type { GuestPace } from '../../../src/core/guest-pace.ts';
import type { MemorySender } from '../../../src/core/memory/memory-sender.ts';
import { PreCopy } from '../../../src/core/memory/pre-copy.ts';
import { resolvePolicy } from '../../../src/core/policy.ts';
import type { SourceVm } from '../../../src/index.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';

interface Link {
  readonly delayingBytes: (nowMs: number) => number;
  readonly isLate?: (nowMs: number) => boolean;
}

/** When each round began, of a guest that has nothing dirty, over a link that is taken to carry 10 MB/s. */
async function rounds({ delayingBytes, isLate = () => false }: Link): Promise<readonly number[]> {
  const environment = createVirtualEnvironment();
  const startMs = environment.now();
  const sinceMs = () => environment.now() - startMs;
  const begunMs: number[] = [];
  const preCopy = new PreCopy({
    vm: { capabilities: { throttle: false } } as SourceVm,
    memory: {
      sendRound: async () => {
        begunMs.push(sinceMs());
        return 0;
      },
      queueBelow: async () => {},
      dirtyBytes: () => 0,
      rounds: 1,
    } as unknown as MemorySender,
    channel: {
      bytesPerSecond: 10e6,
      roundTripMs: 100,
      gain: 1,
      isCut: false,
      backlogBytes: 0,
      get delayingBytes() {
        return delayingBytes(sinceMs());
      },
      get isLate() {
        return isLate(sinceMs());
      },
    } as Channel,
    environment,
    policy: resolvePolicy({ downtimeMsMax: 300 }),
    signal: new AbortController().signal,
    takeDirtyExtents: async () => {},
    pace: {
      begin: () => {},
      weighed: () => {},
      figures: () => ({ diskBytesPerSecond: 0, slowDisks: [] }),
      throttleMax: 0,
    } as unknown as GuestPace,
    diskRestBytes: () => 0,
    flushBothEnds: async () => 0,
    claimsMs: () => 0,
    timeLeftMs: () => undefined,
    onRound: () => {},
  });
  await environment.run(preCopy.run());
  return begunMs;
}

test('it is not waited longer than there is something to wait for', async () => {
  // Ten times as fast as it was thought to be: 8 MB are gone after 80 ms, and not after 800.
  const [, second = Number.NaN] = await rounds({ delayingBytes: (ms) => Math.max(0, 8e6 - 100e3 * ms) });
  expect(second).toBeGreaterThan(40);
  expect(second).toBeLessThan(100);
});

test('and as long as was reckoned where the link is as it was thought to be', async () => {
  const [, second = Number.NaN] = await rounds({ delayingBytes: (ms) => Math.max(0, 8e6 - 10e3 * ms) });
  expect(second).toBeGreaterThan(500);
});

test('what is late is waited for, a round trip at the most each time, and not for ever', async () => {
  const none = (await rounds({ delayingBytes: () => 0 })).at(-1) ?? Number.NaN;
  const late = (await rounds({ delayingBytes: () => 0, isLate: (ms) => ms < 70 })).at(-1) ?? Number.NaN;
  const always = (await rounds({ delayingBytes: () => 0, isLate: () => true })).at(-1) ?? Number.NaN;
  expect(none).toBeLessThan(10);
  expect(late).toBeGreaterThanOrEqual(70);
  expect(late).toBeLessThan(100);
  expect(always).toBeLessThan(600);
});
