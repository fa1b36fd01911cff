import type { SendStream } from '../channel/send-stream.ts';
import { MigrationError } from '../errors.ts';
import { deviceStateBytesMax, itemContentBytesMax } from '../wire/limits.ts';

/** Less than this waits for more of the state, so that a hypervisor that writes it bit by bit does not make a million pieces. */
const pieceBytesMin = 64 << 10;

/** Sends the device state: bytes in order, each piece with its offset. */
export class StateSender {
  readonly stream: SendStream;
  #bytes = 0;
  #piece: Uint8Array[] = [];
  #pieceBytes = 0;

  constructor(stream: SendStream) {
    this.stream = stream;
  }

  /** Bytes sent so far. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Resolves when all of the state is queued. Rejects with `device-state` if it is larger than the protocol takes (1 GiB). */
  async send(state: AsyncIterable<Uint8Array>): Promise<void> {
    for await (const chunk of state) {
      if (this.#bytes + this.#pieceBytes + chunk.byteLength > deviceStateBytesMax) {
        throw new MigrationError(
          'device-state',
          `the device state is larger than ${deviceStateBytesMax} bytes`,
        );
      }
      for (let at = 0; at < chunk.byteLength; ) {
        const part = chunk.subarray(at, at + itemContentBytesMax - this.#pieceBytes);
        this.#piece.push(part);
        this.#pieceBytes += part.byteLength;
        at += part.byteLength;
        if (this.#pieceBytes >= pieceBytesMin) await this.#push();
      }
    }
    if (this.#pieceBytes > 0) await this.#push();
  }

  async #push(): Promise<void> {
    await this.stream.room();
    const range = { space: 0, offset: this.#bytes, length: this.#pieceBytes, content: this.#piece };
    this.stream.push('memory', [range], () => {});
    this.#bytes += this.#pieceBytes;
    this.#piece = [];
    this.#pieceBytes = 0;
  }
}
