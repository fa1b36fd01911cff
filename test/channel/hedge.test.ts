/**
 * Goal: where the network loses packets by itself, the last of what is sent does not wait for the one connection that has lost one. Method: two lanes in virtual time that hold things up in
 * turn, as lost packets do, until there is no window any more; then one of them holds up all it has for seconds.
 */
import { expect, it } from 'vitest';
import type { Connection } from '../../src/index.ts';
import { delay } from '../../src/util/promises.ts';
import type { VirtualEnvironment } from '../support/virtual-environment.ts';
import { createPair, fixedCredit, item, sendingBy } from './pair.ts';

/** Each lane holds up what it is given for so much of so long ... */
const turnMs = { held: 200, of: 400 };
/** ... and then the first of them for so long. */
const stuckMs = 3000;

/** A pair whose near end's lanes do that; `lossy`: in turns, too. */
async function createHeldUp(lossy: boolean) {
  let environment: VirtualEnvironment | undefined;
  let stuckUntilMs = 0;
  const sending = new Map<Connection, Promise<void>>();
  /** How long a connection holds up what it has. The first is control's. */
  const heldMs = (index: number, nowMs: number) => {
    if (index === 1 && nowMs < stuckUntilMs) return stuckUntilMs - nowMs;
    const inTurnMs = (nowMs + (index * turnMs.of) / 2) % turnMs.of;
    return lossy ? Math.max(0, turnMs.held - inTurnMs) : 0;
  };
  const send = async (connection: Connection, chunks: readonly Uint8Array[]) => {
    const before = sending.get(connection) ?? Promise.resolve();
    if (!sending.has(connection)) sending.set(connection, before);
    const index = [...sending.keys()].indexOf(connection);
    const clock = environment;
    if (index === 0 || clock === undefined) return connection.send(chunks);
    const sent = before.then(async () => {
      await delay(clock, heldMs(index, clock.now()));
      await connection.send(chunks);
    });
    // Buffers take it meanwhile.
    sending.set(
      connection,
      sent.catch(() => {}),
    );
  };
  const pair = await createPair({
    link: { rttMs: 100, rateMbit: 1000 },
    near: (transport) => sendingBy(transport, send),
  });
  environment = pair.environment;
  const stick = () => {
    stuckUntilMs = pair.environment.now() + stuckMs;
  };
  /** The lane that is stuck is lost. */
  const lose = () => [...sending.keys()][1]?.abort(new Error('lost'));
  return { ...pair, stick, lose };
}

/** How long the last of what is sent takes with a lane that is stuck, in ms, and is lost after `lostMs`; how long something is late by then, and what was let go of. */
async function lastOf(lossy: boolean, lostMs?: number) {
  const { environment, near, far, stick, lose } = await createHeldUp(lossy);
  const sender = near.openSend(1, 0);
  const taken: number[] = [];
  const stream = far.openReceive(1, 0, fixedCredit(64 << 20), (received) => {
    taken.push(received.number);
    stream.applied(received);
  });
  let released = 0;
  const send = (items: number) => {
    for (let count = 0; count < items; count++) sender.push('bulk', item(0, 128 << 10), () => released++);
  };
  send(800);
  await environment.run(sender.allApplied());
  send(60);
  await environment.run(environment.now() + 20);
  stick();
  const sinceMs = environment.now();
  if (lostMs !== undefined) environment.setTimer(lostMs, lose);
  await environment.run(sender.allApplied());
  const ms = environment.now() - sinceMs;
  await environment.run(environment.now() + 150);
  const { lateMs } = near;
  await environment.run(environment.now() + 2 * stuckMs);
  return { ms, lateMs, released, once: new Set(taken).size === taken.length, taken: taken.length };
}

it('goes out again over another lane, arrives once, and is not late any more', async () => {
  const { ms, ...rest } = await lastOf(true);
  expect(ms).toBeLessThan(stuckMs / 2);
  expect(rest).toEqual({ lateMs: 0, released: 860, once: true, taken: 860 });
});

it('arrives once, and is let go of once, where its lane is lost before its copy has arrived, and where after that', async () => {
  for (const lostMs of [100, 300, 500]) {
    const { released, once, taken } = await lastOf(true, lostMs);
    expect({ released, once, taken }).toEqual({ released: 860, once: true, taken: 860 });
  }
});

it('waits for its lane where nothing tells of losses', async () => {
  const { ms } = await lastOf(false);
  expect(ms).toBeGreaterThan(stuckMs / 2);
});
