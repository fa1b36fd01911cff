/**
 * Goal: acknowledgements go on while the control connection lets little through, as those of BBR do every ten seconds. Method: what the receiving end says on it is held up.
 */
import { expect, it } from 'vitest';
import type { Transport } from '../../src/index.ts';
import { withChanges } from '../support/worlds.ts';
import { createPair, fixedCredit, item } from './pair.ts';

it('what has arrived is told over lanes as well, and all of it on the control connection once that lets it through', async () => {
  /** As in a kernel's buffer: taken, and not under way. */
  let held: (() => void)[] | undefined;
  let accepted = 0;
  const far = (transport: Transport) =>
    withChanges(transport, {
      accept: async (options) => {
        const connection = await transport.accept(options);
        if (accepted++ > 0) return connection;
        return withChanges(connection, {
          send: async (chunks) => {
            if (held === undefined) await connection.send(chunks);
            else held.push(() => connection.send(chunks));
          },
        });
      },
    });
  const pair = await createPair({ link: { rttMs: 100 }, far });
  const { environment } = pair;
  const stream = pair.far.openReceive(1, 0, fixedCredit(64 << 20), (received) => stream.applied(received));
  const sender = pair.near.openSend(1, 0);
  await environment.run(environment.now() + 300);

  held = [];
  let gone = 0;
  for (let count = 0; count < 20; count++) {
    sender.push('bulk', item(0, 1000), () => {
      gone++;
    });
    await environment.run(environment.now() + 10);
  }
  await environment.run(environment.now() + 200);
  expect(gone).toBeGreaterThan(15);
  const late = held.splice(0);
  held = undefined;
  for (const send of late) send();
  await environment.run(sender.allApplied());
  expect(gone).toBe(20);
  await environment.run(Promise.all([pair.near.close(), pair.far.close()]));
});
