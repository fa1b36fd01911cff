/**
 * One disk at the source: the bulk copy, and the mirror of guest writes beside it.
 *
 * ```
 * guest write ─► medium ─► tap ─► Regions ─ copied ────────────► push('mirror')
 *                                         ─ being copied ─ held ─► push('mirror') after the bulk number
 *                                         ─ not copied ──────────► nothing: the bulk copy will read it
 * bulk copy: take a range ─► read ─► push('bulk') ─► Regions: copied
 *                                 └► what the destination holds already is not pushed, and is copied all the same
 * ```
 *
 * The invariant: whenever no region is *not copied* or *being copied*, replaying the stream by number gives the disk as it is. A number is
 * taken when its content is fixed, and never between a read's start and its end.
 *
 * With digests of what the destination's disk held when all this began, the stream is replayed on that disk, and a bulk read that finds a block
 * equal needs no item: the item would have changed nothing, as long as nothing was ever sent for the block before. That is the second
 * invariant, and {@link BlockDigests} keeps it: **whatever is pushed, and whatever sets a region back, first ends what is known of its blocks.** A block is
 * *being copied* until its digest was compared, so a guest write waits for that as it would for a number. The bulk copy takes only what
 * the destination has spoken of; it reads ahead of the bulk copy, so nobody waits for a round trip but at the beginning.
 */
import PQueue from 'p-queue';
import type { SendStream } from '../../channel/send-stream.ts';
import { asMigrationError, type MigrationError } from '../../errors.ts';
import type { GuestWrite, SourceDisk, Tap, TapHandler } from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions, Chunks } from '../../interfaces/content.ts';
import { chunksLength, isZero, sliceChunks } from '../../util/chunks.ts';
import { onAbort } from '../../util/on-abort.ts';
import { raceAbort, Signalled, throwIfAborted } from '../../util/promises.ts';
import { digestedBytes } from '../../wire/digest-list.ts';
import type { ItemRange } from '../../wire/item.ts';
import { itemContentBytesMax } from '../../wire/limits.ts';
import { alignExtents } from './align-extents.ts';
import type { BlockDigests } from './block-digests.ts';
import type { MirrorBuffer } from './mirror-buffer.ts';
import { Regions } from './regions.ts';

/** The grain of the copied / not copied map: a set-back write costs this much to copy again at most. A digest is for a region. */
const regionBytes = digestedBytes;
/** One read of the bulk copy. 256 KiB to 1 MiB is where disks and QEMU's NBD server are at their best. */
const readBytes = 512 << 10;
/** Reads in flight on one disk. */
const readsMax = 4;
/** How much is taken at once where data is; guest writes within it wait for their number, so not too much. */
const takeBytesMin = 8 << 20;
/** ... and where only zeros were found so far: holes of terabytes are passed in large steps. */
const takeBytesMax = 1 << 30;
/** What a guest write takes of the mirror's buffer beside its content: zeros have none, and a flood of them is one all the same. */
const writeOverheadBytes = 512;

export interface DiskSenderOptions {
  readonly disk: SourceDisk;
  readonly stream: SendStream;
  readonly buffer: MirrorBuffer;
  /** What the destination's disk holds. Undefined: nobody asked, and all of the disk is sent. */
  readonly digests: BlockDigests | undefined;
  /** Aborted when the migration is over, one way or another. */
  readonly signal: AbortSignal;
  /** Called with the first failure. */
  readonly failed: (error: MigrationError) => void;
}

/** See the top of this file. */
export class DiskSender {
  readonly disk: SourceDisk;
  readonly #options: DiskSenderOptions;
  readonly #regions: Regions<GuestWrite>;
  readonly #reads = new PQueue({ concurrency: readsMax });
  readonly #changed = new Signalled();
  #tap: Tap | undefined;
  #copying: Promise<void> | undefined;
  #stopped = false;
  #stunned = false;
  #bulkBytes = 0;
  #mirrorBytes = 0;
  #mirrored = 0;
  #setBack = 0;
  #unchangedBytes = 0;
  /** Bytes of bulk content that were numbered, zeros included and what came again counted again. */
  #numberedBytes = 0;
  #doneBytes = 0;

  constructor(options: DiskSenderOptions) {
    this.disk = options.disk;
    this.#options = options;
    this.#regions = new Regions({ sizeBytes: options.disk.sizeBytes, regionBytes });
    const { signal, digests } = options;
    onAbort(signal, () => this.#changed.fail(signal.reason));
    digests?.onNews(() => this.#changed.notify());
  }

  /** Bytes still to be copied, those being read included. */
  get restBytes(): number {
    return this.#regions.notCopiedBytes + this.#regions.beingCopiedBytes;
  }

  /** How much was copied, for people: what is copied again after it was set back does not count as undone. */
  get doneBytes(): number {
    this.#doneBytes = Math.max(this.#doneBytes, this.disk.sizeBytes - this.restBytes);
    return this.#doneBytes;
  }

  get stream(): SendStream {
    return this.#options.stream;
  }

  get digests(): BlockDigests | undefined {
    return this.#options.digests;
  }

  get bulkBytes(): number {
    return this.#bulkBytes;
  }

  get mirrorBytes(): number {
    return this.#mirrorBytes;
  }

  /** Content that the destination held already, zeros apart, so that it was not sent. */
  get unchangedBytes(): number {
    return this.#unchangedBytes;
  }

  /** Guest writes mirrored, and those whose extents were set back. */
  get guestWrites(): { readonly mirrored: number; readonly setBack: number } {
    return { mirrored: this.#mirrored, setBack: this.#setBack };
  }

  /** Sets the tap, then starts copying. */
  async start(): Promise<void> {
    if (!this.disk.readOnly) {
      this.#tap = await this.disk.tap(this.#handler, { signal: this.#options.signal });
    }
    this.#copying = this.#copy().catch((error) => this.#fail(error));
  }

  /**
   * Resolves when every region has been copied once. A guest that outruns the mirror's buffer sets regions back, and could do so for
   * ever: what is left of them then is for {@link DiskSender.restBytes} to say, and for the rules of convergence to weigh.
   */
  async copiedOnce(): Promise<void> {
    await this.#until(() => this.#regions.complete || this.#numberedBytes >= this.disk.sizeBytes);
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      throwIfAborted(this.#options.signal);
      await this.#changed.wait();
    }
  }

  /** With the guest stunned: every guest write has been seen and numbered, and every region copied. */
  async finish({ signal }: CallOptions = {}): Promise<void> {
    this.#stunned = true;
    this.#changed.notify();
    await this.#tap?.finish({ signal });
    await raceAbort(
      this.#until(() => this.#regions.complete),
      signal,
    );
  }

  /**
   * The guest is about to run on after all. The tap was there all the time, and every write since it was set has come through it: what is
   * copied stays so.
   */
  goOn(): void {
    this.#stunned = false;
  }

  /** Takes the tap away and stops copying; guest writes go on unhindered from the call on. Idempotent. Rejects if the tap could not be removed. */
  async stop(reason: MigrationError): Promise<void> {
    this.#stopped = true;
    this.#changed.fail(reason);
    this.#reads.clear();
    for (const write of this.#regions.abandon()) this.#letGo(write);
    await this.#tap?.remove();
    await Promise.allSettled([this.#copying, this.#reads.onIdle()]);
  }

  #fail(error: unknown): void {
    if (this.#stopped) return;
    this.#options.failed(asMigrationError(error, 'disk-read', `disk ${this.disk.id}`));
  }

  readonly #handler: TapHandler = {
    write: (write) => this.#guestWrote(write),
    invalidate: (range) => this.#setRangeBack(range),
    broken: (error) => this.#fail(error),
  };

  /** A guest write has reached the medium. Its place in the order is fixed here, before the first `await`. */
  #guestWrote(write: GuestWrite): Promise<void> | undefined {
    if (this.#stopped) {
      write.release();
      return undefined;
    }
    if (!this.#options.buffer.take(bufferedBytes(write))) {
      this.#setBack++;
      this.#setRangeBack(write);
      write.release();
      return undefined;
    }
    switch (this.#regions.guestWrite(write, write)) {
      case 'nothing':
        this.#letGo(write);
        return undefined;
      case 'mirror':
        this.#mirror(write);
        break;
      case 'held':
        break;
    }
    return this.#options.buffer.hold();
  }

  #setRangeBack(range: ByteRange): void {
    this.#options.digests?.over(range);
    this.#regions.setBack(range);
    this.#changed.notify();
  }

  #letGo(write: GuestWrite): void {
    this.#options.buffer.give(bufferedBytes(write));
    write.release();
  }

  #mirror(write: GuestWrite): void {
    const { offset, length, content } = write;
    this.#options.digests?.over(write);
    this.#mirrored++;
    if (content === 'zero') {
      this.#options.stream.push('mirror', [{ space: 0, offset, length, content }], () => this.#letGo(write));
      return;
    }
    this.#mirrorBytes += length;
    let pieces = Math.ceil(length / itemContentBytesMax);
    const release = () => {
      if (--pieces === 0) this.#letGo(write);
    };
    for (let at = 0; at < length; at += itemContentBytesMax) {
      const bytes = Math.min(itemContentBytesMax, length - at);
      const part = sliceChunks(content, at, bytes);
      this.#options.stream.push(
        'mirror',
        [{ space: 0, offset: offset + at, length: bytes, content: part }],
        release,
      );
    }
  }

  async #copy(): Promise<void> {
    let takeBytes = takeBytesMin;
    while (!this.#stopped) {
      const range = this.#regions.nextToCopy(takeBytes, this.#reachBytes);
      if (range === undefined) {
        await this.#changed.wait();
        continue;
      }
      const zeroBytes = await this.#copyRange(range);
      takeBytes = zeroBytes === range.length ? Math.min(2 * takeBytes, takeBytesMax) : takeBytesMin;
    }
  }

  /** How far the bulk copy may go. A guest that stands still waits for no digest. */
  get #reachBytes(): number {
    const { digests } = this.#options;
    return digests === undefined || this.#stunned ? this.disk.sizeBytes : digests.toldBytes;
  }

  /** Copies a range that is marked *being copied*; resolves to how much of it was known to be zeros when the rest is queued for reading. */
  async #copyRange(range: ByteRange): Promise<number> {
    const { disk, signal } = this.#options;
    // Some hypervisors tell nothing of extents any more once the guest is stunned.
    const extents = this.#stunned
      ? [{ ...range, zero: false }]
      : await disk.extents(range.offset, range.length, { signal });
    if (this.#stopped) return 0;
    let zeroBytes = 0;
    for (const extent of alignExtents(range, extents, regionBytes)) {
      if (extent.zero) {
        const { offset, length } = extent;
        zeroBytes += length;
        this.#options.digests?.over(extent);
        this.#options.stream.push('bulk', [{ space: 0, offset, length, content: 'zero' }], () => {});
        this.#numbered(extent);
        continue;
      }
      for (let at = 0; at < extent.length; at += readBytes) {
        const length = Math.min(readBytes, extent.length - at);
        await this.#options.stream.room();
        await raceAbort(this.#reads.onSizeLessThan(1), signal);
        if (this.#stopped) return zeroBytes;
        this.#reads.add(() => this.#read(extent.offset + at, length)).catch((error) => this.#fail(error));
      }
    }
    return zeroBytes;
  }

  async #read(offset: number, length: number): Promise<void> {
    const { disk, signal, stream } = this.#options;
    const chunks = await disk.read(offset, length, { signal });
    if (this.#stopped) return;
    const ranges = this.#changedOf(offset, chunks).flatMap((part) => withoutZeros(part.offset, part.chunks));
    for (const range of ranges) if (range.content !== 'zero') this.#bulkBytes += range.length;
    if (ranges.length > 0) stream.push('bulk', ranges, () => {});
    this.#numbered({ offset, length });
  }

  /** The stretches of what was read that the destination does not hold, as far as is known. */
  #changedOf(
    offset: number,
    chunks: Chunks,
  ): readonly { readonly offset: number; readonly chunks: Chunks }[] {
    const { digests } = this.#options;
    if (digests === undefined) return [{ offset, chunks }];
    const length = chunksLength(chunks);
    const changed: { offset: number; length: number }[] = [];
    for (let at = 0; at < length; at += regionBytes) {
      const block = sliceChunks(chunks, at, regionBytes);
      const bytes = chunksLength(block);
      const last = changed.at(-1);
      if (digests.holds(offset + at, block)) this.#unchangedBytes += block.every(isZero) ? 0 : bytes;
      else if (last !== undefined && last.offset + last.length === offset + at) last.length += bytes;
      else changed.push({ offset: offset + at, length: bytes });
    }
    return changed.map((part) => ({
      offset: part.offset,
      chunks: sliceChunks(chunks, part.offset - offset, part.length),
    }));
  }

  /** The range's bulk number is taken; guest writes that waited for it follow. */
  #numbered(range: ByteRange): void {
    this.#numberedBytes += range.length;
    for (const write of this.#regions.copyNumbered(range)) this.#mirror(write);
    this.#changed.notify();
  }
}

function bufferedBytes({ content, length }: GuestWrite): number {
  return writeOverheadBytes + (content === 'zero' ? 0 : length);
}

/** What was read, as ranges, with every stretch of zeros of a region's size as a range without bytes. */
export function withoutZeros(offset: number, chunks: Chunks): readonly ItemRange[] {
  const length = chunksLength(chunks);
  const ranges: { space: number; offset: number; length: number; content: Chunks | 'zero' }[] = [];
  for (let at = 0; at < length; at += regionBytes) {
    const bytes = Math.min(regionBytes, length - at);
    const piece = sliceChunks(chunks, at, bytes);
    const zero = piece.every(isZero);
    const last = ranges.at(-1);
    if (last !== undefined && (last.content === 'zero') === zero) {
      last.length += bytes;
      if (last.content !== 'zero') last.content = sliceChunks(chunks, last.offset - offset, last.length);
    } else {
      ranges.push({ space: 0, offset: offset + at, length: bytes, content: zero ? 'zero' : piece });
    }
  }
  return ranges;
}
