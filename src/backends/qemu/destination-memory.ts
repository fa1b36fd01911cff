import { asMigrationError, MigrationError } from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type { MemoryRegion, MemorySink, PageRun } from '../../interfaces/memory.ts';
import { chunksLength } from '../../util/chunks.ts';
import type { IncomingMigration } from './incoming-migration.ts';
import { PAGE_BYTES, PartEncoder } from './migration-stream.ts';

/** Guest memory of a QEMU that takes a migration: pages go into its stream as they come. */
export class QemuDestinationMemory implements MemorySink {
  readonly regions: readonly MemoryRegion[];
  readonly #incoming: IncomingMigration;
  readonly #encoder: PartEncoder;

  constructor(incoming: IncomingMigration, regions: readonly MemoryRegion[]) {
    this.regions = regions;
    this.#incoming = incoming;
    this.#encoder = new PartEncoder(regions);
  }

  async write(runs: readonly PageRun[], options: CallOptions = {}): Promise<void> {
    for (const run of runs) this.#check(run);
    try {
      for (const part of this.#encoder.encode(runs)) await this.#incoming.write(part, options);
    } catch (error) {
      const known = asMigrationError(error, 'memory');
      throw known.code === 'aborted' ? known : new MigrationError('memory', known.message, { cause: error });
    }
  }

  #check({ region, offset, length, content }: PageRun): void {
    const { name, sizeBytes } = this.regions[region] ?? { name: `number ${region}`, sizeBytes: 0 };
    const whole = offset >= 0 && length > 0 && offset % PAGE_BYTES === 0 && length % PAGE_BYTES === 0;
    const filled = content === 'zero' || chunksLength(content) === length;
    if (whole && filled && offset + length <= sizeBytes) return;
    throw new MigrationError('memory', `pages of ${length} bytes at ${offset} do not fit region ${name}`);
  }
}
