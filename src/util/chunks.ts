/** Bytes in order, in one or several chunks. */
export type Chunks = readonly Uint8Array[];

/** The bytes in all chunks together. */
export function chunksLength(chunks: Chunks): number {
  let total = 0;
  for (const chunk of chunks) total += chunk.byteLength;
  return total;
}

/** A part of the chunks' bytes, without copying. */
export function sliceChunks(chunks: Chunks, offset: number, length: number): Chunks {
  const parts: Uint8Array[] = [];
  let skip = offset;
  let rest = length;
  for (const chunk of chunks) {
    if (rest === 0) break;
    if (skip >= chunk.byteLength) {
      skip -= chunk.byteLength;
      continue;
    }
    const part = chunk.subarray(skip, Math.min(chunk.byteLength, skip + rest));
    parts.push(part);
    rest -= part.byteLength;
    skip = 0;
  }
  return parts;
}

/** All chunks as one array: the chunk itself if there is only one, else a copy. */
export function joinChunks(chunks: Chunks): Uint8Array {
  const [first] = chunks;
  if (first !== undefined && chunks.length === 1) return first;
  const joined = new Uint8Array(chunksLength(chunks));
  let at = 0;
  for (const chunk of chunks) {
    joined.set(chunk, at);
    at += chunk.byteLength;
  }
  return joined;
}

const zeros = new Uint8Array(64 * 1024);

/** Whether every byte is zero. Looks at a few bytes first, as most content says no at once. */
export function isZero(bytes: Uint8Array): boolean {
  const length = bytes.byteLength;
  if (length === 0) return true;
  if (bytes[0] !== 0 || bytes[length - 1] !== 0 || bytes[length >>> 1] !== 0) return false;
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, length);
  for (let at = 0; at < length; at += zeros.byteLength) {
    const end = Math.min(length, at + zeros.byteLength);
    if (view.compare(zeros, 0, end - at, at, end) !== 0) return false;
  }
  return true;
}
