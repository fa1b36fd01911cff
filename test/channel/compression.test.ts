/**
 * Goal: over a channel, compression changes how many bytes travel and how long that takes, and nothing else: every item arrives once, under its number, both ends sum
 * up to the same, and content is lent no longer than it must be. Method: two channels in virtual time, a codec that reads what lies there when its call ends, and content that is
 * overwritten as soon as it was given back.
 */
import { describe, expect, it, vi } from 'vitest';
import type { ReceivedItem } from '../../src/channel/receive-stream.ts';
import { MigrationError } from '../../src/index.ts';
import { repeatCodec } from '../../src/testing/index.ts';
import { createPrng } from '../../src/util/prng.ts';
import { delay } from '../../src/util/promises.ts';
import type { FrameClass } from '../../src/wire/frame.ts';
import { createPair, fixedCredit, type PairOptions, type PairWorld } from './pair.ts';

// Much is compressed, in JavaScript, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000 });

const mebibyte = 1 << 20;
const streamId = 2;

const alike = Uint8Array.from({ length: mebibyte }, (_, at) => (at % 4096) * 7);
/** Content that shrinks: pages which are alike but for their first bytes. */
function pages(bytes: number, number: number): Uint8Array {
  const content = alike.slice(0, bytes);
  for (let at = 0; at < bytes; at += 4096) new DataView(content.buffer).setUint32(at, number);
  return content;
}

/** Content that does not. */
function noise(bytes: number, number: number): Uint8Array {
  const content = new Uint8Array(bytes);
  createPrng(number + 1).fill(content);
  return content;
}

interface Transfer {
  readonly items: number;
  readonly content?: (bytes: number, number: number) => Uint8Array;
  /** Of each item; default: what the channel asks for. */
  readonly itemBytes?: number;
  readonly during?: (world: PairWorld) => Promise<void>;
}

async function transfer(options: PairOptions, compressed: boolean, given: Transfer) {
  const { items, content = pages, itemBytes, during = async () => {} } = given;
  const world = await createPair(options);
  const { near, far, environment, link } = world;
  for (const channel of [near, far]) channel.outlast({ silenceMsMax: 5000, outageMsMax: 60_000 });
  if (compressed) {
    near.compress(repeatCodec(environment));
    far.decompress(repeatCodec(environment));
  }
  const received: ReceivedItem[] = [];
  const stream = far.openReceive(streamId, 5, fixedCredit(32 * mebibyte), (item) => {
    received.push(item);
    stream.applied(item);
  });
  const sender = near.openSend(streamId, 5);
  const released: number[] = [];
  const startMs = environment.now();
  const sending = (async () => {
    for (let number = 1; number <= items; number++) {
      await sender.room();
      const bytes = itemBytes ?? sender.itemBytesMax;
      const lent = content(bytes, number);
      const frameClass: FrameClass = number % 5 === 0 ? 'mirror' : 'bulk';
      const range = { space: 0, offset: number * mebibyte, length: bytes, content: [lent] };
      sender.push(frameClass, [range], () => {
        released.push(number);
        lent.fill(0xdd);
      });
    }
    await sender.allApplied();
  })();
  await environment.run(Promise.all([sending, during(world)]));
  const totalMs = environment.now() - startMs;
  await environment.run(environment.now() + 1000);
  for (const item of received) {
    for (const { content: chunks, length } of item.ranges) {
      if (chunks === 'zero') throw new Error('zeros were not sent');
      expect(Buffer.compare(Buffer.concat(chunks), content(length, item.number))).toBe(0);
    }
  }
  expect(received.map(({ number }) => number).sort((a, b) => a - b)).toEqual(
    Array.from({ length: items }, (_, index) => index + 1),
  );
  expect(stream.digest).toBe(sender.digest);
  expect(released.sort((a, b) => a - b)).toEqual(Array.from({ length: items }, (_, index) => index + 1));
  expect(near.backlogBytes).toBe(0);
  const { deliveredBytes } = link.statistics().toDestination;
  const { compression, gain } = near;
  const atPeer = far.compression;
  for (const channel of [near, far]) channel.abort(new MigrationError('aborted', 'enough'));
  return { totalMs, deliveredBytes, compression, atPeer, gain };
}

const slow = { link: { rttMs: 20, rateMbit: 200 } };

describe('compression', () => {
  it('over a slow link is worth it: two thirds of the time, and more, are saved', async () => {
    const given = { items: 120, itemBytes: 512 << 10 };
    const off = await transfer(slow, false, given);
    const on = await transfer(slow, true, given);
    expect(off.compression).toBeUndefined();
    expect(off.gain).toBe(1);
    // A fifth are mirrored, and never compressed.
    expect(on.totalMs).toBeLessThan(0.35 * off.totalMs);
    expect(on.deliveredBytes).toBeLessThan(0.35 * off.deliveredBytes);
    expect(on.compression?.inputBytes).toBeGreaterThan(0.7 * 120 * (512 << 10));
    expect(off.deliveredBytes - on.deliveredBytes).toBeGreaterThan(0.99 * (on.compression?.savedBytes ?? 0));
    expect(on.atPeer).toMatchObject({
      codec: 'repeat',
      inputBytes: on.compression?.inputBytes,
      savedBytes: on.compression?.savedBytes,
    });
    expect(on.gain).toBeGreaterThan(20);
  });

  it('leaves content that does not shrink alone, at no cost to the transfer', async () => {
    const given = { items: 60, itemBytes: 512 << 10, content: noise };
    const off = await transfer(slow, false, given);
    const on = await transfer(slow, true, given);
    expect(on.compression?.inputBytes).toBe(0);
    expect(on.deliveredBytes).toBeLessThan(1.001 * off.deliveredBytes);
    expect(on.totalMs).toBeLessThan(1.01 * off.totalMs);
    // What the codec was at: samples, fewer and fewer.
    expect(on.compression?.callsMs).toBeLessThan(5);
  });

  it('is off where the link is faster than the codec', async () => {
    const fast = { link: { rttMs: 0.2, rateMbit: 40_000 } };
    const given = { items: 200, itemBytes: mebibyte };
    const off = await transfer(fast, false, given);
    const on = await transfer(fast, true, given);
    expect(on.compression?.inputBytes).toBeLessThan(0.04 * 200 * mebibyte);
    expect(on.totalMs).toBeLessThan(1.05 * off.totalMs);
  });

  it('survives links that are cut: what was sent compressed is sent so again, and no other way', async () => {
    const given = {
      items: 120,
      itemBytes: 512 << 10,
      during: async ({ environment, link, near }: PairWorld) => {
        near.keepLanes();
        for (let count = 0; count < 5; count++) {
          await delay(environment, 60);
          link.cut();
        }
      },
    };
    const { compression } = await transfer(slow, true, given);
    expect(compression?.savedBytes).toBeGreaterThan(0);
  });

  it('goes with a last flight that goes out twice', async () => {
    const given = {
      items: 40,
      itemBytes: 128 << 10,
      during: async ({ near }: PairWorld) => near.beginFlight(),
    };
    const { compression } = await transfer({ link: { rttMs: 200, rateMbit: 100 } }, true, given);
    expect(compression?.savedBytes).toBeGreaterThan(0);
  });

  it('takes the sizes of items that the lanes ask for', async () => {
    const { compression } = await transfer(slow, true, { items: 200 });
    expect(compression?.savedBytes).toBeGreaterThan(0);
  });
});

it('what comes compressed though nothing was agreed upon ends the channel with protocol', async () => {
  const { near, far, environment } = await createPair(slow);
  near.compress(repeatCodec(environment));
  const stream = far.openReceive(streamId, 5, fixedCredit(32 * mebibyte), (item) => stream.applied(item));
  const sender = near.openSend(streamId, 5);
  const content = [pages(mebibyte, 1)];
  for (let count = 0; count < 40; count++) {
    sender.push('bulk', [{ space: 0, offset: 0, length: mebibyte, content }], () => {});
  }
  await environment.run(environment.now() + 2000);
  expect(far.signal.reason).toMatchObject({ code: 'protocol' });
});
