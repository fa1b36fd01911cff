/**
 * Goal: connecting ends as soon as it has failed, leaves nothing behind, and gets there over whichever path still leads there. Method: dials
 * over a simulated link in virtual time, some of whose connections fail, hang or are cut off by path.
 */
import { describe, expect, it } from 'vitest';
import { connectChannel } from '../../src/channel/connect.ts';
import { answer, ask } from '../../src/channel/question.ts';
import { MigrationError, type Transport } from '../../src/index.ts';
import { withChanges } from '../support/worlds.ts';
import { type AcceptingWorld, createAcceptor, stateAfter } from './pair.ts';

type Open = NonNullable<Parameters<Transport['open']>[0]>;

const never = <T>() => new Promise<T>(() => {});

function connectOver({ environment }: AcceptingWorld, transport: Transport, signal?: AbortSignal) {
  return connectChannel({
    transport,
    vmId: 'v',
    environment,
    connections: 4,
    windowBytesMax: 1 << 20,
    limitMs: 30_000,
    signal,
  });
}

/** Two paths over the one link; what `openOver` returns undefined for goes through. */
function withTwoPaths(
  transport: Transport,
  openOver: (path: number, options: Open) => ReturnType<Transport['open']> | undefined,
) {
  return withChanges(transport, {
    paths: 2,
    open: (options = {}) => openOver(options.path ?? 0, options) ?? transport.open({ ...options, path: 0 }),
  });
}

describe('connecting', () => {
  it('fails when its first connection has failed, and calls off the others', async () => {
    const world = createAcceptor();
    const { environment, link } = world;
    let opened = 0;
    let calledOff = 0;
    const transport = withChanges(link.source, {
      open: (options) => {
        opened++;
        if (opened === 2) return Promise.reject(new MigrationError('connect-failed', 'the second one'));
        if (opened !== 3) return link.source.open(options);
        options?.signal?.addEventListener('abort', () => calledOff++);
        return never();
      },
    });
    const outcome = await stateAfter(environment, 100, connectOver(world, transport));
    expect(outcome).toMatchObject({ error: { code: 'connect-failed', message: 'the second one' } });
    expect(calledOff).toBe(1);
    expect(link.statistics().connections).toBe(0);
  });

  it('fails when its control connection is lost meanwhile', async () => {
    const world = createAcceptor();
    const { environment, link } = world;
    let opened = 0;
    const transport = withChanges(link.source, {
      open: (options) => (++opened > 1 ? never() : link.source.open(options)),
    });
    const connecting = connectOver(world, transport);
    environment.setTimer(50, () => link.cut());
    expect(await stateAfter(environment, 100, connecting)).toMatchObject({
      error: { code: 'connection-lost' },
    });
  });

  it('that takes too long, or is aborted, is called off at the transport', async () => {
    const world = createAcceptor();
    const { environment, link } = world;
    const reasons: unknown[] = [];
    const transport = withChanges(link.source, {
      open: (options) => {
        options?.signal?.addEventListener('abort', () => reasons.push(options.signal?.reason));
        return never();
      },
    });
    expect(await stateAfter(environment, 30_001, connectOver(world, transport))).toMatchObject({
      error: { code: 'timeout' },
    });
    const caller = new AbortController();
    const connecting = connectOver(world, transport, caller.signal);
    environment.setTimer(10, () => caller.abort());
    expect(await stateAfter(environment, 20, connecting)).toMatchObject({ error: { code: 'aborted' } });
    expect(reasons).toMatchObject([{ code: 'timeout' }, { name: 'AbortError' }]);
  });

  it('takes the next path where one is down, and none where the peer itself says no', async () => {
    const world = createAcceptor();
    const { environment, link, acceptor } = world;
    let dead = 0;
    const transport = withTwoPaths(link.source, (path) => {
      if (path !== dead) return undefined;
      return Promise.reject(new MigrationError('connect-failed', 'there is no way there'));
    });
    const near = await environment.run(connectOver(world, transport));
    expect(near.signal.aborted).toBe(false);
    let opened = 0;
    dead = -1;
    const counting = withChanges(transport, {
      open: (options) => {
        opened++;
        return transport.open(options);
      },
    });
    await expect(environment.run(connectOver(world, counting))).rejects.toMatchObject({ code: 'refused' });
    expect(opened).toBe(1);
    await environment.run(acceptor.close());
  });
});

describe('a question', () => {
  it('is asked over the next path when the first one is dark', async () => {
    const world: AcceptingWorld = createAcceptor({
      acceptor: {
        sessions: false,
        onQuestion: (greeted, signal) =>
          answer(greeted, world.environment, 1000, async () => 'owner' as const, signal),
      },
    });
    const { environment, link } = world;
    const transport = withTwoPaths(link.source, (path) => (path === 0 ? never() : undefined));
    const question = ask({ transport, environment, vmId: 'v', epoch: 1, limitMs: 2000, signal: undefined });
    expect(await environment.run(question)).toBe('owner');
    expect(environment.now()).toBeLessThan(3000);
  });
});
