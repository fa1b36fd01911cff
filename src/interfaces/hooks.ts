/** What a hook is called with. */
export interface HookCall {
  /** The VM, as in its description. */
  readonly vmId: string;
  /** The attempt, 1 and up. */
  readonly epoch: number;
  /** Aborted when the hook's time is over: nobody waits for it any more. */
  readonly signal: AbortSignal;
}

/** What is done around the start of a guest, for example giving its address to this host. It must not block the thread: that could not be bounded. */
export type Hook = (call: HookCall) => void | Promise<void>;

/**
 * The caller's own part in a handover, at the destination. Each hook is called at most once, and only for a VM that this host owns: not in a
 * rehearsal, nor for disks alone, nor when the VM was declined; and not by `recover()`, whose caller can do it himself.
 *
 * Whatever a hook does, the guest runs. One that throws or rejects, or is not over when its time is, is in the report (`hook-failed`) of a
 * migration that completed all the same.
 */
export interface DestinationHooks {
  /** Called when *owner* stands, before the guest is started, which waits for it: its time is a part of the downtime. */
  readonly beforeStart?: Hook | undefined;
  /**
   * Called when the guest has been started (paused, if it was paused at the source). Nothing but `run()` waits for it: the source has been told by
   * then, and the guest runs. Not called if the start failed.
   */
  readonly afterStart?: Hook | undefined;
}

/** How long the hooks of a migration took, in ms, each if it was called; one that was late, for as long as it was waited for. */
export interface HookDurations {
  /** A part of the downtime. */
  readonly beforeStartMs?: number;
  /** The guest ran meanwhile. */
  readonly afterStartMs?: number;
}
