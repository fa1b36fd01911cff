/**
 * Goal: what the destination holds already is not sent, and is never believed to be there when it is not.
 * Method: the rules by themselves, with what a peer may say; then a disk's sender as it is, beside a guest
 * that writes the same few values again and again, with everything that may happen in any order; and a
 * mistake in the rules, which has to be noticed.
 */
import { describe, expect, it } from 'vitest';
import { CreditPool } from '../../../src/channel/credit-pool.ts';
import { ReceiveStream } from '../../../src/channel/receive-stream.ts';
import { BlockDigests } from '../../../src/core/storage/block-digests.ts';
import type { MigrationError } from '../../../src/errors.ts';
import type { ByteRange } from '../../../src/interfaces/content.ts';
import { contentDigest, digestBytes } from '../../../src/util/digest.ts';
import { type BlockNews, decodeNews, digestedBytes, encodeNews } from '../../../src/wire/digest-list.ts';
import { encodeItem, type ItemRange } from '../../../src/wire/item.ts';
import { SeedWorld } from './seed-world.ts';

const block = (value: number) => [new Uint8Array(digestedBytes).fill(value)];
const digestsOf = (...values: readonly number[]) =>
  Buffer.concat(values.map((value) => contentDigest(block(value))));
const at = (index: number) => index * digestedBytes;

/** Digests of a disk of ten blocks, the last one short, and the stream that they come by. */
function tenBlocks() {
  let failure: MigrationError | undefined;
  const digests = new BlockDigests(at(10) - 512, (error) => {
    failure = error;
  });
  const credit = new CreditPool({ totalBytes: 1 << 20, streams: 1, now: () => 0, roundTripMs: () => 0 });
  const stream = new ReceiveStream(2, 0, credit.open(), digests.arrived, () => {});
  digests.attach(stream);
  let number = 0;
  const hear = (...news: readonly (BlockNews | ItemRange)[]) => {
    const ranges = news.map((one) => ('digests' in one ? encodeNews(one) : one));
    const payload = encodeItem(ranges);
    const payloadBytes = payload.reduce((sum, { byteLength }) => sum + byteLength, 0);
    number++;
    stream.accept({
      type: 'data',
      class: 'bulk',
      stream: 2,
      number,
      sequence: number,
      release: () => {},
      payload,
      payloadBytes,
      payloadCrc: 0,
    });
  };
  return { digests, stream, hear, failure: () => failure };
}

describe('BlockDigests', () => {
  it('knows a block that the destination holds, once', () => {
    const { digests, hear } = tenBlocks();
    hear({ first: 0, count: 2, digests: digestsOf(7, 8) });
    expect(digests.holds(at(0), block(7))).toBe(true);
    expect(digests.holds(at(0), block(7))).toBe(false);
    expect(digests.holds(at(1), block(7))).toBe(false);
    expect(digests.holds(at(2), block(7))).toBe(false);
  });

  it('takes zeros for zeros, however they were said and wherever they are', () => {
    const { digests, hear } = tenBlocks();
    hear({ first: 0, count: 1, digests: 'zero' }, { first: 1, count: 1, digests: digestsOf(0) });
    hear({ first: 2, count: 1, digests: 'unknown' });
    expect(digests.holds(at(0), block(0))).toBe(true);
    expect(digests.holds(at(1), block(0))).toBe(true);
    expect(digests.holds(at(2), block(0))).toBe(false);
    expect(contentDigest(block(0))).toEqual(new Uint8Array(digestBytes));
  });

  it.each(['before', 'after'] as const)('believes no digest that came %s something was sent', (when) => {
    const { digests, hear } = tenBlocks();
    const sent: ByteRange = { offset: at(1) - 1, length: 2 };
    if (when === 'after') digests.over(sent);
    hear({ first: 0, count: 3, digests: digestsOf(5, 5, 5) });
    if (when === 'before') digests.over(sent);
    expect([0, 1, 2].map((index) => digests.holds(at(index), block(5)))).toEqual([false, false, true]);
  });

  it('says how far from the start something is known, in whatever order it comes', () => {
    const { digests, hear } = tenBlocks();
    let news = 0;
    digests.onNews(() => news++);
    hear({ first: 1, count: 2, digests: 'unknown' });
    expect(digests.toldBytes).toBe(0);
    hear({ first: 0, count: 1, digests: digestsOf(1) });
    expect(digests.toldBytes).toBe(at(3));
    hear({ first: 3, count: 7, digests: 'zero' });
    expect(digests.toldBytes).toBe(at(10) - 512);
    expect(news).toBe(3);
  });

  it('gives an item its credit back when none of its digests is asked for any more', () => {
    const { digests, hear, stream } = tenBlocks();
    hear({ first: 0, count: 1, digests: 'zero' }, { first: 8, count: 2, digests: 'unknown' });
    expect(stream.appliedThrough).toBe(1);
    hear({ first: 1, count: 3, digests: digestsOf(1, 2, 0) });
    expect(digests.held).toBe(2);
    digests.holds(at(2), block(2));
    expect(stream.appliedThrough).toBe(1);
    digests.over({ offset: 0, length: at(10) - 512 });
    expect(stream.appliedThrough).toBe(2);
    hear({ first: 4, count: 4, digests: digestsOf(1, 2, 3, 4) });
    expect(stream.appliedThrough).toBe(3);
    expect(digests.held).toBe(0);
  });

  it.each<readonly [string, ItemRange]>([
    [
      'a block that there is not',
      { space: 0, offset: 9 * digestBytes, length: 2 * digestBytes, content: 'zero' },
    ],
    ['a part of a digest', { space: 0, offset: 0, length: 8, content: [new Uint8Array(8)] }],
    ['a place between two', { space: 0, offset: 8, length: 16, content: 'zero' }],
    ['another space', { space: 2, offset: 0, length: 16, content: 'zero' }],
    ['a digest of what is not known', { space: 1, offset: 0, length: 16, content: [new Uint8Array(16)] }],
  ])('takes %s for a broken peer', (_, range) => {
    const { hear, failure } = tenBlocks();
    hear(range);
    expect(failure()?.code).toBe('protocol');
  });

  it('takes a digest that comes twice for a broken peer', () => {
    const { hear, failure } = tenBlocks();
    hear({ first: 3, count: 2, digests: 'unknown' });
    expect(failure()).toBeUndefined();
    hear({ first: 4, count: 1, digests: digestsOf(1) });
    expect(failure()?.code).toBe('protocol');
  });

  it('is told what was said', () => {
    const all: readonly BlockNews[] = [
      { first: 3, count: 2, digests: digestsOf(1, 2) },
      { first: 0, count: 5, digests: 'zero' },
      { first: 4, count: 1, digests: 'unknown' },
    ];
    for (const news of all) expect(decodeNews(encodeNews(news), 5)).toEqual(news);
  });
});

describe('a disk that is compared', () => {
  const seeds = Array.from({ length: 1000 }, (_, index) => index + 1);

  it('is equal at the destination after every interleaving that was drawn', async () => {
    let unchangedBytes = 0;
    for (const seed of seeds) {
      const ending = await new SeedWorld(seed).run();
      expect({ seed, problem: ending.problem }).toEqual({ seed, problem: undefined });
      unchangedBytes += ending.unchangedBytes;
    }
    // Enough was not sent for the test to be one.
    expect(unchangedBytes).toBeGreaterThan((seeds.length * digestedBytes) / 4);
  }, 120_000);

  it('would not be if a digest were believed after its block was mirrored', async () => {
    class Believing extends BlockDigests {
      /** What is asked for is over all the same; nothing else that happens is one byte long. */
      override over(range: ByteRange): void {
        if (range.length === 1) super.over(range);
      }
    }
    const problems = new Set<number>();
    for (const seed of seeds) {
      const { problem } = await new SeedWorld(seed, Believing).run();
      if (problem?.startsWith('destination') === true) problems.add(seed);
    }
    expect(problems.size).toBeGreaterThan(0);
  }, 120_000);
});
