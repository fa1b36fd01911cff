/**
 * The bulk copy of one disk: take a range, read it, give what was read its number.
 *
 * ```
 * Regions: take a range ─► extents ─ zeros ──────────────► push('bulk') ─► Regions: copied
 *                                  ─ data ─► read ────────► push('bulk') ─► Regions: copied ─► held guest writes are mirrored
 *                                                └► what the destination holds already is not pushed, and is copied all the same
 * ```
 *
 * It is background work. How many reads are in flight follows the disk ({@link ReadAhead}), and the guest, which is not to feel it
 * ({@link GuestWatch}); what the guest writes again and again is copied last ({@link Regions}).
 *
 * **A number is taken when its content is fixed**: after the read returned, while its regions are still *being copied*, and never between a
 * read's start and its end.
 *
 * With digests of what the destination's disk held when all this began, the stream is replayed on that disk, and a bulk read that finds a block
 * equal needs no item: the item would have changed nothing, as long as nothing was ever sent for the block before. That is what
 * {@link BlockDigests} keeps: **whatever is pushed, and whatever sets a region back, first ends what is known of its blocks.** A block is
 * *being copied* until its digest was compared, so a guest write waits for that as it would for a number. The bulk copy takes only what
 * the destination has spoken of; it reads ahead of the bulk copy, so nobody waits for a round trip but at the beginning.
 */
import type { SendStream } from '../../channel/send-stream.ts';
import type { MigrationError } from '../../errors.ts';
import type { GuestWrite, SourceDisk } from '../../interfaces/block-device.ts';
import type { ByteRange, Chunks } from '../../interfaces/content.ts';
import type { CancelTimer, Environment } from '../../interfaces/environment.ts';
import { chunksLength, isZero, sliceChunks } from '../../util/chunks.ts';
import { onAbort } from '../../util/on-abort.ts';
import { Signalled, throwIfAborted } from '../../util/promises.ts';
import { digestedBytes } from '../../wire/digest-list.ts';
import { splitIntoItems } from '../split-into-items.ts';
import { alignExtents } from './align-extents.ts';
import type { BlockDigests } from './block-digests.ts';
import type { GuestWatch, WatchedCopy } from './guest-watch.ts';
import { ReadAhead } from './read-ahead.ts';
import type { Regions } from './regions.ts';
import { withoutZeros } from './without-zeros.ts';

/** The grain of the copied / not copied map: a set-back write costs this much to copy again at most. A digest is for a region. */
export const regionBytes = digestedBytes;
/** One read. 256 KiB to 1 MiB is where disks and QEMU's NBD server are at their best. */
const readBytes = 512 << 10;
/** The longest rest between two reads, where not even one is to be out all the time. */
const restMsMax = 1000;
/** How much is taken at once where data is; guest writes within it wait for their number, so not too much. */
const takeBytesMin = 8 << 20;
/** ... and where only zeros were found so far: holes of terabytes are passed in large steps. */
const takeBytesMax = 1 << 30;

export interface BulkCopyOptions {
  readonly disk: SourceDisk;
  readonly stream: SendStream;
  /** Which the tap and the bulk copy share. */
  readonly regions: Regions<GuestWrite>;
  /** What the destination's disk holds. Undefined: nobody asked, and all of the disk is sent. */
  readonly digests: BlockDigests | undefined;
  readonly environment: Environment;
  /** Says how much of its read-ahead the guest leaves the copy. All disks of a VM have one. */
  readonly watch: GuestWatch;
  /** Aborted when the migration is over, one way or another. */
  readonly signal: AbortSignal;
  /** Only while the guest stands still. */
  readonly onlyStunned: boolean;
  /** Takes guest writes that waited for a bulk number, one by one in their order: they get the next numbers, at once. */
  readonly mirror: (write: GuestWrite) => void;
  /** Called with what ended the copy, if that was not {@link BulkCopy.stop}. */
  readonly failed: (error: unknown) => void;
}

/** See the top of this file. */
export class BulkCopy {
  readonly #options: BulkCopyOptions;
  readonly #reads = new Set<Promise<void>>();
  readonly #ahead = new ReadAhead();
  readonly #changed = new Signalled();
  #copying: Promise<void> | undefined;
  #stopped = false;
  #stunned = false;
  #sentBytes = 0;
  #unchangedBytes = 0;
  /** Of our reads, since the guest's writes were looked at last: how many ended, how long they took, and whether they were what was waited for. */
  #seen = { reads: 0, totalMs: 0, limited: false };
  /** Set while no read is to begin, so that not even one is out all the time. */
  #resting: CancelTimer | undefined;
  readonly #watched: WatchedCopy;

  constructor(options: BulkCopyOptions) {
    this.#options = options;
    const { disk, signal, digests } = options;
    this.#watched = { disk, calm: () => this.#calm, looked: () => this.#looked() };
    onAbort(signal, () => this.#changed.fail(signal.reason));
    digests?.onNews(() => this.#changed.notify());
  }

  /** Content that was sent, zeros apart. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** Content that the destination held already, zeros apart, so that it was not sent. */
  get unchangedBytes(): number {
    return this.#unchangedBytes;
  }

  /** Begins. Called once. */
  start(): void {
    this.#copying = this.#copy().catch((error) => this.#fail(error));
  }

  /** Regions were set back: there is something to copy again. */
  moreToCopy(): void {
    this.#changed.notify();
  }

  /** Whether the guest stands still: then nothing is waited for but the disk. */
  guestStands(stunned: boolean): void {
    this.#stunned = stunned;
    if (stunned) this.#options.watch.leave(this.#watched);
    this.#changed.notify();
  }

  /** Resolves when every region has been copied once. Regions that were set back since may be left. */
  async copiedOnce(): Promise<void> {
    await this.#until(() => this.#options.regions.allCopiedOnce);
  }

  /** Resolves when every region is copied. */
  async copiedAll(): Promise<void> {
    await this.#until(() => this.#options.regions.complete);
  }

  /** No more is read or sent, from the call on; resolves when no read is out. Idempotent. */
  async stop(reason: MigrationError): Promise<void> {
    this.#stopped = true;
    this.#changed.fail(reason);
    this.#resting?.();
    this.#options.watch.leave(this.#watched);
    await this.#copying;
    await Promise.allSettled(this.#reads);
  }

  #fail(error: unknown): void {
    if (!this.#stopped) this.#options.failed(error);
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      throwIfAborted(this.#options.signal);
      await this.#changed.wait();
    }
  }

  async #copy(): Promise<void> {
    const { regions, watch } = this.#options;
    let takeBytes = takeBytesMin;
    while (!this.#stopped) {
      const range = this.#nextToCopy(takeBytes);
      if (range === undefined) {
        if (regions.complete) watch.leave(this.#watched);
        await this.#changed.wait();
        continue;
      }
      if (!this.#stunned) watch.enter(this.#watched);
      const zeroBytes = await this.#copyRange(range);
      takeBytes = zeroBytes === range.length ? Math.min(2 * takeBytes, takeBytesMax) : takeBytesMin;
    }
  }

  #nextToCopy(takeBytes: number): ByteRange | undefined {
    if (this.#options.onlyStunned && !this.#stunned) return undefined;
    return this.#options.regions.nextToCopy(takeBytes, this.#reachBytes);
  }

  /** How far it may go. A guest that stands still waits for no digest. */
  get #reachBytes(): number {
    const { digests, disk } = this.#options;
    return digests === undefined || this.#stunned ? disk.sizeBytes : digests.toldBytes;
  }

  /** Copies a range that is marked *being copied*; resolves to how much of it was known to be zeros when the rest is queued for reading. */
  async #copyRange(range: ByteRange): Promise<number> {
    const { disk, signal } = this.#options;
    const extents = await disk.extents(range.offset, range.length, { signal });
    let zeroBytes = 0;
    for (const extent of alignExtents(range, extents, regionBytes)) {
      if (this.#stopped) return 0;
      if (extent.zero) {
        zeroBytes += extent.length;
        this.#sendZeros(extent);
        continue;
      }
      for (let at = 0; at < extent.length; at += readBytes) {
        await this.#mayRead();
        if (this.#stopped) return zeroBytes;
        const length = Math.min(readBytes, extent.length - at);
        this.#beginRead(extent.offset + at, length);
      }
    }
    return zeroBytes;
  }

  /** Resolves when the link has room for what would be read, and the disk and its guest for one more read. */
  async #mayRead(): Promise<void> {
    await this.#options.stream.room();
    await this.#until(() => {
      const may = this.#reads.size < this.#readsAllowed && (this.#resting === undefined || this.#stunned);
      this.#seen.limited ||= !may;
      return may || this.#stopped;
    });
  }

  /** Reads that may be in flight: whole ones, but for the last, which is a part of the time. 0: for now none is to begin. */
  get #readsAllowed(): number {
    const { depth } = this.#ahead;
    const allowed = this.#stunned ? depth : depth * this.#options.watch.share;
    return allowed < 1 ? allowed : Math.floor(allowed);
  }

  #beginRead(offset: number, length: number): void {
    const { environment } = this.#options;
    const beganMs = environment.now();
    const reading = this.#read(offset, length)
      .catch((error) => this.#fail(error))
      .then(() => {
        this.#reads.delete(reading);
        this.#readEnded(environment.now() - beganMs);
      });
    this.#reads.add(reading);
  }

  #readEnded(tookMs: number): void {
    this.#seen.reads++;
    this.#seen.totalMs += tookMs;
    const allowed = this.#readsAllowed;
    if (allowed > 0 && allowed < 1 && !this.#stopped) {
      this.#resting?.();
      const restMs = Math.min(restMsMax, tookMs * (1 / allowed - 1));
      this.#resting = this.#options.environment.setTimer(restMs, () => {
        this.#resting = undefined;
        this.#changed.notify();
      });
    }
    this.#changed.notify();
  }

  /** Whether no read was out since the guest's writes were looked at last. */
  get #calm(): boolean {
    return this.#reads.size === 0 && this.#seen.reads === 0;
  }

  #looked(): void {
    const { watch, disk } = this.#options;
    if (watch.sees(disk)) this.#ahead.look({ ...this.#seen, share: watch.share });
    this.#seen = { reads: 0, totalMs: 0, limited: false };
    this.#changed.notify();
  }

  #sendZeros({ offset, length }: ByteRange): void {
    this.#options.digests?.over({ offset, length });
    this.#options.stream.push('bulk', [{ space: 0, offset, length, content: 'zero' }], () => {});
    this.#numbered({ offset, length });
  }

  async #read(offset: number, length: number): Promise<void> {
    const { disk, signal, stream } = this.#options;
    const chunks = await disk.read(offset, length, { signal });
    if (this.#stopped) return;
    const changed = this.#changedOf(offset, chunks);
    const ranges = changed.flatMap((part) => withoutZeros(part.offset, part.chunks, regionBytes));
    for (const range of ranges) if (range.content !== 'zero') this.#sentBytes += range.length;
    const items = splitIntoItems(ranges, [regionBytes], stream.itemBytesMax);
    stream.pushAll('bulk', items, () => disk.recycle?.(chunks));
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

  /** The range's number is taken; guest writes that waited for it follow. */
  #numbered(range: ByteRange): void {
    const { regions, mirror } = this.#options;
    for (const write of regions.copyNumbered(range)) mirror(write);
    this.#changed.notify();
  }
}
