import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { requireArgument, requireRange } from './arguments.ts';
import type { GuestGate } from './guest-gate.ts';
import type { GuestMemory } from './guest-memory.ts';
import type { GuestMeter, GuestStatistics } from './guest-statistics.ts';
import type { TappedDisk } from './tapped-disk.ts';

/** What a guest is made of. */
export interface GuestParts {
  readonly environment: Environment;
  readonly gate: GuestGate;
  readonly meter: GuestMeter;
  readonly memory: GuestMemory;
  readonly disks: readonly TappedDisk[];
  /** What happens when the guest powers off. */
  powerOff(): void;
}

/**
 * The guest's own doing. While the guest does not run, its operations wait until it does, in order; once it
 * never will again (powered off, released, destroyed) they reject with `guest-stopped`, `invalid-state` or
 * `hypervisor`. Arguments out of range reject with `invalid-argument`. Bytes that are passed in must not
 * change until the promise settles.
 */
export class Guest {
  readonly #parts: GuestParts;

  constructor(parts: GuestParts) {
    this.#parts = parts;
  }

  /** Writes memory and marks the pages dirty: at once if the guest runs. `region` is an index. */
  writeMemory(region: number, offset: number, bytes: Uint8Array): Promise<void> {
    const { gate, memory, meter } = this.#parts;
    return gate.pass(() => meter.dirtied(memory.write(region, offset, bytes)));
  }

  /**
   * Writes a disk; resolves when the guest is told, that is after the medium and the tap have it. Rejects
   * with `disk-write`, and with `disk-full` on a thin disk that has no room.
   */
  writeDisk(id: string, offset: number, bytes: Uint8Array): Promise<void> {
    return this.#writeDisk(id, offset, bytes.byteLength, (disk) =>
      disk.guestWrite(offset, bytes.byteLength, [Buffer.from(bytes)]),
    );
  }

  /** Makes a range of a disk zero; otherwise as {@link Guest.writeDisk}. */
  writeZeroes(id: string, offset: number, length: number): Promise<void> {
    return this.#writeDisk(id, offset, length, (disk) => disk.guestWrite(offset, length, 'zero'));
  }

  /**
   * Says that it needs a range of a disk no more: whole steps of 1 MiB then read as zeros, the rest as before. Not counted as a write; otherwise as
   * {@link Guest.writeDisk}.
   */
  discard(id: string, offset: number, length: number): Promise<void> {
    return this.#parts.gate.pass(() => this.#writable(id, offset, length).guestDiscard(offset, length));
  }

  /** Reads a disk. Rejects with `disk-read`. */
  readDisk(id: string, offset: number, length: number): Promise<Uint8Array> {
    return this.#parts.gate.pass(async () => {
      const chunks = await this.#disk(id).read(offset, length);
      return Buffer.concat(chunks);
    });
  }

  /**
   * Shuts the guest down for good, as it might do by itself at any time. What is in flight is still finished.
   */
  powerOff(): Promise<void> {
    return this.#parts.gate.pass(() => this.#parts.powerOff());
  }

  /** What it has noticed so far. */
  statistics(): GuestStatistics {
    return this.#parts.meter.statistics(this.#parts.environment.now());
  }

  /** Begins to count anew. */
  resetStatistics(): void {
    this.#parts.meter.reset(this.#parts.environment.now());
  }

  /** The content is taken when the write begins: the tap may keep it for longer than the guest waits. */
  #writeDisk(
    id: string,
    offset: number,
    length: number,
    write: (disk: TappedDisk) => Promise<void>,
  ): Promise<void> {
    const { environment, gate, meter } = this.#parts;
    return gate.pass(async () => {
      const disk = this.#writable(id, offset, length);
      const begun = environment.now();
      try {
        await write(disk);
      } catch (error) {
        meter.failed();
        throw error;
      }
      meter.wrote(environment.now() - begun);
    });
  }

  /** The disk, for a change of a range. */
  #writable(id: string, offset: number, length: number): TappedDisk {
    const disk = this.#disk(id);
    requireRange(`disk ${id}`, offset, length, disk.sizeBytes);
    if (disk.readOnly) throw new MigrationError('disk-write', `disk ${id} is read-only`);
    return disk;
  }

  #disk(id: string): TappedDisk {
    const disk = this.#parts.disks.find((candidate) => candidate.id === id);
    requireArgument(disk !== undefined, `there is no disk ${id}`);
    return disk;
  }
}
