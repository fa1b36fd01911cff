/** Buffers that come back: a new one for each read costs more than the read, and the collector runs all the time for them. */
import { markAsUntransferable } from 'node:worker_threads';

/** The smallest a buffer is. */
const bufferBytesMin = 4096;

/** Gives out buffers and takes them back. Those that do not come back are garbage, and collected. */
export class BufferPool {
  readonly #spareBytesMax: number;
  /** By their size, a power of two. */
  readonly #spare = new Map<number, ArrayBuffer[]>();
  #spareBytes = 0;
  /** What was given out: a part of it, or what comes back twice, must free nothing. */
  readonly #lent = new WeakSet<Uint8Array>();

  /** `spareBytesMax`: how much may wait to be used again. */
  constructor(spareBytesMax: number) {
    this.#spareBytesMax = spareBytesMax;
  }

  /** One of that length, with anything in it. */
  take(length: number): Buffer {
    const size = Math.max(bufferBytesMin, 2 ** Math.ceil(Math.log2(length)));
    const spare = this.#spare.get(size)?.pop();
    if (spare !== undefined) this.#spareBytes -= size;
    const bytes = Buffer.from(spare ?? makeBuffer(size), 0, length);
    this.#lent.add(bytes);
    return bytes;
  }

  /** Nobody looks at it any more. With anything that was not given out here nothing is done. */
  giveBack(bytes: Uint8Array): void {
    if (!this.#lent.delete(bytes)) return;
    const buffer = bytes.buffer as ArrayBuffer;
    const size = buffer.byteLength;
    if (this.#spareBytes + size > this.#spareBytesMax) return;
    this.#spareBytes += size;
    const spare = this.#spare.get(size);
    if (spare === undefined) this.#spare.set(size, [buffer]);
    else spare.push(buffer);
  }
}

function makeBuffer(size: number): ArrayBuffer {
  const buffer = Buffer.allocUnsafeSlow(size).buffer as ArrayBuffer;
  // The system writes to where it is, whoever it belongs to by then.
  markAsUntransferable(buffer);
  return buffer;
}
