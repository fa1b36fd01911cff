import { MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import { Watermark } from '../util/watermark.ts';
import type { FrameClass, IncomingFrame } from '../wire/frame.ts';
import { creditOf, ItemDigest, type ItemRange, type OpenedItem, openItem } from '../wire/item.ts';
import { numbersAheadMax } from '../wire/limits.ts';
import type { StreamPosition } from '../wire/positions.ts';
import type { CreditShare } from './credit-pool.ts';
import type { Decompressor } from './decompressor.ts';

/** An item that arrived; it stays the receiver's to apply, and then to say so. */
export interface ReceivedItem {
  readonly number: number;
  readonly class: FrameClass;
  readonly ranges: readonly ItemRange[];
  /** Uncompressed, also where it did not travel so. */
  readonly payloadBytes: number;
  /** For the digest of what was applied; also of the payload uncompressed. */
  readonly payloadCrc: number;
  /** Its content is not looked at any more. {@link ReceiveStream.applied} calls it. */
  release(): void;
}

/** What there is to do for the items that were handed over, as {@link StreamPosition} says it. */
export type Backlog = Pick<StreamPosition, 'arrived' | 'begun' | 'left'>;

/** Called for each item, once, in whatever order they arrive. Must not throw; fails the channel through its own means. */
export type ItemHandler = (item: ReceivedItem) => void;

/** The receiving side of a stream: each number once, positions, and credit. */
export class ReceiveStream {
  readonly id: number;
  readonly #handler: ItemHandler;
  readonly #credit: CreditShare;
  readonly #changed: () => void;
  readonly #decompressor: Decompressor | undefined;
  /** What is being decompressed, each resolved when it was handed over. */
  readonly #decompressing = new Set<Promise<void>>();
  readonly #received = new Watermark();
  readonly #applied = new Watermark();
  readonly #digest: ItemDigest;
  readonly #contentBytes: Record<FrameClass, number> = { mirror: 0, memory: 0, bulk: 0 };
  #highest = 0;
  #end = Number.POSITIVE_INFINITY;
  /** What came after the end. */
  readonly #beyond: ReceivedItem[] = [];
  #usedBytes = 0;
  #backlog = (): Backlog => ({ arrived: 0, begun: 0, left: 0 });

  /** `credit` bounds what is not applied; `changed` is called when a position moved. Without `decompressor` nothing may come compressed. */
  constructor(
    id: number,
    digestKey: number,
    credit: CreditShare,
    handler: ItemHandler,
    changed: () => void,
    decompressor?: Decompressor,
  ) {
    this.id = id;
    this.#digest = new ItemDigest(digestKey ^ id);
    this.#credit = credit;
    this.#handler = handler;
    this.#changed = changed;
    this.#decompressor = decompressor;
  }

  /** Every number up to this one has been applied. */
  get appliedThrough(): number {
    return this.#applied.through;
  }

  /** The sum of all that was applied. */
  get digest(): string {
    return this.#digest.toString();
  }

  /** Content bytes received, by class; ranges of zeros do not count. */
  get contentBytes(): Readonly<Record<FrameClass, number>> {
    return this.#contentBytes;
  }

  get position(): StreamPosition {
    const { creditBytes } = this.#credit;
    return { stream: this.id, applied: this.#applied.through, creditBytes, ...this.#backlog() };
  }

  /** The channel's: a frame of this stream has arrived. Throws `protocol` if the peer broke a rule. */
  accept(frame: IncomingFrame): void {
    if (frame.class === undefined || frame.number < 1)
      throw new MigrationError('protocol', 'a data frame has no number');
    if (!this.#received.add(frame.number)) {
      frame.release();
      return;
    }
    const { number } = frame;
    const opened = openItem(frame.payload, frame.payloadBytes);
    this.#highest = Math.max(this.#highest, number);
    this.#usedBytes += creditOf(opened.payloadBytes);
    const far = number > this.#applied.through + numbersAheadMax;
    if (far || this.#usedBytes > this.#credit.creditBytes - this.#credit.returnedBytes) {
      throw new MigrationError('protocol', `stream ${this.id} was sent beyond its credit`);
    }
    this.#contentBytes[frame.class] += opened.contentBytes;
    if (opened.compressed) this.#decompress(frame, frame.class, opened);
    else this.#handOver(number, frame.class, opened, opened.content, frame.payloadCrc, frame.release);
  }

  #decompress(frame: IncomingFrame, frameClass: FrameClass, item: OpenedItem): void {
    if (this.#decompressor === undefined) {
      throw new MigrationError('protocol', 'an item is compressed, which was not agreed upon');
    }
    const decompressing = this.#decompressor.decompress(item).then(({ content, payloadCrc }) => {
      this.#decompressing.delete(decompressing);
      frame.release();
      this.#handOver(frame.number, frameClass, item, content, payloadCrc, () => {});
    });
    this.#decompressing.add(decompressing);
  }

  #handOver(
    number: number,
    frameClass: FrameClass,
    { payloadBytes, ranges }: OpenedItem,
    content: Chunks,
    payloadCrc: number,
    release: () => void,
  ): void {
    const item = { number, class: frameClass, ranges: ranges(content), payloadBytes, payloadCrc, release };
    if (number > this.#end) this.#beyond.push(item);
    else this.#handler(item);
  }

  /** Resolves when all that has arrived was handed over; what is still on its way is not waited for. */
  async decompressed(): Promise<void> {
    await Promise.all(this.#decompressing);
  }

  /** The channel's: the peer gives back what it will not use. Throws `protocol` if it has used it. */
  returned(bytes: number): void {
    if (!this.#credit.returned(bytes) || this.#usedBytes > this.#credit.creditBytes - bytes) {
      throw new MigrationError('protocol', `stream ${this.id}: credit was given back that was used`);
    }
  }

  /** Asks from now on what there is to do, whenever a position is told. */
  tellBacklog(backlog: () => Backlog): void {
    this.#backlog = backlog;
  }

  /** The item is where it belongs (or newer content is, or will be): its room is free again, and what its content lies in is written over. */
  applied(item: ReceivedItem): void {
    item.release();
    this.#applied.add(item.number);
    this.#credit.applied(creditOf(item.payloadBytes));
    this.#digest.add(item.number, item.payloadCrc);
    this.#changed();
  }

  /** What comes after `last` from now on is kept, within the stream's credit, and not handed over before {@link ReceiveStream.goOn}. */
  endAt(last: number): void {
    this.#end = last;
  }

  /** Whether something has come that is after the end: the peer goes on, and its word of that is on its way. */
  get goesOn(): boolean {
    return this.#highest > this.#end;
  }

  /** There is no end any more. */
  goOn(): void {
    this.#end = Number.POSITIVE_INFINITY;
    for (const item of this.#beyond.splice(0)) this.#handler(item);
    this.#changed();
  }
}
