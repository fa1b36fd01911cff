import PQueue from 'p-queue';
import type { Backlog, ReceivedItem, ReceiveStream } from '../channel/receive-stream.ts';
import { asMigrationError, type ErrorCode, MigrationError } from '../errors.ts';
import { sliceChunks } from '../util/chunks.ts';
import { Signalled } from '../util/promises.ts';
import type { ItemRange } from '../wire/item.ts';
import { fits } from '../wire/messages.ts';
import { workOf } from '../wire/work.ts';
import { NewestWins } from './storage/newest-wins.ts';

export interface ApplyQueueOptions {
  /** The size of each space that a range may name. */
  readonly spaceBytes: readonly number[];
  /** How many items may be written at once. */
  readonly writers: number;
  /** Puts content into place. What overlaps is never in flight together. The signal is aborted when nothing counts any more. */
  readonly write: (ranges: readonly ItemRange[], signal: AbortSignal) => Promise<void>;
  /** The code of a failed write that has none of its own. */
  readonly errorCode: ErrorCode;
  /** Called once, with the first failure; nothing is written after it. */
  readonly failed: (error: MigrationError) => void;
}

/**
 * Applies a stream's items at the destination: in any order of arrival, several at once, and still as if one after the other by number.
 * The rule itself is {@link NewestWins}; the credit of the stream bounds what waits here.
 */
export class ApplyQueue {
  readonly #options: ApplyQueueOptions;
  readonly #rule = new NewestWins();
  readonly #queue: PQueue;
  readonly #bases: readonly number[];
  /** Items that are waiting or being written, each resolved once it has finished. */
  readonly #applying = new Map<number, Promise<void>>();
  readonly #progressed = new Signalled();
  readonly #over = new AbortController();
  #stream: ReceiveStream | undefined;
  /** Items that have arrived and are not applied, by number. */
  readonly #inHand = new Set<number>();
  #appliedBytes = 0;

  constructor(options: ApplyQueueOptions) {
    this.#options = options;
    this.#queue = new PQueue({ concurrency: options.writers });
    // One line of addresses for all spaces, so that one rule serves them.
    let base = 0;
    this.#bases = options.spaceBytes.map((bytes) => {
      const start = base;
      base += bytes;
      return start;
    });
  }

  /** Content bytes applied so far, zeros counted in full. */
  get appliedBytes(): number {
    return this.#appliedBytes;
  }

  /** Where the items come from. */
  attach(stream: ReceiveStream): void {
    this.#stream = stream;
    stream.tellBacklog(() => this.#backlog);
  }

  /** What could all be written at once is no backlog. */
  get #backlog(): Backlog {
    const { arrived, begun, left, waiting } = this.#rule.work;
    return {
      arrived: Math.round(arrived),
      begun: Math.round(begun),
      left: waiting > this.#options.writers ? Math.round(left) : 0,
    };
  }

  /** Takes an item that has arrived. */
  readonly arrived = (item: ReceivedItem): void => {
    for (const range of item.ranges) {
      const spaceBytes = this.#options.spaceBytes[range.space];
      if (spaceBytes === undefined || !fits(range, spaceBytes)) {
        this.#fail(new MigrationError('protocol', 'an item lies outside of its disk or memory region'));
        return;
      }
    }
    if (this.#over.signal.aborted) return;
    this.#inHand.add(item.number);
    const applying = this.#apply(item)
      .catch((error) => this.#fail(asMigrationError(error, this.#options.errorCode)))
      .finally(() => this.#applying.delete(item.number));
    this.#applying.set(item.number, applying);
  };

  /** Resolves once every item up to `last` has been applied. Rejects when one could not be. */
  async appliedThrough(last: number): Promise<void> {
    while ((this.#stream?.appliedThrough ?? 0) < last) await this.#progressed.wait();
  }

  /** Resolves once every item that is here now has been applied; those that are still on their way are not waited for. Rejects when one could not be. */
  async caughtUp(): Promise<void> {
    await this.#stream?.decompressed();
    const here = [...this.#inHand];
    while (here.some((number) => this.#inHand.has(number))) await this.#progressed.wait();
  }

  /** Nothing more is written; resolves when no write is in flight. */
  async stop(): Promise<void> {
    this.#end();
    await this.#queue.onIdle();
  }

  #end(): void {
    this.#over.abort();
    this.#queue.clear();
  }

  /** Its claims are made here, before the first `await`; what of it is written, when it is its turn. */
  async #apply(item: ReceivedItem): Promise<void> {
    const flat = item.ranges.map((range) => ({
      offset: (this.#bases[range.space] ?? 0) + range.offset,
      length: range.length,
    }));
    const work = workOf(item.payloadBytes, item.ranges.length);
    // All of them have lower numbers, so none waits for ever.
    for (const number of this.#rule.arrived(item.number, flat, work)) await this.#applying.get(number);
    if (this.#over.signal.aborted) return;
    // What newer items have taken as a whole need not wait for a writer.
    if (this.#rule.isOvertaken(item.number)) this.#rule.begin(item.number);
    else await this.#queue.add(() => this.#write(item));
    if (this.#over.signal.aborted) return;
    this.#rule.finished(item.number);
    for (const range of item.ranges) this.#appliedBytes += range.length;
    this.#stream?.applied(item);
    this.#inHand.delete(item.number);
    this.#progressed.notify();
  }

  async #write(item: ReceivedItem): Promise<void> {
    if (this.#over.signal.aborted) return;
    const parts = this.#rule.begin(item.number);
    if (parts.length === 0) return;
    const ranges: ItemRange[] = [];
    for (const part of parts) {
      const range = item.ranges[part.index];
      if (range === undefined) continue;
      if (part.length === range.length) {
        ranges.push(range);
        continue;
      }
      const base = this.#bases[range.space] ?? 0;
      const offset = part.offset - base;
      const content =
        range.content === 'zero' ? 'zero' : sliceChunks(range.content, offset - range.offset, part.length);
      ranges.push({ space: range.space, offset, length: part.length, content });
    }
    await this.#options.write(ranges, this.#over.signal);
  }

  #fail(error: MigrationError): void {
    if (this.#over.signal.aborted) return;
    this.#end();
    this.#progressed.fail(error);
    this.#options.failed(error);
  }
}
