import type { Environment } from '../../interfaces/environment.ts';
import { delay } from '../../util/promises.ts';

/**
 * Where a simulated host can fail.
 *
 * - `disk-read`, `disk-write`, `disk-flush`: an operation of a disk, the guest's or the engine's.
 * - `disk-extents`: the engine asks a disk where it is zero. `disk-track`, `disk-take`: it sets a dirty log, or takes what is marked there.
 * - `tap-write`: a guest write is about to be handed to the tap's handler, or to be marked in the dirty log.
 * - `memory-batch`: a round is about to yield pages. `memory-write`: the destination's memory is about to
 *   take some.
 * - `stun`, `save`, `seal`, `resume`, `release`, `throttle`, `measure`: the source VM's methods of about that name.
 * - `prepare`, `load`, `start`, `hand-over`: the destination's.
 * - `clock`: nowhere; it happens at `fromMs`.
 */
export type VmFaultPoint =
  | 'disk-read'
  | 'disk-write'
  | 'disk-flush'
  | 'disk-extents'
  | 'disk-track'
  | 'disk-take'
  | 'tap-write'
  | 'memory-batch'
  | 'memory-write'
  | 'stun'
  | 'save'
  | 'seal'
  | 'resume'
  | 'release'
  | 'throttle'
  | 'measure'
  | 'prepare'
  | 'load'
  | 'start'
  | 'hand-over'
  | 'clock';

/**
 * What happens there, beside `delayMs`.
 *
 * - `fail`: the operation is refused with the error that its contract names. `save`: half-way through.
 *   `tap-write`: as `break-tap`. `disk-take`: as `break-tap`, of the dirty log.
 * - `tear`: of a `disk-write` the first half, in whole blocks, is on the medium; then it fails.
 * - `drop`: nobody is told. `tap-write`: this write is not handed over, or marked, and the tap lives on. `memory-batch`:
 *   the first dirty page is not offered. `disk-write`: the medium does not take it. These are what an audit
 *   is for; elsewhere it does nothing.
 * - `break-tap`: the tap, or the dirty log, of the disk (or of each disk) says that it cannot vouch any more.
 * - `power-off`: the guest, if it runs, powers off. `die`: the hypervisor dies, and the VM with it.
 */
export type VmFaultEffect = 'none' | 'fail' | 'tear' | 'drop' | 'break-tap' | 'power-off' | 'die';

/** One thing that goes wrong. Plain data, so that plans of it can be drawn, printed and shrunk. */
export interface VmFault {
  /** Where. */
  readonly point: VmFaultPoint;
  /** Default `none`: only the delay. */
  readonly effect?: VmFaultEffect;
  /** The operation takes so much longer, in ms. Default 0. */
  readonly delayMs?: number;
  /** Disk operations only: which disk's. Default: any. */
  readonly disk?: string;
  /** Disk operations only: whose. Default: anybody's. */
  readonly by?: 'guest' | 'engine';
  /** So many operations pass before the first that it meets. Default 0. */
  readonly skip?: number;
  /** How many operations it meets. Default 1. */
  readonly times?: number;
  /**
   * Operations before this time do not count, in ms of the environment's clock. Default 0. `clock`: when it
   * happens.
   */
  readonly fromMs?: number;
  /** A failing `disk-write` leaves so many bytes, in whole blocks, on the medium. Default 0. */
  readonly tornBytes?: number;
  /** `save`: so much memory is dirtied half-way through. Default 0. */
  readonly dirtyBytes?: number;
}

/** Which operation is about to happen. */
export interface VmFaultOccasion {
  readonly disk?: string;
  readonly by?: 'guest' | 'engine';
}

interface Planned {
  readonly fault: VmFault;
  skip: number;
  times: number;
}

/** The faults of one simulated host or VM, and how often each has struck. */
export class VmFaultPlan {
  readonly #environment: Environment;
  readonly #struck: (fault: VmFault) => void;
  readonly #planned: Planned[] = [];

  /** `struck` is told of each fault as it happens. */
  constructor(environment: Environment, struck: (fault: VmFault) => void) {
    this.#environment = environment;
    this.#struck = struck;
  }

  add(fault: VmFault): void {
    this.#planned.push({ fault, skip: fault.skip ?? 0, times: fault.times ?? 1 });
  }

  /** What has not struck yet never will. */
  clear(): void {
    this.#planned.length = 0;
  }

  /**
   * The fault that strikes at this operation, if any: the first one planned. Operations are counted by this
   * call.
   */
  take(point: VmFaultPoint, occasion: VmFaultOccasion = {}): VmFault | undefined {
    if (this.#planned.length === 0) return undefined;
    let struck: VmFault | undefined;
    for (const planned of this.#planned) {
      const { fault } = planned;
      if (planned.times <= 0 || fault.point !== point) continue;
      if (fault.disk !== undefined && fault.disk !== occasion.disk) continue;
      if (fault.by !== undefined && fault.by !== occasion.by) continue;
      if (this.#environment.now() < (fault.fromMs ?? 0)) continue;
      if (planned.skip > 0) {
        planned.skip--;
      } else if (struck === undefined) {
        planned.times--;
        struck = fault;
      }
    }
    if (struck !== undefined) this.#struck(struck);
    return struck;
  }

  /** As {@link VmFaultPlan.take}, once the fault's delay is over. Rejects when the signal is aborted. */
  async meet(
    point: VmFaultPoint,
    signal?: AbortSignal,
    occasion: VmFaultOccasion = {},
  ): Promise<VmFault | undefined> {
    const fault = this.take(point, occasion);
    if (fault?.delayMs !== undefined) await delay(this.#environment, fault.delayMs, signal);
    return fault;
  }
}
