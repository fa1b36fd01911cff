import type { MigrationError } from '../../errors.ts';
import type { GuestWrite, TapHandler } from '../../interfaces/block-device.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import { contentBytes } from './check.ts';

/** A tap's handler that notes what it is told of a range, and holds the guest while it is told to. */
export class TapRecorder implements TapHandler {
  readonly #range: ByteRange;
  /** Writes to the range, in the order of the calls. */
  readonly writes: GuestWrite[] = [];
  /** Ranges that were invalidated. */
  readonly invalid: ByteRange[] = [];
  readonly broke: MigrationError[] = [];
  /** What the guest's completions in the range wait for. */
  hold: Promise<void> | undefined;
  /** Called with each write to the range, when its handler is. */
  onWrite: (write: GuestWrite) => void = () => {};
  /** Called when the tap says that it lost track. */
  onBroken: () => void = () => {};

  constructor(range: ByteRange) {
    this.#range = range;
  }

  write(write: GuestWrite): Promise<void> | undefined {
    const { offset, length } = this.#range;
    const outside = write.offset + write.length <= offset || write.offset >= offset + length;
    if (outside) {
      write.release();
      return undefined;
    }
    this.writes.push(write);
    this.onWrite(write);
    return this.hold;
  }

  invalidate(range: ByteRange): void {
    this.invalid.push(range);
  }

  broken(error: MigrationError): void {
    this.broke.push(error);
    this.onBroken();
  }

  /** Applies all that was written, in order, to a buffer that holds the range. */
  replay(replica: Uint8Array): void {
    for (const { offset, length, content } of this.writes) {
      replica.set(contentBytes(content, length), offset - this.#range.offset);
    }
  }

  /** Gives back every write that it still holds. */
  release(): void {
    for (const write of this.writes.splice(0)) write.release();
  }
}
