/** Goal: what is on its way for longer than a link without losses takes is known to be late. Method: a channel in virtual time, of whose lanes the frames are held up. */
import { expect, it } from 'vitest';
import { delay } from '../../src/util/promises.ts';
import { createPair, fixedCredit, item, sendingBy } from './pair.ts';

it('a frame is late when a link that loses nothing would have brought it, and no more once it has arrived', async () => {
  let heldMs = 0;
  const { environment, near, far } = await createPair({
    link: { rttMs: 100 },
    near: (transport) =>
      sendingBy(transport, async (connection, chunks) => {
        if (heldMs > 0) await delay(environment, heldMs);
        await connection.send(chunks);
      }),
  });
  const sender = near.openSend(1, 0);
  const stream = far.openReceive(1, 0, fixedCredit(8 << 20), (received) => stream.applied(received));
  const send = () => sender.push('bulk', item(0, 1000), () => {});
  send();
  await environment.run(environment.now() + 120);
  expect(near.lateMs).toBe(0);
  await environment.run(sender.allApplied());
  heldMs = 400;
  send();
  await environment.run(environment.now() + 130);
  expect(near.lateMs).toBe(0);
  await environment.run(environment.now() + 70);
  expect(near.lateMs).toBeGreaterThan(50);
  expect(near.lateMs).toBeLessThan(71);
  await environment.run(sender.allApplied());
  expect(near.lateMs).toBe(0);
});
