import type { MemoryRegion, MemorySource, PageRange, PageRun } from '../../interfaces/memory.ts';
import { Bitmap } from '../../util/bitmap.ts';
import { chunksLength } from '../../util/chunks.ts';
import { check, checkEqual } from './check.ts';

/** The content of one batch at most. */
const batchBytesMax = 1024 * 1024;

/** Makes one number of a region's index and an offset in it. */
const regionBytesMax = 2 ** 42;

/** Memory as rounds bring it, and which pages they have brought. */
export class MemoryReplica {
  readonly #regions: readonly MemoryRegion[];
  readonly #bytes: readonly Buffer[];
  readonly #seen: readonly Bitmap[];

  constructor(regions: readonly MemoryRegion[]) {
    this.#regions = regions;
    // What no round brings is wrong, also where the guest's memory is zero.
    this.#bytes = regions.map(({ sizeBytes }) => Buffer.alloc(sizeBytes, 0xee));
    this.#seen = regions.map(({ sizeBytes, pageBytes }) => new Bitmap(sizeBytes / pageBytes));
  }

  /** A region's bytes. */
  bytes(region: number): Uint8Array {
    return this.#bytes[region] ?? new Uint8Array(0);
  }

  /** Puts runs into place. */
  apply(runs: readonly PageRun[]): void {
    for (const { region, offset, length, content } of runs) {
      const bytes = this.#bytes[region];
      const pageBytes = this.#regions[region]?.pageBytes ?? 1;
      if (content === 'zero') bytes?.fill(0, offset, offset + length);
      else {
        let at = offset;
        for (const chunk of content) {
          bytes?.set(chunk, at);
          at += chunk.byteLength;
        }
      }
      this.#seen[region]?.setRange(offset / pageBytes, (offset + length) / pageBytes);
    }
  }

  /** From here on every page counts as not brought. */
  forget(): void {
    for (const [region, { sizeBytes, pageBytes }] of this.#regions.entries()) {
      this.#seen[region]?.clearRange(0, sizeBytes / pageBytes);
    }
  }

  /** The first page that was not brought, in words; undefined if all were. */
  firstMissing(): string | undefined {
    for (const [region, { name, sizeBytes, pageBytes }] of this.#regions.entries()) {
      const pages = sizeBytes / pageBytes;
      const seen = this.#seen[region];
      if (seen !== undefined && seen.count < pages) return `page ${seen.nextClear(0)} of ${name}`;
    }
    return undefined;
  }
}

/**
 * Reads a round to its end, checks each batch, applies it if there is a replica; resolves to the bytes of its
 * pages.
 */
export async function readRound(
  memory: MemorySource,
  replica?: MemoryReplica,
  signal?: AbortSignal,
): Promise<number> {
  let bytes = 0;
  for await (const batch of memory.round({ signal })) {
    checkBatch(memory.regions, batch.runs);
    replica?.apply(batch.runs);
    for (const { length } of batch.runs) bytes += length;
    batch.release();
  }
  return bytes;
}

/** Pages here and there, in no order, of each region its first and its last: what an audit draws. */
export function scattered(regions: readonly MemoryRegion[]): readonly PageRange[] {
  return regions.flatMap(({ sizeBytes, pageBytes }, region) => {
    const pages = sizeBytes / pageBytes;
    const chosen = [0, pages - 1, ...Array.from({ length: 40 }, (_, index) => (index * 7919 + 13) % pages)];
    return [...new Set(chosen)].map((page) => ({ region, offset: page * pageBytes, length: pageBytes }));
  });
}

function checkBatch(regions: readonly MemoryRegion[], runs: readonly PageRun[]): void {
  let content = 0;
  const pages = new Set<number>();
  for (const run of runs) {
    const region = regions[run.region];
    check(region !== undefined, `a run is of region ${run.region}, of which there is none`);
    const { name, sizeBytes, pageBytes } = region;
    const where = `a run of ${run.length} bytes at ${run.offset} of ${name}`;
    check(run.length > 0 && run.length % pageBytes === 0, `${where} is not of whole pages`);
    check(run.offset >= 0 && run.offset % pageBytes === 0, `${where} does not begin with a page`);
    check(run.offset + run.length <= sizeBytes, `${where} does not lie within it`);
    for (let at = run.offset; at < run.offset + run.length; at += pageBytes) {
      const page = run.region * regionBytesMax + at;
      check(!pages.has(page), `${where}: the page at ${at} is in the batch twice`);
      pages.add(page);
    }
    if (run.content === 'zero') continue;
    checkEqual(chunksLength(run.content), run.length, `${where}: the length of its content`);
    content += run.length;
  }
  check(content <= batchBytesMax, `a batch has ${content} bytes of content, more than 1 MiB`);
}
