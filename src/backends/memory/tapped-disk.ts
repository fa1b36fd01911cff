import { MigrationError } from '../../errors.ts';
import type {
  DirtyTracker,
  Extent,
  SourceDisk,
  Tap,
  TapCapability,
  TapHandler,
  WriteTimes,
} from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions, Chunks, Content } from '../../interfaces/content.ts';
import { type Deferred, deferred, throwIfAborted } from '../../util/promises.ts';
import { DirtyLog } from './dirty-log.ts';
import type { MemoryDisk } from './memory-disk.ts';

/** A guest write on its way, from when the guest issued it until the handler was called. */
interface PendingWrite extends ByteRange {
  readonly called: Deferred<void>;
}

/**
 * A running guest's disk: its writes pass through here to the medium, and then to the tap if one is set, or into the dirty log if one is
 * kept.
 */
export class TappedDisk implements SourceDisk {
  readonly disk: MemoryDisk;
  readonly #now: () => number;
  readonly #isStunned: () => boolean;
  /** In the order in which the guest issued them. */
  readonly #pending = new Set<PendingWrite>();
  #tap: DiskTap | undefined;
  #log: DirtyLog | undefined;
  #writes = 0;
  #writesMs = 0;
  #writtenBytes = 0;

  /** `now`: the guest's clock, in ms. */
  constructor(disk: MemoryDisk, now: () => number, isStunned: () => boolean) {
    this.disk = disk;
    this.#now = now;
    this.#isStunned = isStunned;
  }

  get id(): string {
    return this.disk.id;
  }

  get sizeBytes(): number {
    return this.disk.sizeBytes;
  }

  get blockBytes(): number {
    return this.disk.blockBytes;
  }

  get readOnly(): boolean {
    return this.disk.readOnly;
  }

  get tapCapability(): TapCapability {
    return this.disk.tapCapability;
  }

  read(offset: number, length: number, options?: CallOptions): Promise<Chunks> {
    return this.disk.read(offset, length, options);
  }

  extents(offset: number, length: number, options?: CallOptions): Promise<readonly Extent[]> {
    return this.disk.extents(offset, length, options);
  }

  flush(options?: CallOptions): Promise<void> {
    return this.disk.flush(options);
  }

  async tap(handler: TapHandler, options?: CallOptions): Promise<Tap> {
    this.#requireCapability('ordered', options);
    if (this.#tap !== undefined)
      throw new MigrationError('invalid-state', `disk ${this.id} has a tap already`);
    const tap = new DiskTap(handler, this.#isStunned, () => {
      if (this.#tap === tap) this.#tap = undefined;
    });
    this.#tap = tap;
    return tap;
  }

  async track(options?: CallOptions): Promise<DirtyTracker> {
    this.#requireCapability('extents', options);
    if (this.#log !== undefined)
      throw new MigrationError('invalid-state', `disk ${this.id} has a dirty log already`);
    const log = new DirtyLog(this.disk, () => {
      if (this.#log === log) this.#log = undefined;
    });
    this.#log = log;
    return log;
  }

  async writeTimes(options?: CallOptions): Promise<WriteTimes | undefined> {
    throwIfAborted(options?.signal);
    return { writes: this.#writes, totalMs: this.#writesMs };
  }

  /** What the guest has written so far, in bytes. */
  get writtenBytes(): number {
    return this.#writtenBytes;
  }

  /** The tap, or the dirty log, loses track, as a filter does whose process died. Without either nothing happens. */
  breakTap(reason: string): void {
    this.#tap?.break(`disk ${this.id}: ${reason}`);
    this.#log?.break(`disk ${this.id}: ${reason}`);
  }

  /** Takes away the tap, or the dirty log. */
  async removeTap(): Promise<void> {
    await this.#tap?.remove();
    await this.#log?.remove();
  }

  /**
   * A write by the guest, whose content does not change any more: waits for its turn among those it overlaps,
   * goes to the medium, then to the tap; resolves when the guest may be told. Rejects with `disk-write` or `disk-full`.
   */
  async guestWrite(offset: number, length: number, content: Content): Promise<void> {
    const begun = this.#now();
    await this.#change({ offset, length }, async () => {
      if (content === 'zero') await this.disk.writeZeroes(offset, length);
      else await this.disk.write(offset, content);
      return content;
    });
    this.#writes += 1;
    this.#writtenBytes += length;
    this.#writesMs += this.#now() - begun;
  }

  /** A discard by the guest, ordered as a write is. Rejects with `disk-write`. */
  async guestDiscard(offset: number, length: number): Promise<void> {
    await this.#change({ offset, length }, async () => {
      await this.disk.discard(offset, length);
      // Only what was freed reads as zeros; of a range that was freed in part nobody need know more than that it changed.
      return this.disk.medium.isHole(offset, length) ? 'zero' : undefined;
    });
  }

  /** Makes a change in its turn, and shows it: what the range holds then, or, if that is not known or it failed, that it has to be read. */
  async #change(range: ByteRange, act: () => Promise<Content | undefined>): Promise<void> {
    const change: PendingWrite = { ...range, called: deferred() };
    const before = [...this.#pending].filter((other) => overlap(other, change));
    this.#pending.add(change);
    let told: Promise<void> | undefined;
    try {
      for (const other of before) await other.called.promise;
      let content: Content | undefined;
      try {
        content = await act();
      } finally {
        this.#log?.mark(range);
        if (content === undefined) this.#tap?.invalidate(range);
        else told = this.#tap?.deliver(range, content);
      }
    } finally {
      this.#pending.delete(change);
      change.called.resolve();
    }
    await told;
  }

  #requireCapability(capability: TapCapability, options: CallOptions | undefined): void {
    throwIfAborted(options?.signal);
    if (this.tapCapability === capability) return;
    throw new MigrationError('unsupported', `the tap of disk ${this.id} is '${this.tapCapability}'`);
  }
}

class DiskTap implements Tap {
  readonly #handler: TapHandler;
  readonly #isStunned: () => boolean;
  readonly #onRemove: () => void;
  /** The guest's completions that wait for the handler. */
  readonly #held = new Set<Deferred<void>>();
  #gap: MigrationError | undefined;
  #removed = false;

  constructor(handler: TapHandler, isStunned: () => boolean, onRemove: () => void) {
    this.#handler = handler;
    this.#isStunned = isStunned;
    this.#onRemove = onRemove;
  }

  async finish(options?: CallOptions): Promise<void> {
    throwIfAborted(options?.signal);
    if (this.#gap !== undefined) throw this.#gap;
    // A stunned guest's I/O is finished, so everything has been handed over: that is what stun() waits for.
    if (this.#removed || !this.#isStunned()) {
      throw new MigrationError(
        'invalid-state',
        'a tap can be finished only while it is set and the guest is stunned',
      );
    }
  }

  async remove(): Promise<void> {
    this.#removed = true;
    this.#onRemove();
    this.#letGo();
  }

  invalidate(range: ByteRange): void {
    if (this.#gap === undefined) this.#handler.invalidate(range);
  }

  /** Calls the handler at once; what comes back resolves when the guest may be told. */
  deliver(range: ByteRange, content: Content): Promise<void> | undefined {
    if (this.#gap !== undefined) return undefined;
    let handled: Promise<void> | void;
    try {
      handled = this.#handler.write({ ...range, content, release: () => {} });
    } catch (error) {
      this.break(`the handler threw: ${String(error)}`);
      return undefined;
    }
    if (handled === undefined) return undefined;
    const held = deferred<void>();
    this.#held.add(held);
    const tell = () => {
      this.#held.delete(held);
      held.resolve();
    };
    handled.then(tell, (error: unknown) => {
      this.break(`the handler rejected: ${String(error)}`);
      tell();
    });
    return held.promise;
  }

  break(reason: string): void {
    if (this.#gap !== undefined) return;
    this.#gap = new MigrationError('tap-gap', reason);
    this.#handler.broken(this.#gap);
    this.#letGo();
  }

  #letGo(): void {
    for (const held of this.#held) held.resolve();
    this.#held.clear();
  }
}

function overlap(a: ByteRange, b: ByteRange): boolean {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}
