import { readFile, unlink } from 'node:fs/promises';
import { MigrationError } from '../../errors.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { MemoryRegion, PageRange } from '../../interfaces/memory.ts';
import { throwIfAborted } from '../../util/promises.ts';
import type { PrivateDirectory } from './private-directory.ts';
import { ProcessMemory } from './process-memory.ts';
import type { QmpClient } from './qmp.ts';
import { numberOf, objectOf, objectsOf, stringOf } from './qmp-values.ts';
import { addressOf, parseRamWindows, type RamWindow } from './ram-map.ts';

/** What {@link GuestMemoryReader} works with. */
export interface GuestMemoryReaderOptions {
  readonly qmp: QmpClient;
  /** Where QEMU may write what it saves. */
  readonly directory: PrivateDirectory;
  /** The blocks of RAM. */
  readonly regions: readonly MemoryRegion[];
}

/** How memory is read: see {@link GuestMemoryReader}. */
export type MemoryWay = 'process' | 'pmemsave';

/**
 * Reads the memory of a guest that stands still, as its QEMU has it, for the audit.
 *
 * Where we may look into QEMU's process (the same user or root, and nothing forbids it) all of RAM is read there, some microseconds a page. Elsewhere
 * QEMU saves ranges to files (`pmemsave`), half a millisecond each, of what the guest finds as plain RAM from 1 MiB on: what is below, and ROM, is not
 * read then.
 */
export class GuestMemoryReader {
  readonly #options: GuestMemoryReaderOptions;
  #process: Promise<ProcessMemory | undefined> | undefined;
  #windows: Promise<readonly RamWindow[]> | undefined;
  #files = 0;
  #closed = false;

  constructor(options: GuestMemoryReaderOptions) {
    this.#options = options;
  }

  /** The content of each range; undefined for what this way does not reach. Rejects with `memory`. */
  async read(
    ranges: readonly PageRange[],
    options: CallOptions = {},
  ): Promise<readonly (Chunks | undefined)[]> {
    throwIfAborted(options.signal);
    for (const range of ranges) this.#check(range);
    try {
      const process = await this.#openProcess();
      if (process !== undefined) {
        const contents = ranges.map((range) => process.read(this.#nameOf(range), range.offset, range.length));
        if (!contents.includes(undefined)) return contents.map((bytes) => bytes && [bytes]);
      }
      return await this.#save(ranges, options);
    } catch (cause) {
      throwIfAborted(options.signal);
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new MigrationError('memory', `the guest's memory could not be read: ${reason}`, { cause });
    }
  }

  /** By which way memory is read here. */
  async way(): Promise<MemoryWay> {
    return (await this.#openProcess()) === undefined ? 'pmemsave' : 'process';
  }

  /** The guest may have run: where it finds its RAM is asked again. */
  forget(): void {
    this.#windows = undefined;
  }

  /** Lets go of QEMU's process. Idempotent. */
  close(): void {
    this.#closed = true;
    void this.#process?.then(
      (process) => process?.close(),
      () => {},
    );
  }

  #openProcess(): Promise<ProcessMemory | undefined> {
    this.#process ??= this.#lookIntoProcess().catch(() => undefined);
    return this.#process;
  }

  async #lookIntoProcess(): Promise<ProcessMemory | undefined> {
    const { qmp } = this.#options;
    const [cpus, blocks] = await Promise.all([
      qmp.execute('query-cpus-fast'),
      qmp.execute('x-query-ramblock'),
    ]);
    const [cpu] = objectsOf(cpus, 'cpus');
    if (cpu === undefined || this.#closed) return undefined;
    const table = stringOf(objectOf(blocks, 'RAM blocks')['human-readable-text'], 'RAM blocks');
    return ProcessMemory.open(numberOf(cpu['thread-id'], 'thread id'), table);
  }

  async #save(
    ranges: readonly PageRange[],
    { signal }: CallOptions,
  ): Promise<readonly (Chunks | undefined)[]> {
    this.#windows ??= this.#askForWindows();
    const windows = await this.#windows;
    const places = ranges.map((range) => addressOf(windows, this.#nameOf(range), range));
    const saved = ranges.map((range, index) => {
      const address = places[index];
      return address === undefined ? undefined : this.#saveOne(address, range.length, signal);
    });
    const settled = await Promise.allSettled(saved);
    return settled.map((one) => {
      if (one.status === 'rejected') throw one.reason;
      return one.value;
    });
  }

  async #saveOne(address: number, length: number, signal: AbortSignal | undefined): Promise<Chunks> {
    const { qmp, directory } = this.#options;
    const path = directory.socket(`ram-${this.#files++}`);
    try {
      await qmp.execute('pmemsave', { val: address, size: length, filename: path }, { signal });
      const bytes = await readFile(path);
      if (bytes.byteLength !== length) throw new Error(`QEMU saved ${bytes.byteLength} bytes of ${length}`);
      return [bytes];
    } finally {
      await unlink(path).catch(() => undefined);
    }
  }

  async #askForWindows(): Promise<readonly RamWindow[]> {
    const { qmp } = this.#options;
    const text = await qmp.execute('human-monitor-command', { 'command-line': 'info mtree -f' });
    return parseRamWindows(stringOf(text, 'the memory tree'));
  }

  #nameOf({ region }: PageRange): string {
    return this.#options.regions[region]?.name ?? '';
  }

  #check({ region, offset, length }: PageRange): void {
    const sizeBytes = this.#options.regions[region]?.sizeBytes ?? 0;
    if (offset >= 0 && length >= 0 && offset + length <= sizeBytes) return;
    throw new MigrationError('memory', `memory region ${region} has no ${length} bytes at ${offset}`);
  }
}
