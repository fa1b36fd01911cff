import type { Codec, Environment } from '../../interfaces/environment.ts';

/** What repeats after so many bytes is left out: simulated content does, but for its stamps, whatever its units. */
const distance = 4096;
/** Shorter repetitions are not worth the lengths around them. */
const repeatBytesMin = 16;
const lengthBytes = 4;

/**
 * A codec without a package, for simulations: the same at every run, and simple enough to be right. It writes, again and again, how many bytes follow, these, and how
 * many are then as they were 4096 before (zeros, before the beginning); lengths take four bytes, the highest first. A call takes the time of the environment that
 * `bytesPerSecond` (default 500,000,000) says, of the content. Two calls may be under way.
 */
export function repeatCodec(environment: Environment, { bytesPerSecond = 500e6 } = {}): Codec {
  const after = <T>(bytes: number, work: () => T): Promise<T> =>
    new Promise((resolve, reject) => {
      environment.setTimer((1000 * bytes) / bytesPerSecond, () => {
        try {
          resolve(work());
        } catch (error) {
          reject(error);
        }
      });
    });
  return {
    name: 'repeat',
    callsMax: 2,
    compress: (data) => after(data.byteLength, () => compress(data)),
    decompress: (data, length) => after(length, () => decompress(data, length)),
  };
}

function compress(data: Uint8Array): Uint8Array {
  const out = new Writer();
  let at = 0;
  while (at < data.byteLength) {
    const repeat = nextRepeat(data, at);
    out.literal(data.subarray(at, repeat.start));
    out.length(repeat.end - repeat.start);
    at = repeat.end;
  }
  return out.bytes;
}

/** The next repetition at `from` or behind it, which may be empty and at the end. */
function nextRepeat(data: Uint8Array, from: number): { readonly start: number; readonly end: number } {
  let start = from;
  for (let at = from; at < data.byteLength; at++) {
    if (data[at] === (at < distance ? 0 : data[at - distance])) continue;
    if (at - start >= repeatBytesMin) return { start, end: at };
    start = at + 1;
  }
  if (data.byteLength - start >= repeatBytesMin) return { start, end: data.byteLength };
  return { start: data.byteLength, end: data.byteLength };
}

function decompress(data: Uint8Array, length: number): Uint8Array {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const out = new Uint8Array(length);
  let from = 0;
  let at = 0;
  const next = (available: number): number => {
    if (from + lengthBytes > data.byteLength) throw new Error('it ends early');
    const value = view.getUint32(from);
    from += lengthBytes;
    if (value > available) throw new Error('it is longer than was said');
    return value;
  };
  while (from < data.byteLength) {
    const literal = next(Math.min(length - at, data.byteLength - from));
    if (from + literal > data.byteLength) throw new Error('it ends early');
    out.set(data.subarray(from, from + literal), at);
    from += literal;
    at += literal;
    for (const end = at + next(length - at); at < end; at++)
      out[at] = at < distance ? 0 : (out[at - distance] ?? 0);
  }
  if (at !== length) throw new Error(`it comes to ${at} bytes, not ${length}`);
  return out;
}

/** Bytes that grow. */
class Writer {
  #bytes = new Uint8Array(1024);
  #length = 0;

  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  literal(bytes: Uint8Array): void {
    this.length(bytes.byteLength);
    this.#room(bytes.byteLength);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.byteLength;
  }

  length(value: number): void {
    this.#room(lengthBytes);
    new DataView(this.#bytes.buffer).setUint32(this.#length, value);
    this.#length += lengthBytes;
  }

  #room(bytes: number): void {
    if (this.#length + bytes <= this.#bytes.byteLength) return;
    const grown = new Uint8Array(2 * (this.#length + bytes));
    grown.set(this.#bytes);
    this.#bytes = grown;
  }
}
