/**
 * Goal: connecting ends as soon as it has failed, leaves nothing behind, and gets there over whichever path still leads there. Method: dials
 * over a simulated link in virtual time, some of whose connections fail, hang or are cut off by path.
 */
import { describe, expect, it } from 'vitest';
import { connectChannel } from '../../src/channel/connect.ts';
import { answer, ask } from '../../src/channel/question.ts';
import { MigrationError, type Transport } from '../../src/index.ts';
import { delay } from '../../src/util/promises.ts';
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
    const paths: (number | undefined)[] = [];
    dead = -1;
    const counting = withChanges(transport, {
      open: (options) => {
        paths.push(options?.path);
        return transport.open(options);
      },
    });
    await expect(environment.run(connectOver(world, counting))).rejects.toMatchObject({ code: 'refused' });
    // Control, and the lanes, each once.
    expect(paths).toEqual([0, 1, 0, 1, 0]);
    await environment.run(environment.now() + 10);
    expect(link.statistics().connections).toBe(5);
    await environment.run(acceptor.close());
  });
});

describe('connecting a channel', () => {
  const opening = { vmId: 'v', connections: 4, windowBytesMax: 1 << 20, limitMs: 30_000, signal: undefined };

  it('takes five round trips: the lanes are dialled while control is let in', async () => {
    const { environment, link, acceptor } = createAcceptor({ link: { rttMs: 100 } });
    const near = await environment.run(connectChannel({ ...opening, environment, transport: link.source }));
    expect(environment.now()).toBeGreaterThan(399);
    expect(environment.now()).toBeLessThan(510);
    const far = await environment.run(acceptor.channel(undefined));
    await environment.run(Promise.all([near.close(), far.close()]));
    await environment.run(acceptor.close());
    expect(link.statistics().connections).toBe(0);
  });

  it('asks to let lanes in once control was, however late that is', async () => {
    const { environment, link, acceptor } = createAcceptor({ link: { rttMs: 10 } });
    let connections = 0;
    const transport = withChanges(link.source, {
      open: async (options) => {
        const connection = await link.source.open(options);
        if (++connections > 1) return connection;
        // What control says goes out a second late, from its proof on.
        let said = 0;
        return withChanges(connection, {
          send: async (chunks) => {
            if (++said === 2) await delay(environment, 900);
            await connection.send(chunks);
          },
        });
      },
    });
    const near = await environment.run(connectChannel({ ...opening, environment, transport }));
    expect(environment.now()).toBeGreaterThan(900);
    const far = await environment.run(acceptor.channel(undefined));
    await environment.run(Promise.all([near.close(), far.close()]));
    await environment.run(acceptor.close());
  });

  it('leaves nothing behind when control breaks before it is let in', async () => {
    const { environment, link, acceptor } = createAcceptor({ link: { rttMs: 100 } });
    let opened = 0;
    const transport = withChanges(link.source, {
      open: async (options) => {
        const first = ++opened === 1;
        const connection = await link.source.open(options);
        // The acceptor has proved itself by then, and the lanes are being dialled.
        if (first) environment.setTimer(150, () => connection.abort(new Error('gone')));
        return connection;
      },
    });
    const near = connectChannel({ ...opening, environment, transport });
    const ended = await stateAfter(environment, 600, near);
    expect(opened).toBe(5);
    expect(ended).toMatchObject({ error: expect.anything() });
    expect(link.statistics().connections).toBe(0);
    await environment.run(acceptor.close());
  });

  it('fails with what a lane failed with, though that was before control is let in', async () => {
    const { environment, link, acceptor } = createAcceptor({ link: { rttMs: 100 } });
    let opened = 0;
    const transport = withChanges(link.source, {
      open: (options) => {
        if (++opened !== 3) return link.source.open(options);
        return Promise.reject(new MigrationError('connect-failed', 'the second lane'));
      },
    });
    const near = connectChannel({ ...opening, environment, transport });
    const ended = await stateAfter(environment, 1000, near);
    expect(ended).toMatchObject({ error: { code: 'connect-failed', message: 'the second lane' } });
    expect(link.statistics().connections).toBe(0);
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
