/**
 * Goal: what a codec of this process compresses comes back, and nothing else does: not a byte more or less than was said, and nothing is allocated for what a peer makes
 * up. Method: each that is there, on content of every kind and size, and on damage.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nodeCodecs } from '../../src/util/node-codecs.ts';
import { nodeEnvironment } from '../../src/util/node-environment.ts';
import { createPrng } from '../../src/util/prng.ts';

const mebibyte = 1 << 20;

function random(bytes: number): Uint8Array {
  const content = new Uint8Array(bytes);
  createPrng(bytes).fill(content);
  return content;
}

/** Shrinks a lot, in pieces that repeat at odd distances. */
function text(bytes: number): Uint8Array {
  const words = ['page ', 'round ', 'stun ', 'mirror ', 'epoch '];
  const prng = createPrng(bytes);
  let all = '';
  while (all.length < bytes) all += words[prng.next() % words.length];
  return new TextEncoder().encode(all.slice(0, bytes));
}

it('LZ4 is there wherever its package is, and Zstandard wherever Node has it', () => {
  const names = nodeCodecs().map(({ name }) => name);
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const hasZstd = major > 23 || (major === 23 && minor >= 8) || (major === 22 && minor >= 15);
  expect(names).toEqual(hasZstd ? ['zstd', 'lz4'] : ['lz4']);
  expect(nodeEnvironment.codecs).toBe(nodeCodecs());
});

describe.each(nodeCodecs())('$name', (codec) => {
  it('gives back what it was given, of any size, wherever it lies in its buffer', async () => {
    for (const bytes of [1, 2, 15, 4095, 4096, 65_537, mebibyte]) {
      for (const content of [random(bytes), text(bytes), new Uint8Array(bytes)]) {
        const placed = new Uint8Array(bytes + 7);
        placed.set(content, 3);
        const compressed = await codec.compress(placed.subarray(3, 3 + bytes));
        const back = await codec.decompress(compressed, bytes);
        expect(Buffer.compare(back, content)).toBe(0);
      }
    }
  });

  it('shrinks what can be shrunk to less than a half', async () => {
    const compressed = await codec.compress(text(mebibyte));
    expect(compressed.byteLength).toBeLessThan(mebibyte / 2);
  });

  it('refuses content of any other length than was said', async () => {
    const compressed = await codec.compress(text(10_000));
    for (const length of [1, 9999, 10_001, mebibyte]) {
      await expect(codec.decompress(compressed, length)).rejects.toThrow();
    }
  });

  it('refuses a bomb: a mebibyte out of next to nothing, said to be a page', async () => {
    const compressed = await codec.compress(new Uint8Array(mebibyte));
    expect(compressed.byteLength).toBeLessThan(8192);
    await expect(codec.decompress(compressed, 4096)).rejects.toThrow();
  });

  it('comes to the length that was said, or rejects, whatever was damaged', async () => {
    const content = text(5000);
    const compressed = await codec.compress(content);
    await fc.assert(
      fc.asyncProperty(
        fc.nat(compressed.byteLength - 1),
        fc.integer({ min: 1, max: 255 }),
        fc.nat(compressed.byteLength),
        async (place, flip, end) => {
          const damaged = compressed.slice();
          damaged[place] = (damaged[place] ?? 0) ^ flip;
          for (const hostile of [damaged, compressed.slice(0, end)]) {
            const back = await codec.decompress(hostile, 5000).catch(() => undefined);
            expect(back?.byteLength ?? 5000).toBe(5000);
          }
        },
      ),
      { seed: 1, numRuns: 200 },
    );
  });

  it('refuses what is none of its own', async () => {
    for (const bytes of [0, 1, 3, 4, 5, 100, 5000]) {
      await expect(codec.decompress(random(bytes + 1).subarray(0, bytes), 5000)).rejects.toThrow();
    }
  });
});
