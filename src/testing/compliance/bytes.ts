import { createPrng } from '../../util/prng.ts';

/** Bytes that are different everywhere, and the same for the same seed. */
export function randomBytes(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  createPrng(seed).fill(bytes);
  return bytes;
}

/** Cuts bytes into pieces of 0 to 200,000 bytes, most of them small. */
export function cut(bytes: Uint8Array, seed: number): Uint8Array[] {
  const prng = createPrng(seed);
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.byteLength; ) {
    const length = prng.below(prng.below(4) === 0 ? 200_000 : 300);
    parts.push(bytes.subarray(at, at + length));
    at += length;
  }
  return parts;
}
