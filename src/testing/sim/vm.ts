import { requireArgument } from '../../backends/memory/arguments.ts';
import type { SourceVm, VmDescription } from '../../interfaces/hypervisor.ts';
import type { MemoryRegion } from '../../interfaces/memory.ts';
import type { SimulatedDisk, SimulatedDiskOptions } from './disk.ts';
import type { SimulatedGuest } from './guest.ts';
import { SimulatedSourceVm } from './source-vm.ts';
import type { UnitSpace } from './unit-space.ts';
import { VmCore } from './vm-core.ts';
import type { VmState } from './vm-events.ts';
import type { VmFault } from './vm-faults.ts';
import type { VmHostOptions } from './vm-options.ts';
import { type StateToken, simulatedStateFormat } from './vm-state.ts';
import type { SimulatedWorkload } from './workloads.ts';

/** The machine model of every simulated VM. */
export const simulatedMachine = 'longhaul-simulated';

/** Memory of one region, `ram`. */
export interface SimulatedMemorySize {
  /** Whole pages; 0: no memory. */
  readonly sizeBytes: number;
  /** A power of two from 4096 to 1 MiB. Default 4096. */
  readonly pageBytes?: number;
  /** How much of it holds something, from the start: 0 to 1. Default 1. */
  readonly usedFraction?: number;
}

/** A simulated VM, as {@link createSimulatedVm} makes it. */
export interface SimulatedVmOptions extends VmHostOptions {
  /** 1 to 255 characters. */
  readonly vmId: string;
  /** Everything random is drawn from it; a safe integer. Default 1. */
  readonly seed?: number;
  /** 1 or more; only described. Default 1. */
  readonly cpus?: number;
  /** Default: no memory. */
  readonly memory?: SimulatedMemorySize | readonly MemoryRegion[];
  /** To be made, or as they are, for example shared with another host. Default: none. */
  readonly disks?: readonly (SimulatedDiskOptions | SimulatedDisk)[];
  /** What its guest does from the start. Default: nothing. */
  readonly workloads?: readonly SimulatedWorkload[];
  /** Whether it waits for {@link SimulatedVm.run}. Default false. */
  readonly paused?: boolean;
  /** See `MemorySource.keepsUnsentPages`. Default true. */
  readonly keepsUnsentPages?: boolean;
  /** The device state's size at least; statistics and workloads are in it. Default 64 KiB. */
  readonly stateBytes?: number;
  /** Memory that saving the device state dirties, in bytes. Default 0. */
  readonly saveDirtyBytes?: number;
}

/** What can be asked of a guest; see {@link SimulatedGuest}. */
export type GuestControl = Pick<
  SimulatedGuest,
  | 'generation'
  | 'writeDisk'
  | 'zeroDisk'
  | 'readDisk'
  | 'flushDisk'
  | 'writeMemory'
  | 'powerOff'
  | 'startWorkload'
  | 'stopWorkloads'
  | 'mark'
  | 'statistics'
>;

/**
 * A simulated VM on its host. It outlives the engine's process that migrates it, as a hypervisor's does:
 * attach an engine by {@link SimulatedVm.attachSource}, let its process die by {@link
 * SimulatedVm.detachProcess}.
 */
export class SimulatedVm {
  readonly #core: VmCore;

  /** Use {@link createSimulatedVm}. */
  constructor(core: VmCore) {
    this.#core = core;
  }

  /** The host that it is on. */
  get host(): string {
    return this.#core.options.host;
  }

  /** Its identity. */
  get vmId(): string {
    return this.#core.description.vmId;
  }

  /** What it is. */
  get description(): VmDescription {
    return this.#core.description;
  }

  /** What it is doing. The guest executes only in `running`. */
  get state(): VmState {
    return this.#core.state;
  }

  /** What its guest can be told to do, and has noticed. */
  get guest(): GuestControl {
    return this.#core.guest;
  }

  /** Its disks, in their order. */
  get disks(): readonly SimulatedDisk[] {
    return this.#core.disks.map(({ medium }) => medium);
  }

  /** The memory regions' content, in their order. */
  get memory(): readonly UnitSpace[] {
    return this.#core.memory.spaces;
  }

  /** Bytes of memory pages that are dirty now. */
  get dirtyBytes(): number {
    return this.#core.memory.dirtyBytes();
  }

  /** The throttle in force, 0 to 0.99. */
  get throttle(): number {
    return this.#core.throttle;
  }

  /** For how long a tap's handler kept the guest from being told of a write of its own, the longest one, in ms. */
  get longestHoldMs(): number {
    return this.#core.disks.reduce((longest, disk) => Math.max(longest, disk.longestHoldMs), 0);
  }

  /** Which disks have a tap, or a dirty log, now, by id. */
  get tappedDisks(): readonly string[] {
    return this.#core.disks.filter(({ tapped }) => tapped).map(({ medium }) => medium.id);
  }

  /** The save of the device state that was made here last, or loaded here. Undefined before the first. */
  get stateToken(): StateToken | undefined {
    return this.#core.token;
  }

  /** What engines did here that their contract forbids. */
  get violations(): readonly string[] {
    return this.#core.violations;
  }

  /** The operator runs a paused guest. Throws `invalid-state` in any other state but `running`. */
  run(): void {
    this.#core.run();
  }

  /** The operator pauses the guest; whoever migrates it is told. Resolves when its I/O is finished. */
  pause(): Promise<void> {
    return this.#core.pause();
  }

  /** The hypervisor dies: the VM is lost, its disks with it unless they were made elsewhere. */
  die(reason = 'the hypervisor died'): void {
    this.#core.die(reason);
  }

  /** The tap, or the dirty log, of a disk says that it cannot vouch any more. Nothing happens without one. */
  breakTap(disk: string, reason = 'the tap broke'): void {
    this.#core.disks.find(({ medium }) => medium.id === disk)?.breakTap(reason);
  }

  /** One more thing that goes wrong. */
  addFault(fault: VmFault): void {
    this.#core.addFault(fault);
  }

  /** Nothing goes wrong any more that has not begun to. */
  clearFaults(): void {
    this.#core.clearFaults();
  }

  /**
   * The VM as the source of a migration, for an engine in a process of its own. Throws `invalid-state` while
   * another engine has it: until that one is done with it (`detach()`, `release()`), or its process died.
   */
  attachSource(): SourceVm {
    return new SimulatedSourceVm(this.#core, this.#core.attach());
  }

  /**
   * The process of the engine that has the VM died, if one has. Its taps are gone and its throttle is off;
   * what it calls has no effect and never settles. A guest that it had stunned runs on by itself; one that
   * was sealed stays paused; a VM that was prepared stays so.
   */
  detachProcess(): void {
    this.#core.cutProcess();
  }
}

/** A simulated VM that runs, or waits paused. Throws `invalid-argument`. */
export function createSimulatedVm(options: SimulatedVmOptions): SimulatedVm {
  const { vmId, host = 'source', seed = 1, cpus = 1, memory = [], disks = [] } = options;
  requireArgument(vmId.length >= 1 && vmId.length <= 255, 'vmId has not 1 to 255 characters');
  requireArgument(Number.isSafeInteger(seed), `seed ${seed} is not a safe integer`);
  const { regions, usedFraction } = regionsOf(memory);
  requireArgument(usedFraction >= 0 && usedFraction <= 1, `usedFraction ${usedFraction}`);
  const ids = disks.map((disk) => disk.id);
  requireArgument(new Set(ids).size === ids.length, 'two disks have one id');
  const core = new VmCore({
    ...options,
    host,
    seed,
    disks,
    keepsUnsentPages: options.keepsUnsentPages ?? true,
    stateBytes: options.stateBytes ?? 64 << 10,
    saveDirtyBytes: options.saveDirtyBytes ?? 0,
    refills: true,
    takesDisksAlone: false,
    state: 'paused',
    description: {
      vmId,
      name: vmId,
      machine: simulatedMachine,
      cpus,
      memory: regions,
      disks: disks.map(describeDisk),
      deviceStateFormat: simulatedStateFormat,
    },
  });
  for (const space of core.memory.spaces) {
    const used = Math.floor(space.generations.size * usedFraction);
    if (used > 0) space.generations.setRange(0, used, 1);
  }
  for (const workload of options.workloads ?? []) core.guest.startWorkload(workload);
  if (options.paused !== true) core.run();
  return new SimulatedVm(core);
}

function regionsOf(memory: SimulatedMemorySize | readonly MemoryRegion[]): {
  readonly regions: readonly MemoryRegion[];
  readonly usedFraction: number;
} {
  if (!('sizeBytes' in memory)) return { regions: memory, usedFraction: 1 };
  const { sizeBytes, pageBytes = 4096, usedFraction = 1 } = memory;
  return { regions: sizeBytes === 0 ? [] : [{ name: 'ram', sizeBytes, pageBytes }], usedFraction };
}

function describeDisk(disk: SimulatedDiskOptions | SimulatedDisk): VmDescription['disks'][number] {
  const { id, sizeBytes, blockBytes = 4096, readOnly = false } = disk;
  return { id, sizeBytes, blockBytes, readOnly };
}
