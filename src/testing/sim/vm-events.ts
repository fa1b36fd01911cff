import type { VmFault } from './vm-faults.ts';

/**
 * What a simulated VM is doing. `running` and `paused` are the operator's. `stunning`, `stunned`, `sealed`,
 * `released` are a source's (see `SourceVm`); `prepared`, `loaded` and `discarded` a destination's. A VM that
 * is `released`, `discarded`, `off` or `gone` never runs again; one that is `handed-over` is disks alone.
 */
export type VmState =
  | 'running'
  | 'paused'
  | 'stunning'
  | 'stunned'
  | 'sealed'
  | 'released'
  | 'prepared'
  | 'loaded'
  | 'handed-over'
  | 'discarded'
  | 'off'
  | 'gone';

/** What happened. */
export type VmEventDetail =
  /** The state is another one. The guest executes only in `running`. */
  | { readonly kind: 'state'; readonly state: VmState; readonly before: VmState }
  /** A destination took possession; nothing of the guest has run here yet. */
  | { readonly kind: 'started'; readonly run: boolean }
  /** The device state was saved, or loaded. */
  | { readonly kind: 'saved' | 'loaded' }
  /** A tap, or a dirty log, was set or taken away. */
  | { readonly kind: 'tap'; readonly disk: string; readonly set: boolean }
  | { readonly kind: 'throttle'; readonly fraction: number }
  | { readonly kind: 'process'; readonly attached: boolean }
  | { readonly kind: 'fault'; readonly fault: VmFault }
  /** An engine did what its contract forbids. */
  | { readonly kind: 'violation'; readonly message: string };

/** Something that an oracle may want to know of a VM. Told at once, from within the change. */
export type VmEvent = VmEventDetail & {
  readonly host: string;
  readonly vmId: string;
  readonly atMs: number;
};
