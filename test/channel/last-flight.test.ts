/** Goal: what is sent while a guest stands still is at the destination as soon as the link can have it there. Method: channels in virtual time, of which all is counted that goes out. */
import { expect, it } from 'vitest';
import { chunksLength } from '../../src/util/chunks.ts';
import { createPair, fixedCredit, item, sendingBy } from './pair.ts';

/** A pair, and how many bytes its near end has sent. */
async function createCounted(rttMs: number) {
  const count = { bytes: 0 };
  const pair = await createPair({
    link: { rttMs, rateMbit: 1000 },
    near: (transport) =>
      sendingBy(transport, (connection, chunks) => {
        count.bytes += chunksLength(chunks);
        return connection.send(chunks);
      }),
  });
  return { ...pair, count };
}

it('goes out about as fast as the link carries it: a queue in front of that may have no room for all of it', async () => {
  const { environment, near, far, count } = await createCounted(100);
  const sender = near.openSend(1, 0);
  const stream = far.openReceive(1, 0, fixedCredit(16 << 20), (received) => stream.applied(received));
  const send = () => sender.push('bulk', item(0, 128 << 10), () => {});
  for (let items = 0; items < 300; items++) send();
  await environment.run(sender.allApplied());
  const before = count.bytes;
  near.beginFlight();
  for (let items = 0; items < 32; items++) send();
  await environment.run(environment.now() + 10);
  const tenMs = 1.25e6;
  expect(count.bytes - before).toBeGreaterThan(0.8 * tenMs);
  expect(count.bytes - before).toBeLessThan(1.8 * tenMs);
  await environment.run(sender.allApplied());
});
