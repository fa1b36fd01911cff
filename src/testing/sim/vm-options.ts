import type { Environment } from '../../interfaces/environment.ts';
import type { VmDescription } from '../../interfaces/hypervisor.ts';
import type { SimulatedDisk, SimulatedDiskOptions } from './disk.ts';
import type { ContentCheck } from './unit-space.ts';
import type { VmEvent, VmState } from './vm-events.ts';
import type { VmFault } from './vm-faults.ts';

/** How long a simulated hypervisor's steps take when all is well, in ms. Each is 0 by default. */
export interface VmTimings {
  /** Default 0. */
  readonly stunMs?: number;
  /** Default 0. */
  readonly saveMs?: number;
  /** Default 0. */
  readonly sealMs?: number;
  /** Default 0. */
  readonly resumeMs?: number;
  /** Default 0. */
  readonly prepareMs?: number;
  /** Default 0. */
  readonly loadMs?: number;
  /** Default 0. */
  readonly startMs?: number;
}

/** What source and destination have in common. */
export interface VmHostOptions {
  /** Time and chance. */
  readonly environment: Environment;
  /** The host's name, for events. */
  readonly host?: string;
  /** How long its steps take. Default: no time. */
  readonly timings?: VmTimings;
  /** What goes wrong, from the start. */
  readonly faults?: readonly VmFault[];
  /** Told of everything that happens, at once; must not throw. */
  readonly observe?: (event: VmEvent) => void;
  /**
   * How closely arriving content is looked at: `stamp` is for VMs so large that `full` takes too long.
   * Default `full`.
   */
  readonly check?: ContentCheck;
  /**
   * Each memory region and disk reads into a ring of so many bytes that is used again and again, for huge
   * VMs. More than all that can be on its way, the destination's buffers included. Default: no ring, new
   * bytes for each read.
   */
  readonly ringBytes?: number;
}

/** What a VM on its host is made of. */
export interface VmCoreOptions extends Omit<VmHostOptions, 'host'> {
  readonly host: string;
  readonly seed: number;
  readonly description: VmDescription;
  readonly disks: readonly (SimulatedDiskOptions | SimulatedDisk)[];
  readonly keepsUnsentPages: boolean;
  readonly stateBytes: number;
  readonly saveDirtyBytes: number;
  /** See `DestinationVmCapabilities.refill`. */
  readonly refills: boolean;
  /** See `DestinationVmCapabilities.disksAlone`. */
  readonly takesDisksAlone: boolean;
  readonly state: Extract<VmState, 'paused' | 'prepared'>;
}
