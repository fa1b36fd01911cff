import { check, checkEqual, checkRejects } from './check.ts';
import type { FixtureTest } from './test-function.ts';
import type { TransportFixture } from './transport.ts';
import { collect, connect, receiveBytes } from './transport-support.ts';

/** Dialling, being dialled, and the end of both. */
export function openingTests(test: FixtureTest<TransportFixture>): void {
  test('says what it can do, and rejects what it cannot with unsupported', async ({
    source,
    destination,
  }) => {
    check(source.capabilities.open, 'the source cannot open connections: the suite needs one that can');
    check(destination.capabilities.accept, 'the destination cannot accept: the suite needs one that can');
    for (const transport of [source, destination]) {
      const { open, accept } = transport.capabilities;
      if (!open) await checkRejects(transport.open(), 'unsupported', 'open()');
      if (!accept) await checkRejects(transport.accept(), 'unsupported', 'accept()');
    }
  });

  test('takes every path that it says it has, and no other', async ({ source, destination }) => {
    check(Number.isInteger(source.paths) && source.paths >= 1, `it has ${source.paths} paths`);
    for (let path = 0; path < source.paths; path += 1) {
      await (await source.open({ path })).send([Uint8Array.of(path)]);
      checkEqual((await receiveBytes(await destination.accept(), 1))[0], path, `what came over path ${path}`);
    }
    for (const path of [source.paths, -1, 0.5]) {
      await checkRejects(source.open({ path }), 'invalid-argument', `open() over path ${path}`);
    }
  });

  test('connections wait until they are accepted, in order', async (pair) => {
    for (const id of [1, 2, 3]) await (await pair.source.open()).send([Uint8Array.of(id)]);
    for (const id of [1, 2, 3]) {
      const far = await pair.destination.accept();
      checkEqual(
        (await receiveBytes(far, 1))[0],
        id,
        `what the connection that was opened as number ${id} says`,
      );
    }
  });

  test('what was sent and closed before anybody accepted is there to be received', async (pair) => {
    const near = await pair.source.open();
    await near.send([Uint8Array.of(1, 2, 3)]);
    await near.close();
    checkEqual([...(await collect(await pair.destination.accept()))], [1, 2, 3], 'what is received');
  });

  test('a connection that died while it waited is never handed out', async (pair) => {
    const aborted = await pair.source.open();
    aborted.abort();
    await (await pair.source.open()).close();
    await pair.settle();
    const alive = await pair.source.open();
    await alive.send([Uint8Array.of(42)]);
    const far = await pair.destination.accept();
    checkEqual((await receiveBytes(far, 1))[0], 42, 'what the first connection that was accepted says');
  });

  test('accept() calls are served in order', async (pair) => {
    const order: number[] = [];
    const accepting = [1, 2, 3].map((id) => pair.destination.accept().then(() => order.push(id)));
    for (let opened = 0; opened < 3; opened += 1) await pair.source.open();
    await Promise.all(accepting);
    checkEqual(order, [1, 2, 3], 'the order in which they were served');
  });

  test('an accept() that is aborted takes no connection with it', async (pair) => {
    const controller = new AbortController();
    const aborted = pair.destination.accept({ signal: controller.signal });
    aborted.catch(() => {});
    const next = pair.destination.accept();
    await pair.settle();
    controller.abort();
    await checkRejects(aborted, 'aborted', 'accept() whose signal is aborted');
    await pair.source.open();
    await next;
    const { signal } = controller;
    await checkRejects(pair.destination.accept({ signal }), 'aborted', 'accept() with an aborted signal');
  });

  test('open() can be aborted, before and during', async (pair) => {
    const controller = new AbortController();
    const opening = pair.source.open({ signal: controller.signal });
    controller.abort();
    await checkRejects(opening, 'aborted', 'open() whose signal is aborted');
    const { signal } = controller;
    await checkRejects(pair.source.open({ signal }), 'aborted', 'open() with an aborted signal');
  });

  test('an abort after open() and accept() does nothing to the connection', async (pair) => {
    const { signal, abort } = abortable();
    const [near, far] = await Promise.all([
      pair.source.open({ signal }),
      pair.destination.accept({ signal }),
    ]);
    abort();
    await pair.settle();
    await near.send([Uint8Array.of(5)]);
    const [received] = await Promise.all([collect(far), near.close()]);
    checkEqual([...received], [5], 'what arrived');
  });

  test('close() refuses new connections, rejects accept(), and leaves accepted ones alone', async (pair) => {
    const { near, far } = await connect(pair);
    const unaccepted = await pair.source.open();
    await pair.settle();
    await Promise.all([pair.destination.close(), pair.destination.close()]);
    await checkRejects(pair.destination.accept(), 'connect-failed', 'accept() after close()');
    await checkRejects(pair.source.open(), 'connect-failed', 'open() to a transport that was closed');
    await checkRejects(collect(unaccepted), 'connection-lost', 'receive() on what was never accepted');
    await near.send([Uint8Array.of(1)]);
    const [received] = await Promise.all([collect(far), near.close()]);
    checkEqual([...received], [1], 'what arrived on a connection that had been accepted');
  });

  test('close() rejects an accept() that waits', async (pair) => {
    const accepting = pair.destination.accept();
    accepting.catch(() => {});
    await pair.settle();
    await pair.destination.close();
    await checkRejects(accepting, 'connect-failed', 'accept() that waited');
  });

  test('close() of the end that dials leaves what it opened alone, and opens nothing more', async (pair) => {
    const { near, far } = await connect(pair);
    await pair.source.close();
    await pair.source.close();
    await checkRejects(pair.source.open(), 'connect-failed', 'open() after close()');
    await near.send([Uint8Array.of(9)]);
    const [received] = await Promise.all([collect(far), near.close()]);
    checkEqual([...received], [9], 'what arrived');
  });
}

function abortable(): { readonly signal: AbortSignal; readonly abort: () => void } {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort() };
}
