import { MigrationError } from '../../errors.ts';
import type { MemoryRegion } from '../../interfaces/memory.ts';
import type { StreamBlock } from './migration-stream-parser.ts';
import { NewestPages } from './newest-pages.ts';
import type { ChunkEnd, OutgoingMigrationHandler } from './outgoing-migration.ts';
import { RoundAssembler } from './round-assembler.ts';

/** Sorts what a stream brings: pages into rounds, and device state. Without I/O. */
export class MigrationFeed implements OutgoingMigrationHandler {
  readonly rounds: RoundAssembler;
  readonly #machine: string;
  readonly #regions: readonly MemoryRegion[];
  readonly #statePieces: Uint8Array[] = [];
  /** The region of each block of the stream. */
  #regionOf: readonly number[] = [];
  #switching = false;
  /** What comes in a switchover until it is read. */
  readonly #newest: NewestPages;
  #gathers = false;
  /** What still has to come of before the round: all that lies in the socket, or the part that QEMU was in then. */
  #before: 'socket' | 'part' | undefined;
  #lastPartEmpty = false;
  #ramEnded = false;
  #stateComplete = false;

  constructor(machine: string, regions: readonly MemoryRegion[]) {
    this.rounds = new RoundAssembler(regions);
    this.#newest = new NewestPages(regions);
    this.#machine = machine;
    this.#regions = regions;
  }

  /** All pages are there; none follows. */
  get ramEnded(): boolean {
    return this.#ramEnded;
  }

  /** All of the device state is there, taken or not. */
  get stateComplete(): boolean {
    return this.#stateComplete;
  }

  /** The next piece of device state, if there is one. */
  takeState(): Uint8Array | undefined {
    return this.#statePieces.shift();
  }

  /** The round that is read ends here. */
  endRound(): void {
    this.#before = undefined;
    this.rounds.endRound();
  }

  /** A round begins to be read. */
  beginRound(): void {
    if (!this.#switching) this.#before = 'socket';
    if (!this.#gathers) return;
    this.#gathers = false;
    this.#newest.moveTo((region, offset, content) => this.rounds.page(region, offset, content));
    if (this.#ramEnded) this.rounds.flush();
  }

  /** From here on an empty part ends no round: only the end of RAM says that nothing is dirty any more. Until a round is read, each page is kept as it came last. */
  beginSwitchover(): void {
    this.#switching = true;
    this.#before = undefined;
    this.rounds.countNoMore();
    this.#gathers = true;
  }

  configuration(machine: string): void {
    if (machine === this.#machine) return;
    throw new MigrationError(
      'hypervisor',
      `QEMU migrates a machine ${machine}, but said that it is ${this.#machine}`,
    );
  }

  blocks(blocks: readonly StreamBlock[]): void {
    const sizes = new Map(blocks.map(({ name, sizeBytes }) => [name, sizeBytes]));
    const differing = this.#regions.filter((region) => sizes.get(region.name) !== region.sizeBytes);
    if (differing.length > 0 || sizes.size !== this.#regions.length) {
      const name = differing[0]?.name ?? 'of which there is another number';
      throw new MigrationError('memory', `RAM of the guest has changed since it was described: ${name}`);
    }
    const indices = new Map(this.#regions.map((region, index) => [region.name, index]));
    this.#regionOf = blocks.map(({ name }) => indices.get(name) ?? -1);
  }

  page(block: number, offset: number, content: Uint8Array | 'zero'): void {
    const region = this.#regionOf[block] ?? -1;
    if (this.#gathers) this.#newest.put(region, offset, content);
    else this.rounds.page(region, offset, content);
  }

  part(pages: number, last: boolean): void {
    this.#lastPartEmpty = pages === 0 && this.rounds.counts;
    if (this.#before === 'part') {
      this.#before = undefined;
      this.rounds.count();
    }
    if (!last) return;
    this.rounds.flush();
    this.#ramEnded = true;
  }

  deviceState(piece: Uint8Array, complete: boolean): void {
    this.#statePieces.push(piece);
    this.#stateComplete = complete;
  }

  /**
   * An idle guest's passes are empty, and some thousands of them lie in the socket's buffers when a round begins. They say what was
   * dirty some time ago; only an empty one that QEMU began since, and that is the last there is, says that nothing is dirty now.
   */
  chunkEnd({ atBoundary, drained }: ChunkEnd): 'goOn' | 'pause' {
    // A guest that is paused needs no acknowledgement to come to its end, and QEMU is deaf until all of it was read.
    if (this.#ramEnded) return 'goOn';
    if (atBoundary && drained && this.#lastPartEmpty && this.rounds.counts) this.endRound();
    if (drained && this.#before === 'socket') this.#before = 'part';
    return this.rounds.length > 0 ? 'pause' : 'goOn';
  }
}
