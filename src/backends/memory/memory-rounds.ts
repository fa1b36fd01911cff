import { MigrationError } from '../../errors.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { MemoryRegion, MemorySource, PageBatch, PageRange } from '../../interfaces/memory.ts';
import { delay, throwIfAborted } from '../../util/promises.ts';
import type { GuestMemory, Part, RoundCursor } from './guest-memory.ts';
import type { PageBitmap } from './page-bitmap.ts';

/** After this much memory a round lets timers and I/O have their turn: some milliseconds' work. */
const BREATH_BYTES = 32 * 1024 * 1024;

/**
 * A simulated guest's memory as rounds. One round is one pass over the dirty marks: a page that is dirtied
 * ahead of the pass is in this round, behind it in the next. Pages that were in the round before too come last:
 * the guest is likely to write them again, and what it writes until then is sent with them.
 */
export class MemoryRounds implements MemorySource {
  readonly keepsUnsentPages = true;
  readonly #memory: GuestMemory;
  readonly #environment: Environment;
  /** The round that is being read; another object, or none, once it was ended. */
  #current: object | undefined;
  /** What the round before was of; undefined of the first, which is of all pages. */
  #before: readonly PageBitmap[] | undefined;
  #first = true;

  constructor(memory: GuestMemory, environment: Environment) {
    this.#memory = memory;
    this.#environment = environment;
  }

  get regions(): readonly MemoryRegion[] {
    return this.#memory.regions;
  }

  async *round(options: CallOptions = {}): AsyncGenerator<PageBatch, void, undefined> {
    if (this.#current !== undefined)
      throw new MigrationError('invalid-state', 'a memory round is being read already');
    const round = {};
    this.#current = round;
    const taken = this.#memory.newMarks();
    const again = this.#before;
    let cursor: RoundCursor = { region: 0, page: 0 };
    let part: Part | undefined = again === undefined ? undefined : { of: again, marked: false };
    let complete = false;
    let breath = BREATH_BYTES;
    try {
      for (;;) {
        throwIfAborted(options.signal);
        if (this.#current !== round) throw new MigrationError('aborted', 'the memory source was stopped');
        const batch = this.#memory.take(cursor, taken, part);
        if (batch === undefined && again !== undefined && part?.marked === false) {
          part = { of: again, marked: true };
          cursor = { region: 0, page: 0 };
          continue;
        }
        if (batch === undefined) {
          complete = true;
          this.#before = this.#first ? undefined : taken;
          this.#first = false;
          return;
        }
        yield batch;
        for (const run of batch.runs) breath -= run.length;
        if (breath > 0) continue;
        breath = BREATH_BYTES;
        await delay(this.#environment, 0, options.signal);
      }
    } finally {
      if (!complete) this.#memory.giveBack(taken);
      if (this.#current === round) this.#current = undefined;
    }
  }

  dirtyBytes(): number {
    return this.#memory.dirtyBytes();
  }

  async read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly Chunks[]> {
    throwIfAborted(options?.signal);
    return this.#memory.readRanges(ranges);
  }

  async offer(ranges: readonly PageRange[], options?: CallOptions): Promise<void> {
    throwIfAborted(options?.signal);
    this.#memory.markDirty(ranges);
  }

  async stop(): Promise<void> {
    this.#current = undefined;
    this.#before = undefined;
    this.#first = true;
    this.#memory.markAllDirty();
  }
}
