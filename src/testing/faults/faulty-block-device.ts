import type { BlockDevice, Extent } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import { chunksLength, sliceChunks } from '../../util/chunks.ts';
import {
  type CallFault,
  type DropFault,
  type FaultOptions,
  FaultSchedule,
  type FaultTrigger,
  type FlipFault,
  faultError,
  flipByte,
} from './fault-plan.ts';

const calls = ['read', 'extents', 'flush', 'write', 'writeZeroes', 'discard'] as const;

/** The write puts only its first `bytes` on the medium, and fails with `disk-write`. */
export type TearFault = FaultTrigger<'write'> & {
  /** It is torn. */
  readonly do: 'tear';
  /** What of it reaches the medium: 0 or more. */
  readonly bytes: number;
};

/**
 * What can go wrong with a disk that the engine fills. `flip` turns a bit over of what a read brings or a
 * write writes; `drop` is a disk that says that it wrote or flushed, and did not.
 */
export type BlockDeviceFault =
  | CallFault<(typeof calls)[number]>
  | FlipFault<'read' | 'write'>
  | DropFault<'write' | 'writeZeroes' | 'discard' | 'flush'>
  | TearFault;

/** A disk with faults. Throws `invalid-argument` for a plan that makes no sense. */
export function faultyBlockDevice(
  inner: BlockDevice,
  plan: readonly BlockDeviceFault[],
  options?: FaultOptions,
): BlockDevice {
  return new FaultyBlockDevice(inner, plan, options);
}

class FaultyBlockDevice implements BlockDevice {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly #inner: BlockDevice;
  readonly #faults: FaultSchedule<BlockDeviceFault>;

  constructor(inner: BlockDevice, plan: readonly BlockDeviceFault[], options: FaultOptions | undefined) {
    ({
      id: this.id,
      sizeBytes: this.sizeBytes,
      blockBytes: this.blockBytes,
      readOnly: this.readOnly,
    } = inner);
    this.#inner = inner;
    this.#faults = new FaultSchedule(plan, calls, options);
  }

  read(offset: number, length: number, options?: CallOptions): Promise<Chunks> {
    const met = this.#faults.meets('read');
    const reading = () => this.#inner.read(offset, length, options);
    if (met.length === 0) return reading();
    return this.#faults.around(met, options?.signal, async () => flipped(met, await reading()));
  }

  extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]> {
    const asking = () => this.#inner.extents(offset, length, options);
    return this.#faults.call('extents', options?.signal, asking);
  }

  flush(options?: CallOptions): Promise<void> {
    return this.#change('flush', options, () => this.#inner.flush(options));
  }

  async write(offset: number, content: Chunks, options?: CallOptions): Promise<void> {
    const met = this.#faults.meets('write');
    if (met.length === 0) return this.#inner.write(offset, content, options);
    return this.#faults.around(met, options?.signal, async () => {
      const tear = met.find((fault) => fault.do === 'tear');
      if (met.some((fault) => fault.do === 'drop')) return;
      const written = flipped(met, content);
      const bytes = Math.min(tear?.bytes ?? Number.POSITIVE_INFINITY, chunksLength(content));
      await this.#inner.write(offset, sliceChunks(written, 0, bytes), options);
      if (tear !== undefined)
        throw faultError({ ...tear, code: 'disk-write', message: 'a planned torn write' });
    });
  }

  writeZeroes(offset: number, length: number, options?: CallOptions): Promise<void> {
    return this.#change('writeZeroes', options, () => this.#inner.writeZeroes(offset, length, options));
  }

  discard(offset: number, length: number, options?: CallOptions): Promise<void> {
    return this.#change('discard', options, () => this.#inner.discard(offset, length, options));
  }

  #change(
    call: 'flush' | 'writeZeroes' | 'discard',
    options: CallOptions | undefined,
    act: () => Promise<void>,
  ): Promise<void> {
    const met = this.#faults.meets(call);
    if (met.length === 0) return act();
    return this.#faults.around(met, options?.signal, async () => {
      if (!met.some((fault) => fault.do === 'drop')) await act();
    });
  }
}

/** The chunks with every `flip` among the faults done to them. */
export function flipped(
  met: readonly { readonly do: string; readonly atByte?: number }[],
  chunks: Chunks,
): Chunks {
  return met.reduce((all, fault) => (fault.do === 'flip' ? flipByte(all, fault.atByte) : all), chunks);
}
