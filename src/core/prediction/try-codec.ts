/**
 * What compression will make of a guest, before it is migrated: samples of its memory and disks are compressed, as many calls at once as there may be, and what comes
 * of it is held against the link with the rule that the engine goes by.
 */
import { isUseful, keepsUp } from '../../channel/compression-rule.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { Codec, Environment } from '../../interfaces/environment.ts';
import type { MemorySource, PageRange } from '../../interfaces/memory.ts';
import { isZero, joinChunks } from '../../util/chunks.ts';
import { throwIfAborted } from '../../util/promises.ts';
import type { LinkLook } from './probe-link.ts';

/** What a codec made of samples. */
export interface CodecLook {
  /** How many bytes of content come to one; what does not shrink by enough goes as it is. 1 and up. */
  readonly ratio: number;
  /** What it takes in a second in one call, in bytes of content; Infinity: more than the clock shows. */
  readonly callBytesPerSecond: number;
  /** How many calls may be under way at once. */
  readonly callsMax: number;
}

/** Places of the memory that are looked at, spread evenly, and how much at each: a hypervisor reads them in some milliseconds. */
const memoryPlaces = 64;
const placeBytes = 32 << 10;
const pageBytes = 4096;
/** What is sent before the link's rate is known goes as it is: what all connections take in at first, and what leaves in the round trips that a rate takes to be seen. */
const plainAtFirst = { bytes: 3 << 20, roundTrips: 10 };
/** One call: about what items hold. */
const itemBytes = 256 << 10;

/** Pages of the running guest, zeros apart, which may be torn. Nothing where they cannot be read; rejects when the signal is aborted. */
export async function sampleMemory(memory: MemorySource, { signal }: CallOptions): Promise<Chunks> {
  const found = await memory.read(placesIn(memory), { signal }).catch(() => []);
  throwIfAborted(signal);
  return found.flatMap((chunks = []) => {
    const bytes = joinChunks(chunks);
    const pages = Array.from({ length: bytes.byteLength / pageBytes }, (_, index) =>
      bytes.subarray(index * pageBytes, (index + 1) * pageBytes),
    );
    return pages.filter((page) => !isZero(page));
  });
}

function placesIn({ regions }: MemorySource): readonly PageRange[] {
  const totalBytes = regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  return regions.flatMap(({ sizeBytes }, region) => {
    const count = Math.ceil((memoryPlaces * sizeBytes) / totalBytes);
    return Array.from({ length: count }, (_, index) => {
      const offset = Math.floor((index * sizeBytes) / count / pageBytes) * pageBytes;
      return { region, offset, length: Math.min(placeBytes, sizeBytes - offset) };
    });
  });
}

/** Compresses the content. Undefined if there is none, or the codec fails: then all goes as it is. Rejects when the signal is aborted. */
export async function tryCodec(
  codec: Codec,
  environment: Environment,
  content: Chunks,
  { signal }: CallOptions,
): Promise<CodecLook | undefined> {
  const items = itemsOf(content);
  let [inputBytes, outputBytes, callsMs] = [0, 0, 0];
  const caller = async () => {
    for (let item = items.pop(); item !== undefined; item = items.pop()) {
      throwIfAborted(signal);
      const beganMs = environment.now();
      const { byteLength } = await codec.compress(item);
      callsMs += environment.now() - beganMs;
      const useful = isUseful({ inputBytes: item.byteLength, outputBytes: byteLength });
      inputBytes += item.byteLength;
      outputBytes += useful ? byteLength : item.byteLength;
    }
  };
  const { callsMax } = codec;
  const ended = await Promise.allSettled(Array.from({ length: callsMax }, caller));
  throwIfAborted(signal);
  if (inputBytes === 0 || ended.some(({ status }) => status === 'rejected')) return undefined;
  const callBytesPerSecond = callsMs > 0 ? (1000 * inputBytes) / callsMs : Number.POSITIVE_INFINITY;
  return { ratio: inputBytes / outputBytes, callBytesPerSecond, callsMax };
}

function itemsOf(content: Chunks): Uint8Array[] {
  const all = joinChunks(content);
  return Array.from({ length: Math.ceil(all.byteLength / itemBytes) }, (_, index) =>
    all.subarray(index * itemBytes, (index + 1) * itemBytes),
  );
}

/**
 * How many bytes of content go over the link as one: 1 where it does not pay to compress. No more is compressed than the codec takes, and the rest goes as it is:
 * of *s* saved of each byte that is, at *c* bytes a second beside a link of *l*, that is 1 + *c s* / *l*, or the ratio if it is less.
 */
export function gainOf(look: CodecLook | undefined, linkBytesPerSecond: number): number {
  if (look === undefined) return 1;
  const { ratio, callBytesPerSecond, callsMax } = look;
  const bytesPerSecond = callsMax * callBytesPerSecond;
  // Of a codec whose clock showed no time the saved part would be no number.
  if (ratio === 1 || !keepsUp(bytesPerSecond, linkBytesPerSecond)) return 1;
  return Math.min(ratio, 1 + (bytesPerSecond * (1 - 1 / ratio)) / linkBytesPerSecond);
}

/** What it takes longer because compression begins late, in ms: of so much content that compression is good for `gain` for. */
export function lateMsExpected(gain: number, contentBytes: number, link: LinkLook): number {
  const { bytes, roundTrips } = plainAtFirst;
  const plainBytes = bytes + (roundTrips * link.roundTripMs * link.bytesPerSecond) / 1000;
  return (1000 * Math.min(contentBytes, plainBytes) * (1 - 1 / gain)) / link.bytesPerSecond;
}
