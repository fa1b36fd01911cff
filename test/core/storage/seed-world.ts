import { SendStream } from '../../../src/channel/send-stream.ts';
import { RecentWrites } from '../../../src/core/audit/recent-writes.ts';
import { BlockDigests } from '../../../src/core/storage/block-digests.ts';
import { DiskSender } from '../../../src/core/storage/disk-sender.ts';
import { GuestWatch } from '../../../src/core/storage/guest-watch.ts';
import { MirrorBuffer } from '../../../src/core/storage/mirror-buffer.ts';
import { MigrationError } from '../../../src/errors.ts';
import type { SourceDisk, TapHandler } from '../../../src/interfaces/block-device.ts';
import type { ByteRange, Content } from '../../../src/interfaces/content.ts';
import { contentDigest, digestBytes } from '../../../src/util/digest.ts';
import { nodeEnvironment } from '../../../src/util/node-environment.ts';
import { createPrng, type Prng } from '../../../src/util/prng.ts';
import { type BlockNews, blocksOf, digestedBytes, encodeNews } from '../../../src/wire/digest-list.ts';
import { decodeItem, type ItemRange } from '../../../src/wire/item.ts';

/** The grain of guest writes: half a block, so that a block can be torn. */
const grainBytes = digestedBytes / 2;

/** How one run ended. */
export interface SeedEnding {
  /** What differs at the end, if anything. */
  readonly problem: string | undefined;
  readonly unchangedBytes: number;
}

interface Delivery {
  readonly number: number;
  readonly ranges: readonly ItemRange[];
  readonly release: () => void;
}

interface Read {
  readonly range: ByteRange;
  /** All values that each grain has had on the medium since the read began. */
  readonly seen: Set<number>[];
  readonly resolve: (chunks: readonly Uint8Array[]) => void;
}

/**
 * A disk's sender, its guest, and a destination that holds something already, of few values, so that the
 * guest often writes what was there before. Everything that may happen happens in an order drawn from a seed:
 * guest writes, failed ones, reads that end (with what the medium has shown meanwhile), the destination's
 * reads, what it says of them, and items that arrive there in any order. A full mirror buffer is a matter of
 * time.
 */
export class SeedWorld {
  readonly #prng: Prng;
  readonly #size: number;
  readonly #source: number[];
  /** What the destination holds, and by which item; and what it held at first. */
  readonly #destination: { value: number; number: number }[];
  readonly #first: readonly number[];
  readonly #reads: Read[] = [];
  readonly #items: Delivery[] = [];
  readonly #news: BlockNews[] = [];
  readonly #unread: number[];
  readonly #digests: BlockDigests;
  readonly #sender: DiskSender;
  #handler: TapHandler | undefined;
  #failure: MigrationError | undefined;
  #writes = 40;

  constructor(seed: number, digests: typeof BlockDigests = BlockDigests) {
    this.#prng = createPrng(seed);
    const grains = 3 + this.#prng.below(10);
    this.#size = grains * grainBytes - this.#prng.below(2) * 512;
    this.#source = Array.from({ length: grains }, () => this.#value());
    this.#destination = this.#source.map((value) => ({
      value: this.#prng.below(3) === 0 ? this.#value() : value,
      number: 0,
    }));
    this.#first = this.#destination.map(({ value }) => value);
    this.#unread = Array.from({ length: blocksOf(this.#size) }, (_, block) => block);
    const failed = (error: MigrationError) => {
      this.#failure = error;
    };
    this.#digests = new digests(this.#size, failed);
    this.#sender = new DiskSender({
      disk: this.#disk(),
      stream: this.#stream(),
      buffer: new MirrorBuffer(nodeEnvironment, 8 * grainBytes),
      digests: this.#digests,
      environment: nodeEnvironment,
      watch: new GuestWatch(nodeEnvironment),
      recent: new RecentWrites(),
      signal: new AbortController().signal,
      failed,
    });
  }

  async run(): Promise<SeedEnding> {
    await this.#sender.start();
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      const actions = this.#actions();
      if (this.#failure !== undefined || actions.length === 0) break;
      actions[this.#prng.below(actions.length)]?.();
    }
    const there = this.#destination.map(({ value }) => value).join('');
    const here = this.#source.join('');
    let problem = there === here ? undefined : `destination ${there}, source ${here}`;
    if (this.#sender.restBytes > 0) problem = `${this.#sender.restBytes} bytes are left`;
    if (this.#digests.held > 0) problem = `${this.#digests.held} digests are held for ever`;
    if (this.#failure !== undefined) problem = this.#failure.message;
    await this.#sender.stop(new MigrationError('invalid-state', 'over'));
    return { problem, unchangedBytes: this.#sender.unchangedBytes };
  }

  #actions(): (() => void)[] {
    const actions: (() => void)[] = [];
    for (const read of this.#reads) actions.push(() => this.#endRead(read));
    for (const item of this.#items) actions.push(() => this.#deliver(item));
    // Not after all is told: whatever came to be wrong would be overwritten again.
    const untold = this.#unread.length + this.#news.length > 0;
    if (this.#writes > 0 && untold)
      actions.push(
        () => this.#guestWrites(),
        () => this.#guestWrites(),
      );
    if (this.#unread.length > 0) actions.push(() => this.#digestNext());
    for (const news of this.#news) actions.push(() => this.#tell(news));
    return actions;
  }

  /** 0 is zeros. */
  #value(): number {
    return this.#prng.below(3);
  }

  /** A new value, or, as often, what the destination held there at first. */
  #guestWrites(): void {
    this.#writes--;
    const first = this.#prng.below(this.#source.length);
    const end = Math.min(this.#source.length, first + 1 + this.#prng.below(3));
    const value = this.#value();
    const undoes = this.#prng.below(2) === 0;
    const values = this.#first.slice(first, end).map((before) => (undoes ? before : value));
    const torn = this.#prng.below(8) === 0;
    const landed = torn ? this.#prng.below(values.length + 1) : values.length;
    for (const [index, one] of values.slice(0, landed).entries()) this.#put(first + index, one);
    const offset = first * grainBytes;
    const range = { offset, length: Math.min(end * grainBytes, this.#size) - offset };
    const chunks = values.map((one, index) =>
      bytesOf(one, Math.min(grainBytes, range.length - index * grainBytes)),
    );
    const content: Content = values.every((one) => one === 0) ? 'zero' : chunks;
    if (torn) this.#handler?.invalidate(range);
    else this.#handler?.write({ ...range, content, release: () => {} });
  }

  #put(grain: number, value: number): void {
    this.#source[grain] = value;
    for (const { range, seen } of this.#reads) seen[grain - range.offset / grainBytes]?.add(value);
  }

  #endRead(read: Read): void {
    this.#reads.splice(this.#reads.indexOf(read), 1);
    read.resolve(
      read.seen.map((values, index) => {
        const options = [...values];
        const value = options[this.#prng.below(options.length)] ?? 0;
        return bytesOf(value, Math.min(grainBytes, read.range.length - index * grainBytes));
      }),
    );
  }

  #deliver(item: Delivery): void {
    this.#items.splice(this.#items.indexOf(item), 1);
    for (const { offset, length, content } of item.ranges) {
      let at = 0;
      const bytes = content === 'zero' ? undefined : Buffer.concat(content);
      for (let grain = offset / grainBytes; at < length; grain++, at += grainBytes) {
        const there = this.#destination[grain];
        if (there === undefined || there.number > item.number) continue;
        this.#destination[grain] = { value: bytes?.[at] ?? 0, number: item.number };
      }
    }
    item.release();
  }

  /** The destination reads some blocks as they are there now; now and then it fails. */
  #digestNext(): void {
    const first = this.#unread[0] ?? 0;
    const blocks = this.#unread.splice(0, 1 + this.#prng.below(2));
    if (this.#prng.below(10) === 0) {
      this.#news.push({ first, count: blocks.length, digests: 'unknown' });
      return;
    }
    const digests = new Uint8Array(blocks.length * digestBytes);
    for (const [index, block] of blocks.entries()) {
      const grains = this.#destination.slice(2 * block, 2 * block + 2);
      const chunks = grains.map(({ value }, grain) => {
        const offset = block * digestedBytes + grain * grainBytes;
        return bytesOf(value, Math.min(grainBytes, this.#size - offset));
      });
      digests.set(contentDigest(chunks), index * digestBytes);
    }
    this.#news.push({ first, count: blocks.length, digests });
  }

  #tell(news: BlockNews): void {
    this.#news.splice(this.#news.indexOf(news), 1);
    const ranges = [encodeNews(news)];
    const item = { number: 1, class: 'bulk', ranges, payloadBytes: 0, payloadCrc: 0 } as const;
    this.#digests.arrived({ ...item, release: () => {} });
  }

  #stream(): SendStream {
    const stream: SendStream = new SendStream(
      2,
      {
        enqueue: ({ class: frameClass, number, payload, payloadBytes, itemBytes, release }) => {
          this.#items.push({ number, ranges: decodeItem(payload, payloadBytes), release });
          queueMicrotask(() => stream.left(frameClass, payloadBytes, itemBytes));
        },
        now: () => 0,
        itemBytesMax: () => 1 << 20,
        isHeld: () => false,
        releaseFailed: (error) => {
          this.#failure = new MigrationError('internal', String(error));
        },
      },
      0,
    );
    return stream;
  }

  #disk(): SourceDisk {
    return {
      id: 'disk0',
      sizeBytes: this.#size,
      blockBytes: 512,
      readOnly: false,
      tapCapability: 'ordered',
      track: () => Promise.reject(new Error('unsupported')),
      writeTimes: async () => undefined,
      flush: async () => {},
      extents: async (offset, length) => {
        const extents = [];
        for (let at = offset; at < offset + length; at += grainBytes) {
          const bytes = Math.min(grainBytes, offset + length - at);
          extents.push({ offset: at, length: bytes, zero: this.#source[at / grainBytes] === 0 });
        }
        return this.#prng.below(2) === 0 ? extents : [{ offset, length, zero: false }];
      },
      read: (offset, length) =>
        new Promise((resolve) => {
          const first = offset / grainBytes;
          const grains = this.#source.slice(first, first + Math.ceil(length / grainBytes));
          const seen = grains.map((value) => new Set([value]));
          this.#reads.push({ range: { offset, length }, seen, resolve });
        }),
      tap: async (handler) => {
        this.#handler = handler;
        return { finish: async () => {}, remove: async () => {} };
      },
    };
  }
}

function bytesOf(value: number, length: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}
