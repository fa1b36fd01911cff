import type { CallOptions } from '../../interfaces/content.ts';
import type { MemoryRegion, MemorySource, PageBatch } from '../../interfaces/memory.ts';
import {
  type CallFault,
  type DropFault,
  type FaultOptions,
  FaultSchedule,
  type FlipFault,
} from './fault-plan.ts';
import { flipped } from './faulty-block-device.ts';

/**
 * What can go wrong with rounds. `nth` of a `batch` counts those of all rounds. A `batch` that is `drop`ped
 * is lost, and nobody notices; `flip` turns a bit over in its first run that has bytes.
 */
export type MemorySourceFault =
  | CallFault<'round' | 'batch' | 'stop'>
  | DropFault<'batch'>
  | FlipFault<'batch'>;

/** Memory of a running VM with faults. Throws `invalid-argument` for a plan that makes no sense. */
export function faultyMemorySource(
  inner: MemorySource,
  plan: readonly MemorySourceFault[],
  options?: FaultOptions,
): MemorySource {
  return new FaultyMemorySource(inner, plan, options);
}

class FaultyMemorySource implements MemorySource {
  readonly #inner: MemorySource;
  readonly #faults: FaultSchedule<MemorySourceFault>;

  constructor(inner: MemorySource, plan: readonly MemorySourceFault[], options: FaultOptions | undefined) {
    this.#inner = inner;
    this.#faults = new FaultSchedule(plan, ['round', 'batch', 'stop'], options);
  }

  get regions(): readonly MemoryRegion[] {
    return this.#inner.regions;
  }

  get keepsUnsentPages(): boolean {
    return this.#inner.keepsUnsentPages;
  }

  round(options?: CallOptions): AsyncIterable<PageBatch> {
    const planned = this.#faults.plans('round') || this.#faults.plans('batch');
    return planned ? this.#round(options) : this.#inner.round(options);
  }

  dirtyBytes(): number | undefined {
    return this.#inner.dirtyBytes();
  }

  stop(): Promise<void> {
    return this.#faults.call('stop', undefined, () => this.#inner.stop());
  }

  async *#round(options: CallOptions | undefined): AsyncGenerator<PageBatch, void, undefined> {
    const round = this.#faults.meets('round');
    await this.#faults.before(round, options?.signal);
    for await (const batch of this.#inner.round(options)) {
      const met = this.#faults.meets('batch');
      await this.#faults.before(met, options?.signal);
      if (met.some((fault) => fault.do === 'drop')) batch.release();
      else yield met.length === 0 ? batch : damaged(batch, met);
      this.#faults.after(met);
    }
    this.#faults.after(round);
  }
}

function damaged(batch: PageBatch, met: readonly MemorySourceFault[]): PageBatch {
  const index = batch.runs.findIndex(({ content }) => content !== 'zero');
  const runs = batch.runs.map((run, at) => {
    if (at !== index || run.content === 'zero') return run;
    return { ...run, content: flipped(met, run.content) };
  });
  return { runs, release: () => batch.release() };
}
