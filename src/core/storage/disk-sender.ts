/**
 * One disk at the source: the mirror of guest writes, and the bulk copy beside it.
 *
 * ```
 * guest write ─► medium ─► tap ─► Regions ─ copied ────────────► push('mirror')
 *                                         ─ being copied ─ held ─► push('mirror') after the bulk number
 *                                         ─ not copied ──────────► nothing: the bulk copy will read it
 * ```
 *
 * That is a disk that shows each write. One that says only which extents changed is asked for them now and then, the last time with the guest
 * stunned, and they are set back; of one that says nothing all is copied with the guest stunned, and once more after it ran on.
 *
 * The invariant: whenever no region is *not copied* or *being copied*, replaying the stream by number gives the disk as it is. A number is
 * taken when its content is fixed: a guest write's in the tap's handler, or when the bulk copy hands it back ({@link BulkCopy}).
 * Whatever is pushed or sets a region back first ends what is known of the destination's blocks there ({@link BlockDigests}).
 */
import type { SendStream } from '../../channel/send-stream.ts';
import { asMigrationError, type MigrationError } from '../../errors.ts';
import type { DirtyTracker, GuestWrite, SourceDisk, Tap, TapHandler } from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { sliceChunks } from '../../util/chunks.ts';
import { raceAbort } from '../../util/promises.ts';
import { itemContentBytesMax } from '../../wire/limits.ts';
import type { RecentWrites } from '../audit/recent-writes.ts';
import type { BlockDigests } from './block-digests.ts';
import { BulkCopy, regionBytes } from './bulk-copy.ts';
import type { GuestWatch } from './guest-watch.ts';
import type { MirrorBuffer } from './mirror-buffer.ts';
import { Regions } from './regions.ts';

/** What a guest write takes of the mirror's buffer beside its content: zeros have none, and a flood of them is one all the same. */
const writeOverheadBytes = 512;

/**
 * What the guest writes in two different spells of the copy is copied last. A spell is a 64th of it: long beside the moment in which a file
 * is written from end to end, short beside the whole.
 */
const spells = 64;
const spellBytesMin = 8 << 20;

export interface DiskSenderOptions {
  readonly disk: SourceDisk;
  readonly stream: SendStream;
  readonly buffer: MirrorBuffer;
  /** What the destination's disk holds. Undefined: nobody asked, and all of the disk is sent. */
  readonly digests: BlockDigests | undefined;
  readonly environment: Environment;
  /** The VM's: all disks have one. */
  readonly watch: GuestWatch;
  /** Is told what the guest has written last. */
  readonly recent: RecentWrites;
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
  readonly #bulk: BulkCopy;
  #tap: Tap | undefined;
  #tracker: DirtyTracker | undefined;
  /** The last of the takes, one after the other. */
  #taking: Promise<void> = Promise.resolve();
  #stopped = false;
  #mirrorBytes = 0;
  #mirrored = 0;
  #setBack = 0;
  #guestBytes = 0;
  #guestWrites = 0;
  #doneBytes = 0;

  constructor(options: DiskSenderOptions) {
    this.disk = options.disk;
    this.#options = options;
    const { disk, stream, digests, environment, watch, signal } = options;
    const { sizeBytes } = disk;
    const spellBytes = Math.max(spellBytesMin, sizeBytes / spells);
    this.#regions = new Regions({ sizeBytes, regionBytes, spellBytes });
    this.#bulk = new BulkCopy({
      disk,
      stream,
      regions: this.#regions,
      digests,
      environment,
      watch,
      signal,
      onlyStunned: this.isUnseen,
      mirror: (write) => this.#mirror(write),
      failed: (error) => this.#fail(error),
    });
  }

  /** Bytes still to be copied, those being read included; but not of a disk whose time has not come before the guest is stunned. */
  get restBytes(): number {
    return this.isUnseen ? 0 : this.#uncopiedBytes;
  }

  get #uncopiedBytes(): number {
    return this.#regions.notCopiedBytes + this.#regions.beingCopiedBytes;
  }

  /** Nobody says what the guest writes to it: it is copied while the guest stands still. */
  get isUnseen(): boolean {
    return !this.disk.readOnly && this.disk.tapCapability === 'none';
  }

  /** How much was copied, for people: what is copied again after it was set back does not count as undone. */
  get doneBytes(): number {
    this.#doneBytes = Math.max(this.#doneBytes, this.disk.sizeBytes - this.#uncopiedBytes);
    return this.#doneBytes;
  }

  get stream(): SendStream {
    return this.#options.stream;
  }

  get digests(): BlockDigests | undefined {
    return this.#options.digests;
  }

  get bulkBytes(): number {
    return this.#bulk.sentBytes;
  }

  get mirrorBytes(): number {
    return this.#mirrorBytes;
  }

  /** Content that the destination held already, zeros apart, so that it was not sent. */
  get unchangedBytes(): number {
    return this.#bulk.unchangedBytes;
  }

  /** What the guest has written, whatever became of it, in bytes without zeros, and in writes. */
  get guestWritten(): { readonly bytes: number; readonly writes: number } {
    return { bytes: this.#guestBytes, writes: this.#guestWrites };
  }

  /** Guest writes mirrored, and those whose extents were set back. */
  get guestWrites(): { readonly mirrored: number; readonly setBack: number } {
    return { mirrored: this.#mirrored, setBack: this.#setBack };
  }

  /** Sets the tap, or has the dirty log kept, then starts copying. */
  async start(): Promise<void> {
    const { disk } = this;
    const { signal } = this.#options;
    if (!disk.readOnly) {
      if (disk.tapCapability === 'ordered') this.#tap = await disk.tap(this.#handler, { signal });
      if (disk.tapCapability === 'extents') this.#tracker = await disk.track({ signal });
    }
    this.#bulk.start();
  }

  /** Has what the dirty log tells copied again. Rejects with `tap-gap`. */
  takeDirty({ signal }: CallOptions = {}): Promise<void> {
    // One after the other, and each to its end, also when nobody waits for it any more: its marks are cleared, so what it brings counts.
    const taking = this.#taking.then(() => this.#take());
    this.#taking = taking.catch(() => {});
    return raceAbort(taking, signal);
  }

  async #take(): Promise<void> {
    if (this.#tracker === undefined) return;
    let ranges: readonly ByteRange[];
    try {
      ranges = await this.#tracker.take({ signal: this.#options.signal });
    } catch (error) {
      // Nobody knows which marks it has cleared.
      this.#setRangeBack({ offset: 0, length: this.disk.sizeBytes });
      throw asMigrationError(error, 'tap-gap');
    }
    for (const range of ranges) {
      this.#setBack++;
      this.#guestWrites++;
      this.#guestBytes += range.length;
      this.#note(range);
      this.#setRangeBack(range);
    }
  }

  /**
   * Resolves when every region has been copied once. A guest that outruns the mirror's buffer sets regions back, and could do so for
   * ever: what is left of them then is for {@link DiskSender.restBytes} to say, and for the rules of convergence to weigh.
   */
  async copiedOnce(): Promise<void> {
    if (!this.isUnseen) await this.#bulk.copiedOnce();
  }

  /** With the guest stunned: every guest write has been seen and numbered, and every region copied. */
  async finish({ signal }: CallOptions = {}): Promise<void> {
    this.#bulk.guestStands(true);
    await this.#tap?.finish({ signal });
    await this.takeDirty({ signal });
    await raceAbort(this.#bulk.copiedAll(), signal);
  }

  /**
   * The guest is about to run on after all. The tap, or the dirty log, was there all the time, and knows of every write since: what is
   * copied stays so. Where there is neither, nothing does.
   */
  goOn(): void {
    this.#bulk.guestStands(false);
    if (this.isUnseen) this.#setRangeBack({ offset: 0, length: this.disk.sizeBytes });
  }

  /** The destination has something else there: it is copied again, whatever the tap has seen. */
  sendAgain(range: ByteRange): void {
    this.#setRangeBack(range);
  }

  /** Takes the tap away and stops copying; guest writes go on unhindered from the call on. Idempotent. Rejects if the tap could not be removed. */
  async stop(reason: MigrationError): Promise<void> {
    this.#stopped = true;
    const copying = this.#bulk.stop(reason);
    for (const write of this.#regions.abandon()) this.#letGo(write);
    await this.#tap?.remove();
    await this.#tracker?.remove();
    await copying;
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
    this.#guestWrites++;
    if (write.content !== 'zero') this.#guestBytes += write.length;
    this.#note(write);
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

  #note({ offset, length }: ByteRange): void {
    this.#options.recent.add(this.stream.id, 0, offset, length);
  }

  #setRangeBack(range: ByteRange): void {
    this.#options.digests?.over(range);
    this.#regions.setBack(range);
    this.#bulk.moreToCopy();
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
}

function bufferedBytes({ content, length }: GuestWrite): number {
  return writeOverheadBytes + (content === 'zero' ? 0 : length);
}
