/**
 * The least that moves a VM from a `SourceVm` to a `DestinationVm` in one process: what the engine does, without its network,
 * its order numbers and its care. Each step is by itself, so that a test can stop after any of them.
 */
import { MigrationError } from '../../../src/errors.ts';
import type { GuestWrite, SourceDisk, Tap } from '../../../src/interfaces/block-device.ts';
import type { DestinationVm, SourceVm } from '../../../src/interfaces/hypervisor.ts';

const COPY_BYTES = 1024 * 1024;

/** One disk on its way: copied, and kept equal by its tap. */
class DiskMove {
  readonly tap: Promise<Tap>;
  broken: MigrationError | undefined;
  mirrored = 0;
  /** Everything that is done to the destination's disk, one after the other. */
  #queue: Promise<void> = Promise.resolve();
  readonly #source: SourceDisk;
  readonly #destination: DestinationVm['disks'][number];

  constructor(source: SourceDisk, destination: DestinationVm['disks'][number]) {
    this.#source = source;
    this.#destination = destination;
    this.tap = source.tap({
      write: (write) => this.#mirror(write),
      invalidate: () => {
        this.broken = new MigrationError('tap-gap', 'QEMU cannot tell of single writes that failed');
      },
      broken: (error) => {
        this.broken = error;
      },
    });
  }

  /** A read and its write are one step of the queue, so a guest write is applied before it or after it, never between. */
  async copy(): Promise<void> {
    await this.tap;
    for (const extent of await this.#source.extents(0, this.#source.sizeBytes)) {
      for (let done = 0; done < extent.length; done += COPY_BYTES) {
        const offset = extent.offset + done;
        const length = Math.min(COPY_BYTES, extent.length - done);
        await this.#enqueue(async () => {
          // What was a hole when the extents were told may be data now, and such a write may lie before this step.
          const content = extent.zero ? undefined : await this.#source.read(offset, length);
          if (content !== undefined) await this.#destination.write(offset, content);
        });
      }
    }
  }

  async finish(): Promise<void> {
    await (await this.tap).finish();
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

/** Bytes and pages of a round. */
export interface RoundSeen {
  readonly bytes: number;
  readonly batches: number;
}

/** Moves a VM, step by step. */
export class Drive {
  readonly source: SourceVm;
  readonly destination: DestinationVm;
  readonly disks: readonly DiskMove[];
  readonly rounds: RoundSeen[] = [];
  stunnedAtMs = 0;
  #state: Uint8Array[] = [];

  constructor(source: SourceVm, destination: DestinationVm) {
    this.source = source;
    this.destination = destination;
    this.disks = source.disks.map((disk, index) => {
      const other = destination.disks[index];
      if (other === undefined) throw new Error(`no disk ${disk.id} at the destination`);
      return new DiskMove(disk, other);
    });
  }

  async copyDisks(): Promise<void> {
    for (const disk of this.disks) await disk.copy();
  }

  async round(): Promise<RoundSeen> {
    let bytes = 0;
    let batches = 0;
    for await (const batch of this.source.memory.round()) {
      await this.destination.memory.write(batch.runs);
      for (const run of batch.runs) bytes += run.length;
      batch.release();
      batches++;
    }
    const seen = { bytes, batches };
    this.rounds.push(seen);
    return seen;
  }

  async stun(): Promise<void> {
    this.stunnedAtMs = performance.now();
    await this.source.stun();
  }

  /** Device state and the rest of memory, at the same time, as both come out of one stream. */
  async collect(): Promise<void> {
    const state: Uint8Array[] = [];
    const saved = (async () => {
      for await (const piece of this.source.saveDeviceState()) state.push(piece);
    })();
    while ((await this.round()).batches > 0);
    await saved;
    this.#state = state;
    for (const disk of this.disks) await disk.finish();
  }

  async load(): Promise<void> {
    await this.destination.loadDeviceState(this.#state);
  }

  /** Everything, and the time for which the guest stood still, in ms, from the stun to its running. */
  async run(rounds = 4): Promise<number> {
    await this.copyDisks();
    for (let round = 0; round < rounds; round++) await this.round();
    const T: number[] = [performance.now()];
    await this.stun(); T.push(performance.now());
    await this.collect(); T.push(performance.now());
    await this.load(); T.push(performance.now());
    await this.source.seal(); T.push(performance.now());
    await this.destination.start({ run: true }); T.push(performance.now());
    console.log('steps', T.slice(1).map((t, i) => (t - (T[i] ?? 0)).toFixed(1)));
    const downtimeMs = performance.now() - this.stunnedAtMs;
    await this.source.release();
    await this.destination.discard();
    return downtimeMs;
  }
}
