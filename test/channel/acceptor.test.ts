/**
 * Goal: strangers, whatever they do or leave undone, neither keep an acceptor from closing, nor the one session out, nor does a session of
 * which nothing came. Method: an acceptor at one end of a simulated link in virtual time; the other end dials by hand and greets as it
 * likes.
 */
import { describe, expect, it } from 'vitest';
import { connectChannel } from '../../src/channel/connect.ts';
import { answer, ask } from '../../src/channel/question.ts';
import {
  answerQuestions,
  askDecision,
  type Connection,
  MigrationError,
  memoryRegister,
} from '../../src/index.ts';
import { withChanges } from '../support/worlds.ts';
import { type AcceptingWorld, createAcceptor, dialBy, stateAfter } from './pair.ts';

/** Its peer, or the network, never lets it be closed. */
const stubborn = (connection: Connection, aborted?: (connection: Connection) => void): Connection =>
  withChanges(connection, {
    close: () => new Promise(() => {}),
    abort: (reason) => {
      aborted?.(connection);
      connection.abort(reason);
    },
  });

/** What comes of it does not matter. */
function dialled(...args: Parameters<typeof dialBy>): void {
  dialBy(...args).catch(() => {});
}

/** Lets the challenge go out, and the welcome come to nothing. */
function withWelcome(connection: Connection, welcome: () => Promise<void>): Connection {
  let sent = 0;
  return withChanges(connection, {
    send: (chunks) => (++sent === 1 ? connection.send(chunks) : welcome()),
  });
}

function connectTo({ environment, link }: AcceptingWorld) {
  return connectChannel({
    transport: link.source,
    vmId: 'v',
    environment,
    connections: 2,
    windowBytesMax: 1 << 20,
    limitMs: 1000,
    signal: undefined,
  });
}

describe('an acceptor', () => {
  it('does not wait for whom it refused, and leaves no connection', async () => {
    let aborted = 0;
    const world = createAcceptor({
      far: (transport) =>
        withChanges(transport, {
          accept: async (options) => stubborn(await transport.accept(options), () => aborted++),
        }),
    });
    const { environment, acceptor, link } = world;
    for (let fill = 1; fill <= 3; fill++) dialled(world, 'data', fill);
    await environment.run(environment.now() + 100);
    expect(await stateAfter(environment, 2000, acceptor.close())).toBeUndefined();
    expect(aborted).toBe(3);
    expect(link.statistics().connections).toBe(0);
  });

  it('closes while all its places are taken by strangers', async () => {
    const world = createAcceptor();
    for (let count = 0; count < 300; count++) await world.environment.run(world.link.source.open());
    await world.environment.run(world.environment.now() + 10);
    expect(await stateAfter(world.environment, 10, world.acceptor.close())).toBeUndefined();
  });

  it('lets a source in within a moment when all its places are taken by strangers that say nothing', async () => {
    const world = createAcceptor({ acceptor: { greetingMsMax: 10_000 } });
    const { environment, link } = world;
    for (let count = 0; count < 300; count++) void link.source.open();
    await environment.run(environment.now() + 200);
    const startMs = environment.now();
    const channel = await environment.run(connectTo(world));
    expect(channel.signal.aborted).toBe(false);
    expect(environment.now() - startMs).toBeLessThan(1000);
  });

  it('serves the next ones when strangers that do not hang up have taken all its places', async () => {
    const world = createAcceptor({
      far: (transport) => {
        let accepted = 0;
        return withChanges(transport, {
          accept: async (options) => {
            const connection = await transport.accept(options);
            return ++accepted <= 256 ? stubborn(connection) : connection;
          },
        });
      },
    });
    const { environment } = world;
    for (let fill = 1; fill <= 256; fill++) dialled(world, 'data', fill);
    await environment.run(environment.now() + 500);
    const channel = await environment.run(connectTo(world));
    expect(channel.signal.aborted).toBe(false);
  });

  it('lets the next session in when one broke before its welcome, and its lanes wait for nothing', async () => {
    let accepted = 0;
    const broken = () => Promise.reject(new MigrationError('connection-lost', 'it broke'));
    const world = createAcceptor({
      far: (transport) =>
        withChanges(transport, {
          accept: async (options) => {
            const connection = await transport.accept(options);
            return ++accepted === 1 ? withWelcome(connection, broken) : connection;
          },
        }),
    });
    const { environment, acceptor, link } = world;
    dialled(world, 'control', 7);
    dialled(world, 'data', 7);
    await environment.run(environment.now() + 10);
    const near = await environment.run(connectTo(world));
    const far = await environment.run(acceptor.channel(undefined));
    near.send({ type: 'bye' });
    expect(await environment.run(far.mailbox.take('bye'))).toEqual({ type: 'bye' });
    // Its own three alone: the broken session's lane was dropped.
    expect(link.statistics().connections).toBe(3);
    expect(await stateAfter(environment, 2000, acceptor.close())).toBeUndefined();
  });

  it('closes while a welcome is not taken by the peer, and a lane waits for it', async () => {
    let accepted = 0;
    const world = createAcceptor({
      far: (transport) =>
        withChanges(transport, {
          accept: async (options) => {
            const connection = await transport.accept(options);
            return ++accepted === 1 ? withWelcome(connection, () => new Promise(() => {})) : connection;
          },
        }),
    });
    dialled(world, 'control', 7);
    dialled(world, 'data', 7);
    await world.environment.run(world.environment.now() + 10);
    expect(await stateAfter(world.environment, 10, world.acceptor.close())).toBeUndefined();
  });

  it('lets another session in after one of which nothing came', async () => {
    const world = createAcceptor();
    const { environment, acceptor } = world;
    dialled(world, 'control', 7);
    const silent = await environment.run(acceptor.channel(undefined));
    await expect(environment.run(connectTo(world))).rejects.toMatchObject({ code: 'refused' });
    silent.abort(new MigrationError('timeout', 'it said nothing'));
    acceptor.again();
    const near = await environment.run(connectTo(world));
    const far = await environment.run(acceptor.channel(undefined));
    near.send({ type: 'bye' });
    expect(await environment.run(far.mailbox.take('bye'))).toEqual({ type: 'bye' });
  });

  it('says at once that its transport cannot accept; once a session runs, it tries again', async () => {
    let failing = true;
    const create = () =>
      createAcceptor({
        far: (transport) =>
          withChanges(transport, {
            accept: (options) =>
              failing
                ? Promise.reject(new MigrationError('connect-failed', 'no'))
                : transport.accept(options),
          }),
      });
    const first = create();
    const channel = first.acceptor.channel(undefined);
    await expect(first.environment.run(channel)).rejects.toMatchObject({ code: 'connect-failed' });
    failing = false;
    const world = create();
    const connecting = connectTo(world);
    await world.environment.run(world.acceptor.channel(undefined));
    failing = true;
    await world.environment.run(world.environment.now() + 500);
    failing = false;
    const near = await world.environment.run(connecting);
    expect(near.signal.aborted).toBe(false);
  });
});

describe('questions', () => {
  const limitMs = 1000;

  function asking(decide: () => Promise<'owner' | 'declined'>): AcceptingWorld {
    const world: AcceptingWorld = createAcceptor({
      acceptor: {
        sessions: false,
        onQuestion: (greeted, signal) => answer(greeted, world.environment, limitMs, decide, signal),
      },
    });
    return world;
  }

  function askOf({ link, environment }: AcceptingWorld) {
    return ask({ transport: link.source, environment, vmId: 'v', epoch: 1, limitMs: 600, signal: undefined });
  }

  /** An acceptor that closes cuts off who has not asked, and answers who has. */
  it('that were asked are answered by an acceptor that closes; who only greeted is cut off', async () => {
    let decided: (value: 'owner') => void = () => {};
    const world = asking(
      () =>
        new Promise((resolve) => {
          decided = resolve;
        }),
    );
    const { environment, acceptor } = world;
    const question = askOf(world);
    dialled(world, 'question', 9);
    await environment.run(environment.now() + 20);
    const closing = acceptor.close();
    expect(await stateAfter(environment, 50, closing)).toBe('pending');
    decided('owner');
    expect(await environment.run(question)).toBe('owner');
    expect(await stateAfter(environment, 20, closing)).toBeUndefined();
  });

  it('are decided only so many at once', async () => {
    let atOnce = 0;
    const world = asking(() => {
      atOnce++;
      return new Promise(() => {});
    });
    const questions = Array.from({ length: 40 }, () => askOf(world));
    const all = Promise.allSettled(questions);
    await world.environment.run(world.environment.now() + 500);
    expect(atOnce).toBe(16);
    await world.environment.run(all);
  });

  it('about an attempt that is out of all reach are not answered, and leave the register as it was', async () => {
    const world = createAcceptor({ acceptor: { sessions: false } });
    await world.environment.run(world.acceptor.close());
    const { environment, link } = world;
    const register = memoryRegister();
    const done = new AbortController();
    const answering = answerQuestions({
      transport: link.destination,
      register,
      environment,
      signal: done.signal,
    });
    const asked = askDecision({ transport: link.source, vmId: 'v', environment });
    await expect(environment.run(asked(Number.MAX_SAFE_INTEGER, {}))).rejects.toBeInstanceOf(MigrationError);
    expect(await register.read('v')).toEqual([]);
    expect(await environment.run(asked(3, {}))).toBe('declined');
    done.abort();
    expect(await stateAfter(environment, 2000, answering)).toBeUndefined();
  });

  it('on a transport that cannot accept: whoever would answer them is told', async () => {
    const world = createAcceptor();
    await world.environment.run(world.acceptor.close());
    await world.link.destination.close();
    const answering = answerQuestions({
      transport: world.link.destination,
      register: memoryRegister(),
      environment: world.environment,
    });
    await expect(world.environment.run(answering)).rejects.toMatchObject({ code: 'connect-failed' });
  });
});
