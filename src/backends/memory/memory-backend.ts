import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type {
  DestinationVm,
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
   * them, or an image. They stay when a VM goes, and are then there for the next; a disk must be in use by one VM at a time. Not together with `vm`. Default: each VM gets
   * empty disks of its own.
   */
  readonly disks?: readonly MemoryDisk[];
  /** A paused VM to migrate into. Default: each `prepare()` makes one that suits. */
  readonly vm?: MemoryVm;
  /**
   * What it insists on; what is left out may be anything that a simulated VM can be. Not together with `vm`.
   * Default: nothing.
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
}

/** A backend that prepares simulated VMs. */
export function createMemoryBackend(options: MemoryBackendOptions = {}): MemoryBackend {
  return new InMemoryBackend(options);
}

class InMemoryBackend implements MemoryBackend {
  readonly name: string;
  readonly #options: MemoryBackendOptions;
  #vm: MemoryVm | undefined;
  /** Whether `options.vm` is prepared for a migration, or was started by one. */
  #givenTaken = false;

  constructor(options: MemoryBackendOptions) {
    this.name = options.name ?? 'memory';
    this.#options = options;
  }

  get vm(): MemoryVm | undefined {
    return this.#vm;
  }

  async prepare(description: VmDescription, options?: PrepareOptions): Promise<DestinationVm> {
    throwIfAborted(options?.signal);
    const given = this.#options.vm;
    const offer: Offer = given?.description ?? {
      machine: MACHINE,
      deviceStateFormat: DEVICE_STATE_FORMAT,
      ...this.#options.accept,
    };
    const problems = [
      ...descriptionDifferences(offer, description),
      ...regionProblems(description.memory),
      ...diskProblems(description.disks),
      ...this.#existingProblems(description),
    ];
    if (given !== undefined && (given.state !== 'paused' || this.#givenTaken)) {
      problems.push(`the VM here is in use: ${this.#givenTaken ? 'by another migration' : given.state}`);
    }
    if (given === undefined && (options?.shared?.size ?? 0) > 0) {
      problems.push('shared disks need a VM that has them: give it as `vm`');
    }
    if (problems.length > 0) {
      throw new MigrationError(
        'incompatible',
        `${this.name} cannot take ${description.vmId}: ${problems.join('; ')}`,
      );
    }
    this.#givenTaken = given !== undefined;
    const vm = given ?? this.#make(description);
    return new MemoryDestinationVm(vm, {
      startPaused: this.#options.startPaused ?? false,
      onStart: () => {
        this.#vm = vm;
      },
      onDiscard: () => {
        if (given === undefined) vm.destroy();
        else this.#givenTaken = false;
      },
    });
  }

  /** In what its disks that are there already differ from those that are asked for. */
  #existingProblems({ disks }: VmDescription): readonly string[] {
    const { disks: existing = [] } = this.#options;
    const asked = disks.filter(({ id }) => existing.some((disk) => disk.id === id));
    const here = existing.filter(({ id }) => asked.some((disk) => disk.id === id));
    return diskDifferences(here, asked);
  }

  #make({ vmId, name, cpus, memory, disks: described }: VmDescription): MemoryVm {
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
