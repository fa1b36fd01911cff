import { crc32 } from 'node:zlib';
import { expect, it } from 'vitest';
import { crc32c } from '../../src/util/checksum.ts';
import { createPrng } from '../../src/util/prng.ts';
import { quickDigest, quickDigestBytes } from '../../src/util/quick-digest.ts';

const block = (seed: number): Uint8Array => {
  const bytes = new Uint8Array(4096);
  createPrng(seed).fill(bytes);
  return bytes;
};

it('is the same for the same bytes, however they are cut', () => {
  const bytes = block(1);
  const whole = quickDigest([bytes]);
  expect(whole.byteLength).toBe(quickDigestBytes);
  expect(quickDigest([bytes.subarray(0, 7), new Uint8Array(0), bytes.subarray(7)])).toEqual(whole);
  expect(quickDigest([block(2)])).not.toEqual(whole);
  expect(quickDigest([])).toEqual(new Uint8Array(8));
});

/** As file systems do: a checksum of the block at its end. */
function sealed(seed: number, sum: (bytes: Uint8Array) => number): Uint8Array {
  const bytes = block(seed);
  new DataView(bytes.buffer).setUint32(4092, sum(bytes.subarray(0, 4092)), true);
  return bytes;
}

it('tells blocks apart that end with their own checksum, which that checksum alone does not', () => {
  const [one, other] = [sealed(1, (bytes) => crc32c(bytes)), sealed(2, (bytes) => crc32c(bytes))];
  expect(crc32c(one)).toBe(crc32c(other));
  expect(quickDigest([one]).subarray(0, 4)).not.toEqual(quickDigest([other]).subarray(0, 4));
  const [ieee, another] = [sealed(1, (bytes) => crc32(bytes)), sealed(2, (bytes) => crc32(bytes))];
  expect(crc32(ieee)).toBe(crc32(another));
  expect(quickDigest([ieee]).subarray(0, 4)).not.toEqual(quickDigest([another]).subarray(0, 4));
});
