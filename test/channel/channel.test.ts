/**
 * Goal: control in order, data exactly once, a slow receiver stops its own stream alone, and whoever is not of the session gets no
 * further than the greeting. Method: two real channels over a simulated link; strangers and damage through the same transport.
 */
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import type { Channel } from '../../src/channel/channel.ts';
import { ChannelAcceptor, connectChannel } from '../../src/channel/connect.ts';
import type { DialOptions } from '../../src/channel/handshake.ts';
import { type ReceivedItem, ReceiveStream } from '../../src/channel/receive-stream.ts';
import { MigrationError } from '../../src/errors.ts';
import { type MemoryLink, memoryLink, type Transport } from '../../src/index.ts';
import { crc32cOfChunks } from '../../src/util/checksum.ts';
import { chunksLength } from '../../src/util/chunks.ts';
import { nodeEnvironment as environment } from '../../src/util/node-environment.ts';
import type { Purpose } from '../../src/wire/greeting.ts';
import { encodeItem, type ItemRange } from '../../src/wire/item.ts';
import { withChanges } from '../support/worlds.ts';
import { dialBy, fixedCredit } from './pair.ts';

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const resource of open.splice(0)) await resource.close();
});

interface Pair {
  readonly near: Channel;
  readonly far: Channel;
  readonly link: MemoryLink;
}

async function pair(
  options: { rateMbit?: number; transport?: (transport: Transport) => Transport } = {},
): Promise<Pair> {
  const link = memoryLink({ rttMs: 2, rateMbit: options.rateMbit ?? 1000 });
  const common = { environment, windowBytesMax: 8 << 20 };
  const acceptor = new ChannelAcceptor({
    ...common,
    transport: link.destination,
    greetingMsMax: 1000,
    sessions: true,
    onQuestion: async () => {},
  });
  open.push(acceptor);
  const transport = options.transport?.(link.source) ?? link.source;
  const [near, far] = await Promise.all([
    connectChannel({ ...common, transport, vmId: 'v', connections: 3, limitMs: 1000, signal: undefined }),
    acceptor.channel(undefined),
  ]);
  open.push(near, far);
  return { near, far, link };
}

const item = (offset: number, bytes: number): readonly ItemRange[] => [
  { space: 0, offset, length: bytes, content: [new Uint8Array(bytes).fill(offset & 0xff)] },
];

describe('a channel', () => {
  it('delivers every item once, over all its lanes, and both ends sum up to the same', async () => {
    const { near, far } = await pair();
    const sender = near.openSend(1, 99);
    const seen = new Set<number>();
    let released = 0;
    const stream = far.openReceive(1, 99, fixedCredit(4 << 20), (received) => {
      expect(seen.has(received.number)).toBe(false);
      seen.add(received.number);
      stream.applied(received);
    });
    for (let index = 0; index < 400; index++) {
      await sender.room();
      sender.push('bulk', item(index * 65536, 1 + ((index * 7919) % 60_000)), () => {
        released++;
      });
    }
    await sender.allApplied();
    expect(seen.size).toBe(400);
    expect(stream.digest).toBe(sender.digest);
    await expect.poll(() => released).toBe(400);
    expect(near.backlogBytes).toBe(0);
  });

  it('keeps control messages in order and ahead of a backlog of data', async () => {
    const { near, far } = await pair({ rateMbit: 50 });
    const sender = near.openSend(1, 0);
    const stream = far.openReceive(1, 0, fixedCredit(64 << 20), (received) => stream.applied(received));
    for (let index = 0; index < 40; index++) sender.push('bulk', item(index, 200_000), () => {});
    for (let token = 0; token < 20; token++) near.send({ type: 'flush', token });
    const started = performance.now();
    for (let token = 0; token < 20; token++) expect((await far.mailbox.take('flush')).token).toBe(token);
    // 8 MB at 50 Mbit/s are 1.3 s: control did not wait for them.
    expect(performance.now() - started).toBeLessThan(600);
    expect(sender.applied).toBeLessThan(40);
  });

  it('stops a stream whose receiver is slow within its credit, and no other', async () => {
    const { near, far } = await pair();
    const stuck: ReceivedItem[] = [];
    const slow = near.openSend(1, 0);
    const fast = near.openSend(2, 0);
    const slowStream = far.openReceive(1, 0, fixedCredit(300_000), (received) => stuck.push(received));
    const fastStream = far.openReceive(2, 0, fixedCredit(4 << 20), (received) =>
      fastStream.applied(received),
    );
    for (let index = 0; index < 20; index++) slow.push('bulk', item(index, 100_000), () => {});
    for (let index = 0; index < 50; index++) fast.push('bulk', item(index, 100_000), () => {});
    await fast.allApplied();
    expect(stuck.reduce((sum, { payloadBytes }) => sum + payloadBytes, 0)).toBeLessThanOrEqual(300_000);
    while (slow.applied < 20) {
      for (const received of stuck.splice(0)) slowStream.applied(received);
      await new Promise((resolve) => setImmediate(resolve));
    }
  });

  it('that is cut tells everybody who waits, and lets go of every frame once', async () => {
    const { near, far, link } = await pair();
    const sender = near.openSend(1, 0);
    far.openReceive(1, 0, fixedCredit(100_000), () => {});
    let released = 0;
    for (let index = 0; index < 100; index++) {
      sender.push('bulk', item(index, 100_000), () => {
        released++;
      });
    }
    const waiting = [sender.room(), sender.allApplied(), near.mailbox.take('ready'), far.mailbox.take('go')];
    link.cut();
    for (const wait of waiting) await expect(wait).rejects.toMatchObject({ code: 'connection-lost' });
    expect(released).toBe(100);
    expect(near.signal.reason).toMatchObject({ code: 'connection-lost' });
    expect(sender.push('bulk', item(0, 10), () => released++)).toBe(101);
    expect(released).toBe(101);
  });

  it('that receives a damaged byte delivers nothing of that frame, and all of it over another lane', async () => {
    let corrupt = false;
    const { near, far } = await pair({
      transport: (transport) =>
        withChanges(transport, {
          open: async (options) => {
            const connection = await transport.open(options);
            return withChanges(connection, {
              send: (chunks) => {
                const last = chunks.at(-1);
                if (!corrupt || last === undefined || last.byteLength < 1000) return connection.send(chunks);
                corrupt = false;
                const bad = new Uint8Array(last);
                bad[500] = (bad[500] ?? 0) ^ 1;
                return connection.send([...chunks.slice(0, -1), bad]);
              },
            });
          },
        }),
    });
    const sender = near.openSend(1, 0);
    const delivered: number[] = [];
    const stream = far.openReceive(1, 0, fixedCredit(1 << 20), (received) => {
      delivered.push(received.number);
      stream.applied(received);
    });
    sender.push('bulk', item(0, 5000), () => {});
    await sender.allApplied();
    corrupt = true;
    sender.push('bulk', item(1, 5000), () => {});
    await sender.allApplied();
    expect(corrupt).toBe(false);
    expect(delivered).toEqual([1, 2]);
    expect(stream.digest).toBe(sender.digest);
    expect(near.statistics.link.lanes.length).toBeLessThan(3);
  });

  it('closes after what it was told to say', async () => {
    const { near, far } = await pair();
    for (let token = 0; token < 100; token++) near.send({ type: 'flush', token });
    await near.close();
    for (let token = 0; token < 100; token++) expect((await far.mailbox.take('flush')).token).toBe(token);
    await expect(far.mailbox.take('go')).rejects.toBeInstanceOf(MigrationError);
  });
});

describe('an acceptor', () => {
  it('turns away strangers, other sessions and second sessions, and serves its own all the while', async () => {
    const { near, far, link } = await pair();
    const greet = async (bytes: Uint8Array) => {
      const connection = await link.source.open();
      await connection.send([bytes]);
      const answer: Uint8Array[] = [];
      try {
        for await (const chunk of connection.receive()) answer.push(chunk);
      } catch {
        // Dropped without a word.
      }
      return answer;
    };
    expect(await greet(new Uint8Array(40).fill(65))).toEqual([]);
    const by = (purpose: Purpose, changes: Partial<DialOptions> = {}) =>
      dialBy({ link, environment }, purpose, 1, changes);
    await expect(by('data')).rejects.toMatchObject({ code: 'refused' });
    await expect(by('control')).rejects.toMatchObject({ code: 'refused' });
    const versions = { versionMin: 7, versionMax: 9 };
    await expect(by('control', { versions })).rejects.toMatchObject({ code: 'version-mismatch' });
    near.send({ type: 'flush', token: 5 });
    expect((await far.mailbox.take('flush')).token).toBe(5);
  });
});

describe('a receiving stream', () => {
  it('hands each number over once, whatever the order and however often it comes', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 12 }), { maxLength: 60 }), (arrivals) => {
        const seen: number[] = [];
        const stream = new ReceiveStream(
          1,
          0,
          fixedCredit(1e9),
          (received) => {
            seen.push(received.number);
            stream.applied(received);
          },
          () => {},
        );
        const payload = encodeItem(item(0, 10));
        for (const number of arrivals) {
          const payloadCrc = crc32cOfChunks(payload);
          const payloadBytes = chunksLength(payload);
          stream.accept({
            type: 'data',
            class: 'bulk',
            stream: 1,
            number,
            payload,
            payloadBytes,
            payloadCrc,
            sequence: 1,
            release: () => {},
          });
        }
        const distinct = new Set(arrivals);
        expect(seen).toHaveLength(distinct.size);
        let through = 0;
        while (distinct.has(through + 1)) through++;
        expect(stream.appliedThrough).toBe(through);
      }),
    );
  });

  it('refuses what goes beyond its credit', () => {
    const stream = new ReceiveStream(
      1,
      0,
      fixedCredit(50),
      () => {},
      () => {},
    );
    const payload = encodeItem(item(0, 100));
    const frame = {
      type: 'data',
      class: 'bulk',
      stream: 1,
      payload,
      payloadBytes: chunksLength(payload),
    } as const;
    expect(() =>
      stream.accept({ ...frame, number: 1, payloadCrc: 0, sequence: 1, release: () => {} }),
    ).toThrow(/credit/);
  });
});
