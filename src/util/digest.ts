import { createHash } from 'node:crypto';
import { type Chunks, isZero } from './chunks.ts';

/** What {@link contentDigest} comes to, in bytes. */
export const digestBytes = 16;

/**
 * Stands for content: SHA-256 (FIPS 180-4) of the chunks as if they were one, cut to 16 bytes; of nothing but
 * zeros, 16 zeros. The same for the same content wherever it is computed, and nobody can make other content
 * for a given one. Takes the time of a checksum ten times over: 64 KiB a call, not megabytes.
 */
export function contentDigest(chunks: Chunks): Uint8Array {
  if (chunks.every(isZero)) return new Uint8Array(digestBytes);
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest().subarray(0, digestBytes);
}

/** Whether both are the same bytes. */
export function equalBytes(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
