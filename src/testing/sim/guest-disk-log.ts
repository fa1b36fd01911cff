import { MigrationError } from '../../errors.ts';
import type { DirtyTracker } from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions } from '../../interfaces/content.ts';
import { Bitmap } from '../../util/bitmap.ts';
import { throwIfAborted } from '../../util/promises.ts';
import type { SimulatedDisk } from './disk.ts';
import type { VmFault, VmFaultPlan } from './vm-faults.ts';

export interface DirtyLogHost {
  readonly faults: VmFaultPlan;
  /** A fault struck whose effect is not the log's own. */
  onFault(fault: VmFault): void;
}

/** The dirty log of one migration on one disk: a mark for each grain that the guest has written. */
export class DirtyLog implements DirtyTracker {
  readonly #disk: SimulatedDisk;
  readonly #host: DirtyLogHost;
  readonly #onRemove: () => void;
  readonly #marks: Bitmap;
  #gap: MigrationError | undefined;
  #removed = false;

  constructor(disk: SimulatedDisk, host: DirtyLogHost, onRemove: () => void) {
    this.#disk = disk;
    this.#host = host;
    this.#onRemove = onRemove;
    this.#marks = new Bitmap(Math.ceil(disk.sizeBytes / disk.dirtyGrainBytes));
  }

  /** A write to this range reached the medium, or was tried. */
  mark({ offset, length }: ByteRange): void {
    const grain = this.#disk.dirtyGrainBytes;
    this.#marks.setRange(Math.floor(offset / grain), Math.ceil((offset + length) / grain));
  }

  async take(options?: CallOptions): Promise<readonly ByteRange[]> {
    throwIfAborted(options?.signal);
    const { id } = this.#disk;
    const fault = await this.#host.faults.meet('disk-take', options?.signal, { disk: id });
    if (fault?.effect === 'break-tap' || fault?.effect === 'fail')
      this.break(`disk ${id}: the dirty log broke`);
    else if (fault !== undefined) this.#host.onFault(fault);
    if (this.#gap !== undefined) throw this.#gap;
    if (this.#removed) throw new MigrationError('invalid-state', `the dirty log of disk ${id} is removed`);
    return this.#take();
  }

  async remove(): Promise<void> {
    this.drop();
  }

  /** {@link DirtyLog.remove}, at once. */
  drop(): void {
    if (this.#removed) return;
    this.#removed = true;
    this.#onRemove();
  }

  break(reason: string): void {
    this.#gap ??= new MigrationError('tap-gap', reason);
  }

  #take(): readonly ByteRange[] {
    const { sizeBytes, dirtyGrainBytes: grain } = this.#disk;
    const ranges: ByteRange[] = [];
    for (let from = this.#marks.nextSet(0); from < this.#marks.size; from = this.#marks.nextSet(from)) {
      const to = this.#marks.nextClear(from);
      this.#marks.clearRange(from, to);
      const offset = from * grain;
      ranges.push({ offset, length: Math.min(sizeBytes, to * grain) - offset });
      from = to;
    }
    return ranges;
  }
}
