import type { ReceivedItem, ReceiveStream } from '../channel/receive-stream.ts';
import { MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import { Signalled } from '../util/promises.ts';
import { deviceStateBytesMax, deviceStatePiecesMax, itemContentBytesMax } from '../wire/limits.ts';
import { fits } from '../wire/messages.ts';

interface Piece {
  /** Of the item that brought it. */
  readonly number: number;
  readonly length: number;
  readonly content: Chunks;
}

/** Collects the device state, whose pieces arrive in any order. It is held in memory until it is loaded. */
export class StateReceiver {
  readonly #pieces = new Map<number, Piece>();
  readonly #failed: (error: MigrationError) => void;
  readonly #changed = new Signalled();
  #stream: ReceiveStream | undefined;
  #bytes = 0;
  /** Pieces up to this number are of a state that came to nothing. */
  #forgotten = 0;

  constructor(failed: (error: MigrationError) => void) {
    this.#failed = failed;
  }

  /** Where the pieces come from. */
  attach(stream: ReceiveStream): void {
    this.#stream = stream;
  }

  /** Takes a piece that has arrived. */
  readonly arrived = (item: ReceivedItem): void => {
    if (item.number > this.#forgotten) this.#take(item);
    this.#stream?.applied(item);
    this.#changed.notify();
  };

  /** Drops every piece up to that number, also those that are still to come: another state follows. */
  forget(last: number): void {
    this.#forgotten = last;
    for (const [offset, { number, length }] of this.#pieces) {
      if (number > last) continue;
      this.#pieces.delete(offset);
      this.#bytes -= length;
    }
  }

  #take({ number, ranges }: ReceivedItem): void {
    for (const { offset, length, content } of ranges) {
      const bad = content === 'zero' || length > itemContentBytesMax || this.#pieces.has(offset);
      // All together too, for what overlaps is held as often as it came.
      const tooMuch = this.#bytes + length > deviceStateBytesMax || this.#pieces.size >= deviceStatePiecesMax;
      if (bad || tooMuch || !fits({ offset, length }, deviceStateBytesMax)) {
        this.#failed(new MigrationError('protocol', 'a piece of device state makes no sense'));
        return;
      }
      // Copied: with the word that it is here, what it came in is written over.
      this.#pieces.set(offset, { number, length, content: content.map((chunk) => new Uint8Array(chunk)) });
      this.#bytes += length;
    }
  }

  /** Resolves when every piece up to number `last` has arrived. Throws `protocol` if they are not `bytes` in all. */
  async complete(last: number, bytes: number): Promise<void> {
    while ((this.#stream?.appliedThrough ?? 0) < last) await this.#changed.wait();
    if (this.#bytes !== bytes) throw new MigrationError('protocol', 'the device state has another length');
  }

  /** The state in order. Throws `protocol` if pieces are missing or overlap. */
  get chunks(): Chunks {
    const chunks: Uint8Array[] = [];
    let at = 0;
    while (at < this.#bytes) {
      const piece = this.#pieces.get(at);
      if (piece === undefined) throw new MigrationError('protocol', 'the device state has a gap');
      chunks.push(...piece.content);
      at += piece.length;
    }
    return chunks;
  }
}
