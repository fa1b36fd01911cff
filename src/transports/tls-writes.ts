import type { Chunks } from '../interfaces/content.ts';
import { joinChunks } from '../util/chunks.ts';

/** What TLS encrypts at a time. */
const recordBytesMax = 16 * 1024;
/** Of each write, at most, so that a frame is one or two: a turn of the event loop goes by for each, in which what the next one has leaves the processor's cache. */
const writeBytesMax = 64 * recordBytesMax;

/**
 * The same bytes in chunks as TLS likes them, which encrypts each write by itself, as soon as it is made. What is less than a record is copied together with what follows, so that few
 * records are nearly empty; what is more goes in parts that are not copied.
 */
export function* tlsWrites(chunks: Chunks): Generator<Uint8Array> {
  let small: Uint8Array[] = [];
  let smallBytes = 0;
  for (let rest of chunks) {
    const large = rest.byteLength >= recordBytesMax;
    while (rest.byteLength > 0) {
      // Of what is large only what fills the record.
      const room =
        smallBytes > 0 && large ? recordBytesMax - (smallBytes % recordBytesMax) : writeBytesMax - smallBytes;
      const piece = rest.subarray(0, room);
      rest = rest.subarray(piece.byteLength);
      small.push(piece);
      smallBytes += piece.byteLength;
      if (large ? small.length === 1 && smallBytes < recordBytesMax : smallBytes < writeBytesMax) continue;
      yield joinChunks(small);
      small = [];
      smallBytes = 0;
    }
  }
  if (smallBytes > 0) yield joinChunks(small);
}
