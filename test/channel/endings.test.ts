/**
 * Goal: a channel that ends gives back all that it was lent, once, and not before its connections are done with it; and nothing that a lender
 * throws gets further than the channel. Method: two channels in virtual time over connections that do not close, or by a peer that is played.
 */
import { describe, expect, it } from 'vitest';
import { type Connection, MigrationError, type Transport } from '../../src/index.ts';
import { crc32c } from '../../src/util/checksum.ts';
import { encodeFrameHeader } from '../../src/wire/frame.ts';
import { withChanges } from '../support/worlds.ts';
import { createAcceptor, createPair, dialBy, fixedCredit, item, stateAfter } from './pair.ts';

/** Connections that stay until they are aborted, and of which nothing arrives any more. */
const heldOpen = (transport: Transport): Transport =>
  withChanges(transport, {
    open: async (options) => {
      const connection = await transport.open(options);
      let gone: () => void = () => {};
      const closed = new Promise<void>((resolve) => {
        gone = resolve;
      });
      return withChanges<Connection>(connection, {
        close: () => closed,
        abort: (reason) => {
          connection.abort(reason);
          gone();
        },
      });
    },
  });

describe('a channel that is closed', () => {
  it('keeps what is on its way until its connections are gone, and gives it back then', async () => {
    const { environment, near, far, link } = await createPair({ link: { rateMbit: 10 }, near: heldOpen });
    far.openReceive(1, 0, fixedCredit(8 << 20), () => {});
    const sender = near.openSend(1, 0);
    await environment.run(environment.now() + 10);
    let released = 0;
    for (let index = 0; index < 3; index++) sender.push('bulk', item(index, 200_000), () => released++);
    await environment.run(environment.now() + 1);
    const closing = near.close();
    expect(await stateAfter(environment, 500, closing)).toBe('pending');
    expect(released).toBe(0);
    near.abort(new MigrationError('timeout', 'the peer did not close'));
    expect(released).toBe(3);
    expect(await stateAfter(environment, 10, closing)).toBeUndefined();
    expect(link.statistics().connections).toBe(0);
  });

  it('sets no timer that outlives it', async () => {
    const { environment, near, far, acceptor } = await createPair();
    await environment.run(Promise.all([near.close(), acceptor.close()]));
    await environment.run(far.close());
    await environment.run(environment.now() + 2);
    expect(environment.pendingTimers).toBe(0);
  });
});

describe('a release that throws', () => {
  it('fails the channel it happens in, and is not heard of when that has ended', async () => {
    const { environment, near, far } = await createPair();
    const stream = far.openReceive(1, 0, fixedCredit(8 << 20), (received) => stream.applied(received));
    const sender = near.openSend(1, 0);
    let thrown = 0;
    const release = () => {
      thrown++;
      throw new Error('the buffer is gone');
    };
    for (let index = 0; index < 10; index++) sender.push('bulk', item(index, 400_000), release);
    expect(await stateAfter(environment, 1000, sender.allApplied())).toMatchObject({
      error: { code: 'hypervisor', message: /could not be given back: the buffer is gone/ },
    });
    expect(thrown).toBe(10);
    sender.push('bulk', item(0, 10), release);
    expect(thrown).toBe(11);
  });

  it('does not keep whoever stops the sending from stopping it', async () => {
    const { near } = await createPair();
    const sender = near.openSend(1, 0);
    sender.push('bulk', item(0, 10), () => {
      throw new Error('the buffer is gone');
    });
    expect(() => near.stopSending(new MigrationError('aborted', 'enough'))).not.toThrow();
  });
});

describe('a pong', () => {
  /** An accepted channel, and a peer that sends pongs with these numbers, 5 ms apart; resolves to how many the channel lived through. */
  async function pongs(numbers: readonly number[]): Promise<number> {
    const world = createAcceptor();
    const { environment, acceptor } = world;
    const { connection } = await environment.run(dialBy(world, 'control', 7));
    const channel = await environment.run(acceptor.channel(undefined));
    let lived = 0;
    for (const [index, number] of numbers.entries()) {
      const payload = Uint8Array.of(0, 0, 0, number);
      const frame = { type: 'pong', stream: 0, number: 0, payload: [payload], payloadBytes: 4 } as const;
      const header = encodeFrameHeader({ ...frame, payloadCrc: crc32c(payload) }, index + 1);
      await environment.run(connection.send([header, payload]));
      await environment.run(environment.now() + 5);
      if (!channel.signal.aborted) lived++;
      else expect(channel.signal.reason).toMatchObject({ code: 'protocol', message: /answers no ping/ });
    }
    return lived;
  }

  it('that answers no ping, or another than the last, breaks the protocol', async () => {
    expect(await pongs([1, 1])).toBe(1);
    expect(await pongs([2])).toBe(0);
  });
});
