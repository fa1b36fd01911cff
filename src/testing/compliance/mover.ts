/** What an engine does without its network, its order numbers and its care: the least that moves a VM. */
import type { BlockDevice, DirtyTracker, SourceDisk, Tap } from '../../interfaces/block-device.ts';
import type { Content } from '../../interfaces/content.ts';
import type { DestinationVm, SourceVm } from '../../interfaces/hypervisor.ts';
import type { PageRun } from '../../interfaces/memory.ts';

const copyBytes = 1024 * 1024;
const stepBytes = 16 * copyBytes;

/** All of a stunned VM's device state. */
export async function collectState(vm: SourceVm, signal?: AbortSignal): Promise<Uint8Array[]> {
  const state: Uint8Array[] = [];
  for await (const chunk of vm.saveDeviceState({ signal })) state.push(chunk);
  return state;
}

/**
 * The device state and, at the same time, rounds until one that began after the state was complete is empty.
 */
export async function saveAll(
  vm: SourceVm,
  use: (runs: readonly PageRun[]) => Promise<void> = async () => {},
): Promise<Uint8Array[]> {
  let saved = false;
  const saving = collectState(vm).finally(() => {
    saved = true;
  });
  saving.catch(() => {});
  for (;;) {
    const complete = saved;
    const bytes = await moveRound(vm, use);
    if (bytes > 0) continue;
    if (complete) return saving;
    await saving;
  }
}

/** Reads a round, hands its pages on, and resolves to their bytes. */
export async function moveRound(
  vm: SourceVm,
  use: (runs: readonly PageRun[]) => Promise<void>,
): Promise<number> {
  let bytes = 0;
  for await (const batch of vm.memory.round()) {
    await use(batch.runs);
    for (const { length } of batch.runs) bytes += length;
    batch.release();
  }
  return bytes;
}

/** Moves a VM up to where the destination has loaded everything, or its disks alone. */
export class Mover {
  readonly #source: SourceVm;
  readonly #destination: DestinationVm;
  readonly #disks: DiskMover[];
  readonly #put = (runs: readonly PageRun[]) => this.#destination.memory.write(runs);

  constructor(source: SourceVm, destination: DestinationVm) {
    this.#source = source;
    this.#destination = destination;
    this.#disks = source.disks.flatMap((disk) => {
      const there = destination.disks.find(({ id }) => id === disk.id);
      return disk.readOnly || there === undefined ? [] : [new DiskMover(disk, there)];
    });
  }

  /** Copies everything, stuns the source, copies the rest, and loads the device state. */
  async load(): Promise<void> {
    await this.copy();
    await this.loadRest();
  }

  /** Copies everything; what the guest writes from then on comes along. */
  async copy(): Promise<void> {
    await this.copyDisks();
    await this.round();
    await this.round();
  }

  /** As {@link Mover.copy}, of the disks alone. */
  async copyDisks(): Promise<void> {
    for (const disk of this.#disks) await disk.copy();
  }

  /** Copies the pages that are dirty, and what a dirty log has of disks. */
  async round(): Promise<void> {
    for (const disk of this.#disks) await disk.copyDirty();
    await moveRound(this.#source, this.#put);
  }

  /** Stuns the source and copies the rest; resolves to the device state. */
  async stun(): Promise<readonly Uint8Array[]> {
    await this.#source.stun();
    const state = await saveAll(this.#source, this.#put);
    await this.#finishDisks();
    return state;
  }

  /** As {@link Mover.stun}, of the disks alone: no memory is read, and no state saved. What the guest writes after it does not come along. */
  async stunForDisks(): Promise<void> {
    await this.#source.stun({ memory: 'none' });
    await this.#finishDisks();
    for (const disk of this.#disks) await disk.stop();
  }

  async loadRest(): Promise<void> {
    await this.#destination.loadDeviceState(await this.stun());
  }

  async #finishDisks(): Promise<void> {
    for (const disk of this.#disks) await disk.finish();
  }
}

/**
 * One disk. Its tap, or its dirty log, comes first, so that what the copy does not see comes over the one, or is in the other. Where there
 * is neither, the copy waits until the guest is stunned. All writes go through one queue.
 */
class DiskMover {
  readonly #source: SourceDisk;
  readonly #destination: BlockDevice;
  #tap: Tap | undefined;
  #tracker: DirtyTracker | undefined;
  #queue: Promise<void> = Promise.resolve();

  constructor(source: SourceDisk, destination: BlockDevice) {
    this.#source = source;
    this.#destination = destination;
  }

  async copy(): Promise<void> {
    switch (this.#source.tapCapability) {
      case 'ordered':
        this.#tap = await this.#setTap();
        await this.#copyAll(false);
        break;
      case 'extents':
        this.#tracker = await this.#source.track();
        await this.#copyAll(false);
        await this.copyDirty();
        break;
      case 'none':
        break;
    }
  }

  /** Copies what the dirty log has, if there is one. */
  async copyDirty(): Promise<void> {
    for (const { offset, length } of (await this.#tracker?.take()) ?? []) {
      await this.#enqueue(() => this.#copyRange(offset, length));
    }
  }

  /** With the guest stunned: copies the rest. May be called again after another stun. */
  async finish(): Promise<void> {
    if (this.#source.tapCapability === 'none') await this.#copyAll(true);
    await this.copyDirty();
    await this.#tap?.finish();
    await this.#enqueue(() => this.#destination.flush());
  }

  /** What the guest writes from now on is nobody's affair. */
  async stop(): Promise<void> {
    await this.#tap?.remove();
    await this.#tracker?.remove();
  }

  #setTap(): Promise<Tap> {
    return this.#source.tap({
      write: ({ offset, length, content, release }) => {
        void this.#enqueue(async () => {
          await this.#put(offset, length, content);
          release();
        });
      },
      // The range is read again when its turn comes.
      invalidate: ({ offset, length }) => {
        void this.#enqueue(() => this.#copyRange(offset, length));
      },
      broken: (error) => {
        void this.#enqueue(() => Promise.reject(error));
      },
    });
  }

  /**
   * A step asks for extents, reads and writes: a guest write that it did not see comes over the tap only after its medium has it, and so is
   * queued behind the step; or it is in the dirty log.
   */
  async #copyAll(stunned: boolean): Promise<void> {
    const { sizeBytes } = this.#source;
    for (let offset = 0; offset < sizeBytes; offset += stepBytes) {
      const length = Math.min(stepBytes, sizeBytes - offset);
      await this.#enqueue(async () => {
        // With the guest stunned some hypervisors tell nothing of extents any more.
        const extents = stunned
          ? [{ offset, length, zero: false }]
          : await this.#source.extents(offset, length);
        for (const extent of extents) {
          if (extent.zero) await this.#put(extent.offset, extent.length, 'zero');
          else await this.#copyRange(extent.offset, extent.length);
        }
      });
    }
  }

  async #copyRange(offset: number, length: number): Promise<void> {
    for (let at = 0; at < length; at += copyBytes) {
      const size = Math.min(copyBytes, length - at);
      await this.#put(offset + at, size, await this.#source.read(offset + at, size));
    }
  }

  #put(offset: number, length: number, content: Content): Promise<void> {
    if (content === 'zero') return this.#destination.writeZeroes(offset, length);
    return this.#destination.write(offset, content);
  }

  #enqueue(step: () => Promise<void>): Promise<void> {
    this.#queue = this.#queue.then(step);
    this.#queue.catch(() => {});
    return this.#queue;
  }
}
