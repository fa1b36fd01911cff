import { MigrationError } from '../../errors.ts';
import type { SourceDisk, WriteTimes } from '../../interfaces/block-device.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { delay, withTimeout } from '../../util/promises.ts';
import { CopyShare, type WritesSeen } from './copy-share.ts';

/** How often the guest's writes are looked at. */
const lookMs = 100;
/** A hypervisor that says nothing for so long is not asked again. */
const answerMsMax = 2000;

/** A bulk copy, as far as it concerns who watches the guest. */
export interface WatchedCopy {
  readonly disk: SourceDisk;
  /** Whether no read was out since this was asked last. */
  calm(): boolean;
  /** The share may be another one. */
  looked(): void;
}

/**
 * Looks at what the guest's writes take while any disk is copied, and says how much of its read-ahead each copy may use: one for all disks of a
 * VM, as a disk that the guest does not write may be on the medium of one that it does.
 */
export class GuestWatch {
  readonly #environment: Environment;
  readonly #share = new CopyShare();
  readonly #copies = new Set<WatchedCopy>();
  /** Disks that nothing is told of. */
  readonly #untold = new Set<SourceDisk>();
  readonly #last = new Map<SourceDisk, WriteTimes>();
  #scope: AbortController | undefined;

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  /** From almost nothing to 1; 0: no read is to begin for now. 1 where the hypervisor tells nothing. */
  get share(): number {
    return this.#scope === undefined ? 1 : this.#share.share;
  }

  /** Whether anything is known of what the guest's writes to the disk take. */
  sees(disk: SourceDisk): boolean {
    return this.#last.has(disk);
  }

  /** It copies from now on. Idempotent. */
  enter(copy: WatchedCopy): void {
    if (this.#copies.has(copy)) return;
    this.#copies.add(copy);
    if (this.#scope !== undefined || this.#told.length === 0) return;
    const scope = new AbortController();
    this.#scope = scope;
    // Whatever ends it, no copy waits for the next look.
    this.#watch(scope.signal).catch(() => {
      if (this.#scope === scope) this.#end();
    });
  }

  /** It has nothing to copy, or the guest stands still: its disk is of no interest. Idempotent. */
  leave(copy: WatchedCopy): void {
    this.#copies.delete(copy);
    this.#last.delete(copy.disk);
    if (this.#told.length === 0) this.#end();
  }

  /** The copies of disks of which something is told, as far as is known. The others go by the same share. */
  get #told(): readonly WatchedCopy[] {
    return [...this.#copies].filter(({ disk }) => !this.#untold.has(disk));
  }

  #end(): void {
    this.#scope?.abort();
    this.#scope = undefined;
    this.#share.rest();
    for (const copy of this.#copies) copy.looked();
  }

  async #watch(signal: AbortSignal): Promise<void> {
    await this.#ask(signal);
    for (let atMs = this.#environment.now(); !signal.aborted; ) {
      await delay(this.#environment, lookMs, signal);
      const disks = await this.#ask(signal);
      if (signal.aborted) return;
      const now = this.#environment.now();
      // Each is asked, as each notes that it was.
      const calm = [...this.#copies].map((copy) => copy.calm()).every((one) => one);
      this.#share.look({ elapsedMs: now - atMs, calm, disks });
      atMs = now;
      for (const copy of this.#copies) copy.looked();
    }
  }

  /** What was written to each disk since it was asked last; those that were asked for the first time are left out. */
  async #ask(signal: AbortSignal): Promise<ReadonlyMap<string, WritesSeen>> {
    const seen = new Map<string, WritesSeen>();
    const ask = async (copy: WatchedCopy) => {
      const { disk } = copy;
      const times = await this.#timesOf(disk, signal);
      if (signal.aborted || !this.#copies.has(copy)) return;
      if (times === undefined) {
        this.#untold.add(disk);
        this.#last.delete(disk);
        if (this.#told.length === 0) this.#end();
        return;
      }
      const last = this.#last.get(disk);
      this.#last.set(disk, times);
      if (last === undefined) this.#share.before(disk.id, times);
      else seen.set(disk.id, { writes: times.writes - last.writes, totalMs: times.totalMs - last.totalMs });
    };
    await Promise.all(this.#told.map(ask));
    return seen;
  }

  /** A figure that is not to be had is no reason for a migration to fail. */
  async #timesOf(disk: SourceDisk, signal: AbortSignal): Promise<WriteTimes | undefined> {
    const late = () => new MigrationError('timeout', 'the hypervisor does not tell what writes take');
    try {
      return await withTimeout(this.#environment, answerMsMax, disk.writeTimes({ signal }), late);
    } catch {
      return undefined;
    }
  }
}
