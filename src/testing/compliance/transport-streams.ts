import type { Connection } from '../../interfaces/transport.ts';
import { cut, randomBytes } from './bytes.ts';
import { check, checkBytes, checkEqual } from './check.ts';
import type { FixtureTest } from './test-function.ts';
import type { TransportFixture } from './transport.ts';
import { collect, connect, fill, receiveBytes } from './transport-support.ts';

/** Bytes that travel. */
export function streamTests(test: FixtureTest<TransportFixture>): void {
  test('carries bytes in order, both ways at once, however they are cut', async (pair) => {
    const { near, far } = await connect(pair);
    const forth = randomBytes(3_000_001, 1);
    const back = randomBytes(2_000_003, 2);
    const sendAll = async (connection: Connection, bytes: Uint8Array, seed: number) => {
      const parts = cut(bytes, seed);
      for (let at = 0; at < parts.length; at += 5) await connection.send(parts.slice(at, at + 5));
    };
    const [there, here] = await Promise.all([
      receiveBytes(far, forth.byteLength),
      receiveBytes(near, back.byteLength),
      sendAll(near, forth, 3),
      sendAll(far, back, 4),
    ]);
    checkBytes(there, forth, 'what arrived at the destination');
    checkBytes(here, back, 'what arrived at the source');
  });

  test('does not see what becomes of chunks once the peer has them', async (pair) => {
    const { near, far } = await connect(pair);
    const chunk = new Uint8Array(100_000).fill(1);
    await near.send([chunk]);
    const received = await receiveBytes(far, chunk.byteLength);
    const expected = chunk.slice();
    chunk.fill(2);
    checkBytes(received, expected, 'what was received before the sender used its buffer again');
  });

  test('leaves what was received alone until it is given back', async (pair) => {
    const { near, far } = await connect(pair);
    const bytes = randomBytes(3_000_001, 5);
    const kept: { readonly chunk: Uint8Array; readonly as: Uint8Array }[] = [];
    const receiveAll = async () => {
      let received = 0;
      let count = 0;
      for await (const chunk of far.receive()) {
        checkBytes(chunk, bytes.subarray(received, received + chunk.byteLength), 'a chunk as it arrived');
        received += chunk.byteLength;
        count++;
        if (count % 3 === 0) kept.push({ chunk, as: new Uint8Array(chunk) });
        else far.recycle?.(chunk);
      }
      checkEqual(received, bytes.byteLength, 'bytes that arrived');
    };
    const sendAll = async () => {
      for (const part of cut(bytes, 6)) await near.send([part]);
      await near.close();
    };
    await Promise.all([receiveAll(), sendAll()]);
    for (const { chunk, as } of kept) checkBytes(chunk, as, 'a chunk that was not given back');
    await far.close();
  });

  test('sends nothing for nothing', async (pair) => {
    const { near, far } = await connect(pair);
    await near.send([]);
    await near.send([new Uint8Array(0)]);
    await near.send([new Uint8Array(0), Uint8Array.of(7), new Uint8Array(0)]);
    const received = collect(far);
    await near.close();
    checkEqual([...(await received)], [7], 'what arrived');
  });

  test('holds the sender back while nobody receives, and loses nothing by it', async (pair) => {
    const { near, far } = await connect(pair);
    const { waiting, bytes } = await fill(near, pair);
    const received = collect(far);
    await waiting;
    await near.close();
    checkEqual((await received).byteLength, bytes, 'bytes that arrived of those that were taken');
  });

  test('keeps connections apart, many at once', async (pair) => {
    const seeds = Array.from({ length: 40 }, (_, index) => index + 1);
    const echo = async () => {
      const far = await pair.destination.accept();
      for await (const chunk of far.receive()) {
        await far.send([new Uint8Array(chunk)]);
        far.recycle?.(chunk);
      }
      await far.close();
    };
    const ask = async (seed: number) => {
      const near = await pair.source.open();
      const bytes = randomBytes(50_000, seed);
      await near.send([bytes]);
      checkBytes(await receiveBytes(near, bytes.byteLength), bytes, `the echo on connection ${seed}`);
      await near.close();
    };
    await Promise.all([...seeds.map(echo), ...seeds.map(ask)]);
  });

  test('says where each connection leads', async (pair) => {
    const { near, far } = await connect(pair);
    for (const { label } of [near, far]) {
      check(
        typeof label === 'string' && label.length > 0,
        `a connection's label is ${JSON.stringify(label)}`,
      );
    }
  });
}
