/** What the main thread and the engine's say to each other. */
import type { QemuSourceOptions } from '../backends/qemu/index.ts';
import type { Measured } from '../core/prediction/estimate.ts';
import type { VmDescription } from '../interfaces/hypervisor.ts';
import type { Estimate, MigrationPolicy } from '../interfaces/migration.ts';
import type { OwnershipRegister } from '../interfaces/register.ts';
import type { Packed } from './pack.ts';
import type { WorkerRegister, WorkerTransport } from './plug-points.ts';
import type { YieldingThreads } from './yield-to-guests.ts';

/** What an engine's thread is started with. */
export interface Order {
  readonly vm: Omit<QemuSourceOptions, 'signal' | 'recovery'>;
  readonly transport: WorkerTransport;
  /** `asked`: it is in the main thread, see {@link RegisterCall}. */
  readonly register: WorkerRegister | 'asked';
  /** Its text. */
  readonly ticket?: string | undefined;
  readonly policy?: MigrationPolicy | undefined;
  readonly yielding?: YieldingThreads | undefined;
}

/** What a source's thread is for. */
export type Task = 'run' | 'rehearse' | 'estimate';

/** What an engine's thread finds as its `workerData`. */
export interface Assignment extends Order {
  readonly task: Task;
  /** How nice the main thread is as a rule. */
  readonly usualNiceness: number | undefined;
  /** Of an estimate: for how long to look. */
  readonly durationMs?: number | undefined;
  /** What an estimate before has seen: the progress goes by it. */
  readonly measured?: Measured | undefined;
  /** The events that somebody listens to. */
  readonly events: readonly string[];
}

/** A call of a register's method. */
export type RegisterCall = {
  readonly [M in keyof OwnershipRegister]-?: {
    readonly method: M;
    readonly args: Parameters<NonNullable<OwnershipRegister[M]>>;
  };
}[keyof OwnershipRegister];

/** To the engine's thread. */
export type ToEngine =
  | { readonly type: 'abort'; readonly reason: Packed }
  | { readonly type: 'listen'; readonly event: string }
  /** The progress that was told last has been seen. */
  | { readonly type: 'seen' }
  | { readonly type: 'answer'; readonly id: number; readonly value: unknown }
  | { readonly type: 'refusal'; readonly id: number; readonly error: Packed };

/** From the engine's thread. The report is the last. */
export type FromEngine =
  | { readonly type: 'opened'; readonly description: VmDescription }
  | { readonly type: 'event'; readonly event: string; readonly args: Packed }
  /** *given* is about to be claimed: from here on the destination may come to own the VM. */
  | { readonly type: 'giving'; readonly epoch: number }
  /** *reclaimed* stands: the VM is the source's again. */
  | { readonly type: 'reclaimed' }
  /** Of an estimate, instead of a report: what it came to, or why to nothing. */
  | { readonly type: 'estimated'; readonly estimate: Estimate; readonly measured: Measured | undefined }
  | { readonly type: 'refused'; readonly error: Packed }
  | { readonly type: 'call'; readonly id: number; readonly call: RegisterCall }
  | { readonly type: 'report'; readonly report: Packed };
