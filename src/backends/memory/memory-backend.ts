import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type {
  DestinationVm,
  DiskDescription,
  HypervisorBackend,
  PrepareOptions,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import { throwIfAborted } from '../../util/promises.ts';
import { descriptionDifferences, diskDifferences, type Offer } from './description-differences.ts';
import { DEVICE_STATE_FORMAT } from './device-state.ts';
import { regionProblems } from './guest-memory.ts';
import { MemoryDestinationVm } from './memory-destination-vm.ts';
import { diskProblems, type MemoryDisk } from './memory-disk.ts';
import { createMemoryVm, MACHINE, type MemoryVm } from './memory-vm.ts';

/** A destination in memory, as {@link createMemoryBackend} makes it. */
export interface MemoryBackendOptions {
  /** Default `memory`. */
  readonly name?: string;
  /** What VMs that it makes run on. Default: the running process. */
  readonly environment?: Environment;
  /** The latency of the disks that it makes, in milliseconds. Default 0. */
  readonly diskLatencyMs?: number;
  /**
   * Disks that are there already, used as they are by every VM that is made here and has disks of their ids: what an earlier attempt has left on
   * them, or an image, or a thin disk with little room. They stay when a VM goes, and are then there for the next; a disk must be in use by one VM at a time. Not
   * together with `vm`. Default: each VM gets empty disks of its own.
   */
  readonly disks?: readonly MemoryDisk[];
  /** A paused VM to migrate into, or into disks of. Default: each `prepare()` makes one that suits. */
  readonly vm?: MemoryVm;
  /**
   * What it insists on; what is left out may be anything that a simulated VM can be. Of disks alone only what it says of the disks that come counts. Not together
   * with `vm`. Default: nothing.
   */
  readonly accept?: Offer;
  /**
   * Whether a VM stays paused when it was started, until its `run()`: time to look at it before the guest
   * changes it. Default false.
   */
  readonly startPaused?: boolean;
}

/** Simulated VMs as destinations of migrations. */
export interface MemoryBackend extends HypervisorBackend {
  /** The VM that was started last: a full one, which may migrate again. Undefined before the first. */
  readonly vm: MemoryVm | undefined;
  /** The disks that were handed over last, of a storage migration: yours, to be given to a VM, or freed. Empty before the first. */
  readonly disks: readonly MemoryDisk[];
}

/** What of a description makes a VM. */
type Shape = Pick<VmDescription, 'vmId' | 'name' | 'cpus' | 'memory' | 'disks'>;

/** A backend that prepares simulated VMs. */
export function createMemoryBackend(options: MemoryBackendOptions = {}): MemoryBackend {
  return new InMemoryBackend(options);
}

class InMemoryBackend implements MemoryBackend {
  readonly name: string;
  readonly #options: MemoryBackendOptions;
  #vm: MemoryVm | undefined;
  #disks: readonly MemoryDisk[] = [];
  /** Whether `options.vm` is prepared for a migration, or was started by one. */
  #givenTaken = false;

  constructor(options: MemoryBackendOptions) {
    this.name = options.name ?? 'memory';
    this.#options = options;
  }

  get vm(): MemoryVm | undefined {
    return this.#vm;
  }

  get disks(): readonly MemoryDisk[] {
    return this.#disks;
  }

  async prepare(description: VmDescription, options: PrepareOptions = {}): Promise<DestinationVm> {
    throwIfAborted(options.signal);
    const alone = options.memory === 'none';
    this.#requireFit(description, options);
    this.#requireRoom(description, options.shared);
    const { vm: given, startPaused = false } = this.#options;
    this.#givenTaken = given !== undefined;
    const vm = given ?? this.#make(alone ? disksOf(description) : description);
    const disks = alone ? description.disks.map(({ id }) => vm.disk(id)) : undefined;
    return new MemoryDestinationVm(vm, {
      alone: disks,
      startPaused,
      onStart: () => {
        this.#vm = vm;
      },
      onHandOver: () => {
        this.#disks = disks ?? [];
        this.#givenTaken = false;
      },
      onDiscard: () => {
        if (given === undefined) vm.destroy();
        else this.#givenTaken = false;
      },
    });
  }

  #requireFit(description: VmDescription, { shared, memory }: PrepareOptions): void {
    const given = this.#options.vm;
    const offer: Offer = given?.description ?? {
      machine: MACHINE,
      deviceStateFormat: DEVICE_STATE_FORMAT,
      ...this.#options.accept,
    };
    const problems = [
      ...(memory === 'none'
        ? aloneDifferences(offer, description)
        : descriptionDifferences(offer, description)),
      ...regionProblems(description.memory),
      ...diskProblems(description.disks),
      ...diskDifferences(...bothHave(this.#options.disks ?? [], description.disks)),
    ];
    if (given !== undefined && (given.state !== 'paused' || this.#givenTaken)) {
      problems.push(`the VM here is in use: ${this.#givenTaken ? 'by another migration' : given.state}`);
    }
    if (given === undefined && description.disks.some(({ id }) => shared?.has(id))) {
      problems.push('shared disks need a VM that has them: give it as `vm`');
    }
    if (problems.length === 0) return;
    throw new MigrationError(
      'incompatible',
      `${this.name} cannot take ${description.vmId}: ${problems.join('; ')}`,
    );
  }

  /** Only of disks that are there already is it known how much room they have. */
  #requireRoom({ vmId, disks }: VmDescription, shared: ReadonlySet<string> | undefined): void {
    const here = this.#options.vm?.disks ?? this.#options.disks ?? [];
    const problems = disks.flatMap(({ id, allocatedBytes = 0 }) => {
      const room = here.find((disk) => disk.id === id)?.capacityBytes ?? Number.POSITIVE_INFINITY;
      if (shared?.has(id) || allocatedBytes <= room) return [];
      return [`disk ${id} holds ${allocatedBytes} bytes, and there is room for ${room}`];
    });
    if (problems.length === 0) return;
    throw new MigrationError('disk-full', `${this.name} has no room for ${vmId}: ${problems.join('; ')}`);
  }

  #make({ vmId, name, cpus, memory, disks: described }: Shape): MemoryVm {
    const { environment, diskLatencyMs = 0, disks: existing = [] } = this.#options;
    const disks = described.map((disk) => existing.find(({ id }) => id === disk.id) ?? disk);
    const shape = {
      vmId,
      name,
      cpus,
      regions: memory,
      disks,
      diskLatencyMs,
      fill: 'zero',
      paused: true,
    } as const;
    try {
      return createMemoryVm(environment === undefined ? shape : { ...shape, environment });
    } catch (error) {
      throw new MigrationError('incompatible', `${this.name} cannot take ${vmId}: ${String(error)}`, {
        cause: error,
      });
    }
  }
}

/** As {@link descriptionDifferences}, where disks come alone: other disks may be there, and what they belong to is of no interest. */
function aloneDifferences(offer: Offer, asked: VmDescription): readonly string[] {
  const differences = asked.memory.length > 0 ? ['disks that come alone have no memory'] : [];
  if (offer.disks === undefined) return differences;
  const here = offer.disks.filter(({ id }) => asked.disks.some((disk) => disk.id === id));
  return [...differences, ...diskDifferences(here, asked.disks)];
}

/** Those of two lists of disks that are in both. */
function bothHave(
  here: readonly DiskDescription[],
  asked: readonly DiskDescription[],
): readonly [readonly DiskDescription[], readonly DiskDescription[]] {
  const among = (others: readonly DiskDescription[]) => (disk: DiskDescription) =>
    others.some(({ id }) => id === disk.id);
  return [here.filter(among(asked)), asked.filter(among(here))];
}

/** What it takes to have disks without their VM: one that is nothing but disks. */
function disksOf({ vmId, name, disks }: VmDescription): Shape {
  return { vmId, name, cpus: 1, memory: [], disks };
}
