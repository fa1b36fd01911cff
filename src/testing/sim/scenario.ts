/**
 * A scenario is plain data: what moves, over which network, under which policy, and what goes wrong when. It can be printed, kept, and made
 * smaller. Its timeline reads like one:
 *
 * ```
 * timeline: [
 *   { at: { end: 'source', phase: 'copyMemory', afterMs: 20 }, do: { cut: 'wan' } },
 *   { at: { ms: 900 }, do: { kill: 'destination', how: 'process' } },
 *   { at: { ms: 1500 }, do: { restart: 'destination' } },
 * ]
 * ```
 */
import type { Phase } from '../../errors.ts';
import type { DiskMode, MigrationPolicy } from '../../interfaces/migration.ts';
import type { ClaimValue } from '../../interfaces/register.ts';
import type { DiskLimits, SimulatedDiskOptions } from './disk.ts';
import type { ScenarioHooks } from './hooks.ts';
import type { PathOptions } from './network-path.ts';
import type { WireConditions } from './network-wire.ts';
import type { StepName } from './steps.ts';
import type { SimulatedMemorySize } from './vm.ts';
import type { VmState } from './vm-events.ts';
import type { VmFault } from './vm-faults.ts';
import type { VmTimings } from './vm-options.ts';
import type { SimulatedWorkload } from './workloads.ts';

/** An end of the migration, and the host that it runs on. */
export type EndName = 'source' | 'destination';

/** The VM that moves. */
export interface ScenarioVm {
  /** Its memory. */
  readonly memory: SimulatedMemorySize;
  /** Made at the source; one whose mode in the policy is `shared` is reached from both hosts. */
  readonly disks: readonly SimulatedDiskOptions[];
  /** What its guest does. */
  readonly workloads: readonly SimulatedWorkload[];
  /** Whether the guest is paused from the start. Default false. */
  readonly paused?: boolean;
  /** See `MemorySource.keepsUnsentPages`. Default true. */
  readonly keepsUnsentPages?: boolean;
  /** The device state's size at least. Default 64 KiB. */
  readonly stateBytes?: number;
  /** Memory that saving the device state dirties. Default 0. */
  readonly saveDirtyBytes?: number;
}

/** The hosts. */
export interface ScenarioHosts {
  /** How long the source's hypervisor takes over its steps. Default: no time. */
  readonly source?: VmTimings;
  /** The same of the destination's. */
  readonly destination?: VmTimings;
  /** How the disks are that the destination makes; when all is mended, those that it makes anew have room. Default: empty, without limits. */
  readonly disk?: DiskLimits & Pick<SimulatedDiskOptions, 'foreign' | 'capacityBytes' | 'tellsZeros'>;
  /**
   * The destination's disks are old replicas of the source's: so much of each (0 to 1) holds something else, among it zeros, garbage and what the guest is yet
   * to write. Default: they hold what `disk` says.
   */
  readonly replicaChanged?: number;
  /** Whether an attempt finds on the destination's disks what the one before it has left there. Default false. */
  readonly keepsDisks?: boolean;
  /** Whether the destination's hypervisor takes device state once, and no content after it. Default false. */
  readonly loadsOnce?: boolean;
  /** Whether the destination's hypervisor takes disks alone. Default true. */
  readonly takesDisksAlone?: boolean;
  /** What the caller at the destination does around the start of the guest, in the first attempt. Default: nothing. */
  readonly hooks?: ScenarioHooks;
  /** Whether both hosts have a codec, {@link repeatCodec}, for a policy with `compression`. Default false. */
  readonly codec?: boolean;
}

/** When an entry of a timeline is due: once, the first time. Times are virtual, in ms from the start. */
export type Trigger =
  /** At a time. */
  | { readonly ms: number }
  /** So long after an end has entered a phase. */
  | { readonly end: EndName; readonly phase: Phase; readonly afterMs?: number }
  /**
   * Just before the nth (default 1) step of an end: a call of a plug point that it makes; counted over all its processes. With `afterMs`
   * so long after that call was made.
   */
  | {
      readonly end: EndName;
      readonly step: StepName | 'any';
      readonly nth?: number;
      readonly afterMs?: number;
    }
  /** So long after the VM on a host has come into a state. */
  | { readonly host: EndName; readonly state: VmState; readonly afterMs?: number }
  /** So long after a claim stands. */
  | { readonly claim: ClaimValue; readonly afterMs?: number };

/** What a register does with calls of an end. */
export interface ScenarioRegisterFault {
  /** Whose calls. */
  readonly register: EndName;
  /** `fail-afterwards`: the claim stands, and the caller is told that it failed. `hang`: nothing is done, and nobody is told. */
  readonly does: 'fail' | 'fail-afterwards' | 'delay' | 'hang';
  /** Which call. */
  readonly on: 'claim' | 'prepare' | 'read';
  /** Claims of this value only. Default: any. */
  readonly value?: ClaimValue;
  /** How many calls, from now on. Default 1. */
  readonly times?: number;
  /** `delay`: so much longer. Default 0. */
  readonly ms?: number;
}

/** What an entry of a timeline does. Paths are named; `'*'` is all of them. `from` is the host whose way out it is; default: both ways. */
export type Action =
  | { readonly cut: string }
  | { readonly mend: string }
  | { readonly darken: string; readonly from?: EndName }
  | { readonly lighten: string; readonly from?: EndName }
  | { readonly reset: string }
  | { readonly resetAfterBytes: number; readonly path: string; readonly from?: EndName }
  | { readonly flip: string; readonly from?: EndName; readonly chunkBytesMin?: number }
  | { readonly change: string; readonly from?: EndName; readonly to: WireConditions }
  /** The process alone dies: its connections are reset, its VM stays; or its host with it: the network hears nothing, the VM is lost. */
  | { readonly kill: EndName; readonly how: 'process' | 'host' }
  | { readonly restart: EndName }
  /** The caller at an end aborts its signal. */
  | { readonly abort: EndName }
  /** The operator pauses the guest at the source, if it runs. */
  | { readonly pause: 'source' }
  /** Added to the VM at that host. */
  | { readonly vm: EndName; readonly fault: VmFault }
  | ScenarioRegisterFault;

/** One entry of a timeline. */
export interface TimelineEntry {
  /** When. */
  readonly at: Trigger;
  /** What. */
  readonly do: Action;
}

/** See the top of this file. */
export interface Scenario {
  /** What moves. */
  readonly vm: ScenarioVm;
  /** The paths between `source` and `destination`. */
  readonly paths: readonly PathOptions[];
  /** How the hosts behave. Default: no step takes time. */
  readonly hosts?: ScenarioHosts;
  /** The source's policy. */
  readonly policy: MigrationPolicy;
  /** How long the destination waits for a source, in ms. Default 10,000. */
  readonly acceptMsMax?: number;
  /** Whether each end has a register of its own, or both one. */
  readonly registers: 'own' | 'shared';
  /** How long a call of a register takes, in ms. Default 1. */
  readonly registerMs?: number;
  /** Whether a destination that has ended answers questions at once, or not before all is mended. Default true. */
  readonly answers?: boolean;
  /** Whether an end that recovers is told the attempt's number where its own register would do without. Default false. */
  readonly namesAttempt?: boolean;
  /** Whether the first attempt is a rehearsal. Default false. */
  readonly rehearse?: boolean;
  /** What goes wrong, and when. */
  readonly timeline: readonly TimelineEntry[];
}

/** What happens to each disk, by id. */
export function diskModesOf({ vm, policy }: Scenario): ReadonlyMap<string, DiskMode> {
  return new Map(
    vm.disks.map(({ id, readOnly }) => [id, policy.disks?.[id] ?? (readOnly === true ? 'shared' : 'copy')]),
  );
}

/** The class of an action, for statistics: `cut`, `kill-host`, `vm-stun`, `register-hang`, ... */
export function classOf(action: Action): string {
  if ('kill' in action) return `kill-${action.how}`;
  if ('vm' in action) return `vm-${action.fault.point}-${action.fault.effect ?? 'slow'}`;
  if ('register' in action) return `register-${action.does}`;
  if ('resetAfterBytes' in action) return 'reset-after';
  return Object.keys(action)[0] ?? '';
}
