/**
 * Goal: a channel whose peer cannot be heard any more on control fails soon, unless it was told to outlast that; on another connection it does
 * without; and one that is merely slow is left alone. Method: two real channels over a simulated network in virtual time, which goes dark
 * or slow.
 */
import { describe, expect, it } from 'vitest';
import type { Channel } from '../../src/channel/channel.ts';
import { ChannelAcceptor, connectChannel } from '../../src/channel/connect.ts';
import { Silence } from '../../src/channel/silence.ts';
import { createNetwork, type Network } from '../../src/testing/sim/network.ts';
import type { PathOptions } from '../../src/testing/sim/network-path.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../src/testing/virtual-time.ts';
import type { ItemRange } from '../../src/wire/item.ts';
import { fixedCredit } from './pair.ts';

interface World {
  readonly environment: VirtualEnvironment;
  readonly network: Network;
  readonly near: Channel;
  readonly far: Channel;
}

async function world(paths: readonly PathOptions[], connections = 2): Promise<World> {
  const environment = createVirtualEnvironment();
  const network = createNetwork({ environment, paths });
  const common = { environment, windowBytesMax: 8 << 20 };
  const acceptor = new ChannelAcceptor({
    ...common,
    transport: network.transport({ host: 'destination', listen: 'vm' }),
    greetingMsMax: 1000,
    sessions: true,
    onQuestion: async () => {},
  });
  const transport = network.transport({ host: 'source', connect: { host: 'destination', name: 'vm' } });
  const connecting = connectChannel({
    ...common,
    transport,
    vmId: 'v',
    connections,
    limitMs: 1000,
    signal: undefined,
  });
  const [near, far] = await environment.run(Promise.all([connecting, acceptor.channel(undefined)]));
  await environment.run(environment.now() + 100);
  return { environment, network, near, far };
}

const failureOf = (channel: Channel) =>
  new Promise<{ readonly code: string }>((resolve) => {
    channel.signal.addEventListener('abort', () => resolve(channel.signal.reason), { once: true });
  });

const item = (bytes: number): readonly ItemRange[] => [
  { space: 0, offset: 0, length: bytes, content: [new Uint8Array(bytes).fill(1)] },
];

const lan = { name: 'lan', rateMbit: 1000, delayMs: 1 };

describe('a channel', () => {
  it('fails at both ends about five seconds after its link went dark, and leaves nothing open', async () => {
    const { environment, network, near, far } = await world([lan]);
    await environment.run(environment.now() + 60_000);
    expect([near.signal.aborted, far.signal.aborted]).toEqual([false, false]);
    const start = environment.now();
    network.blackHole(true);
    const failures = await environment.run(Promise.all([failureOf(near), failureOf(far)]));
    for (const failure of failures) expect(failure).toMatchObject({ code: 'timeout' });
    expect(environment.now() - start).toBeGreaterThan(4500);
    expect(environment.now() - start).toBeLessThan(5500);
    expect(network.statistics().openEnds).toBe(0);
    await environment.run();
    expect(environment.now() - start).toBeLessThan(8000);
  });

  it('lives through a shorter darkness', async () => {
    const { environment, network, near, far } = await world([lan]);
    network.blackHole(true);
    await environment.run(environment.now() + 2000);
    network.blackHole(false);
    near.send({ type: 'flush', token: 7 });
    expect((await environment.run(far.mailbox.take('flush'))).token).toBe(7);
    await environment.run(environment.now() + 20_000);
    expect([near.signal.aborted, far.signal.aborted]).toEqual([false, false]);
  });

  it('lives when one of several paths is dark, and sends what was on its way there over the others', async () => {
    const { environment, network, near, far } = await world([lan, { ...lan, name: 'other' }]);
    const stream = far.openReceive(1, 0, fixedCredit(8 << 20), (received) => stream.applied(received));
    const sender = near.openSend(1, 0);
    network.blackHole(true, { path: 'other' });
    await environment.run(environment.now() + 60_000);
    // Nothing was on its way there.
    expect(near.signal.aborted).toBe(false);
    for (let count = 0; count < 8; count++) sender.push('bulk', item(500_000), () => {});
    const startMs = environment.now();
    await environment.run(sender.allApplied());
    // Of a lane that never carried anything it is not known how fast it is: six times the silence.
    expect(environment.now() - startMs).toBeLessThan(31_000);
    expect(near.signal.aborted).toBe(false);
  });

  it('has patience with a slow link: a megabyte in fifteen seconds', async () => {
    const { environment, near, far } = await world([{ name: 'slow', rateMbit: 1.2, delayMs: 50 }]);
    const stream = far.openReceive(1, 0, fixedCredit(8 << 20), (received) => stream.applied(received));
    const sender = near.openSend(1, 0);
    for (let count = 0; count < 3; count++) sender.push('bulk', item(1 << 20), () => {});
    await environment.run(sender.allApplied());
    expect(environment.now()).toBeGreaterThan(15_000);
    expect([near.signal.aborted, far.signal.aborted]).toEqual([false, false]);
  });

  it('that closes in the dark can be aborted, and then leaves nothing open', async () => {
    const { environment, network, near, far } = await world([lan]);
    network.blackHole(true);
    const closing = near.close();
    await environment.run(environment.now() + 1000);
    near.abort(far.signal.reason);
    await environment.run(closing);
    await environment.run(failureOf(far));
    expect(network.statistics().openEnds).toBe(0);
  });
});

describe('silence', () => {
  it('is counted in looks without progress, and forgotten when nothing is expected', () => {
    const silence = new Silence();
    expect([0, 0, 5, 5, 5, 6].map((progress) => silence.look(progress))).toEqual([0, 1, 0, 1, 2, 0]);
    silence.look(6);
    silence.reset();
    expect(silence.look(6)).toBe(1);
  });
});
