import type { ReadableDisk } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { chunksLength, isZero, sliceChunks } from '../../util/chunks.ts';
import { alignExtents } from '../storage/align-extents.ts';
import { regionBytes } from '../storage/bulk-copy.ts';

/** What a bulk copy will meet. */
export interface DiskLook {
  /** What there is to send, zeros apart, in bytes. */
  readonly contentBytes: number;
  /** How fast it can be read; undefined: too fast to be seen. */
  readonly bytesPerSecond: number | undefined;
  /** What one small read takes, in ms. */
  readonly readMs: number;
}

/** Which stretches hold data is asked for in such steps, for so long at the most; what is left then is taken to be as what was seen. */
const stepBytes = 1 << 30;
const extentsMsMax = 1000;
/** Samples: one read each, as the bulk copy makes them, so many at a time, for so long at the most. */
const sampleBytes = 512 << 10;
const smallBytes = 4096;
const samples = 32;
const samplesAtOnce = 8;
const samplesMsMax = 500;

/** What comes with {@link lookAtDisk}. */
export interface LookOptions extends CallOptions {
  /** Is given some of the content of each sample that is not zeros. */
  readonly onContent?: ((content: Chunks) => void) | undefined;
}

/** Looks at what of a disk holds data, and reads samples of it. Rejects with `disk-read`, and when the signal is aborted. */
export async function lookAtDisk(
  disk: ReadableDisk,
  environment: Environment,
  { onContent, ...options }: LookOptions,
): Promise<DiskLook> {
  const { data, seenBytes } = await dataOf(disk, environment, options);
  const dataBytes = data.reduce((sum, { length }) => sum + length, 0);
  const [first] = data;
  if (first === undefined) return { contentBytes: 0, bytesPerSecond: undefined, readMs: 0 };
  const beganMs = environment.now();
  await disk.read(first.offset, Math.min(smallBytes, first.length), options);
  const readMs = environment.now() - beganMs;
  const { readBytes, zeroBytes, bytesPerSecond } = await sample(disk, data, environment, {
    ...options,
    onContent,
  });
  const content = readBytes > 0 ? 1 - zeroBytes / readBytes : 1;
  return { contentBytes: (dataBytes * content * disk.sizeBytes) / seenBytes, bytesPerSecond, readMs };
}

interface Stretch {
  readonly offset: number;
  readonly length: number;
}

async function dataOf(
  disk: ReadableDisk,
  environment: Environment,
  options: CallOptions,
): Promise<{ readonly data: readonly Stretch[]; readonly seenBytes: number }> {
  const data: Stretch[] = [];
  const deadlineMs = environment.now() + extentsMsMax;
  let offset = 0;
  while (offset < disk.sizeBytes && (offset === 0 || environment.now() < deadlineMs)) {
    const length = Math.min(stepBytes, disk.sizeBytes - offset);
    const extents = await disk.extents(offset, length, options);
    data.push(...[...alignExtents({ offset, length }, extents, regionBytes)].filter(({ zero }) => !zero));
    offset += length;
  }
  return { data, seenBytes: Math.max(1, offset) };
}

interface Samples {
  readonly readBytes: number;
  readonly zeroBytes: number;
  readonly bytesPerSecond: number | undefined;
}

/** Spread over the data, evenly. */
async function sample(
  disk: ReadableDisk,
  data: readonly Stretch[],
  environment: Environment,
  { onContent, ...options }: LookOptions,
): Promise<Samples> {
  const places = placesIn(data);
  const startMs = environment.now();
  let [readBytes, zeroBytes, next] = [0, 0, 0];
  const reader = async () => {
    while (environment.now() - startMs < samplesMsMax) {
      const place = places[next++];
      if (place === undefined) return;
      const chunks = await disk.read(place.offset, place.length, options);
      readBytes += chunksLength(chunks);
      let content: Chunks | undefined;
      for (let at = 0; at < place.length; at += regionBytes) {
        const region = sliceChunks(chunks, at, Math.min(regionBytes, place.length - at));
        if (region.every(isZero)) zeroBytes += chunksLength(region);
        else content ??= region;
      }
      if (content !== undefined) onContent?.(content);
    }
  };
  await Promise.all(Array.from({ length: samplesAtOnce }, reader));
  const elapsedMs = environment.now() - startMs;
  return { readBytes, zeroBytes, bytesPerSecond: elapsedMs > 0 ? (1000 * readBytes) / elapsedMs : undefined };
}

function placesIn(data: readonly Stretch[]): readonly Stretch[] {
  const dataBytes = data.reduce((sum, { length }) => sum + length, 0);
  const everyBytes = Math.max(sampleBytes, dataBytes / samples);
  const places: Stretch[] = [];
  /** How much data there is before this stretch, and where among it the next sample is. */
  let before = 0;
  let due = 0;
  for (const { offset, length } of data) {
    for (; due < before + length; due += everyBytes) {
      const within = Math.floor((due - before) / regionBytes) * regionBytes;
      places.push({ offset: offset + within, length: Math.min(sampleBytes, length - within) });
    }
    before += length;
  }
  return places;
}
