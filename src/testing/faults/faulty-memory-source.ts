import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { MemoryRegion, MemorySource, PageBatch, PageRange } from '../../interfaces/memory.ts';
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
 * is lost, and nobody notices; `flip` turns a bit over in its first run that has bytes, and of a `read` in the
 * first range that could be read. An `offer` that is `drop`ped changes nothing.
 */
export type MemorySourceFault =
  | CallFault<'round' | 'batch' | 'read' | 'offer' | 'stop'>
  | DropFault<'batch' | 'offer'>
  | FlipFault<'batch' | 'read'>;

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
    this.#faults = new FaultSchedule(plan, ['round', 'batch', 'read', 'offer', 'stop'], options);
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

  read(ranges: readonly PageRange[], options?: CallOptions): Promise<readonly (Chunks | undefined)[]> {
    const met = this.#faults.meets('read');
    const reading = () => this.#inner.read(ranges, options);
    if (met.length === 0) return reading();
    return this.#faults.around(met, options?.signal, async () => flippedContents(met, await reading()));
  }

  offer(ranges: readonly PageRange[], options?: CallOptions): Promise<void> {
    const met = this.#faults.meets('offer');
    const offering = () => this.#inner.offer(ranges, options);
    if (met.length === 0) return offering();
    const dropped = met.some((fault) => fault.do === 'drop');
    return this.#faults.around(met, options?.signal, dropped ? async () => {} : offering);
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

/** The contents with every `flip` among the faults done to the first of them that is there. */
export function flippedContents(
  met: readonly { readonly do: string; readonly atByte?: number }[],
  contents: readonly (Chunks | undefined)[],
): readonly (Chunks | undefined)[] {
  const first = contents.findIndex((content) => content !== undefined);
  return contents.map((content, index) =>
    index === first && content !== undefined ? flipped(met, content) : content,
  );
}

function damaged(batch: PageBatch, met: readonly MemorySourceFault[]): PageBatch {
  const index = batch.runs.findIndex(({ content }) => content !== 'zero');
  const runs = batch.runs.map((run, at) => {
    if (at !== index || run.content === 'zero') return run;
    return { ...run, content: flipped(met, run.content) };
  });
  return { runs, release: () => batch.release() };
}
