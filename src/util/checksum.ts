import { createRequire } from 'node:module';
import type { Chunks } from './chunks.ts';

type Crc32c = (data: Uint8Array, previous: number) => number;

interface Implementation {
  readonly name: string;
  readonly crc32c: Crc32c;
}

/**
 * `@node-rs/crc32` ships prebuilt binaries and does several GB/s everywhere; `fast-crc32c` is as fast only where a compiler
 * was there at install time, and falls back to JavaScript (0.45 GB/s) without a word. So the first is an optional dependency and
 * preferred, the second is what is always there.
 */
function load(): Implementation {
  const require = createRequire(import.meta.url);
  try {
    const native = require('@node-rs/crc32') as { crc32c(data: Uint8Array, previous?: number): number };
    return { name: '@node-rs/crc32', crc32c: (data, previous) => native.crc32c(data, previous) };
  } catch {
    const portable = require('fast-crc32c') as { calculate(data: Uint8Array, previous?: number): number };
    return { name: 'fast-crc32c', crc32c: (data, previous) => portable.calculate(data, previous) };
  }
}

const implementation = load();

/** Which package computes checksums in this process. */
export const checksumImplementation: string = implementation.name;

/** Says the checksum of bytes that it knows; undefined for all others. */
export type ChecksumShortcut = (data: Uint8Array, previous: number) => number | undefined;

let shortcut: ChecksumShortcut | undefined;

/** For simulations alone: bytes whose checksum somebody knows are not summed up. Undefined ends it. */
export function setChecksumShortcut(known: ChecksumShortcut | undefined): void {
  shortcut = known;
}

/** CRC-32C (Castagnoli; RFC 3720, appendix B.4) of `data`, going on from `previous` (default: a new checksum). An unsigned 32-bit integer. */
export function crc32c(data: Uint8Array, previous = 0): number {
  return shortcut?.(data, previous) ?? implementation.crc32c(data, previous);
}

/** CRC-32C over chunks, as if they were one. */
export function crc32cOfChunks(chunks: Chunks, previous = 0): number {
  let crc = previous;
  for (const chunk of chunks) crc = crc32c(chunk, crc);
  return crc;
}
