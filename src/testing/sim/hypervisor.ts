import { descriptionDifferences, type Offer } from '../../backends/memory/description-differences.ts';
import { MigrationError } from '../../errors.ts';
import type {
  DestinationVm,
  HypervisorBackend,
  PrepareOptions,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import { delay, throwIfAborted } from '../../util/promises.ts';
import { SimulatedDestinationVm } from './destination-vm.ts';
import type { SimulatedDisk, SimulatedDiskOptions } from './disk.ts';
import { ProcessTie } from './engine-process.ts';
import { SimulatedVm, simulatedMachine } from './vm.ts';
import { VmCore } from './vm-core.ts';
import { type VmFault, VmFaultPlan } from './vm-faults.ts';
import type { VmHostOptions } from './vm-options.ts';
import { simulatedStateFormat } from './vm-state.ts';

/** How a simulated host's disks are: limits, capacity, whether they hold something foreign at first. */
export type MadeDisk = Partial<Omit<SimulatedDiskOptions, 'id' | 'sizeBytes' | 'blockBytes' | 'readOnly'>>;

/** A destination host, as {@link createSimulatedBackend} makes it. */
export interface SimulatedBackendOptions extends VmHostOptions {
  /** Default `simulated`. */
  readonly name?: string;
  /** What it insists on; what is left out may be anything. Default: nothing. */
  readonly accept?: Offer;
  /**
   * How the disks are that it makes: limits, capacity, whether they hold something foreign at first. Each may be of the capacity;
   * `prepare` refuses (`disk-full`) a VM that says of a disk that it holds more. Default: empty, without limits.
   */
  readonly disk?: MadeDisk;
  /** Whether a VM that was prepared here takes device state once, and no content after it. Default false. */
  readonly loadsOnce?: boolean;
  /** Whether it takes disks alone; if not, `prepare` refuses them (`unsupported`). Default true. */
  readonly takesDisksAlone?: boolean;
  /**
   * Disks whose content the first VM that is prepared here finds on its own disks of their ids and sizes: an old replica, an image. Default: what `disk` says.
   */
  readonly existingDisks?: readonly SimulatedDisk[];
  /**
   * Whether a VM that is prepared here finds on its disks what the one before it, of the same identity, has left there: as where disks are files. Default
   * false.
   */
  readonly keepsDisks?: boolean;
  /** Disks that both hosts reach: used as they are for the VM's disks of their ids. */
  readonly sharedDisks?: readonly SimulatedDisk[];
}

/**
 * A simulated host that VMs migrate to. What it prepared outlives the engine's process: {@link
 * SimulatedBackend.detachProcess} lets that die, {@link SimulatedBackend.attachProcess} begins another.
 */
export interface SimulatedBackend extends HypervisorBackend {
  /** Every VM that was prepared here, the oldest first, whatever became of it. */
  readonly vms: readonly SimulatedVm[];
  /** The one that was started last. Undefined before the first. */
  readonly vm: SimulatedVm | undefined;
  /** The backend for the engine of a new process, beside which the old one's goes on. */
  attachProcess(): HypervisorBackend;
  /**
   * The processes of all engines here died. What they call has no effect and never settles; prepared VMs
   * stay, paused.
   */
  detachProcess(): void;
  /**
   * A prepared VM whose engine died, for a new one: to start or to discard it. Throws `invalid-state` if
   * there is none, or another engine has it.
   */
  attachDestination(vmId: string): DestinationVm;
  /** How the disks are that it makes from now on. */
  setDisk(disk: MadeDisk): void;
  /** One more thing that goes wrong: `prepare` here, all else in the VM that is prepared next. */
  addFault(fault: VmFault): void;
  /** Nothing goes wrong any more that has not begun to, in what was prepared too. */
  clearFaults(): void;
}

/** A simulated destination host. */
export function createSimulatedBackend(options: SimulatedBackendOptions): SimulatedBackend {
  return new Backend(options);
}

class Backend implements SimulatedBackend {
  readonly name: string;
  readonly #options: SimulatedBackendOptions;
  readonly #faults: VmFaultPlan;
  readonly #vmFaults: VmFault[] = [];
  readonly #prepared: { readonly core: VmCore; readonly vm: SimulatedVm }[] = [];
  readonly #ties = new Set<ProcessTie>();
  #first: ProcessTie | undefined;
  #disk: MadeDisk;

  constructor(options: SimulatedBackendOptions) {
    this.name = options.name ?? 'simulated';
    this.#options = options;
    this.#disk = options.disk ?? {};
    this.#faults = new VmFaultPlan(options.environment, (fault) => {
      const { host = 'destination', observe, environment } = options;
      observe?.({ kind: 'fault', fault, host, vmId: '', atMs: environment.now() });
    });
    for (const fault of options.faults ?? []) this.addFault(fault);
  }

  get vms(): readonly SimulatedVm[] {
    return this.#prepared.map(({ vm }) => vm);
  }

  get vm(): SimulatedVm | undefined {
    const started = this.#prepared.filter(({ core }) => core.started);
    return started.at(-1)?.vm;
  }

  prepare(description: VmDescription, options?: PrepareOptions): Promise<DestinationVm> {
    // Without processes that die there is one, for ever.
    this.#first ??= this.#newTie();
    return this.#prepareIn(this.#first, description, options);
  }

  attachProcess(): HypervisorBackend {
    const tie = this.#newTie();
    return {
      name: this.name,
      prepare: (description, options) => this.#prepareIn(tie, description, options),
    };
  }

  detachProcess(): void {
    for (const tie of this.#ties) tie.cut();
    this.#ties.clear();
    this.#first = undefined;
    for (const { core } of this.#prepared) core.cutProcess();
  }

  attachDestination(vmId: string): DestinationVm {
    const found = this.#prepared.findLast(({ core }) => core.description.vmId === vmId && isWaiting(core));
    if (found === undefined) throw new MigrationError('invalid-state', `no ${vmId} waits to be started here`);
    return new SimulatedDestinationVm(found.core, found.core.attach());
  }

  setDisk(disk: MadeDisk): void {
    this.#disk = disk;
  }

  addFault(fault: VmFault): void {
    if (fault.point === 'prepare') this.#faults.add(fault);
    else this.#vmFaults.push(fault);
  }

  clearFaults(): void {
    this.#faults.clear();
    this.#vmFaults.length = 0;
    for (const { core } of this.#prepared) core.clearFaults();
  }

  #newTie(): ProcessTie {
    const tie = new ProcessTie();
    this.#ties.add(tie);
    return tie;
  }

  #prepareIn(
    tie: ProcessTie,
    description: VmDescription,
    options: PrepareOptions = {},
  ): Promise<DestinationVm> {
    return tie.call(async () => {
      const { signal, memory = 'copy' } = options;
      throwIfAborted(signal);
      const { environment, timings } = this.#options;
      if (timings?.prepareMs !== undefined) await delay(environment, timings.prepareMs, signal);
      const fault = await this.#faults.meet('prepare', signal);
      if (fault?.effect === 'fail') throw new MigrationError('hypervisor', 'prepare failed');
      const takesDisksAlone = this.#options.takesDisksAlone ?? true;
      if (memory === 'none' && !takesDisksAlone) {
        throw new MigrationError('unsupported', `${this.name} takes no disks alone`);
      }
      const problems = this.#problems(description, memory === 'copy');
      if (problems.length > 0) {
        throw new MigrationError(
          'incompatible',
          `${this.name} cannot take ${description.vmId}: ${problems.join('; ')}`,
        );
      }
      this.#requireRoom(description, options.shared ?? new Set());
      if (tie.dead) throw new MigrationError('hypervisor', 'the process that asked for it is dead');
      this.#discardLeftovers(description.vmId);
      const core = this.#make(description);
      this.#prepared.push({ core, vm: new SimulatedVm(core) });
      return new SimulatedDestinationVm(core, core.attach());
    });
  }

  #problems(description: VmDescription, runs: boolean): readonly string[] {
    const { accept = {} } = this.#options;
    const machine = { machine: simulatedMachine, deviceStateFormat: simulatedStateFormat };
    // Of disks alone the machine is of no interest.
    const offer = runs
      ? { ...machine, ...accept }
      : accept.disks === undefined
        ? {}
        : { disks: accept.disks };
    const problems = [...descriptionDifferences(offer, description)];
    for (const { core } of this.#prepared) {
      if (core.description.vmId !== description.vmId) continue;
      const busy = isWaiting(core) ? core.attached : isThere(core);
      if (busy) problems.push(`it is here already, ${core.state}`);
    }
    return problems;
  }

  /** Throws `disk-full` for disks that hold more than they can here. */
  #requireRoom({ vmId, disks }: VmDescription, shared: ReadonlySet<string>): void {
    const { capacityBytes = Number.POSITIVE_INFINITY } = this.#disk;
    const full = disks.filter(({ id, allocatedBytes = 0 }) => {
      const held = this.#leftOn(id, vmId)?.allocatedBytes ?? 0;
      return !shared.has(id) && this.#disk.foreign !== true && allocatedBytes > Math.max(capacityBytes, held);
    });
    if (full.length === 0) return;
    const needs = full.map(({ id, allocatedBytes }) => `disk ${id} holds ${allocatedBytes} bytes`);
    throw new MigrationError('disk-full', `${needs.join('; ')}; there is room for ${capacityBytes}`);
  }

  /** What an engine that died left prepared makes room for another attempt. */
  #discardLeftovers(vmId: string): void {
    for (const { core } of this.#prepared) {
      if (core.description.vmId === vmId && isWaiting(core)) core.discard();
    }
  }

  #make(description: VmDescription): VmCore {
    const { host = 'destination', sharedDisks = [] } = this.#options;
    const made = this.#disk;
    const disks = description.disks.map(({ id, sizeBytes, blockBytes, readOnly }) => {
      const shared = sharedDisks.find((candidate) => candidate.id === id);
      return shared ?? { ...made, id, sizeBytes, blockBytes, readOnly };
    });
    const core = new VmCore({
      ...this.#options,
      faults: this.#vmFaults.splice(0),
      host,
      // What the guest draws from comes with its state.
      seed: 0,
      description,
      disks,
      keepsUnsentPages: true,
      stateBytes: 64 << 10,
      saveDirtyBytes: 0,
      refills: this.#options.loadsOnce !== true,
      takesDisksAlone: this.#options.takesDisksAlone ?? true,
      state: 'prepared',
    });
    for (const { medium } of core.disks) {
      if (sharedDisks.includes(medium)) continue;
      const left = this.#leftOn(medium.id, description.vmId);
      if (left?.sizeBytes === medium.sizeBytes && left.blockBytes === medium.blockBytes) left.copyTo(medium);
    }
    return core;
  }

  /** The disk whose content one that is made anew begins with. */
  #leftOn(id: string, vmId: string): SimulatedDisk | undefined {
    const { existingDisks = [], keepsDisks = false } = this.#options;
    const last = this.#prepared.findLast(({ core }) => core.description.vmId === vmId);
    const left = keepsDisks && last !== undefined ? last.vm.disks : existingDisks;
    return left.find((disk) => disk.id === id);
  }
}

/** Prepared, and not started. */
function isWaiting(core: VmCore): boolean {
  return core.state === 'prepared' || core.state === 'loaded';
}

/** Started, and neither moved on nor lost. */
function isThere(core: VmCore): boolean {
  return !['handed-over', 'discarded', 'released', 'gone', 'off'].includes(core.state);
}
