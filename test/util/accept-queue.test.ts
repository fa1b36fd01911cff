// Goal: no connection is lost between a peer that opened it and an accept() that may be aborted.
// Method: connections of cardboard, in the orders that real ones seldom take.
import { expect, test } from 'vitest';
import { MigrationError } from '../../src/errors.ts';
import { type Acceptable, AcceptQueue } from '../../src/util/accept-queue.ts';
import { deferred } from '../../src/util/promises.ts';

class CardboardConnection implements Acceptable {
  spent = false;
  readonly #gone = deferred<void>();

  get gone(): Promise<void> {
    return this.#gone.promise;
  }

  abort(): void {
    this.spent = true;
    this.#gone.resolve();
  }
}

const aborted = expect.objectContaining({ code: 'aborted' });

test('a connection that reaches an accept() together with its abort goes to the next one', async () => {
  const queue = new AcceptQueue<CardboardConnection>();
  const controller = new AbortController();
  const first = queue.take(controller.signal);
  const second = queue.take(undefined);
  const connection = new CardboardConnection();
  expect(queue.offer(connection)).toBe(true);
  controller.abort();
  await expect(first).rejects.toEqual(aborted);
  expect(await second).toBe(connection);
});

test('such a connection is dropped when the queue was closed meanwhile', async () => {
  const queue = new AcceptQueue<CardboardConnection>();
  const controller = new AbortController();
  const first = queue.take(controller.signal);
  const connection = new CardboardConnection();
  queue.offer(connection);
  controller.abort();
  queue.close(new MigrationError('connect-failed', 'closed'));
  await expect(first).rejects.toEqual(aborted);
  await connection.gone;
  expect(queue.offer(new CardboardConnection())).toBe(false);
});

test('connections that died make room for others', async () => {
  const queue = new AcceptQueue<CardboardConnection>();
  const waiting = Array.from({ length: 64 }, () => new CardboardConnection());
  for (const connection of waiting) expect(queue.offer(connection)).toBe(true);
  const late = new CardboardConnection();
  expect(queue.offer(late)).toBe(false);
  waiting[0]?.abort();
  await Promise.resolve();
  expect(queue.offer(late)).toBe(true);
  expect(await queue.take(undefined)).toBe(waiting[1]);
});
