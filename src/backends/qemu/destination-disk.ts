import { MigrationError } from '../../errors.ts';
import type { BlockDevice, Extent } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import { throwIfAborted } from '../../util/promises.ts';
import type { NbdClient } from '../nbd/nbd-client.ts';
import type { NbdExports } from './nbd-exports.ts';
import type { DiskNode } from './vm-inventory.ts';

/**
 * A disk of a QEMU that waits for its migration, through QEMU's own NBD server. Its export is made when it is first used: the
 * export opens the image for writing, which a disk that both hosts share must not be while the source's guest runs.
 */
export class QemuDestinationDisk implements BlockDevice {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly #exports: NbdExports;
  readonly #disk: DiskNode;
  readonly #name: string;
  #used = false;

  constructor(exports: NbdExports, disk: DiskNode, index: number) {
    const { id, sizeBytes, blockBytes, readOnly } = disk;
    this.id = id;
    this.sizeBytes = sizeBytes;
    this.blockBytes = blockBytes;
    this.readOnly = readOnly;
    this.#exports = exports;
    this.#disk = disk;
    this.#name = `disk-${index}`;
  }

  async read(offset: number, length: number, options: CallOptions = {}): Promise<Chunks> {
    const client = await this.#client(options.signal);
    return [await client.read(offset, length, options)];
  }

  async extents(offset: number, length: number, options: CallOptions = {}): Promise<readonly Extent[]> {
    const client = await this.#client(options.signal);
    const extents = await client.blockStatus(offset, length, options);
    return extents.map((extent) => ({ offset: extent.offset, length: extent.length, zero: extent.zero }));
  }

  async write(offset: number, content: Chunks, options: CallOptions = {}): Promise<void> {
    const client = await this.#writable(options.signal);
    await client.write(offset, content, options);
  }

  async writeZeroes(offset: number, length: number, options: CallOptions = {}): Promise<void> {
    const client = await this.#writable(options.signal);
    await client.writeZeroes(offset, length, { ...options, punchHole: true });
  }

  async discard(offset: number, length: number, options: CallOptions = {}): Promise<void> {
    const client = await this.#writable(options.signal);
    await client.trim(offset, length, options);
  }

  async flush(options: CallOptions = {}): Promise<void> {
    throwIfAborted(options.signal);
    // What was only read counts, too: the engine may rely on what another process left here, and may not have made durable.
    if (!this.#used || this.readOnly) return;
    const client = await this.#client(options.signal);
    await client.flush(options);
  }

  async #writable(signal?: AbortSignal): Promise<NbdClient> {
    if (this.readOnly)
      throw new MigrationError('disk-write', `disk ${this.id} is read-only at the destination`);
    return await this.#client(signal);
  }

  #client(signal?: AbortSignal): Promise<NbdClient> {
    this.#used = true;
    return this.#exports.open(this.#name, this.#disk.nodeName, !this.readOnly, signal);
  }
}
