import type { SendStream } from '../channel/send-stream.ts';
import { MigrationError } from '../errors.ts';
import type { CallOptions } from '../interfaces/content.ts';
import { raceAbort } from '../util/promises.ts';
import { deviceStateBytesMax, itemContentBytesMax } from '../wire/limits.ts';

/** A piece waits for more of the state until it has so much, or what an item should carry where that is less: a hypervisor that writes it bit by bit must not make a million pieces. */
const pieceBytesMin = 64 << 10;

/** Sends the device state: bytes in order, each piece with its offset. */
export class StateSender {
  readonly stream: SendStream;
  #bytes = 0;
  #mostBytes = 0;
  #sentBytes = 0;
  #piece: Uint8Array[] = [];
  #pieceBytes = 0;

  constructor(stream: SendStream) {
    this.stream = stream;
  }

  /** How long the state is, as far as it was sent. */
  get bytes(): number {
    return this.#bytes;
  }

  /** How long the longest was, as far as it was sent, those that came to nothing included. */
  get mostBytes(): number {
    return this.#mostBytes;
  }

  /** Bytes sent so far, those of states that came to nothing included. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** The state that was sent, or a part of it, is of no use: another one follows. Not while {@link StateSender.send} is under way. */
  startOver(): void {
    this.#bytes = 0;
    this.#piece = [];
    this.#pieceBytes = 0;
  }

  /** Resolves when all of the state is queued. Rejects with `device-state` if it is larger than the protocol takes (1 GiB). */
  async send(state: AsyncIterable<Uint8Array>, { signal }: CallOptions = {}): Promise<void> {
    for await (const chunk of state) {
      if (this.#bytes + this.#pieceBytes + chunk.byteLength > deviceStateBytesMax) {
        throw new MigrationError(
          'device-state',
          `the device state is larger than ${deviceStateBytesMax} bytes`,
        );
      }
      for (let at = 0; at < chunk.byteLength; ) {
        // The guest stands still for it: over many slow lanes small pieces are there sooner.
        const bytesMax = Math.max(Math.min(this.stream.itemBytesMax, itemContentBytesMax), this.#pieceBytes);
        const part = chunk.subarray(at, at + bytesMax - this.#pieceBytes);
        this.#piece.push(part);
        this.#pieceBytes += part.byteLength;
        at += part.byteLength;
        if (this.#pieceBytes >= Math.min(pieceBytesMin, bytesMax)) await this.#push(signal);
      }
    }
    if (this.#pieceBytes > 0) await this.#push(signal);
  }

  async #push(signal: AbortSignal | undefined): Promise<void> {
    await raceAbort(this.stream.room(), signal);
    const range = { space: 0, offset: this.#bytes, length: this.#pieceBytes, content: this.#piece };
    this.stream.push('memory', [range], () => {});
    this.#bytes += this.#pieceBytes;
    this.#mostBytes = Math.max(this.#mostBytes, this.#bytes);
    this.#sentBytes += this.#pieceBytes;
    this.#piece = [];
    this.#pieceBytes = 0;
  }
}
