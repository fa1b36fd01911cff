import { MigrationError } from '../../errors.ts';
import type {
  DirtyTracker,
  Extent,
  SourceDisk,
  Tap,
  TapHandler,
  WriteTimes,
} from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import { NbdClient, nbdErrorName } from '../nbd/nbd-client.ts';
import { DiskTap, type DiskTapOptions } from './disk-tap.ts';
import type { NbdExports } from './nbd-exports.ts';
import type { QmpClient } from './qmp.ts';
import { type DiskNode, readWriteTimes } from './vm-inventory.ts';

/** What a {@link QemuSourceDisk} works with. */
export interface SourceDiskOptions {
  readonly qmp: QmpClient;
  readonly exports: NbdExports;
  readonly disk: DiskNode;
  readonly index: number;
  /** Where its taps listen; none may be there twice, so each gets a number. */
  readonly tapSocketPath: (attempt: number) => string;
  /** Where its taps are served. */
  readonly serveTap: DiskTapOptions['serve'];
}

/** A disk of a running guest: read through QEMU's own NBD server, tapped by a mirror job. Neither is there before it is needed. */
export class QemuSourceDisk implements SourceDisk {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly tapCapability = 'ordered';
  readonly #options: SourceDiskOptions;
  #tap: DiskTap | undefined;
  #tapping = false;
  #attempts = 0;

  constructor(options: SourceDiskOptions) {
    const { id, sizeBytes, blockBytes, readOnly } = options.disk;
    this.id = id;
    this.sizeBytes = sizeBytes;
    this.blockBytes = blockBytes;
    this.readOnly = readOnly;
    this.#options = options;
  }

  /** Makes its export now, which else is made when it is first needed. Rejects with `hypervisor`, `invalid-state` if QEMU's NBD server is in use. */
  async export(signal?: AbortSignal): Promise<void> {
    await this.#client(signal);
  }

  async read(offset: number, length: number, options: CallOptions = {}): Promise<Chunks> {
    const client = await this.#client(options.signal);
    return [await client.read(offset, length, options)];
  }

  recycle(content: Chunks): void {
    for (const chunk of content) NbdClient.recycle(chunk);
  }

  /** Once QEMU has let go of its disks all of it counts as data. */
  async extents(offset: number, length: number, options: CallOptions = {}): Promise<readonly Extent[]> {
    const client = await this.#client(options.signal);
    try {
      const extents = await client.blockStatus(offset, length, options);
      return extents.map((extent) => ({ offset: extent.offset, length: extent.length, zero: extent.zero }));
    } catch (error) {
      if (isInactive(error)) return [{ offset, length, zero: false }];
      throw error;
    }
  }

  /** Once QEMU has let go of its disks it has flushed them. */
  async flush(options: CallOptions = {}): Promise<void> {
    const client = await this.#client(options.signal);
    try {
      await client.flush(options);
    } catch (error) {
      if (!isInactive(error)) throw error;
    }
  }

  async tap(handler: TapHandler, options: CallOptions = {}): Promise<Tap> {
    if (this.#tap !== undefined || this.#tapping) {
      throw new MigrationError('invalid-state', `disk ${this.id} is tapped already`);
    }
    // The guest cannot write it, and QEMU would not mirror it.
    if (this.readOnly) return { finish: async () => {}, remove: async () => {} };
    this.#tapping = true;
    try {
      const { qmp, disk, index, tapSocketPath, serveTap: serve } = this.#options;
      const socketPath = tapSocketPath(this.#attempts++);
      this.#tap = await DiskTap.set({ qmp, disk, index, socketPath, handler, serve }, options.signal);
    } finally {
      this.#tapping = false;
    }
    const tap = this.#tap;
    return {
      finish: (call) => tap.finish(call),
      remove: async () => {
        await tap.remove();
        if (this.#tap === tap) this.#tap = undefined;
      },
    };
  }

  async track(): Promise<DirtyTracker> {
    throw new MigrationError('unsupported', `disk ${this.id} shows each write`);
  }

  writeTimes(options: CallOptions = {}): Promise<WriteTimes | undefined> {
    return readWriteTimes(this.#options.qmp, this.#options.disk, options.signal);
  }

  /** The guest is about to be stunned. */
  expectDrain(guestRuns: boolean): void {
    this.#tap?.expectDrain(guestRuns);
  }

  /** Takes away a tap that is still set. */
  async removeTap(): Promise<void> {
    await this.#tap?.remove();
    this.#tap = undefined;
  }

  #client(signal?: AbortSignal): Promise<NbdClient> {
    const { exports, disk, index } = this.#options;
    return exports.open(`disk-${index}`, disk.nodeName, false, signal);
  }
}

/**
 * At the end of a migration QEMU flushes its disks and lets go of them (an inactive node), and then answers reads alone. Where the guest was
 * paused that end comes by itself, maybe long before the switchover.
 */
function isInactive(error: unknown): boolean {
  return nbdErrorName(error) === 'EPERM';
}
