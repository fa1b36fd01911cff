import type { FileHandle } from 'node:fs/promises';
import { type ErrorCode, MigrationError } from '../../errors.ts';
import type { BlockDevice, Extent } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { DiskDescription } from '../../interfaces/hypervisor.ts';
import { Bitmap } from '../../util/bitmap.ts';
import { isZero } from '../../util/chunks.ts';
import { throwIfAborted } from '../../util/promises.ts';
import { fileError } from './file-errors.ts';

/** What is known of zeros is known in these: for a disk of 1 TiB in 2 MiB of memory. */
const GRANULE_BYTES = 64 * 1024;
/** Zeros are written, and looked for, in pieces of this. */
const ZEROS = Buffer.alloc(1024 * 1024);
/** As many buffers as one system call takes. */
const VECTOR_MAX = 1024;

/** How much of what an image holds at first is known to be zeros. */
export type FirstContent = 'zeros' | 'anything';

/**
 * A disk as a raw image: byte for byte in a file. A file that was made at its full size reads as zeros
 * wherever it was not written, and it keeps account of that, so what is zero stays a hole.
 */
export class ImageDisk implements BlockDevice {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  /** The file; whoever opened it closes it. */
  readonly #file: FileHandle;
  /** The granules that may hold something else than zeros. */
  readonly #written: Bitmap;

  constructor(file: FileHandle, description: DiskDescription, content: FirstContent) {
    const { id, sizeBytes, blockBytes, readOnly } = description;
    this.id = id;
    this.sizeBytes = sizeBytes;
    this.blockBytes = blockBytes;
    this.readOnly = readOnly;
    this.#file = file;
    this.#written = new Bitmap(Math.ceil(sizeBytes / GRANULE_BYTES));
    if (content === 'anything') this.#written.setRange(0, this.#written.size);
  }

  async read(offset: number, length: number, options: CallOptions = {}): Promise<Chunks> {
    this.#check(offset, length, options);
    const bytes = Buffer.allocUnsafeSlow(length);
    await this.#readInto(bytes, offset, options);
    return [bytes];
  }

  async extents(offset: number, length: number, options: CallOptions = {}): Promise<readonly Extent[]> {
    this.#check(offset, length, options);
    const extents: Extent[] = [];
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const granule = Math.floor(at / GRANULE_BYTES);
      const zero = !this.#written.has(granule);
      const next = zero ? this.#written.nextSet(granule) : this.#written.nextClear(granule);
      const until = Math.min(end, next * GRANULE_BYTES);
      extents.push({ offset: at, length: until - at, zero });
      at = until;
    }
    return extents;
  }

  async write(offset: number, content: Chunks, options: CallOptions = {}): Promise<void> {
    const length = content.reduce((sum, chunk) => sum + chunk.length, 0);
    this.#check(offset, length, options);
    if (length === 0) return;
    // Before it is so: who asks meanwhile must not be told that there are zeros.
    this.#written.setRange(Math.floor(offset / GRANULE_BYTES), Math.ceil((offset + length) / GRANULE_BYTES));
    await this.#do('disk-write', 'written', () => this.#writeAll(offset, content));
  }

  /** Where there are zeros already nothing is written, and so nothing allocated. */
  async writeZeroes(offset: number, length: number, options: CallOptions = {}): Promise<void> {
    this.#check(offset, length, options);
    const piece = Buffer.allocUnsafeSlow(Math.min(length, ZEROS.length));
    for (const extent of await this.extents(offset, length, options)) {
      if (extent.zero) continue;
      const end = extent.offset + extent.length;
      for (let at = extent.offset; at < end; at += ZEROS.length) {
        const bytes = piece.subarray(0, Math.min(ZEROS.length, end - at));
        await this.#readInto(bytes, at, options);
        if (isZero(bytes)) continue;
        const zeros = ZEROS.subarray(0, bytes.length);
        await this.#do('disk-write', 'written', () => this.#writeAll(at, [zeros]));
      }
    }
    const from = Math.ceil(offset / GRANULE_BYTES);
    const end = offset + length;
    // The last one may be shorter than the others.
    const to = end === this.sizeBytes ? this.#written.size : Math.floor(end / GRANULE_BYTES);
    if (from < to) this.#written.clearRange(from, to);
  }

  /** Nothing: there is no way to give room back to the file system from here. */
  async discard(offset: number, length: number, options: CallOptions = {}): Promise<void> {
    this.#check(offset, length, options);
  }

  async flush(options: CallOptions = {}): Promise<void> {
    throwIfAborted(options.signal);
    await this.#do('disk-write', 'flushed', () => this.#file.datasync());
  }

  async #readInto(bytes: Buffer, offset: number, options: CallOptions): Promise<void> {
    throwIfAborted(options.signal);
    await this.#do('disk-read', 'read', async () => {
      for (let done = 0; done < bytes.length; ) {
        const { bytesRead } = await this.#file.read(bytes, done, bytes.length - done, offset + done);
        if (bytesRead === 0) throw new Error(`the image ends at ${offset + done}`);
        done += bytesRead;
      }
    });
  }

  async #writeAll(offset: number, content: Chunks): Promise<void> {
    let rest = content.filter((chunk) => chunk.length > 0);
    let at = offset;
    while (rest.length > 0) {
      const { bytesWritten } = await this.#file.writev(rest.slice(0, VECTOR_MAX), at);
      at += bytesWritten;
      rest = behind(rest, bytesWritten);
    }
  }

  async #do(code: ErrorCode, what: string, action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      throw fileError(error, code, `the image of disk ${this.id} could not be ${what}`);
    }
  }

  #check(offset: number, length: number, { signal }: CallOptions): void {
    throwIfAborted(signal);
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
    if (!whole || offset < 0 || length < 0 || offset + length > this.sizeBytes) {
      throw new MigrationError(
        'invalid-argument',
        `disk ${this.id}: ${length} bytes at ${offset} do not lie within its ${this.sizeBytes} bytes`,
      );
    }
  }
}

/** What is left of the chunks behind the first `bytes`. */
function behind(chunks: Chunks, bytes: number): Uint8Array[] {
  let skip = bytes;
  let first = 0;
  for (let chunk = chunks[0]; chunk !== undefined && chunk.length <= skip; chunk = chunks[first]) {
    skip -= chunk.length;
    first += 1;
  }
  const rest = chunks.slice(first);
  const [head] = rest;
  if (head !== undefined && skip > 0) rest[0] = head.subarray(skip);
  return rest;
}
