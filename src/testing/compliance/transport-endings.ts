import { randomBytes } from './bytes.ts';
import { check, checkBytes, checkEqual, checkRejects, watch } from './check.ts';
import type { FixtureTest } from './test-function.ts';
import type { TransportFixture } from './transport.ts';
import { collect, connect, fill } from './transport-support.ts';

/** The two ways in which a connection ends, whatever is under way. */
export function endingTests(test: FixtureTest<TransportFixture>): void {
  test('close() brings over what was sent, then the end', async (pair) => {
    const { near, far } = await connect(pair);
    const bytes = randomBytes(5_000_000, 9);
    const sent = near.send([bytes]);
    sent.catch(() => {});
    const closed = Promise.all([near.close(), near.close()]);
    const received = await collect(far);
    await closed;
    checkBytes(received, bytes, 'what arrived');
    await checkRejects(near.send([Uint8Array.of(1)]), 'connection-lost', 'send() after close()');
    await checkRejects(far.send([Uint8Array.of(1)]), 'connection-lost', "send() after the peer's close()");
    checkEqual((await collect(near)).byteLength, 0, 'bytes received after close()');
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
    checkEqual((await received).byteLength, 0, 'bytes received after close()');
    near.abort();
    await closed;
  });

  test('close() makes room for a peer that reads nothing before it has sent', async (pair) => {
    const { near, far } = await connect(pair);
    const forth = await fill(near, pair);
    const back = await fill(far, pair);
    const closing = near.close();
    await back.waiting.catch(() => {});
    checkEqual((await collect(far)).byteLength, forth.bytes, 'bytes that arrived before the end');
    await closing;
  });

  test('close() takes away what the peer still sends, so that the peer gets to its end', async (pair) => {
    const { near, far } = await connect(pair);
    const { waiting } = await fill(far, pair);
    const settled = waiting.catch(() => {});
    const [received] = await Promise.all([collect(far), near.close(), settled]);
    checkEqual(received.byteLength, 0, 'bytes that arrived from an end that sent nothing');
    await far.close();
  });

  test('abort() settles a close() whose peer never reads, and the peer learns of the loss', async (pair) => {
    const { near, far } = await connect(pair);
    const { waiting } = await fill(near, pair);
    const closing = watch(near.close());
    await pair.settle();
    check(!closing.settled, 'close() resolved although the peer has not taken what was sent');
    near.abort(new Error('enough'));
    await closing.promise;
    await checkRejects(waiting, 'connection-lost', 'send() that waited when abort() was called');
    await checkRejects(collect(far), 'connection-lost', 'receive() at the peer of the end that aborted');
  });

  test('abort() settles a close() whenever it comes', async (pair) => {
    const later = [0, 1, 2, 5, 20].map((turns) => async () => {
      for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
    });
    for (const wait of [...later, () => pair.settle()]) {
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
    received.catch(() => {});
    const { waiting } = await fill(near, pair);
    near.abort(new Error('enough'));
    near.abort();
    await checkRejects(waiting, 'connection-lost', 'send() that waited');
    await checkRejects(received, 'connection-lost', 'receive() that waited');
    await checkRejects(near.send([Uint8Array.of(1)]), 'connection-lost', 'send() after abort()');
    await near.close();
    await checkRejects(collect(far), 'connection-lost', 'receive() at the peer');
    await checkRejects(far.send([Uint8Array.of(1)]), 'connection-lost', 'send() at the peer');
    await far.close();
  });

  test('abort() gives its reason to this end', async (pair) => {
    const { near } = await connect(pair);
    const reason = new Error('no heartbeat');
    near.abort(reason);
    const error = await checkRejects(collect(near), 'connection-lost', 'receive() after abort()');
    check(error.message.includes(reason.message), `'${error.message}' does not say why it was aborted`);
    check(error.cause === reason, 'the reason of the abort is not the cause of the error');
  });
}
