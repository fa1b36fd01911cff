import { asMigrationError, MigrationError } from '../../errors.ts';
import type { BlockDevice } from '../../interfaces/block-device.ts';
import type { ItemRange } from '../../wire/item.ts';
import { ApplyQueue } from '../apply-queue.ts';
import type { DigestSender } from './digest-sender.ts';

/** Writes in flight on one disk: enough for a disk's own queue, few enough that what a slow one has not written waits here, where it is seen. */
const writers = 8;
/** Applied but not flushed: from here on a flush runs beside the writes ... */
const flushBytes = 32 << 20;
/** ... and here the writes wait for it, so that the flush within the stun is short. */
const unflushedBytesMax = 64 << 20;

/** Applies items to one of the destination's disks, and flushes as it goes. */
export class DiskReceiver {
  readonly disk: BlockDevice;
  readonly queue: ApplyQueue;
  /** Tells the source what the disk holds, if it wants to know. */
  readonly digests: DigestSender | undefined;
  #unflushedBytes = 0;
  #flushing: Promise<void> | undefined;
  #failedFlush: MigrationError | undefined;

  constructor(disk: BlockDevice, digests: DigestSender | undefined, failed: (error: MigrationError) => void) {
    this.disk = disk;
    this.digests = digests;
    this.queue = new ApplyQueue({
      spaceBytes: [disk.sizeBytes],
      writers,
      errorCode: 'disk-write',
      failed,
      write: (ranges, signal) =>
        this.#write(ranges, signal).catch((error) => {
          throw asDiskError(error, `disk ${disk.id}`);
        }),
    });
  }

  /** How much of the disk is as the source's was, or is on its way, for people. */
  get doneBytes(): number {
    return this.digests?.doneBytes ?? Math.min(this.disk.sizeBytes, this.queue.appliedBytes);
  }

  /** Nothing more is written, nor said of what is there; resolves when nothing is in flight. */
  async stop(): Promise<void> {
    await Promise.all([this.queue.stop(), this.digests?.stop()]);
  }

  /** Makes durable what has been applied before the call. Rejects with `disk-write`. */
  async flush(): Promise<void> {
    // One that is under way may have begun before the last writes.
    await this.#flushing;
    await this.#startFlush();
  }

  async #write(ranges: readonly ItemRange[], signal: AbortSignal): Promise<void> {
    if (this.#unflushedBytes >= flushBytes) {
      const flushing = this.#startFlush();
      flushing.catch(() => {});
      if (this.#unflushedBytes >= unflushedBytesMax) await flushing;
    }
    for (const { offset, length, content } of ranges) {
      if (content === 'zero') {
        await this.#writeZeroes(offset, length, signal);
      } else {
        this.#unflushedBytes += length;
        await this.disk.write(offset, content, { signal });
      }
      this.digests?.wrote({ offset, length });
    }
  }

  /** Writes zeros wherever the disk itself does not say that it reads as zeros. */
  async #writeZeroes(offset: number, length: number, signal: AbortSignal): Promise<void> {
    for (const extent of await this.disk.extents(offset, length, { signal })) {
      if (!extent.zero) await this.disk.writeZeroes(extent.offset, extent.length, { signal });
    }
  }

  #startFlush(): Promise<void> {
    this.#flushing ??= this.#flushNow().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  async #flushNow(): Promise<void> {
    const bytes = this.#unflushedBytes;
    this.#unflushedBytes = 0;
    try {
      await this.disk.flush();
    } catch (cause) {
      // After a failed flush nothing is known to be durable, also by a later one that succeeds.
      this.#unflushedBytes += bytes;
      const { code, message } = asDiskError(cause);
      const error = new MigrationError(code, `disk ${this.disk.id} could not be flushed: ${message}`, {
        cause,
      });
      this.#failedFlush ??= error;
      throw error;
    }
    if (this.#failedFlush !== undefined) throw this.#failedFlush;
  }
}

/** What the operating system calls a disk, or a quota, that is full. */
const fullCodes: ReadonlySet<unknown> = new Set(['ENOSPC', 'EDQUOT']);

function asDiskError(error: unknown, context?: string): MigrationError {
  const isFull = error instanceof Error && 'code' in error && fullCodes.has(error.code);
  return asMigrationError(error, isFull ? 'disk-full' : 'disk-write', context);
}
