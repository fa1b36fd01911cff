import PQueue from 'p-queue';
import type { SendStream } from '../../channel/send-stream.ts';
import { asMigrationError, MigrationError } from '../../errors.ts';
import type { BlockDevice, Extent } from '../../interfaces/block-device.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { Bitmap } from '../../util/bitmap.ts';
import { isZero, sliceChunks } from '../../util/chunks.ts';
import { contentDigest, digestBytes } from '../../util/digest.ts';
import { onAbort } from '../../util/on-abort.ts';
import { deferred, raceAbort, withTimeout } from '../../util/promises.ts';
import { type BlockNews, blocksOf, digestedBytes, encodeNews } from '../../wire/digest-list.ts';
import { alignExtents } from './align-extents.ts';

/** One read, and what is digested without a pause: about a millisecond. */
const readBytes = 512 << 10;
/** Reads in flight on the disk, beside the writes. */
const readsMax = 4;
/** How much is looked at for holes at once; much more where there was nothing but holes. */
const stepBytesMin = 8 << 20;
const stepBytesMax = 1 << 30;
/** What may wait here beyond what the source's credit takes: about 100 MiB of disk. */
const queueBytesMax = 32 << 10;
/**
 * A disk whose reads take longer is not compared: the source waits for what is said of each block, and should
 * not wait long.
 */
const readMsMax = 10_000;
/** So many failed reads in a row, and no more are tried. */
const failuresMax = 8;

export interface DigestSenderOptions {
  readonly disk: BlockDevice;
  readonly stream: SendStream;
  readonly environment: Environment;
  /** The migration's. */
  readonly signal: AbortSignal;
  /** Called should no more be said for a reason that is not the disk's: the source would wait for it. */
  readonly failed: (error: MigrationError) => void;
}

/**
 * Reads a disk of the destination from its start, ahead of the source's bulk copy, and tells the source what
 * is there: a digest of each block. How far ahead, the source's credit says. Where the disk cannot be read it
 * says that too, and that is sent; it never fails the migration.
 */
export class DigestSender {
  readonly #options: DigestSenderOptions;
  readonly #reads = new PQueue({ concurrency: readsMax });
  readonly #scope = new AbortController();
  /** Blocks that hold what the source holds, or held it when it was looked at: written, or compared there. */
  readonly #settled: Bitmap;
  /**
   * What was said of which blocks, in the order of the numbers, as long as the source has not looked at them.
   */
  readonly #said: { readonly number: number; readonly first: number; readonly count: number }[] = [];
  #running: Promise<void> = Promise.resolve();
  /** When the read that began last has been spoken of. */
  #spoken: Promise<void> = Promise.resolve();
  #failures = 0;
  /** Nothing more is read. */
  #gaveUp = false;

  constructor(options: DigestSenderOptions) {
    this.#options = options;
    this.#settled = new Bitmap(blocksOf(options.disk.sizeBytes));
    onAbort(options.signal, () => this.#scope.abort(options.signal.reason));
  }

  /** Begins. Called once. */
  start(): void {
    this.#running = this.#run().catch((error) => {
      if (!this.#scope.signal.aborted) this.#options.failed(asMigrationError(error, 'disk-read'));
    });
  }

  /** Nothing more is said; resolves when no read is waited for. */
  async stop(): Promise<void> {
    this.#scope.abort(new MigrationError('invalid-state', 'the digests are of no use any more'));
    this.#reads.clear();
    await this.#running;
    await this.#reads.onIdle();
  }

  /** Content was written. */
  wrote({ offset, length }: ByteRange): void {
    this.#settled.setRange(Math.floor(offset / digestedBytes), blocksOf(offset + length));
  }

  /** How much of the disk is as the source's was, or is on its way, for people. */
  get doneBytes(): number {
    const { stream, disk } = this.#options;
    while ((this.#said[0]?.number ?? Number.POSITIVE_INFINITY) <= stream.applied) {
      const said = this.#said.shift();
      if (said !== undefined) this.#settled.setRange(said.first, said.first + said.count);
    }
    return Math.min(disk.sizeBytes, this.#settled.count * digestedBytes);
  }

  async #run(): Promise<void> {
    const { sizeBytes } = this.#options.disk;
    let stepBytes = stepBytesMin;
    for (let at = 0; at < sizeBytes; ) {
      const range = { offset: at, length: Math.min(stepBytes, sizeBytes - at) };
      if (this.#gaveUp)
        return this.#say({ ...blocksIn({ offset: at, length: sizeBytes - at }), digests: 'unknown' });
      const zeroBytes = await this.#step(range);
      stepBytes = zeroBytes === range.length ? Math.min(2 * stepBytes, stepBytesMax) : stepBytesMin;
      at += range.length;
    }
  }

  /** Resolves to how much of the range is zeros, when the rest is queued for reading. */
  async #step(range: ByteRange): Promise<number> {
    const { stream } = this.#options;
    const { signal } = this.#scope;
    let zeroBytes = 0;
    for (const extent of alignExtents(range, await this.#extents(range), digestedBytes)) {
      if (extent.zero) {
        zeroBytes += extent.length;
        await raceAbort(stream.room(queueBytesMax), signal);
        this.#say({ ...blocksIn(extent), digests: 'zero' });
        continue;
      }
      for (let at = 0; at < extent.length; at += readBytes) {
        await raceAbort(stream.room(queueBytesMax), signal);
        await raceAbort(this.#reads.onSizeLessThan(1), signal);
        const piece = { offset: extent.offset + at, length: Math.min(readBytes, extent.length - at) };
        this.#reads.add(() => this.#read(piece)).catch(() => {});
      }
    }
    return zeroBytes;
  }

  /** Where it cannot tell, all of it may be data. */
  async #extents(range: ByteRange): Promise<readonly Extent[]> {
    const { disk } = this.#options;
    const { signal } = this.#scope;
    try {
      return await this.#inTime(disk.extents(range.offset, range.length, { signal }));
    } catch (error) {
      this.#gaveUp ||= error instanceof MigrationError && error.code === 'timeout';
      return [{ ...range, zero: false }];
    }
  }

  /**
   * What was read is said in the order of the disk. The source takes it in that order, and gives no credit for what lies behind a gap: said
   * before it, enough of that would keep the gap itself from being told.
   */
  async #read(range: ByteRange): Promise<void> {
    const before = this.#spoken;
    const spoken = deferred<void>();
    this.#spoken = spoken.promise;
    try {
      const digests = await this.#digestsOf(range);
      await before;
      this.#say({ ...blocksIn(range), digests });
    } finally {
      spoken.resolve();
    }
  }

  async #digestsOf(range: ByteRange): Promise<BlockNews['digests']> {
    const { disk } = this.#options;
    if (this.#gaveUp) return 'unknown';
    try {
      const reading = disk.read(range.offset, range.length, { signal: this.#scope.signal });
      const chunks = await this.#inTime(reading);
      const digests = new Uint8Array(blocksIn(range).count * digestBytes);
      for (let index = 0, at = 0; at < range.length; index++, at += digestedBytes) {
        const block = sliceChunks(chunks, at, Math.min(digestedBytes, range.length - at));
        digests.set(contentDigest(block), index * digestBytes);
      }
      this.#failures = 0;
      return isZero(digests) ? 'zero' : digests;
    } catch (error) {
      this.#failures++;
      const hopeless = error instanceof MigrationError && ['unsupported', 'timeout'].includes(error.code);
      this.#gaveUp ||= hopeless || this.#failures >= failuresMax;
      return 'unknown';
    }
  }

  #inTime<T>(call: Promise<T>): Promise<T> {
    const late = () => new MigrationError('timeout', 'the disk does not answer');
    return withTimeout(this.#options.environment, readMsMax, raceAbort(call, this.#scope.signal), late);
  }

  /** Each block is spoken of once. */
  #say(news: BlockNews): void {
    if (this.#scope.signal.aborted) return;
    const number = this.#options.stream.push('bulk', [encodeNews(news)], () => {});
    const { first, count, digests } = news;
    // What else is said counts for nothing here: it is sent, and written then.
    if (digests !== 'zero' && digests !== 'unknown') this.#said.push({ number, first, count });
  }
}

function blocksIn({ offset, length }: ByteRange): { readonly first: number; readonly count: number } {
  const first = offset / digestedBytes;
  return { first, count: blocksOf(offset + length) - first };
}
