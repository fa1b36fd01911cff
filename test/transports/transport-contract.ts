/**
 * What every transport owes the engine, as tests for any runner. Each test makes two hosts, opens connections
 * from the source to the destination, and looks only at what the interfaces promise.
 */
import assert from 'node:assert/strict';
import type { Connection } from '../../src/interfaces/transport.ts';
import { joinChunks } from '../../src/util/chunks.ts';
import {
  type BreakablePair,
  collect,
  connect,
  fill,
  pieces,
  randomBytes,
  rejectsWith,
  remembering,
  type TestFunction,
  type TransportPair,
} from './transport-pair.ts';

/** Declares the tests. `make` is called once for each. */
export function transportContract(test: TestFunction, make: () => Promise<TransportPair>): void {
  const withPair = using(test, make);
  streamTests(withPair);
  endingTests(withPair);
  openingTests(withPair);
}

/** Declares the tests for a network that breaks. */
export function breakContract(test: TestFunction, make: () => Promise<BreakablePair>): void {
  using(test, make)('a connection that breaks is lost at both ends, not ended', async (pair) => {
    const { near, far } = await connect(pair);
    const { waiting } = await fill(near, pair);
    const received = collect(near);
    pair.cut();
    await rejectsWith(waiting, 'connection-lost');
    await rejectsWith(received, 'connection-lost');
    await rejectsWith(collect(far), 'connection-lost');
    await near.close();
    await far.close();
    const again = await connect(pair);
    await again.near.send([Uint8Array.of(1)]);
    await Promise.all([collect(again.far), again.near.close()]);
  });
}

type WithPair<T> = (name: string, run: (pair: T) => Promise<void>) => void;

/** Gives each test a pair of its own, and clears up behind it. */
function using<T extends TransportPair>(test: TestFunction, make: () => Promise<T>): WithPair<T> {
  return (name, run) =>
    test(name, async () => {
      const pair = await make();
      const connections: Connection[] = [];
      try {
        await run({
          ...pair,
          source: remembering(pair.source, connections),
          destination: remembering(pair.destination, connections),
        });
      } finally {
        for (const connection of connections) connection.abort();
        await pair.close();
      }
    });
}

function streamTests(test: WithPair<TransportPair>): void {
  test('carries bytes in order, both ways at once, however they are cut', async (pair) => {
    const { near, far } = await connect(pair);
    const forth = randomBytes(3_000_001, 1);
    const back = randomBytes(2_000_003, 2);
    const sendAll = async (connection: Connection, bytes: Uint8Array, seed: number) => {
      const parts = pieces(bytes, seed);
      for (let at = 0; at < parts.length; at += 5) await connection.send(parts.slice(at, at + 5));
    };
    const receive = async (connection: Connection, length: number) => {
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      for await (const chunk of connection.receive()) {
        chunks.push(chunk);
        bytes += chunk.byteLength;
        if (bytes >= length) break;
      }
      return joinChunks(chunks);
    };
    const [there, here] = await Promise.all([
      receive(far, forth.byteLength),
      receive(near, back.byteLength),
      sendAll(near, forth, 3),
      sendAll(far, back, 4),
    ]);
    assert.ok(Buffer.from(forth).equals(there));
    assert.ok(Buffer.from(back).equals(here));
  });

  test('does not see what becomes of chunks once the peer has them', async (pair) => {
    const { near, far } = await connect(pair);
    const chunk = new Uint8Array(100_000).fill(1);
    await near.send([chunk]);
    const received: Uint8Array[] = [];
    let bytes = 0;
    for await (const part of far.receive()) {
      received.push(part);
      bytes += part.byteLength;
      if (bytes === chunk.byteLength) break;
    }
    chunk.fill(2);
    assert.ok(joinChunks(received).every((byte) => byte === 1));
  });

  test('sends nothing for nothing', async (pair) => {
    const { near, far } = await connect(pair);
    await near.send([]);
    await near.send([new Uint8Array(0)]);
    await near.send([new Uint8Array(0), Uint8Array.of(7), new Uint8Array(0)]);
    const received = collect(far);
    await near.close();
    assert.deepEqual([...(await received)], [7]);
  });

  test('holds the sender back while nobody receives, and loses nothing by it', async (pair) => {
    const { near, far } = await connect(pair);
    const { waiting, bytes } = await fill(near, pair);
    const received = collect(far);
    await waiting;
    await near.close();
    assert.equal((await received).byteLength, bytes);
  });

  test('keeps connections apart, many at once', async (pair) => {
    const count = 40;
    const echo = async () => {
      const far = await pair.destination.accept();
      for await (const chunk of far.receive()) await far.send([chunk]);
      await far.close();
    };
    const ask = async (seed: number) => {
      const near = await pair.source.open();
      const bytes = randomBytes(50_000, seed);
      await near.send([bytes]);
      let received = 0;
      for await (const chunk of near.receive()) {
        assert.ok(Buffer.from(bytes.subarray(received, received + chunk.byteLength)).equals(chunk));
        received += chunk.byteLength;
        if (received === bytes.byteLength) break;
      }
      await near.close();
    };
    const seeds = Array.from({ length: count }, (_, index) => index + 1);
    await Promise.all([...seeds.map(echo), ...seeds.map(ask)]);
  });
}

function endingTests(test: WithPair<TransportPair>): void {
  test('close() brings over what was sent, then the end', async (pair) => {
    const { near, far } = await connect(pair);
    const bytes = randomBytes(5_000_000, 9);
    const sent = near.send([bytes]);
    const closed = Promise.all([near.close(), near.close()]);
    const received = await collect(far);
    await closed;
    await sent.catch(() => {});
    assert.ok(Buffer.from(bytes).equals(received));
    await rejectsWith(near.send([Uint8Array.of(1)]), 'connection-lost');
    await rejectsWith(far.send([Uint8Array.of(1)]), 'connection-lost');
    assert.equal((await collect(near)).byteLength, 0);
    await far.close();
  });

  test('close() lets both ends go when both call it, with data on its way both ways', async (pair) => {
    const { near, far } = await connect(pair);
    await Promise.all([near.send([randomBytes(100_000, 1)]), far.send([randomBytes(100_000, 2)])]);
    await Promise.all([near.close(), far.close()]);
  });

  test('close() ends an iteration that waits', async (pair) => {
    const { near } = await connect(pair);
    const received = collect(near);
    const closed = near.close();
    assert.equal((await received).byteLength, 0);
    near.abort();
    await closed;
  });

  test('close() makes room for a peer that reads nothing before it has sent', async (pair) => {
    const { near, far } = await connect(pair);
    const forth = await fill(near, pair);
    const back = await fill(far, pair);
    const closing = near.close();
    await back.waiting.catch(() => {});
    assert.equal((await collect(far)).byteLength, forth.bytes);
    await closing;
  });

  test('close() takes away what the peer still sends, so that the peer gets to its end', async (pair) => {
    const { near, far } = await connect(pair);
    const { waiting } = await fill(far, pair);
    const settled = waiting.catch(() => {});
    const [received] = await Promise.all([collect(far), near.close(), settled]);
    assert.equal(received.byteLength, 0);
    await far.close();
  });

  test('abort() settles a close() whose peer never reads, and the peer learns of the loss', async (pair) => {
    const { near, far } = await connect(pair);
    const { waiting } = await fill(near, pair);
    let closed = false;
    const closing = near.close().then(() => {
      closed = true;
    });
    await pair.settle();
    assert.equal(closed, false);
    near.abort(new Error('enough'));
    await closing;
    await rejectsWith(waiting, 'connection-lost');
    await rejectsWith(collect(far), 'connection-lost');
  });

  test('abort() settles a close() whenever it comes', async (pair) => {
    const later: (() => Promise<void>)[] = [
      async () => {},
      () => Promise.resolve(),
      () => new Promise((resolve) => process.nextTick(() => process.nextTick(resolve))),
      () => new Promise((resolve) => setImmediate(resolve)),
    ];
    for (const wait of later) {
      const { near, far } = await connect(pair);
      await near.send([Uint8Array.of(1)]);
      const closing = near.close();
      await wait();
      near.abort();
      await closing;
      far.abort();
      await far.close();
    }
  });

  test('abort() drops: pending sends, both receivers and later calls learn that it is lost', async (pair) => {
    const { near, far } = await connect(pair);
    const received = collect(near);
    const { waiting } = await fill(near, pair);
    near.abort(new Error('enough'));
    near.abort();
    await rejectsWith(waiting, 'connection-lost');
    await rejectsWith(received, 'connection-lost');
    await rejectsWith(near.send([Uint8Array.of(1)]), 'connection-lost');
    await near.close();
    await rejectsWith(collect(far), 'connection-lost');
    await rejectsWith(far.send([Uint8Array.of(1)]), 'connection-lost');
    await far.close();
  });

  test('abort() gives its reason to this end', async (pair) => {
    const { near } = await connect(pair);
    const reason = new Error('no heartbeat');
    near.abort(reason);
    await assert.rejects(collect(near), { code: 'connection-lost', message: /no heartbeat/, cause: reason });
  });
}

function openingTests(test: WithPair<TransportPair>): void {
  test('connections wait until they are accepted, in order', async (pair) => {
    for (const id of [1, 2, 3]) await (await pair.source.open()).send([Uint8Array.of(id)]);
    for (const id of [1, 2, 3]) {
      const far = await pair.destination.accept();
      for await (const chunk of far.receive()) {
        assert.equal(chunk[0], id);
        break;
      }
    }
  });

  test('what was sent and closed before anybody accepted is there to be received', async (pair) => {
    const near = await pair.source.open();
    await near.send([Uint8Array.of(1, 2, 3)]);
    await near.close();
    assert.deepEqual([...(await collect(await pair.destination.accept()))], [1, 2, 3]);
  });

  test('a connection that died while it waited is never handed out', async (pair) => {
    const aborted = await pair.source.open();
    aborted.abort();
    await (await pair.source.open()).close();
    await pair.settle();
    const alive = await pair.source.open();
    await alive.send([Uint8Array.of(42)]);
    const far = await pair.destination.accept();
    for await (const chunk of far.receive()) {
      assert.equal(chunk[0], 42);
      break;
    }
  });

  test('accept() calls are served in order', async (pair) => {
    const order: number[] = [];
    const accepting = [1, 2, 3].map((id) => pair.destination.accept().then(() => order.push(id)));
    for (let opened = 0; opened < 3; opened++) await pair.source.open();
    await Promise.all(accepting);
    assert.deepEqual(order, [1, 2, 3]);
  });

  test('an accept() that is aborted takes no connection with it', async (pair) => {
    const controller = new AbortController();
    const aborted = pair.destination.accept({ signal: controller.signal });
    const next = pair.destination.accept();
    await pair.settle();
    controller.abort();
    await rejectsWith(aborted, 'aborted');
    await pair.source.open();
    await next;
    await rejectsWith(pair.destination.accept({ signal: controller.signal }), 'aborted');
  });

  test('open() can be aborted', async (pair) => {
    const controller = new AbortController();
    const opening = pair.source.open({ signal: controller.signal });
    controller.abort();
    await rejectsWith(opening, 'aborted');
    await rejectsWith(pair.source.open({ signal: controller.signal }), 'aborted');
  });

  test('close() refuses new connections, rejects accept(), and leaves accepted ones alone', async (pair) => {
    const { near, far } = await connect(pair);
    const unaccepted = await pair.source.open();
    await pair.settle();
    await Promise.all([pair.destination.close(), pair.destination.close()]);
    await rejectsWith(pair.destination.accept(), 'connect-failed');
    await rejectsWith(pair.source.open(), 'connect-failed');
    await rejectsWith(collect(unaccepted), 'connection-lost');
    await near.send([Uint8Array.of(1)]);
    const [received] = await Promise.all([collect(far), near.close()]);
    assert.deepEqual([...received], [1]);
  });

  test('close() rejects an accept() that waits', async (pair) => {
    const accepting = pair.destination.accept();
    await pair.settle();
    await pair.destination.close();
    await rejectsWith(accepting, 'connect-failed');
  });
}
