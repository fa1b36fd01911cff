import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import * as zlib from 'node:zlib';
import type { Codec } from './codec.ts';

/**
 * All of them work on the threads that Node has for files and names too, of which there are four by default. So a call finds a core beside the caller's, and
 * files find a thread.
 */
const callsMax = Math.min(3, Math.max(2, availableParallelism() - 1));

/** What compressing costs most of is time, and content comes in small pieces: the fastest level, and a window of the largest piece. */
const zstdLevel = 1;
const zstdWindowLog = 20;

/** Of `node:zlib`, where Node has it: 22.15 and later. */
interface Zstd {
  readonly constants: Readonly<Record<string, number>>;
  readonly zstdCompress: ZlibCall;
  readonly zstdDecompress: ZlibCall;
}

type ZlibCall = (
  data: Uint8Array,
  options: {
    readonly params?: Record<number, number>;
    readonly chunkSize?: number;
    maxOutputLength?: number;
  },
  callback: (error: Error | null, result: Uint8Array) => void,
) => void;

function zstd(): Codec | undefined {
  const { constants, zstdCompress, zstdDecompress } = zlib as unknown as Partial<Zstd>;
  if (constants === undefined || zstdCompress === undefined || zstdDecompress === undefined) return undefined;
  const parameter = (name: string) => Number(constants[name]);
  const level = {
    [parameter('ZSTD_c_compressionLevel')]: zstdLevel,
    [parameter('ZSTD_c_windowLog')]: zstdWindowLog,
  };
  // What the data says of its window is not to cost more than its content may.
  const window = { [parameter('ZSTD_d_windowLogMax')]: zstdWindowLog };
  const call = (work: ZlibCall, data: Uint8Array, options: Parameters<ZlibCall>[1]): Promise<Uint8Array> =>
    new Promise((resolve, reject) => {
      work(data, options, (error, result) => (error === null ? resolve(result) : reject(error)));
    });
  return {
    name: 'zstd',
    callsMax,
    compress: (data) => call(zstdCompress, data, { params: level, chunkSize: chunkBytes(data.byteLength) }),
    async decompress(data, length) {
      const options = { params: window, chunkSize: chunkBytes(length), maxOutputLength: length };
      return ofLength(await call(zstdDecompress, data, options), length);
    },
  };
}

/** In one piece rather than in many: Node's least is 64. */
function chunkBytes(length: number): number {
  return Math.max(64, length);
}

/** `lz4-napi`: prebuilt binaries for about every machine, nothing fetched or built when it is installed. */
interface Lz4 {
  compress(data: Uint8Array): Promise<Uint8Array>;
  uncompress(data: Uint8Array): Promise<Uint8Array>;
}

function lz4(): Codec | undefined {
  let binding: Lz4;
  try {
    binding = createRequire(import.meta.url)('lz4-napi') as Lz4;
  } catch {
    return undefined;
  }
  return {
    name: 'lz4',
    callsMax,
    compress: (data) => binding.compress(data),
    async decompress(data, length) {
      // It allocates what the first four bytes say.
      const announced =
        data.byteLength < 4 ? 0 : new DataView(data.buffer, data.byteOffset).getUint32(0, true);
      if (announced !== length) throw new Error(`${announced} bytes are announced, not ${length}`);
      return ofLength(await binding.uncompress(data), length);
    },
  };
}

function ofLength(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.byteLength !== length) throw new Error(`it comes to ${bytes.byteLength} bytes, not ${length}`);
  return bytes;
}

let found: readonly Codec[] | undefined;

/**
 * The codecs that this process can have, the best first: Zstandard of Node's own, 22.15 and later, which shrinks more; LZ4, faster, of the optional peer
 * dependency `lz4-napi`. Looked for once, at the first call.
 */
export function nodeCodecs(): readonly Codec[] {
  found ??= [zstd(), lz4()].filter((codec) => codec !== undefined);
  return found;
}
