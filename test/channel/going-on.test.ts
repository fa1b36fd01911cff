/**
 * Goal: whatever becomes of its connections, a channel delivers every item once and every message once and in order, lends nothing back before the
 * peer has it, goes on within two seconds of a mend, and sends again no more than what was on its way.
 *
 * Method: two channels over a simulated network in virtual time that goes dark, is cut, resets and damages connections, at chosen and at random moments.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Channel } from '../../src/channel/channel.ts';
import { ChannelAcceptor, connectChannel } from '../../src/channel/connect.ts';
import type { MigrationError, Outage } from '../../src/index.ts';
import { createNetwork, type Network } from '../../src/testing/sim/network.ts';
import type { PathOptions } from '../../src/testing/sim/network-path.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../src/testing/virtual-time.ts';
import { createPrng } from '../../src/util/prng.ts';
import { fixedCredit, item } from './pair.ts';

const wan = { name: 'wan', rateMbit: 100, delayMs: 25 };
const windowBytesMax = 2 << 20;

interface World {
  readonly environment: VirtualEnvironment;
  readonly network: Network;
  readonly near: Channel;
  readonly far: Channel;
  readonly acceptor: ChannelAcceptor;
  readonly outages: { readonly near: Outage[]; readonly far: Outage[] };
  /** Items as they arrived, and messages. */
  readonly items: number[];
  readonly tokens: number[];
  readonly released: number[];
  /** Pushes so many items of 50,000 bytes, a message after every tenth, as there is room; resolves when the peer has applied them. */
  send(count: number): Promise<void>;
  run<T>(promise: Promise<T>): Promise<T>;
  wait(ms: number): Promise<unknown>;
}

async function world(
  options: {
    paths?: readonly PathOptions[];
    outageMsMax?: number;
    /** Undefined: automatic. */
    connections?: number | undefined;
    seed?: number;
  } = {},
): Promise<World> {
  const environment = createVirtualEnvironment();
  const network = createNetwork({ environment, paths: options.paths ?? [wan], seed: options.seed ?? 1 });
  const acceptor = new ChannelAcceptor({
    environment,
    windowBytesMax,
    transport: network.transport({ host: 'destination', listen: 'vm' }),
    greetingMsMax: 1000,
    sessions: true,
    onQuestion: async () => {},
  });
  const connecting = connectChannel({
    environment,
    windowBytesMax,
    transport: network.transport({ host: 'source', connect: { host: 'destination', name: 'vm' } }),
    vmId: 'v',
    connections: 'connections' in options ? options.connections : 3,
    limitMs: 1000,
    signal: undefined,
  });
  const [near, far] = await environment.run(Promise.all([connecting, acceptor.channel(undefined)]));
  const outages = { near: [] as Outage[], far: [] as Outage[] };
  const endurance = { silenceMsMax: 5000, outageMsMax: options.outageMsMax ?? 600_000 };
  near.outlast({ ...endurance, onMended: (outage) => outages.near.push(outage) });
  far.outlast({ ...endurance, onMended: (outage) => outages.far.push(outage) });
  const items: number[] = [];
  const tokens: number[] = [];
  const released: number[] = [];
  const stream = far.openReceive(1, 7, fixedCredit(8 << 20), (received) => {
    items.push(received.number);
    stream.applied(received);
  });
  const sender = near.openSend(1, 7);
  const listen = async (): Promise<void> => {
    for (;;) tokens.push((await far.mailbox.take('flush')).token);
  };
  listen().catch(() => {});
  const send = async (count: number): Promise<void> => {
    for (let index = 0; index < count; index++) {
      await sender.room();
      const number: number = sender.push('bulk', item(index, 50_000), () => released.push(number));
      if (index % 10 === 0) near.send({ type: 'flush', token: number });
    }
    await sender.allApplied();
    expect(stream.digest).toBe(sender.digest);
  };
  const run = <T>(promise: Promise<T>): Promise<T> => environment.run(promise);
  const wait = (ms: number) => environment.run(environment.now() + ms);
  return { environment, network, near, far, acceptor, outages, items, tokens, released, send, run, wait };
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);
const sorted = (numbers: readonly number[]) => numbers.toSorted((a, b) => a - b);

function expectAllOnce({ items, tokens, released }: World, count: number): void {
  expect(sorted(items)).toEqual(upTo(count));
  expect(sorted(released)).toEqual(upTo(count));
  expect(tokens).toEqual(upTo(count).filter((number) => number % 10 === 1));
}

async function expectNothingLeft({ near, far, acceptor, network, environment, run }: World): Promise<void> {
  await run(Promise.all([near.close(), acceptor.close()]));
  await run(far.close());
  await environment.run();
  expect(network.statistics().openEnds).toBe(0);
}

describe('a channel whose link is gone', () => {
  it.each(['dark', 'cut'])(
    'for 20 s (%s) goes on within 2 s, and sends again what was on its way',
    async (kind) => {
      const here = await world();
      const { network, environment, wait, run, near, outages, items } = here;
      const sending = here.send(400);
      await wait(500);
      if (kind === 'dark') network.blackHole(true);
      else network.cut();
      await wait(20_000);
      expect(near.isCut).toBe(true);
      const before = items.length;
      const mendedMs = environment.now();
      if (kind === 'dark') network.blackHole(false);
      else network.mend();
      while (items.length === before) await wait(10);
      expect(environment.now() - mendedMs).toBeLessThan(2000);
      await run(sending);
      expectAllOnce(here, 400);
      expect(outages.near).toHaveLength(1);
      expect(outages.far).toHaveLength(1);
      const [outage] = outages.near;
      expect(outage?.durationMs).toBeGreaterThan(19_900);
      expect(outage?.durationMs).toBeLessThan(22_000);
      expect(outage?.resentBytes).toBeLessThanOrEqual(windowBytesMax);
      expect(near.statistics.wireBytes).toBeLessThan(1.02 * 400 * 50_000 + windowBytesMax);
      await expectNothingLeft(here);
    },
  );

  it('for longer than it outlasts fails at both ends, and gives back what it was lent, once', async () => {
    const here = await world({ outageMsMax: 10_000 });
    const { network, wait, near, far, released } = here;
    const sending = here.send(400);
    sending.catch(() => {});
    await wait(500);
    network.blackHole(true);
    await wait(5000 + 10_000 + 500);
    for (const { signal } of [near, far]) {
      expect(signal.reason).toMatchObject({ code: 'connection-lost', message: /gone for 10000 ms/ });
    }
    await expect(sending).rejects.toMatchObject({ code: 'connection-lost' });
    expect(new Set(released).size).toBe(released.length);
    expect(network.statistics().openEnds).toBe(0);
  });

  it('knows when the peer has another session, and does not wait for it', async () => {
    const here = await world();
    const { network, wait, near, far } = here;
    network.cut();
    far.abort({ code: 'aborted' } as MigrationError);
    here.acceptor.again();
    network.mend();
    await wait(5000);
    expect(near.signal.reason).toMatchObject({ code: 'connection-lost', message: /refused/ });
  });

  it('and that is closed meanwhile says its last words when the link is there again', async () => {
    const here = await world();
    const { network, wait, near, far, run } = here;
    network.cut();
    near.send({ type: 'flush', token: 1 });
    const closing = near.close();
    await wait(3000);
    network.mend();
    await run(closing);
    await wait(1000);
    expect(here.tokens).toEqual([1]);
    expect(far.signal.reason).toMatchObject({ message: /ended the channel/ });
  });
});

describe('a channel that loses a connection', () => {
  it('sends its frames over the others, has another in its place, and calls that no outage', async () => {
    const here = await world();
    const { network, wait, run, near, outages } = here;
    const sending = here.send(300);
    await wait(400);
    network.connections()[1]?.reset();
    await run(sending);
    expectAllOnce(here, 300);
    expect(outages.near).toEqual([]);
    expect(near.statistics.link.lanes.map(({ lane }) => lane)).toEqual([2, 3, 4]);
    await expectNothingLeft(here);
  });

  it('control, takes another in its place at once', async () => {
    const here = await world();
    const { network, wait, run, outages } = here;
    const sending = here.send(300);
    await wait(400);
    network.connections()[0]?.reset();
    await run(sending);
    expectAllOnce(here, 300);
    expect(outages.near[0]?.durationMs).toBeLessThan(1000);
    await expectNothingLeft(here);
  });

  it('to damage delivers nothing of the damaged frame but what was sent again', async () => {
    const here = await world();
    const { network, wait, run } = here;
    const sending = here.send(300);
    for (let turn = 0; turn < 5; turn++) {
      await wait(150);
      network.flipNextByte({ from: 'source', chunkBytesMin: turn === 3 ? 1 : 1000 });
    }
    await run(sending);
    expectAllOnce(here, 300);
    await expectNothingLeft(here);
  });

  it('goes on without a path that is dark', async () => {
    const here = await world({ paths: [wan, { ...wan, name: 'other' }], connections: 4 });
    const { network, wait, run, near } = here;
    const sending = here.send(300);
    await wait(400);
    network.blackHole(true, { path: 'other' });
    await run(sending);
    expectAllOnce(here, 300);
    expect(near.signal.aborted).toBe(false);
  });
});

describe('after an outage', () => {
  it('the link is taken for as fast as it was', async () => {
    const here = await world();
    const { network, wait, near } = here;
    here.send(2000).catch(() => {});
    await wait(3000);
    const before = near.statistics.bytesPerSecond ?? 0;
    network.blackHole(true, { from: 'destination' });
    await wait(20_000);
    network.blackHole(false, { from: 'destination' });
    while (near.isCut) await wait(10);
    expect(near.statistics.bytesPerSecond).toBeGreaterThan(before / 2);
  });

  it('lanes over a faster path than that of control are kept', async () => {
    const paths = [
      { ...wan, name: 'slow', delayMs: 100 },
      { ...wan, name: 'fast', delayMs: 5 },
    ];
    const here = await world({ paths, connections: 8 });
    const { network, wait, near } = here;
    here.send(2000).catch(() => {});
    await wait(3000);
    network.connections()[0]?.reset();
    while (!near.isCut) await wait(10);
    while (near.isCut) await wait(10);
    const dialled = network.statistics().connections;
    await wait(1500);
    expect(near.statistics.link.lanes).toHaveLength(8);
    expect(network.statistics().connections - dialled).toBeLessThanOrEqual(8);
  });

  it('a path that takes a hundred times as long has to do where it is the only one', async () => {
    const paths = [
      { ...wan, name: 'lan', delayMs: 2 },
      { ...wan, name: 'satellite', delayMs: 200 },
    ];
    const here = await world({ paths, connections: 4 });
    const { network, wait, near } = here;
    here.send(400).catch(() => {});
    await wait(500);
    network.cut({ path: 'lan' });
    await wait(20_000);
    expect(near.isCut).toBe(false);
    expect(near.signal.aborted).toBe(false);
  });

  it('there are as many lanes as before, also where their number is automatic', async () => {
    const here = await world({ connections: undefined, paths: [{ ...wan, delayMs: 100 }] });
    const { network, wait, near } = here;
    here.send(6000).catch(() => {});
    await wait(5000);
    const before = near.statistics.link.lanes.length;
    expect(before).toBeGreaterThan(2);
    for (const connection of network.connections().slice(1)) connection.reset();
    await wait(2000);
    expect(near.statistics.link.lanes.length).toBeGreaterThanOrEqual(before);
  });
});

describe('a message that is too long', () => {
  it('is not taken, and those that follow arrive', async () => {
    const here = await world();
    const reason = 'x'.repeat(3 << 20);
    expect(() => here.near.send({ type: 'prepared', epoch: 1, backend: reason })).toThrow(
      expect.objectContaining({ code: 'incompatible' }),
    );
    here.near.send({ type: 'flush', token: 5 });
    await here.wait(500);
    expect(here.tokens).toEqual([5]);
    expect(here.far.signal.aborted).toBe(false);
  });
});

describe('a channel that cannot be helped', () => {
  it('fails when connections come and go and nothing gets through', { timeout: 60_000 }, async () => {
    const here = await world({ outageMsMax: 10_000, connections: 2 });
    const { network, wait, near } = here;
    here.send(400).catch(() => {});
    await wait(500);
    for (let ms = 0; ms < 120_000 && !near.signal.aborted; ms += 20) {
      const [control, ...lanes] = network.connections();
      if (ms % 20_000 === 0) control?.reset();
      for (const lane of lanes) lane.reset();
      await wait(20);
    }
    expect(near.signal.reason).toMatchObject({ code: 'timeout', message: /nothing gets through/ });
  });

  it('says so when it fails, and is not waited for', async () => {
    const here = await world();
    const { near, far, wait } = here;
    far.openReceive(2, 0, fixedCredit(8 << 20), () => {});
    const sender = near.openSend(2, 0);
    await wait(100);
    sender.push('bulk', item(0, 100), () => {
      throw new Error('the buffer is gone');
    });
    await wait(500);
    expect(near.signal.reason).toMatchObject({ code: 'hypervisor' });
    expect(far.signal.reason).toMatchObject({ code: 'connection-lost', message: /ended the channel/ });
  });
});

describe('a channel over a link that does whatever it likes', () => {
  it('delivers everything once, and leaves nothing behind', { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 1e9 }), async (seed) => {
        const here = await world({ seed, connections: 1 + (seed % 4) });
        const { network, wait, run, environment } = here;
        const prng = createPrng(seed);
        const sending = here.send(150);
        sending.catch(() => {});
        for (let turn = 0; turn < 6; turn++) {
          await wait(prng.below(300));
          const open = network.connections();
          const from = prng.below(2) === 0 ? 'source' : 'destination';
          switch (prng.below(6)) {
            case 0:
              network.blackHole(true);
              await wait(prng.below(9000));
              network.blackHole(false);
              break;
            case 1:
              network.cut();
              await wait(prng.below(3000));
              network.mend();
              break;
            case 2:
              open[prng.below(open.length)]?.reset();
              break;
            case 3:
              network.resetAfter(prng.below(200_000), { from });
              break;
            case 4:
              network.flipNextByte({ from });
              break;
            case 5:
              network.blackHole(true, { from });
              await wait(prng.below(9000));
              network.blackHole(false, { from });
              break;
          }
        }
        network.calm();
        await run(sending);
        // The last message may have been on its way when control was lost.
        await wait(30_000);
        expectAllOnce(here, 150);
        await expectNothingLeft(here);
        expect(environment.pendingTimers).toBe(0);
      }),
      { numRuns: 60, seed: 20_261_126 },
    );
  });
});
