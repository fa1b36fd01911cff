/**
 * Goal: whichever package computes checksums, the ends of a migration agree. Method: every implementation against a plain bit-by-bit
 * reference, on lengths and alignments around what fast code treats apart, and on views into larger buffers.
 */
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { build } from 'tsup';
import { describe, expect, test } from 'vitest';
import {
  checksumImplementation,
  checksumImplementations,
  crc32c,
  crc32cOfChunks,
} from '../../src/util/checksum.ts';

/** Bit by bit, as the definition says: polynomial 0x1EDC6F41, reflected. */
function reference(data: Uint8Array, previous = 0): number {
  let crc = ~previous;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

const ascii = (text: string) => new TextEncoder().encode(text);

describe.each(checksumImplementations)('$name', ({ load }) => {
  const compute = load();

  test('gives the published values', () => {
    expect(compute(ascii('123456789'), 0)).toBe(0xe3069283);
    // RFC 3720, B.4.
    expect(compute(new Uint8Array(32), 0)).toBe(0x8a9136aa);
    expect(compute(new Uint8Array(32).fill(0xff), 0)).toBe(0x62a8ab43);
    expect(
      compute(
        Uint8Array.from({ length: 32 }, (_, index) => index),
        0,
      ),
    ).toBe(0x46dd794e);
  });

  test('goes on from any checksum over no bytes at all', () => {
    for (const previous of [0, 1, 0x7fffffff, 0x80000000, 0xffffffff])
      expect(compute(new Uint8Array(0), previous)).toBe(previous);
  });

  test('sums up just the bytes of a view, wherever it lies in its buffer, also if it is no Buffer', () => {
    const bytes = Uint8Array.from({ length: 1500 }, (_, index) => (index * 31 + (index >> 3)) & 0xff);
    for (let offset = 0; offset < 66; offset++) {
      for (const length of [0, 1, 7, 8, 15, 16, 63, 64, 127, 255, 256, 257, 1024, 1409]) {
        const view = new Uint8Array(bytes.buffer, offset, length);
        expect(compute(view, 0xdeadbeef)).toBe(reference(bytes.slice(offset, offset + length), 0xdeadbeef));
      }
    }
    expect(compute(Buffer.from(bytes.buffer, 3, 700), 5)).toBe(reference(bytes.slice(3, 703), 5));
  });

  test('is the same in pieces as in one', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 3000 }),
        fc.nat(3000),
        fc.nat(0xffffffff),
        (bytes, at, start) => {
          const [head, tail] = [bytes.subarray(0, at), bytes.subarray(at)];
          expect(compute(tail, compute(head, start))).toBe(reference(bytes, start));
        },
      ),
      { seed: 1, numRuns: 200 },
    );
  });

  test('agrees with the reference on a megabyte and a bit', () => {
    const bytes = new Uint8Array(2 ** 20 + 41);
    for (let index = 0; index < bytes.length; index++) bytes[index] = Math.imul(index, 0x9e3779b1) >>> 24;
    expect(compute(bytes.subarray(3), 0)).toBe(reference(bytes.subarray(3)));
  });
});

test('the first that is installed is used', () => {
  expect(checksumImplementation()).toBe(checksumImplementations[0]?.name);
  expect(crc32c(ascii('123456789'))).toBe(0xe3069283);
  expect(crc32cOfChunks([ascii('12345'), new Uint8Array(0), ascii('6789')])).toBe(0xe3069283);
});

test('nothing is loaded before the first checksum, and what is loaded then keeps no process from its end', async () => {
  const cache = fileURLToPath(new URL('../../.cache/', import.meta.url));
  await mkdir(cache, { recursive: true });
  const directory = await mkdtemp(join(cache, 'checksum-'));
  try {
    const entry = { checksum: fileURLToPath(new URL('../../src/util/checksum.ts', import.meta.url)) };
    await build({ entry, outDir: directory, config: false, format: ['esm'], clean: false, silent: true });
    const program = `
      const loaded = () => Object.keys(require.cache).filter((path) => /crc|crt/.test(path)).length;
      import(${JSON.stringify(pathToFileURL(join(directory, 'checksum.js')).href)}).then(({ crc32c }) => {
        const before = loaded();
        crc32c(Buffer.from('123456789'));
        console.log(before, loaded() > 0);
      });`;
    // Killed, which throws, should it not end by itself.
    const output = execFileSync(process.execPath, ['-e', program], { encoding: 'utf8', timeout: 20_000 });
    expect(output).toBe('0 true\n');
  } finally {
    await rm(directory, { recursive: true });
  }
});
