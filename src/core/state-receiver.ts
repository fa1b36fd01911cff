import type { ReceivedItem, ReceiveStream } from '../channel/receive-stream.ts';
import { MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import { Signalled } from '../util/promises.ts';
import { deviceStateBytesMax, deviceStatePiecesMax, itemContentBytesMax } from '../wire/limits.ts';
import { fits } from '../wire/messages.ts';

/** Collects the device state, whose pieces arrive in any order. It is held in memory until it is loaded. */
export class StateReceiver {
  readonly #pieces = new Map<number, { readonly length: number; readonly content: Chunks }>();
  readonly #failed: (error: MigrationError) => void;
  readonly #changed = new Signalled();
  #stream: ReceiveStream | undefined;
  #bytes = 0;

  constructor(failed: (error: MigrationError) => void) {
    this.#failed = failed;
  }

  /** Where the pieces come from. */
  attach(stream: ReceiveStream): void {
    this.#stream = stream;
  }

  /** Takes a piece that has arrived. */
  readonly arrived = (item: ReceivedItem): void => {
    for (const { offset, length, content } of item.ranges) {
      const bad = content === 'zero' || length > itemContentBytesMax || this.#pieces.has(offset);
      // All together too, for what overlaps is held as often as it came.
      const tooMuch = this.#bytes + length > deviceStateBytesMax || this.#pieces.size >= deviceStatePiecesMax;
      if (bad || tooMuch || !fits({ offset, length }, deviceStateBytesMax)) {
        this.#failed(new MigrationError('protocol', 'a piece of device state makes no sense'));
        return;
      }
      this.#pieces.set(offset, { length, content });
      this.#bytes += length;
    }
    this.#stream?.applied(item);
    this.#changed.notify();
  };

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
