/**
 * The least that moves a VM from a `SourceVm` to a `DestinationVm` in one process: what the engine does, without its network,
 * its order numbers and its care. Each step is by itself, so that a test can stop after any of them.
 */
import type { MigrationError } from '../../../src/errors.ts';
import type { BlockDevice, GuestWrite, SourceDisk, Tap } from '../../../src/interfaces/block-device.ts';
import type { DestinationVm, SourceVm } from '../../../src/interfaces/hypervisor.ts';

const COPY_BYTES = 1024 * 1024;

/** One disk on its way: copied, and kept equal by its tap. */
export class DiskMove {
  readonly #source: SourceDisk;
  readonly #destination: BlockDevice;
  broken: MigrationError | undefined;
  /** Guest writes that came over the tap. */
  mirrored = 0;
  #tap: Tap | undefined;
  /** Everything that is done to the destination's disk, one after the other. */
  #queue: Promise<void> = Promise.resolve();

  constructor(source: SourceDisk, destination: BlockDevice) {
    this.#source = source;
    this.#destination = destination;
  }

  /**
   * Taps first, so that what the copy does not see comes by the tap. A read and its write are one step of the queue: a
   * guest write that the read missed is queued behind it. What was a hole when it was asked about is left out, because the
   * destination is new; what the guest writes there is in the queue as well.
   */
  async copy(): Promise<void> {
    this.#tap = await this.#source.tap({
      write: (write) => this.#mirror(write),
      invalidate: () => {},
      broken: (error) => {
        this.broken = error;
      },
    });
    for (const extent of await this.#source.extents(0, this.#source.sizeBytes)) {
      if (extent.zero) continue;
      for (let done = 0; done < extent.length; done += COPY_BYTES) {
        const offset = extent.offset + done;
        const length = Math.min(COPY_BYTES, extent.length - done);
        await this.#enqueue(async () => {
          await this.#destination.write(offset, await this.#source.read(offset, length));
        });
      }
    }
  }

  async finish(): Promise<void> {
    await this.#tap?.finish();
    await this.#enqueue(() => this.#destination.flush());
  }

  #mirror({ offset, length, content, release }: GuestWrite): void {
    this.mirrored++;
    void this.#enqueue(async () => {
      if (content === 'zero') await this.#destination.writeZeroes(offset, length);
      else await this.#destination.write(offset, content);
      release();
    });
  }

  #enqueue(step: () => Promise<void>): Promise<void> {
    this.#queue = this.#queue.then(step);
    this.#queue.catch(() => {});
    return this.#queue;
  }
}

/** Reads a round, and does with its pages what is asked; resolves to their bytes. */
export async function readRound(
  source: SourceVm,
  use: (runs: Parameters<DestinationVm['memory']['write']>[0]) => Promise<void> = async () => {},
): Promise<number> {
  let bytes = 0;
  for await (const batch of source.memory.round()) {
    await use(batch.runs);
    for (const run of batch.runs) bytes += run.length;
    batch.release();
  }
  return bytes;
}

/** Moves a VM, step by step. */
export class Drive {
  readonly source: SourceVm;
  readonly destination: DestinationVm;
  readonly disks: readonly DiskMove[];
  /** Bytes of each round. */
  readonly rounds: number[] = [];
  /** How long each step of the switchover took, in ms. */
  readonly steps: Record<string, number> = {};
  state: Uint8Array[] = [];

  constructor(source: SourceVm, destination: DestinationVm) {
    this.source = source;
    this.destination = destination;
    this.disks = source.disks.map((disk, index) => {
      const other = destination.disks[index];
      if (other?.id !== disk.id) throw new Error(`no disk ${disk.id} at the destination`);
      return new DiskMove(disk, other);
    });
  }

  async copyDisks(): Promise<void> {
    for (const disk of this.disks) await disk.copy();
  }

  async round(): Promise<number> {
    const bytes = await readRound(this.source, (runs) => this.destination.memory.write(runs));
    this.rounds.push(bytes);
    return bytes;
  }

  /** Device state and the rest of memory, at the same time, as both come out of one stream; and the last of the disks. */
  async collect(): Promise<void> {
    const saved = collectState(this.source);
    while ((await this.round()) > 0);
    this.state = await saved;
    for (const disk of this.disks) await disk.finish();
  }

  /** Disks, and so many rounds. */
  async approach(rounds = 4): Promise<void> {
    await this.copyDisks();
    for (let round = 0; round < rounds; round++) await this.round();
  }

  /** From the stun to the guest's running at the destination. */
  async switchOver(run = true): Promise<void> {
    await this.#timed('stun', () => this.source.stun());
    await this.#timed('collect', () => this.collect());
    await this.#timed('load', () => this.destination.loadDeviceState(this.state));
    await this.#timed('seal', () => this.source.seal());
    await this.#timed('start', () => this.destination.start({ run }));
  }

  /** Everything. */
  async run(options: { readonly run?: boolean } = {}): Promise<void> {
    await this.approach();
    await this.switchOver(options.run);
    await this.source.release();
    await this.destination.discard();
  }

  async #timed(name: string, step: () => Promise<void>): Promise<void> {
    const started = performance.now();
    await step();
    this.steps[name] = performance.now() - started;
  }
}

/** All of a stunned VM's device state. */
export async function collectState(source: SourceVm): Promise<Uint8Array[]> {
  const state: Uint8Array[] = [];
  for await (const piece of source.saveDeviceState()) state.push(piece);
  return state;
}
