import { crc32cOfChunks } from '../util/checksum.ts';
import { chunksLength } from '../util/chunks.ts';
import { Signalled } from '../util/promises.ts';
import type { FrameClass } from '../wire/frame.ts';
import { encodeItem, ItemDigest, type ItemRange } from '../wire/item.ts';
import type { StreamPosition } from '../wire/positions.ts';
import { workOf } from '../wire/work.ts';
import type { Backlog } from './receive-stream.ts';
import type { QueuedFrame } from './scheduler.ts';

/** Payload that may wait in one stream's queues before {@link SendStream.room} holds its caller: enough to keep all lanes busy. */
export const queueBytesMax = 4 << 20;

/** What a stream needs of its channel. */
export interface FrameSink {
  enqueue(frame: QueuedFrame): void;
  now(): number;
  /** See {@link SendStream.itemBytesMax}. */
  itemBytesMax(): number;
  /** See {@link SendStream.isHeld}. */
  isHeld(): boolean;
  /** A `release` has thrown: whoever lent the content is broken. */
  releaseFailed(error: unknown): void;
}

/** The sending side of a stream: numbers what belongs together in order, and sums it up. */
export class SendStream {
  readonly id: number;
  readonly #sink: FrameSink;
  readonly #digest: ItemDigest;
  readonly #changed = new Signalled();
  #last = 0;
  #applied = 0;
  #waiting = 0;
  #sentBytes = 0;
  #pushedWork = 0;
  #backlog: Backlog = { arrived: 0, begun: 0, left: 0 };

  constructor(id: number, sink: FrameSink, digestKey: number) {
    this.id = id;
    this.#sink = sink;
    this.#digest = new ItemDigest(digestKey ^ id);
  }

  /** What an item should carry at the most, as the lanes are now and what waits for them: 16 KiB to 1 MiB of content, and one unit of it at the least. */
  get itemBytesMax(): number {
    return this.#sink.itemBytesMax();
  }

  /** The last number that was given out. */
  get last(): number {
    return this.#last;
  }

  /** The sum of all that was pushed. */
  get digest(): string {
    return this.#digest.toString();
  }

  /** Every number up to this one has been applied by the peer. */
  get applied(): number {
    return this.#applied;
  }

  /** Payload that was sent so far, uncompressed; what was sent again counts once. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** What the peer has to do for it, as of its last word. */
  get backlog(): Backlog {
    return this.#backlog;
  }

  /** What it will have to do for what it has not spoken of. */
  get workOnTheWay(): number {
    return Math.max(0, this.#pushedWork - this.#backlog.arrived);
  }

  /**
   * Whether something waits here, and it is the peer that it waits for, which has so much to apply already, and not the link. While that is so,
   * as much is sent as is applied.
   */
  get isHeld(): boolean {
    return this.#sink.isHeld();
  }

  /**
   * Takes an item and gives it the next number, now: its content is fixed from here on, until `release` is called because the
   * peer has it (or because the channel failed). Never waits; ask for {@link SendStream.room} first where that is possible.
   */
  push(frameClass: FrameClass, ranges: readonly ItemRange[], release: () => void): number {
    const payload = encodeItem(ranges);
    const payloadBytes = chunksLength(payload);
    const payloadCrc = crc32cOfChunks(payload);
    const number = ++this.#last;
    this.#digest.add(number, payloadCrc);
    this.#pushedWork += workOf(payloadBytes, ranges.length);
    if (frameClass !== 'mirror') this.#waiting += payloadBytes;
    this.#sink.enqueue({
      type: 'data',
      class: frameClass,
      stream: this.id,
      number,
      payload,
      payloadBytes,
      payloadCrc,
      itemBytes: payloadBytes,
      queuedMs: this.#sink.now(),
      // It is called from within acknowledgements and abort listeners, where a throw would end the process.
      release: () => {
        try {
          release();
        } catch (error) {
          this.#sink.releaseFailed(error);
        }
      },
    });
    return number;
  }

  /** Takes items whose content was lent together: `release` is called once the peer has all of them; at once if there are none. */
  pushAll(frameClass: FrameClass, items: readonly (readonly ItemRange[])[], release: () => void): void {
    let held = items.length;
    if (held === 0) {
      release();
      return;
    }
    const releaseOne = () => {
      if (--held === 0) release();
    };
    for (const item of items) this.push(frameClass, item, releaseOne);
  }

  /**
   * Resolves when less than `bytesMax` of this stream waits to be sent. Rejects when the channel has failed. Mirrored writes do not count: they have a bound
   * of their own, and a guest that fills it must not keep the bulk copy from its share.
   */
  async room(bytesMax = queueBytesMax): Promise<void> {
    while (this.#waiting >= bytesMax) await this.#changed.wait();
  }

  /** Resolves once the peer has applied everything pushed so far. Rejects when the channel has failed. */
  async allApplied(): Promise<void> {
    const last = this.#last;
    while (this.#applied < last) await this.#changed.wait();
  }

  /** The channel's: a frame has left the queue. `itemBytes`: its payload's, uncompressed. */
  left(frameClass: FrameClass, payloadBytes: number, itemBytes: number): void {
    if (frameClass !== 'mirror') this.#waiting -= payloadBytes;
    this.#sentBytes += itemBytes;
    this.#changed.notify();
  }

  /** The channel's: a frame that waits, and is no mirrored write, has become so much shorter. */
  shrunk(bytes: number): void {
    this.#waiting -= bytes;
    this.#changed.notify();
  }

  /** The channel's: the peer's newest position. */
  positioned({ applied, arrived, begun, left }: StreamPosition): void {
    this.#applied = applied;
    this.#backlog = { arrived, begun, left };
    this.#changed.notify();
  }

  /** The channel's: it has failed. */
  fail(error: unknown): void {
    this.#changed.fail(error);
  }
}
