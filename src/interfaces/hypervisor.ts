import type { BlockDevice, SourceDisk } from './block-device.ts';
import type { CallOptions, Chunks } from './content.ts';
import type { MemoryRegion, MemorySink, MemorySource } from './memory.ts';
import type { MemoryMode } from './migration.ts';

/** A disk as the destination has to provide it. */
export interface DiskDescription {
  /** The same on both hosts, unique within the VM; 1 to 255 characters. */
  readonly id: string;
  /** Its size in bytes. */
  readonly sizeBytes: number;
  /** The logical block size that the guest sees, a power of two from 512 to 65536. */
  readonly blockBytes: number;
  /** True if the guest cannot write it. */
  readonly readOnly: boolean;
  /** How much of it holds data at the source, in bytes, as far as that is known: what a thin disk at the destination will need. Default: not known. */
  readonly allocatedBytes?: number;
}

/** What a destination must offer to take this VM. Compared, difference by difference, before a byte is copied. */
export interface VmDescription {
  /** The VM's identity for the ownership registers: the same wherever it runs; 1 to 255 characters. */
  readonly vmId: string;
  /** A name for people. */
  readonly name: string;
  /** Machine model, for example `pc-i440fx-10.0`. */
  readonly machine: string;
  /** Number of virtual CPUs. */
  readonly cpus: number;
  /** Its memory's regions: {@link PageRun.region} is an index into them. */
  readonly memory: readonly MemoryRegion[];
  /** Its disks, in an order that stays. */
  readonly disks: readonly DiskDescription[];
  /** Names the encoding of the device state; only a backend that reads this very format may load it. */
  readonly deviceStateFormat: string;
}

/** Whether the guest executes. */
export type RunState = 'running' | 'paused';

/** A change of the guest's state that the engine did not ask for. */
export interface UnexpectedStop {
  /** `shutdown`: the guest powered off or crashed. `paused`: something stopped it. `gone`: the hypervisor died. */
  readonly kind: 'shutdown' | 'paused' | 'gone';
  /** For people. */
  readonly reason: string;
}

/** What a {@link SourceVm} can do beyond what every one must. */
export interface SourceVmCapabilities {
  /** {@link SourceVm.setThrottle} slows the guest. If false the engine never calls it. */
  readonly throttle: boolean;
  /** It does so also where disks move alone, and no memory round is read. */
  readonly throttleAlone: boolean;
  /** {@link MemorySource.read} and {@link MemorySource.offer} work. If false the engine never calls them, and no page is audited. */
  readonly auditMemory: boolean;
  /** {@link SourceVm.measure} works. If false the engine never calls it, and there is no estimate before a migration (`unsupported`). */
  readonly measure: boolean;
}

/** What comes with a {@link SourceVm.measure}. */
export interface MeasureOptions extends CallOptions {
  /** For how long to look, in ms: 50 to 60,000. What can only look for longer does so, and says for how long it did. */
  readonly durationMs: number;
}

/** What {@link SourceVm.measure} saw. */
export interface GuestMeasurement {
  /** For how long it looked at the memory, in ms, more than 0. */
  readonly durationMs: number;
  /** Bytes of the memory pages that the guest wrote meanwhile, each page counted once. */
  readonly dirtiedBytes: number;
  /** What the guest wrote to each disk in that time, in bytes, by the disk's id. A disk that is not there: not known. */
  readonly writtenBytes: Readonly<Record<string, number>>;
  /** Bytes of the memory pages that hold something other than zeros, as far as that can be told. Default: not known. */
  readonly usedBytes?: number;
}

/** What comes with a {@link SourceVm.stun}. */
export interface StunOptions extends CallOptions {
  /** `none`: disks move alone, so no round was read, and no device state will be, and only {@link SourceVm.resume} follows. Default `copy`. */
  readonly memory?: MemoryMode;
  /**
   * To be called, once at the most, when the guest may stand still from then on: what the hypervisor does before, such as a flush, is no part of its downtime. A
   * backend that does not call it is taken to stop the guest at once.
   */
  readonly onStopping?: () => void;
}

/**
 * A running VM at the source. Methods are called one at a time unless said otherwise.
 *
 * ```
 * running ──stun()──► stunned ──saveDeviceState()──► stunned ──seal()──► sealed ──release()──► released
 *    ▲                   │                              │                   │
 *    └──────resume()─────┴──────────────────────────────┴───────────────────┘
 * ```
 */
export interface SourceVm {
  /** What it is; does not change. */
  readonly description: VmDescription;
  /** What it can do beyond what every one must. */
  readonly capabilities: SourceVmCapabilities;
  /** Its memory. */
  readonly memory: MemorySource;
  /** Its disks, as in the description. */
  readonly disks: readonly SourceDisk[];
  /**
   * About how many bytes of device state it will have, where that is known before it is saved: the engine stuns the guest when all that is left fits the downtime, this included. May change. Default:
   * 160 KiB, what a small machine of QEMU has. Once a state was saved in this migration, by an attempt that came to nothing, that counts where it is more.
   */
  readonly deviceStateBytes?: number | undefined;

  /** Whether the guest executes now. */
  runState(): RunState;
  /** Tells of stops that the engine did not cause, from now on. Returns how to stop listening. */
  onUnexpectedStop(listener: (stop: UnexpectedStop) => void): () => void;

  /**
   * Looks for a while at how fast the guest dirties its memory and writes its disks, and leaves no trace: the guest is not slowed
   * noticeably, and no page is missing from a later round for it. Called before a migration, with nothing set up; one at a time. Rejects with
   * `unsupported` without the capability, `invalid-argument` for a duration out of its range, else with `hypervisor`.
   */
  measure(options: MeasureOptions): Promise<GuestMeasurement>;

  /**
   * Slows the guest's CPUs by a fraction from 0 (off) to 0.99. May be called at any time before `stun()`, also while a round is being
   * read. Rejects with `hypervisor`.
   */
  setThrottle(fraction: number): Promise<void>;

  /**
   * Pauses the guest: on success its CPUs are stopped, its devices quiesced, its I/O finished, and every disk write of it
   * has reached the tap's handler. On failure the guest runs (if it ran before). A guest that was paused from the start stays so. May be
   * called again once the guest was resumed.
   */
  stun(options?: StunOptions): Promise<void>;

  /**
   * The device state, in chunks, of a stunned VM. The engine reads memory rounds at the same time: saving may dirty memory, and some
   * hypervisors give both out of one stream. Ends when the state is complete; rejects with `device-state`.
   */
  saveDeviceState(options?: CallOptions): AsyncIterable<Uint8Array>;

  /**
   * After this nothing but {@link SourceVm.resume} can run the guest here, also if this process dies. Called once, stunned, with
   * the state saved. On failure (`hypervisor`) the guest stays stunned, and may be resumed.
   */
  seal(): Promise<void>;

  /**
   * Runs the guest on at the source (unless it was paused from the start), from any state but `released`, also half-way through a failed
   * `stun()` or `saveDeviceState()`. Every tap that is set sees what the guest writes from then on. After it the migration may go on: with
   * a round, in which come all pages dirtied since the last one that was read to its end began, or, should the feed have ended with the
   * stun, all pages; and with another `stun()`. May be called while a `seal()` that was given up has not settled (which must then not seal any more), and after the
   * process that stunned it died. Idempotent. Rejects with `hypervisor`.
   */
  resume(): Promise<void>;

  /** The destination owns the VM: let go of it here. The guest never runs here again. Idempotent. */
  release(): Promise<void>;

  /**
   * The migration is over, or never came to the handover: takes away whatever the backend had set up around a VM that stays (throttle,
   * dirty tracking, exports). The guest is not touched. Idempotent.
   */
  detach(): Promise<void>;
}

/** What a {@link DestinationVm} can do beyond what every one must. */
export interface DestinationVmCapabilities {
  /** {@link DestinationVm.refill} works. If false the engine never calls it, and a switchover that failed once the state was being loaded ends the migration. */
  readonly refill: boolean;
  /** It can take disks alone: {@link DestinationVm.handOver} works. If false, `prepare()` refuses such a migration. */
  readonly disksAlone: boolean;
  /** {@link MemorySink.read} works. If false the engine never calls it, and no page is audited. */
  readonly auditMemory: boolean;
}

/**
 * A VM at the destination that has been prepared and waits, paused, for its content.
 *
 * ```
 * prepared ──loadDeviceState()──► loaded ──start()──► started
 *    ▲   │                          │
 *    └───┼──────refill()────────────┘
 *        └──handOver()──► handed over                                    disks alone
 * ```
 */
export interface DestinationVm {
  /** What it can do beyond what every one must. */
  readonly capabilities: DestinationVmCapabilities;
  /** Its memory, to be filled. */
  readonly memory: MemorySink;
  /** Its disks, to be filled. */
  readonly disks: readonly BlockDevice[];

  /**
   * Loads the device state. All memory and all disk content has been written and flushed before; nothing is written
   * after, unless {@link DestinationVm.refill} is called. Called once, and once more after each of those. Rejects with `device-state`; then
   * only {@link DestinationVm.refill} or {@link DestinationVm.discard} may follow.
   */
  loadDeviceState(state: Chunks, options?: CallOptions): Promise<void>;

  /**
   * The source's guest runs on: forgets the device state that was loaded, in whole or in part, or failed to be, and goes back to where
   * memory and disks can be written; they hold what was written to them before, and nothing that loading put there. Called when
   * `loadDeviceState()` has settled, never after `start()`. Rejects with `unsupported` without the capability, else with `hypervisor`.
   */
  refill(): Promise<void>;

  /**
   * Runs the guest (or, with `run: false`, takes possession but leaves it paused), and announces it on its network. Called once, after the
   * owner claim. Rejects with `hypervisor`; whether the guest runs then is not known, unless the error says so (`guest`).
   */
  start(options: { readonly run: boolean }): Promise<void>;

  /**
   * Of disks that move alone: all of their content is written and flushed, as it was at one moment, and nothing is written after; they are the
   * caller's from now on, as a file or an export. Called once, instead of `loadDeviceState()` and `start()`. Rejects with `unsupported` without
   * the capability, else with `hypervisor` or `disk-write`; then only `discard()` may follow.
   */
  handOver(): Promise<void>;

  /**
   * Gives the preparation up: nothing of it runs, exports are gone. Allowed at any time before `start()` or `handOver()`, and after those only to let go
   * of helpers: a started guest goes on, and what was handed over stays. Idempotent.
   */
  discard(): Promise<void>;
}

/** What comes with a {@link HypervisorBackend.prepare}. */
export interface PrepareOptions extends CallOptions {
  /** Disks, by id, that both hosts reach: they hold their content already, and the engine does not write them. Default: none. */
  readonly shared?: ReadonlySet<string>;
  /**
   * `none`: disks move alone. The description names no memory then, and the machine is of no interest; the VM ends with {@link DestinationVm.handOver}. A
   * backend that cannot refuses with `unsupported`. Default `copy`.
   */
  readonly memory?: MemoryMode;
}

/** A hypervisor as the destination's engine sees it. */
export interface HypervisorBackend {
  /** For people and logs, for example `qemu 10.0.2`. */
  readonly name: string;
  /**
   * Prepares a paused VM that can take `description`, its disks ready to be filled unless they are shared. Refuses with `incompatible` and
   * a message that lists every difference, and with `disk-full` where it can tell that there is no room; after a refusal nothing has changed.
   */
  prepare(description: VmDescription, options?: PrepareOptions): Promise<DestinationVm>;
}
