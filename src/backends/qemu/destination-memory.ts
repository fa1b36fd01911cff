import { asMigrationError, MigrationError } from '../../errors.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { MemoryRegion, MemorySink, PageRange, PageRun } from '../../interfaces/memory.ts';
import { chunksLength } from '../../util/chunks.ts';
import type { GuestMemoryReader } from './guest-memory-reader.ts';
import type { IncomingMigration } from './incoming-migration.ts';
import { PAGE_BYTES, PartEncoder } from './migration-stream.ts';

/** Guest memory of a QEMU that takes a migration: pages go into its stream as they come. */
export class QemuDestinationMemory implements MemorySink {
  readonly regions: readonly MemoryRegion[];
  readonly #incoming: IncomingMigration;
  readonly #reader: GuestMemoryReader;
  readonly #encoder: PartEncoder;
  /** Whether QEMU may have some of what was written still before it. */
  #written = false;

  constructor(incoming: IncomingMigration, regions: readonly MemoryRegion[], reader: GuestMemoryReader) {
    this.regions = regions;
    this.#incoming = incoming;
    this.#reader = reader;
    this.#encoder = new PartEncoder(regions);
  }

  async write(runs: readonly PageRun[], options: CallOptions = {}): Promise<void> {
    for (const run of runs) this.#check(run);
    this.#written = true;
    try {
      for (const part of this.#encoder.encode(runs)) await this.#incoming.write(part, options);
    } catch (error) {
      const known = asMigrationError(error, 'memory');
      throw known.code === 'aborted' ? known : new MigrationError('memory', known.message, { cause: error });
    }
  }

  async read(
    ranges: readonly PageRange[],
    options: CallOptions = {},
  ): Promise<readonly (Chunks | undefined)[]> {
    try {
      if (this.#written) await this.#incoming.applied(options);
      this.#written = false;
    } catch (error) {
      const known = asMigrationError(error, 'memory');
      throw known.code === 'aborted' ? known : new MigrationError('memory', known.message, { cause: error });
    }
    return await this.#reader.read(ranges, options);
  }

  #check({ region, offset, length, content }: PageRun): void {
    const { name, sizeBytes } = this.regions[region] ?? { name: `number ${region}`, sizeBytes: 0 };
    const whole = offset >= 0 && length > 0 && offset % PAGE_BYTES === 0 && length % PAGE_BYTES === 0;
    const filled = content === 'zero' || chunksLength(content) === length;
    if (whole && filled && offset + length <= sizeBytes) return;
    throw new MigrationError('memory', `pages of ${length} bytes at ${offset} do not fit region ${name}`);
  }
}
