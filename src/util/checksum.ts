import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Chunks } from './chunks.ts';

type Crc32c = (data: Uint8Array, previous: number) => number;

/** A package that computes CRC-32C. */
export interface ChecksumImplementation {
  /** The package's. */
  readonly name: string;
  /** Throws if it is not installed, or not for this machine. */
  load(): Crc32c;
}

const require = createRequire(import.meta.url);

/**
 * Its binary, without what is around it: that is 80 ms of modules, and it starts a process to learn which C library there is. A process that holds
 * much memory must not do that on the way, for all of it is copy on write from then on.
 */
function loadAwsCrt(): Crc32c {
  const { platform, arch } = process;
  const musl = platform === 'linux' && readFileSync('/proc/self/maps', 'latin1').includes('ld-musl-');
  const runtime = platform !== 'linux' ? 'cruntime' : musl ? 'musl' : 'glibc';
  const binding = require(`aws-crt/dist/bin/${platform}-${arch}-${runtime}/aws-crt-nodejs.node`);
  return (binding as { checksums_crc32c: Crc32c }).checksums_crc32c;
}

/**
 * The fastest first. `aws-crt` folds with the processor's wide carry-less multiplication, some 20 GB/s, but is large: an optional peer,
 * there if the user wants it. `@node-rs/crc32` has prebuilt binaries for about every machine, some 5 GB/s: an optional dependency.
 * `fast-crc32c` is always there, and as fast as the second only where a compiler was at hand when it was installed; else it falls back to
 * JavaScript (0.45 GB/s) without a word.
 */
export const checksumImplementations: readonly ChecksumImplementation[] = [
  { name: 'aws-crt', load: loadAwsCrt },
  { name: '@node-rs/crc32', load: () => (require('@node-rs/crc32') as { crc32c: Crc32c }).crc32c },
  { name: 'fast-crc32c', load: () => (require('fast-crc32c') as { calculate: Crc32c }).calculate },
];

/** The check value of the algorithm's definition: CRC-32C of the digits 1 to 9. */
const checkInput = Uint8Array.from('123456789', (digit) => digit.charCodeAt(0));
const checkValue = 0xe3069283;

let active: { readonly name: string; readonly compute: Crc32c } | undefined;

/** At the first checksum, not before: a program that only says how it is used does not wait for it. */
function load(): { readonly name: string; readonly compute: Crc32c } {
  for (const { name, load } of checksumImplementations) {
    try {
      const compute = load();
      if (compute(checkInput, 0) === checkValue) return { name, compute };
    } catch {
      // The next one, then.
    }
  }
  throw new Error('no package that computes CRC-32C can be loaded: fast-crc32c is a dependency of this one');
}

/** Which package computes checksums in this process. */
export function checksumImplementation(): string {
  active ??= load();
  return active.name;
}

/** Says the checksum of bytes that it knows; undefined for all others. */
export type ChecksumShortcut = (data: Uint8Array, previous: number) => number | undefined;

let shortcut: ChecksumShortcut | undefined;

/** For simulations alone: bytes whose checksum somebody knows are not summed up. Undefined ends it. */
export function setChecksumShortcut(known: ChecksumShortcut | undefined): void {
  shortcut = known;
}

/** CRC-32C (Castagnoli; RFC 3720, appendix B.4) of `data`, going on from `previous` (default: a new checksum). An unsigned 32-bit integer. */
export function crc32c(data: Uint8Array, previous = 0): number {
  active ??= load();
  return shortcut?.(data, previous) ?? active.compute(data, previous);
}

/** CRC-32C over chunks, as if they were one. */
export function crc32cOfChunks(chunks: Chunks, previous = 0): number {
  let crc = previous;
  for (const chunk of chunks) crc = crc32c(chunk, crc);
  return crc;
}
