import type { SendStream } from '../channel/send-stream.ts';
import { MigrationError } from '../errors.ts';
import { deviceStateBytesMax, itemContentBytesMax } from '../wire/limits.ts';

/** Sends the device state: bytes in order, each piece with its offset. */
export class StateSender {
  readonly stream: SendStream;
  #bytes = 0;

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
      if (this.#bytes + chunk.byteLength > deviceStateBytesMax) {
        throw new MigrationError(
          'device-state',
          `the device state is larger than ${deviceStateBytesMax} bytes`,
        );
      }
      for (let at = 0; at < chunk.byteLength; at += itemContentBytesMax) {
        const piece = chunk.subarray(at, at + itemContentBytesMax);
        await this.stream.room();
        const range = { space: 0, offset: this.#bytes, length: piece.byteLength, content: [piece] };
        this.stream.push('memory', [range], () => {});
        this.#bytes += piece.byteLength;
      }
    }
  }
}
