import { MigrationError } from '../../errors.ts';
import type { DirtyTracker, Tap, TapHandler, WriteTimes } from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions, Content } from '../../interfaces/content.ts';
import { type Deferred, deferred, throwIfAborted } from '../../util/promises.ts';
import type { SimulatedDisk } from './disk.ts';
import { DirtyLog } from './guest-disk-log.ts';
import type { VmFault, VmFaultPlan } from './vm-faults.ts';

/** A guest write on its way, from when the guest issued it until the tap's handler was called. */
interface PendingWrite extends ByteRange {
  readonly called: Deferred<void>;
}

export interface GuestDiskHost {
  /** The clock that the guest's writes are measured by. */
  now(): number;
  readonly faults: VmFaultPlan;
  /** Whether the guest is stunned and its I/O finished. */
  stunned(): boolean;
  /** The tap, or the dirty log, was set, or is gone. */
  tapped(set: boolean): void;
  /** A fault struck whose effect is not the tap's own. */
  onFault(fault: VmFault): void;
}

/** A running guest's disk: its writes pass through here to the medium, and through the tap or into the dirty log if one is set. */
export class GuestDisk {
  readonly medium: SimulatedDisk;
  readonly #host: GuestDiskHost;
  /** In the order in which the guest issued them. */
  readonly #pending = new Set<PendingWrite>();
  #tap: DiskTap | undefined;
  #log: DirtyLog | undefined;
  #longestHoldMs = 0;
  #writes = 0;
  #writeMs = 0;
  #writtenBytes = 0;

  constructor(medium: SimulatedDisk, host: GuestDiskHost) {
    this.medium = medium;
    this.#host = host;
  }

  /** Whether a tap, or a dirty log, is set now. */
  get tapped(): boolean {
    return this.#tap !== undefined || this.#log !== undefined;
  }

  /** For how long a tap's handler kept the guest from being told of a write, the longest one, in ms. */
  get longestHoldMs(): number {
    return this.#longestHoldMs;
  }

  /** What the guest has written so far, in bytes. */
  get writtenBytes(): number {
    return this.#writtenBytes;
  }

  /** See `SourceDisk.writeTimes`. */
  get writeTimes(): WriteTimes {
    return { writes: this.#writes, totalMs: this.#writeMs };
  }

  /** See `SourceDisk.tap`. */
  setTap(handler: TapHandler, options?: CallOptions): DiskTap {
    throwIfAborted(options?.signal);
    this.#requireCapability('ordered');
    if (this.#tap !== undefined) {
      throw new MigrationError('invalid-state', `disk ${this.medium.id} has a tap already`);
    }
    const tap = new DiskTap(handler, this.#host, () => {
      if (this.#tap !== tap) return;
      this.#tap = undefined;
      this.#host.tapped(false);
    });
    this.#tap = tap;
    this.#host.tapped(true);
    return tap;
  }

  /** See `SourceDisk.track`. */
  async track(options?: CallOptions): Promise<DirtyTracker> {
    throwIfAborted(options?.signal);
    this.#requireCapability('extents');
    const fault = await this.#host.faults.meet('disk-track', options?.signal, { disk: this.medium.id });
    if (fault?.effect === 'fail') {
      throw new MigrationError('hypervisor', `disk ${this.medium.id}: a dirty log could not be set`);
    }
    if (fault !== undefined) this.#host.onFault(fault);
    if (this.#log !== undefined) {
      throw new MigrationError('invalid-state', `disk ${this.medium.id} has a dirty log already`);
    }
    const log = new DirtyLog(this.medium, this.#host, () => {
      if (this.#log !== log) return;
      this.#log = undefined;
      this.#host.tapped(false);
    });
    this.#log = log;
    this.#host.tapped(true);
    return log;
  }

  /** The tap, or the dirty log, loses track, as a filter does whose process died. Without one nothing happens. */
  breakTap(reason: string): void {
    this.#tap?.break(`disk ${this.medium.id}: ${reason}`);
    this.#log?.break(`disk ${this.medium.id}: ${reason}`);
  }

  /** Takes the tap, or the dirty log, away without a word to its handler, whose process is dead, or done. */
  dropTap(): void {
    this.#tap?.drop();
    this.#log?.drop();
  }

  /**
   * A guest write of whole blocks: waits for its turn among those it overlaps, goes to the medium, then to
   * the tap; resolves when the guest may be told. Rejects with `disk-write`.
   */
  async write(offset: number, length: number, generation: number): Promise<void> {
    const issued = this.#host.now();
    const write: PendingWrite = { offset, length, called: deferred() };
    const before = [...this.#pending].filter((other) => overlap(other, write));
    this.#pending.add(write);
    let told: Promise<void> | undefined;
    try {
      for (const other of before) await other.called.promise;
      try {
        await this.medium.guestWrite(offset, length, generation);
      } catch (error) {
        this.#tap?.invalidate({ offset, length });
        this.#log?.mark({ offset, length });
        throw error;
      }
      told = this.#deliver({ offset, length }, generation);
    } finally {
      this.#pending.delete(write);
      write.called.resolve();
    }
    const toldFrom = this.#host.now();
    await told;
    this.#longestHoldMs = Math.max(this.#longestHoldMs, this.#host.now() - toldFrom);
    this.#writes++;
    this.#writtenBytes += length;
    this.#writeMs += this.#host.now() - issued;
  }

  #deliver(range: ByteRange, generation: number): Promise<void> | undefined {
    if (!this.tapped) return undefined;
    const fault = this.#host.faults.take('tap-write', { disk: this.medium.id, by: 'guest' });
    if (fault?.effect === 'drop') return undefined;
    if (fault?.effect === 'break-tap' || fault?.effect === 'fail') this.breakTap('the tap broke');
    else if (fault !== undefined) this.#host.onFault(fault);
    this.#log?.mark(range);
    return this.#tap?.deliver(range, this.medium.space.written(range.offset, range.length, generation));
  }

  #requireCapability(needed: 'ordered' | 'extents'): void {
    const { id, tapCapability } = this.medium;
    if (tapCapability === needed) return;
    throw new MigrationError('unsupported', `disk ${id} shows its writes in this way: ${tapCapability}`);
  }
}

/** The tap of one migration on one disk. */
export class DiskTap implements Tap {
  readonly #handler: TapHandler;
  readonly #host: GuestDiskHost;
  readonly #onRemove: () => void;
  /** The guest's completions that wait for the handler. */
  readonly #held = new Set<Deferred<void>>();
  #gap: MigrationError | undefined;
  #removed = false;

  constructor(handler: TapHandler, host: GuestDiskHost, onRemove: () => void) {
    this.#handler = handler;
    this.#host = host;
    this.#onRemove = onRemove;
  }

  async finish(options?: CallOptions): Promise<void> {
    throwIfAborted(options?.signal);
    if (this.#gap !== undefined) throw this.#gap;
    // A stunned guest's I/O is finished, so everything has been handed over: that is what stun() waits for.
    if (this.#removed || !this.#host.stunned()) {
      throw new MigrationError('invalid-state', 'a tap is finished while it is set and the guest is stunned');
    }
  }

  async remove(): Promise<void> {
    this.drop();
  }

  /** {@link DiskTap.remove}, at once. */
  drop(): void {
    if (this.#removed) return;
    this.#removed = true;
    this.#onRemove();
    this.#letGo();
  }

  invalidate(range: ByteRange): void {
    if (this.#gap === undefined) this.#handler.invalidate(range);
  }

  /** Calls the handler at once; what comes back resolves when the guest may be told. */
  deliver(range: ByteRange, content: Content): Promise<void> | undefined {
    if (this.#gap !== undefined || this.#removed) return undefined;
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
    if (this.#gap !== undefined || this.#removed) return;
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
