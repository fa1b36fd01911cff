import { MigrationError } from '../../errors.ts';
import type { DestinationVm, DestinationVmCapabilities } from '../../interfaces/hypervisor.ts';
import type { MemorySink } from '../../interfaces/memory.ts';
import type { ImageDisk } from './image-disk.ts';
import type { ImageServer } from './image-export.ts';
import type { ImageFile } from './image-file.ts';

/** Images that are being written, in place of a VM. */
export class ImageDestinationVm implements DestinationVm {
  readonly capabilities: DestinationVmCapabilities = {
    refill: false,
    disksAlone: true,
    auditMemory: false,
  };
  readonly memory: MemorySink = { regions: [], write: () => diskOnly(), read: () => diskOnly() };
  readonly disks: readonly ImageDisk[];
  readonly #files: readonly ImageFile[];
  readonly #server: ImageServer | undefined;
  readonly #onHandedOver: () => void;
  #handing: Promise<void> | undefined;
  #discarding: Promise<void> | undefined;

  constructor(files: readonly ImageFile[], server: ImageServer | undefined, onHandedOver: () => void) {
    this.disks = files.map(({ disk }) => disk);
    this.#files = files;
    this.#server = server;
    this.#onHandedOver = onHandedOver;
  }

  loadDeviceState(): Promise<void> {
    return diskOnly();
  }

  refill(): Promise<void> {
    return diskOnly();
  }

  start(): Promise<void> {
    return diskOnly();
  }

  async handOver(): Promise<void> {
    if (this.#handing !== undefined || this.#discarding !== undefined) {
      throw new MigrationError('invalid-state', 'the images were handed over or discarded before');
    }
    this.#handing = this.#putInPlace();
    await this.#handing;
  }

  async #putInPlace(): Promise<void> {
    // All of them are durable before the first one has its name.
    await Promise.all(this.#files.map((file) => file.sync()));
    // A disk that hangs may have been given up meanwhile.
    if (this.#discarding !== undefined) throw new MigrationError('aborted', 'the images were discarded');
    for (const file of this.#files) await file.putInPlace();
    for (const file of this.#files) file.keep();
    if (this.#server === undefined) await Promise.all(this.#files.map((file) => file.close()));
    this.#server?.open();
    this.#onHandedOver();
  }

  discard(): Promise<void> {
    this.#discarding ??= this.#giveUp();
    return this.#discarding;
  }

  /** What is being handed over comes to its end first, and stays if that is a good one. */
  async #giveUp(): Promise<void> {
    const handedOver = await this.#handing?.then(
      () => true,
      () => false,
    );
    if (handedOver === true) return;
    await this.#server?.close();
    await Promise.all(this.#files.map((file) => file.discard()));
  }
}

async function diskOnly(): Promise<never> {
  throw new MigrationError('unsupported', 'images have no guest: only disks move to them');
}
