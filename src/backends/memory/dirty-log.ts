import { MigrationError } from '../../errors.ts';
import type { DirtyTracker } from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions } from '../../interfaces/content.ts';
import { Bitmap } from '../../util/bitmap.ts';
import { throwIfAborted } from '../../util/promises.ts';

/** What one mark stands for: as coarse as the logs of hypervisors are, so that whoever reads them expects ranges wider than a write. */
const GRAIN_BYTES = 64 * 1024;

/** Which parts of a disk were written: a mark for each 64 KiB. */
export class DirtyLog implements DirtyTracker {
  readonly #diskId: string;
  readonly #sizeBytes: number;
  readonly #onRemove: () => void;
  readonly #marks: Bitmap;
  #gap: MigrationError | undefined;
  #removed = false;

  /** Nothing is marked. */
  constructor(disk: { readonly id: string; readonly sizeBytes: number }, onRemove: () => void) {
    this.#diskId = disk.id;
    this.#sizeBytes = disk.sizeBytes;
    this.#onRemove = onRemove;
    this.#marks = new Bitmap(Math.ceil(disk.sizeBytes / GRAIN_BYTES));
  }

  mark({ offset, length }: ByteRange): void {
    if (length === 0) return;
    this.#marks.setRange(Math.floor(offset / GRAIN_BYTES), Math.ceil((offset + length) / GRAIN_BYTES));
  }

  async take(options?: CallOptions): Promise<readonly ByteRange[]> {
    throwIfAborted(options?.signal);
    if (this.#gap !== undefined) throw this.#gap;
    if (this.#removed) {
      throw new MigrationError('invalid-state', `the dirty log of disk ${this.#diskId} was removed`);
    }
    const ranges: ByteRange[] = [];
    const marks = this.#marks;
    for (let from = marks.nextSet(0); from < marks.size; from = marks.nextSet(from)) {
      const to = marks.nextClear(from);
      const offset = from * GRAIN_BYTES;
      ranges.push({ offset, length: Math.min(to * GRAIN_BYTES, this.#sizeBytes) - offset });
      marks.clearRange(from, to);
    }
    return ranges;
  }

  async remove(): Promise<void> {
    this.#removed = true;
    this.#onRemove();
  }

  /** Some write may be missing: from now on nothing is known. */
  break(reason: string): void {
    this.#gap ??= new MigrationError('tap-gap', reason);
  }
}
