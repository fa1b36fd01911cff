import { MigrationError } from '../../errors.ts';
import type { Chunks } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { DiskDescription, SourceVm, VmDescription } from '../../interfaces/hypervisor.ts';
import type { MemoryRegion } from '../../interfaces/memory.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import { createPrng, Prng } from '../../util/prng.ts';
import { requireArgument } from './arguments.ts';
import {
  DEVICE_STATE_FORMAT,
  type DeviceState,
  decodeDeviceState,
  encodeDeviceState,
} from './device-state.ts';
import { Guest } from './guest.ts';
import { GuestGate } from './guest-gate.ts';
import { GuestMemory, type MemoryFill } from './guest-memory.ts';
import { GuestMeter } from './guest-statistics.ts';
import { measureGuest } from './measure-guest.ts';
import { diskProblems, MemoryDisk, type MemoryDiskOptions } from './memory-disk.ts';
import { MemoryRounds } from './memory-rounds.ts';
import { MemorySourceVm } from './memory-source-vm.ts';
import { TappedDisk } from './tapped-disk.ts';
import { type LifeState, VmLifecycle } from './vm-lifecycle.ts';
import { type WorkloadHost, WorkloadRunner, type WorkloadState } from './workload-runner.ts';
import type { WorkloadSpec } from './workloads.ts';

/** The machine model of every simulated VM. */
export const MACHINE = 'longhaul-memory';

/** A simulated VM, as {@link createMemoryVm} makes it. */
export interface MemoryVmOptions {
  /** 1 to 255 characters. */
  readonly vmId: string;
  /** Default: `vmId`. */
  readonly name?: string;
  /** 1 or more; only described, not simulated. Default 1. */
  readonly cpus?: number;
  /** One region, named `ram`, of this size: whole pages. Instead of `regions`. Default 0: no memory. */
  readonly memoryBytes?: number;
  /** The page size of `ram`: a power of two from 4096 to 1 MiB. Default 4096. */
  readonly pageBytes?: number;
  /** The memory's regions, each of 4 GiB at most. */
  readonly regions?: readonly MemoryRegion[];
  /** Its disks, to be made, or as they are, for example shared with another VM. Default: none. */
  readonly disks?: readonly (MemoryDiskOptions | MemoryDisk)[];
  /** Everything random is drawn from it; a safe integer. Default 0. */
  readonly seed?: number;
  /** What the memory holds. Default `random`. */
  readonly fill?: MemoryFill;
  /** The latency of disks that say nothing else, in milliseconds. Default 0. */
  readonly diskLatencyMs?: number;
  /** Whether it waits for {@link MemoryVm.run}. Default false. */
  readonly paused?: boolean;
  /** Default: the running process. */
  readonly environment?: Environment;
}

/** A simulated VM: memory and disks are real bytes; the guest does what it is told to, and its workloads. */
export class MemoryVm {
  /** What it is. How much of each disk is allocated is told as it is when it is read. */
  readonly description: VmDescription;
  /** What its guest can be told to do. */
  readonly guest: Guest;
  /** Its memory. */
  readonly memory: GuestMemory;
  /** Its disks, in the order in which they were given. */
  readonly disks: readonly MemoryDisk[];
  readonly #environment: Environment;
  readonly #meter = new GuestMeter();
  readonly #lifecycle: VmLifecycle;
  readonly #tapped: readonly TappedDisk[];
  readonly #source: SourceVm;
  /** Those of the disks that go when the VM goes. */
  readonly #made: MemoryDisk[] = [];
  #prng: Prng;
  #workloads: WorkloadRunner[] = [];
  #throttle = 0;

  /** Throws `invalid-argument`. */
  constructor(options: MemoryVmOptions) {
    const { vmId, seed = 0, fill = 'random', environment = nodeEnvironment } = options;
    requireArgument(vmId.length >= 1 && vmId.length <= 255, 'vmId has not 1 to 255 characters');
    this.#environment = environment;
    this.#prng = createPrng(seed);
    this.memory = new GuestMemory(options.regions ?? singleRegion(options));
    this.memory.fill(fill, this.#prng.fork());
    this.disks = (options.disks ?? []).map((disk) => this.#makeDisk(disk, options));
    this.description = describe(options, this.memory, this.disks);

    const meter = this.#meter;
    const gate = new GuestGate();
    this.#lifecycle = new VmLifecycle(gate, {
      onRun: () => {
        meter.ran(environment.now());
        for (const workload of this.#workloads) workload.start();
      },
      onHalt: () => {
        meter.halted(environment.now());
        for (const workload of this.#workloads) workload.stop();
      },
    });
    const lifecycle = this.#lifecycle;
    const now = () => environment.now();
    this.#tapped = this.disks.map((disk) => new TappedDisk(disk, now, () => lifecycle.stunned));
    const powerOff = () => lifecycle.powerOff();
    this.guest = new Guest({ environment, gate, meter, memory: this.memory, disks: this.#tapped, powerOff });
    this.#source = new MemorySourceVm({
      description: this.description,
      lifecycle,
      memory: new MemoryRounds(this.memory, environment),
      disks: this.#tapped,
      saveState: () => encodeDeviceState(this.#state()),
      setThrottle: (fraction) => this.#setThrottle(fraction),
      measure: (call) =>
        measureGuest(
          { memory: this.memory, disks: this.#tapped, environment, state: () => this.state },
          call,
        ),
    });
    if (options.paused !== true) lifecycle.run();
  }

  /** What it is doing. The guest executes only while it is `running`. */
  get state(): LifeState {
    return this.#lifecycle.state;
  }

  /** The VM as the source of a migration: always the same object. */
  source(): SourceVm {
    return this.#source;
  }

  /** The disk of that id. Throws `invalid-argument`. */
  disk(id: string): MemoryDisk {
    const disk = this.disks.find((candidate) => candidate.id === id);
    requireArgument(disk !== undefined, `there is no disk ${id}`);
    return disk;
  }

  /**
   * The guest takes up a workload, and follows it wherever it runs. Throws `invalid-argument` if it does not
   * suit the VM.
   */
  startWorkload(spec: WorkloadSpec): void {
    const workload = this.#makeWorkload({ spec, prng: this.#prng.fork().state(), steps: 0, due: 0 });
    this.#workloads.push(workload);
    if (this.state === 'running') workload.start();
  }

  /** The guest drops its workloads. Writes that are in flight are still finished. */
  stopWorkloads(): void {
    for (const workload of this.#workloads.splice(0)) workload.stop();
  }

  /** The workloads and how far each has come. */
  workloads(): readonly WorkloadState[] {
    return this.#workloads.map((workload) => workload.state());
  }

  /**
   * Runs a paused guest, for the operator. Nothing happens if it runs. Throws `invalid-state` while a
   * migration has it, or for good.
   */
  run(): void {
    this.#lifecycle.run();
  }

  /**
   * Pauses the guest, for the operator: resolves when its I/O is finished; a migration learns of it as an
   * unexpected stop. Rejects with `invalid-state` while a migration has it, or for good.
   */
  pause(): Promise<void> {
    return this.#lifecycle.pause();
  }

  /**
   * Takes over another VM's device state, with its workloads. Only into a paused VM (`invalid-state`). Throws
   * `device-state` if the state is damaged, of another format, or does not suit this VM; then nothing has
   * changed.
   */
  loadDeviceState(state: Chunks): void {
    if (this.state !== 'paused') {
      throw new MigrationError('invalid-state', `loadDeviceState: the VM is ${this.state}`);
    }
    try {
      const { prng, workloads } = decodeDeviceState(state);
      const runners = workloads.map((workload) => this.#makeWorkload(workload));
      this.#prng = new Prng(prng);
      this.#workloads = runners;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new MigrationError('device-state', `the device state cannot be loaded: ${why}`, { cause: error });
    }
  }

  /**
   * A disk's tap, or its dirty log, if there is one, loses track, as a filter does whose process died. The guest goes on. Throws
   * `invalid-argument`.
   */
  breakTap(id: string, reason = 'the tap was broken'): void {
    this.disk(id);
    this.#tapped.find((disk) => disk.id === id)?.breakTap(reason);
  }

  /**
   * The hypervisor dies with everything that the VM had: memory, disks that it made, workloads. A migration
   * learns of it as an unexpected stop. Idempotent.
   */
  destroy(): void {
    if (!this.#lifecycle.kill()) return;
    for (const disk of this.#tapped) disk.breakTap('the VM was destroyed');
    this.stopWorkloads();
    this.memory.free();
    for (const disk of this.#made) disk.free();
  }

  #makeDisk(disk: MemoryDiskOptions | MemoryDisk, { diskLatencyMs = 0 }: MemoryVmOptions): MemoryDisk {
    const seed = this.#prng.next();
    if (disk instanceof MemoryDisk) return disk;
    const made = new MemoryDisk({ environment: this.#environment, latencyMs: diskLatencyMs, seed, ...disk });
    this.#made.push(made);
    return made;
  }

  #makeWorkload(state: WorkloadState): WorkloadRunner {
    const host: WorkloadHost = {
      environment: this.#environment,
      regions: this.memory.regions,
      diskBytes: (id) => this.disks.find((disk) => disk.id === id && !disk.readOnly)?.sizeBytes,
      writeMemory: (region, offset, bytes) => this.#meter.dirtied(this.memory.write(region, offset, bytes)),
      writeDisk: (id, offset, bytes) => this.guest.writeDisk(id, offset, bytes),
    };
    const workload = new WorkloadRunner(host, state);
    workload.setThrottle(this.#throttle);
    return workload;
  }

  #setThrottle(fraction: number): void {
    this.#throttle = fraction;
    for (const workload of this.#workloads) workload.setThrottle(fraction);
  }

  #state(): DeviceState {
    return { prng: this.#prng.state(), workloads: this.workloads() };
  }
}

/** A simulated VM, running unless `paused`. Throws `invalid-argument`. */
export function createMemoryVm(options: MemoryVmOptions): MemoryVm {
  return new MemoryVm(options);
}

function singleRegion({ memoryBytes = 0, pageBytes = 4096 }: MemoryVmOptions): readonly MemoryRegion[] {
  return memoryBytes === 0 ? [] : [{ name: 'ram', sizeBytes: memoryBytes, pageBytes }];
}

function describeDisk(disk: MemoryDisk): DiskDescription {
  const { id, sizeBytes, blockBytes, readOnly } = disk;
  return {
    id,
    sizeBytes,
    blockBytes,
    readOnly,
    get allocatedBytes() {
      return disk.allocatedBytes;
    },
  };
}

function describe(
  options: MemoryVmOptions,
  memory: GuestMemory,
  disks: readonly MemoryDisk[],
): VmDescription {
  const { vmId, name = vmId, cpus = 1 } = options;
  requireArgument(Number.isSafeInteger(cpus) && cpus >= 1, `cpus: ${cpus} is not 1 or more`);
  const problem = diskProblems(disks)[0];
  requireArgument(problem === undefined, problem ?? '');
  return Object.freeze({
    vmId,
    name,
    machine: MACHINE,
    cpus,
    memory: memory.regions,
    disks: disks.map(describeDisk),
    deviceStateFormat: DEVICE_STATE_FORMAT,
  });
}
