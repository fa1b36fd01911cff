import { MigrationError } from '../../errors.ts';
import type {
  DirtyTracker,
  Extent,
  GuestWrite,
  SourceDisk,
  Tap,
  TapCapability,
  TapHandler,
  WriteTimes,
} from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions, Chunks } from '../../interfaces/content.ts';
import {
  type CallFault,
  type DropFault,
  type FaultOptions,
  FaultSchedule,
  type FaultTrigger,
  type FlipFault,
} from './fault-plan.ts';
import { flipped } from './faulty-block-device.ts';

const calls = [
  'read',
  'extents',
  'flush',
  'tap',
  'finish',
  'track',
  'take',
  'remove',
  'dirty-range',
  'writeTimes',
  'guest-write',
] as const;

/**
 * What can go wrong with a guest write that a tap shows; `nth` counts all of a disk's.
 *
 * - `drop`: the handler never hears of it, and nobody notices: a tap that loses a write and lives on.
 * - `invalidate`: the handler is told that the range is not known, as after a torn write.
 * - `break`: the tap says that it lost track (`tap-gap`), shows nothing more, and does not finish.
 */
export type GuestWriteFault = DropFault<'guest-write'> | TapFault;

/** See {@link GuestWriteFault}. */
export type TapFault = FaultTrigger<'guest-write'> & {
  /** What the tap says. */
  readonly do: 'invalidate' | 'break';
};

/**
 * What can go wrong with a range that a `take()` of the dirty log brings; `nth` counts all of a disk's. One that is `drop`ped is not among what
 * was taken, its marks are cleared all the same, and nobody notices. A log that knows that it lost track fails the `take` with `tap-gap`.
 */
export type DirtyRangeFault = DropFault<'dirty-range'>;

/** What can go wrong with a disk of a running VM. */
export type SourceDiskFault =
  | CallFault<'read' | 'extents' | 'flush' | 'tap' | 'finish' | 'track' | 'take' | 'remove' | 'writeTimes'>
  | FlipFault<'read'>
  | GuestWriteFault
  | DirtyRangeFault;

/** A disk of a running VM with faults. Throws `invalid-argument` for a plan that makes no sense. */
export function faultySourceDisk(
  inner: SourceDisk,
  plan: readonly SourceDiskFault[],
  options?: FaultOptions,
): SourceDisk {
  return new FaultySourceDisk(inner, plan, options);
}

class FaultySourceDisk implements SourceDisk {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly tapCapability: TapCapability;
  readonly #inner: SourceDisk;
  readonly #faults: FaultSchedule<SourceDiskFault>;

  constructor(inner: SourceDisk, plan: readonly SourceDiskFault[], options: FaultOptions | undefined) {
    ({
      id: this.id,
      sizeBytes: this.sizeBytes,
      blockBytes: this.blockBytes,
      readOnly: this.readOnly,
    } = inner);
    this.tapCapability = inner.tapCapability;
    this.#inner = inner;
    this.#faults = new FaultSchedule(plan, calls, options);
  }

  read(offset: number, length: number, options?: CallOptions): Promise<Chunks> {
    const met = this.#faults.meets('read');
    const reading = () => this.#inner.read(offset, length, options);
    if (met.length === 0) return reading();
    return this.#faults.around(met, options?.signal, async () => flipped(met, await reading()));
  }

  recycle(content: Chunks): void {
    this.#inner.recycle?.(content);
  }

  extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]> {
    const asking = () => this.#inner.extents(offset, length, options);
    return this.#faults.call('extents', options?.signal, asking);
  }

  flush(options?: CallOptions): Promise<void> {
    return this.#faults.call('flush', options?.signal, () => this.#inner.flush(options));
  }

  track(options?: CallOptions): Promise<DirtyTracker> {
    return this.#faults.call('track', options?.signal, async () => {
      const tracker = await this.#inner.track(options);
      return {
        take: (call) => this.#faults.call('take', call?.signal, () => this.#take(tracker, call)),
        remove: () => this.#faults.call('remove', undefined, () => tracker.remove()),
      };
    });
  }

  writeTimes(options?: CallOptions): Promise<WriteTimes | undefined> {
    return this.#faults.call('writeTimes', options?.signal, () => this.#inner.writeTimes(options));
  }

  async #take(tracker: DirtyTracker, options: CallOptions | undefined): Promise<readonly ByteRange[]> {
    const ranges = await tracker.take(options);
    return ranges.filter(() => this.#faults.meets('dirty-range').length === 0);
  }

  tap(handler: TapHandler, options?: CallOptions): Promise<Tap> {
    return this.#faults.call('tap', options?.signal, async () => {
      const watched = new FaultyTapHandler(handler, this.#faults);
      const tap = await this.#inner.tap(this.#faults.plans('guest-write') ? watched : handler, options);
      return {
        finish: (call) =>
          this.#faults.call('finish', call?.signal, async () => {
            watched.requireWhole();
            await tap.finish(call);
          }),
        remove: () => this.#faults.call('remove', undefined, () => tap.remove()),
      };
    });
  }
}

class FaultyTapHandler implements TapHandler {
  readonly #inner: TapHandler;
  readonly #faults: FaultSchedule<SourceDiskFault>;
  #gap: MigrationError | undefined;

  constructor(inner: TapHandler, faults: FaultSchedule<SourceDiskFault>) {
    this.#inner = inner;
    this.#faults = faults;
  }

  requireWhole(): void {
    if (this.#gap !== undefined) throw this.#gap;
  }

  write(write: GuestWrite): Promise<void> | void {
    const met = this.#gap === undefined ? this.#faults.meets('guest-write').map((fault) => fault.do) : [];
    if (met.includes('break')) this.broken(new MigrationError('tap-gap', 'a planned fault broke the tap'));
    if (this.#gap === undefined && met.length === 0) return this.#inner.write(write);
    if (met.includes('invalidate')) this.invalidate(write);
    write.release();
    return undefined;
  }

  invalidate({ offset, length }: { readonly offset: number; readonly length: number }): void {
    if (this.#gap === undefined) this.#inner.invalidate({ offset, length });
  }

  broken(error: MigrationError): void {
    if (this.#gap !== undefined) return;
    this.#gap = error;
    this.#inner.broken(error);
  }
}
