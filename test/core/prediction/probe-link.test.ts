/**
 * Goal: a destination that was measured waits for the next source as if nothing had been, for as long as at first, and lets it in though the one that measured takes
 * its time to hang up. Method: a channel that never closes, and a world in virtual time with a destination that waits for seconds.
 */
import { describe, expect, it } from 'vitest';
import { createMemoryBackend } from '../../../src/backends/memory/index.ts';
import type { Channel } from '../../../src/channel/channel.ts';
import { Arrivals, takeProbe } from '../../../src/core/prediction/probe-link.ts';
import { createDestination, createSource, memoryLink, memoryRegister } from '../../../src/index.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import { busyVm } from '../../support/worlds.ts';

describe('what has arrived', () => {
  it('shows a rate over the later half of the time, as connections begin slowly', () => {
    const arrived = new Arrivals();
    expect(arrived.bytesPerSecond).toBeUndefined();
    for (const [atMs, bytes] of [
      [200, 100],
      [300, 200],
      [400, 1000],
      [500, 1000],
      [600, 1000],
    ] as const) {
      arrived.add(bytes);
      expect(arrived.look(atMs)).toBe(true);
    }
    expect(arrived.seenMs).toBe(400);
    expect(arrived.bytesPerSecond).toBe(10_000);
  });

  it('says nothing by looks in which nothing came', () => {
    const arrived = new Arrivals();
    expect(arrived.look(100)).toBe(false);
    arrived.add(1000);
    expect(arrived.look(200)).toBe(true);
    expect(arrived.look(300)).toBe(false);
    expect(arrived.bytesPerSecond).toBeUndefined();
    arrived.add(1000);
    expect(arrived.look(400)).toBe(true);
    expect(arrived.bytesPerSecond).toBe(5000);
  });
});

describe('the end of a measurement', () => {
  const probe = async (bye: () => Promise<unknown>, close: () => Promise<void>) => {
    const environment = createVirtualEnvironment();
    const calls: string[] = [];
    const channel = {
      outlast: () => {},
      roundTripMs: 1,
      openReceive: () => ({}),
      mailbox: { take: bye },
      close,
      abort: () => calls.push('abort'),
    } as unknown as Channel;
    const signal = new AbortController().signal;
    await environment.run(takeProbe(channel, environment, signal, () => calls.push('again')));
    return calls;
  };
  const never = () => new Promise<never>(() => {});

  it('lets in another source once, however long the one that measured takes to hang up', async () => {
    expect(await probe(async () => ({}), never)).toEqual(['again', 'abort']);
    expect(
      await probe(
        async () => ({}),
        () => Promise.reject(new Error('gone')),
      ),
    ).toEqual(['again', 'abort']);
    expect(
      await probe(
        async () => ({}),
        async () => {},
      ),
    ).toEqual(['again']);
  });

  it('lets in another source when the one that measured has gone', async () => {
    expect(await probe(never, never)).toEqual(['abort', 'again']);
    expect(await probe(() => Promise.reject(new Error('gone')), never)).toEqual(['abort', 'again']);
  });
});

it('time spent on measurements does not count against what a destination waits', async () => {
  const environment = createVirtualEnvironment();
  const vm = busyVm(environment, { idle: true });
  const link = memoryLink({ rttMs: 2, rateMbit: 100, environment });
  const source = createSource({
    vm: vm.source(),
    transport: link.source,
    register: memoryRegister(),
    environment,
  });
  const backend = createMemoryBackend({ environment });
  const destination = createDestination({
    backend,
    transport: link.destination,
    register: memoryRegister(),
    connectMsMax: 2000,
    environment,
  });
  const receiving = destination.run();
  const migrating = (async () => {
    for (let turn = 0; turn < 3; turn++) await source.estimate({ durationMs: 1500 });
    return source.run();
  })();
  const [sent, received] = await environment.run(Promise.all([migrating, receiving]));
  expect(sent.error?.message).toBeUndefined();
  expect(received.outcome).toBe('completed');
  backend.vm?.destroy();
  vm.destroy();
});
