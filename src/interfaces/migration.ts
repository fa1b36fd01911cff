import type { MigrationError, Owner, Phase } from '../errors.ts';
import type { CallOptions } from './content.ts';
import type { HookDurations } from './hooks.ts';

/** What happens to a disk. `copy`: it moves. `shared`: both hosts reach the same one. `leave`: it stays and is not there at the destination. */
export type DiskMode = 'copy' | 'shared' | 'leave';

/** What happens to the memory. `copy`: the VM moves. `none`: its disks are copied alone, and the guest stays where it is. */
export type MemoryMode = 'copy' | 'none';

/** What a migration does about a destination that writes a disk more slowly than the guest does. */
export type SlowDiskMode = 'throttle' | 'fail';

/**
 * Whether what the destination's disks hold already is used. `none`: all of a disk is sent. `compare`: the destination reads its disks and says, by
 * digest, what is on them; only what differs is sent.
 */
export type DiskSeed = 'none' | 'compare';

/**
 * What a migration does when its time is over. `cancel`: it ends (`timeout`), and the guest runs on at the source. `force`: the guest is stunned though what is
 * left takes longer than `downtimeMsMax`, as soon as another round would not make it much less, if it is expected to fit four fifths of `stunMsMax`; so it is too when
 * `roundsMax` is reached. A round that is under way is ended first, and while further ones make what is left less, they follow, for as long as `stunMsMax`. It ends as with
 * `cancel` where that much will not fit: at once while disks and memory were not sent once, and what of them is missing would take longer than `stunMsMax`, or when
 * disks were not copied, or not flushed, within another `stunMsMax`; and in the phases `connect` and `prepare`, in which there is nothing to force.
 */
export type TimeoutAction = 'cancel' | 'force';

/** How the VM is handed over: see {@link MigrationPolicy.handover}. */
export type HandoverMode = 'confirmed' | 'one-flight';

/**
 * What of the destination is compared with the source while the guest is stunned, before the destination loads its state: what each end's hypervisor has, not what
 * the engine remembers. `sample`: 1,024 units (pages of memory; 4 KiB of a disk, or a block that is larger; 64 KiB at the most), half of them from what was written last, the others
 * drawn from all that is copied; fewer where they cannot be read within about 20 ms, or 40 where a disk hangs (a call for memory is
 * never cut short). `full`: everything, for as long as it takes: see `stunMsMax`.
 */
export type AuditMode = 'off' | 'sample' | 'full';

/** How a migration is to go. Everything has a default; units are in the names. */
export interface MigrationPolicy {
  /** Connections for data, beside one for control: 1 to 256. Default: 4 to 16 at first, by the round trip, and then, up to 256, as many as carry more than fewer would. */
  readonly connections?: number;
  /**
   * The downtime to aim for: 30 (loading the state takes 20 of them) to 60,000. Switchover waits until the rest is expected to fit: what is not sent, the device state, a
   * flush of the destination's disks, loading, and the claims; and then as long as another round makes it much less. Default 300. The handover's 1.5 round
   * trips, the audit and the destination's hooks come on top: they are not counted.
   */
  readonly downtimeMsMax?: number;
  /** The longest from stun to READY before the source takes back, and its guest runs on: 100 to 600,000. Default 10,000. */
  readonly stunMsMax?: number;
  /**
   * How often the guest is stunned at most: 1 to 100. Default 3. A switchover that fails (it takes longer than `stunMsMax`, the state cannot
   * be saved or loaded) ends with the guest running at the source, and memory is copied in rounds again; the last one ends the migration.
   */
  readonly switchoverAttemptsMax?: number;
  /**
   * How long a guest's write may be held for the mirror: 0 (never) to 10,000. Default 0. With more, a guest that writes faster than the link carries is held a little longer with each
   * look at it before the switchover, up to this, until what it writes fits.
   */
  readonly guestWriteHoldMsMax?: number;
  /** The hardest throttle: 0 (never) to 0.99. Default 0.8. */
  readonly throttleMax?: number;
  /**
   * Memory rounds at most before each switchover, or the policy ends (`not-converging`; but see `onTimeout`): 2 to 100,000. Default 200. Those do not count that only
   * wait: for disk content, for a flush, or for a throttle that is harder than any before to work, a second each.
   */
  readonly roundsMax?: number;
  /** How long it may take from `run()` until the guest is stunned, in ms: 1,000 to 604,800,000, a week. Default: as long as it takes. */
  readonly timeoutMs?: number;
  /** What to do when `timeoutMs` is over and the guest is not stunned: see {@link TimeoutAction}. Default `cancel`. */
  readonly onTimeout?: TimeoutAction;
  /**
   * Guest writes that wait for the link, in bytes, all disks together: 1 MiB to 4 GiB. Default 64 MiB, or twice the link's bandwidth-delay product where that is
   * more. When it is full, extents are copied again later. Towards the switchover it is smaller, so that what waits in it fits the downtime.
   */
  readonly mirrorBufferBytesMax?: number;
  /** Bytes on their way without acknowledgement, all connections together: 1 MiB to 4 GiB. Default 256 MiB. */
  readonly windowBytesMax?: number;
  /** Data bytes per second at most, all connections together, control apart, until the guest is stunned: 65,536 to 10^12. Default: as fast as the link takes them. */
  readonly rateBytesPerSecondMax?: number;
  /** How long connecting and preparing may take, each: 100 to 3,600,000. Default 30,000. */
  readonly connectMsMax?: number;
  /**
   * How long nothing may be heard of the other end, in ms, until its connections are taken for lost: 1,000 to 600,000. Both ends ask for an answer
   * four times a second. Default 5,000.
   */
  readonly silenceMsMax?: number;
  /**
   * How long the link may be gone before commit, in ms, until the migration fails (`connection-lost`): 0 (it fails at once) to 86,400,000. The guest
   * runs on meanwhile, neither held nor throttled. Default 600,000, ten minutes. A connection that is lost alone is replaced, whatever this says.
   */
  readonly outageMsMax?: number;
  /** After commit, how long to ask for the destination's decision: 100 to 3,600,000. Default 30,000. */
  readonly decideMsMax?: number;
  /**
   * How the VM is handed over. Default `confirmed`: the source gives it once the destination has said that it has all of it and could run it, which takes 1.5
   * round trips; until then whatever fails costs the guest no more than a pause. `one-flight`: it is given with the last of its content, and the
   * destination starts it once that is verified and loaded, half a round trip after the stun. What fails there is *declined*, and ends the migration, with the guest
   * running at the source; a link that breaks in that moment leaves the owner undecided, and the guest standing still, until the link or a shared register
   * answers. A rehearsal, and disks alone, are `confirmed` in any case.
   */
  readonly handover?: HandoverMode;
  /**
   * Default `copy`. `none` is a storage migration: the disks that are copied, as they are at one moment at which the guest is stunned, are handed over at the
   * destination; the guest runs on at the source, and the outcome is `copied`. Nothing is claimed in a register.
   */
  readonly memory?: MemoryMode;
  /**
   * What to do when a disk at the destination is slower than the guest writes to it here, which is told by a `warning` as soon as it shows. Default `throttle`: the guest is slowed,
   * as it is for a slow link. `fail`: the migration ends (`not-converging`).
   */
  readonly slowDisk?: SlowDiskMode;
  /** Whether a disk whose writes cannot be seen at all may be copied with the guest stunned, for as long as `stunMsMax` allows. Default false: refused (`unsupported`). */
  readonly copyWhileStunned?: boolean;
  /**
   * What happens to each disk, by id. Default: `copy`, but `shared` for one that the guest cannot write: its content has to be at the
   * destination already, as an installation medium's is.
   */
  readonly disks?: Readonly<Record<string, DiskMode>>;
  /**
   * Default `off`. `auto`: what waits for the link (pages, and the bulk copy of disks; never guest writes) is compressed while it waits, with the first codec of
   * `environment.codecs` that the destination has too, where the link is narrower than the compressor, and what it gets shrinks. It is not the default because the cores that it
   * takes are the guests' too, because without it both ends do what they always did, and because under TLS the length of what is sent then says something of what is in it.
   */
  readonly compression?: 'off' | 'auto';
  /**
   * For all disks that are copied. Default `none`. `compare` is for a migration that is started again after it failed or was cancelled, for a golden image and for an
   * old replica: disks at the destination may hold anything, and none of it is believed unread. It takes a read of all that is on them there; a disk, or
   * a part of it, that cannot be read is sent.
   */
  readonly seed?: DiskSeed;
  /**
   * What is compared of both ends before the destination may run the guest. Default `sample`. A difference is sent again, once, after a sample with all of the disk or memory region that it lies in; a second one ends the
   * migration (`audit-mismatch`), and the guest runs on at the source. With `full` the handover is `confirmed` whatever `handover` says.
   */
  readonly audit?: AuditMode;
}

/** What the audit of a migration came to. */
export interface AuditReport {
  /** What the policy asked for; `off` at a destination that no source told of its VM. */
  readonly mode: AuditMode;
  /** Units that both ends read and compared, with the last switchover. */
  readonly units: number;
  /** Their bytes. */
  readonly bytes: number;
  /** Units that differed, with all switchovers: they were sent again, or ended the migration. */
  readonly differing: number;
  /**
   * The chance that a single unit that is wrong at the destination was not among those compared, if it is as likely to be any of all that was copied:
   * 1 - n / N, with n units that were drawn from all N and compared. What was chosen because it was written last makes it no smaller here, and what
   * could not be read makes it no smaller either. 0: everything was compared. 1: nothing was.
   */
  readonly missChance: number;
}

/** How far one stream has come. */
export interface StreamProgress {
  /** `memory`, or a disk's id. */
  readonly name: string;
  /** Its size. */
  readonly totalBytes: number;
  /** What the destination holds equal to the source, or is on its way. */
  readonly doneBytes: number;
}

/** One data connection. */
export interface LaneStatistics {
  /** Its number in the migration, 1 and up. */
  readonly lane: number;
  /** The path of the transport that it was to take; at the destination 0, where that is not known. */
  readonly path: number;
  /** What went over it, both ways, headers included. */
  readonly wireBytes: number;
  /** The most that it carried lately. 0 at the end that receives. */
  readonly bytesPerSecond: number;
  /** From its greeting to the answer, in ms; 0 at the destination. */
  readonly roundTripMs: number;
  /** Sent and not yet acknowledged. */
  readonly inFlightBytes: number;
}

/** What was sent of one kind: mirrored guest writes, memory with device state, or the bulk copy of disks. */
export interface ClassStatistics {
  /** Payload sent. */
  readonly bytes: number;
  /** How long it waited to be sent, in ms: the median, to within a tenth ... */
  readonly queueMsMedian: number;
  /** ... and the 99th percentile. */
  readonly queueMsP99: number;
}

/** What compression was good for, so far. */
export interface CompressionStatistics {
  /** Which codec, by its name. */
  readonly codec: string;
  /** Content that travelled compressed: its length as it is. What went as it is does not count. */
  readonly inputBytes: number;
  /** How much less of it was sent. */
  readonly savedBytes: number;
  /** How long the codec's calls took, in ms, all together; several run at once. */
  readonly callsMs: number;
}

/** What the connections of a migration do. */
export interface LinkStatistics {
  /** Those that are open, control apart; of a migration that is over, as they were at its end. */
  readonly lanes: readonly LaneStatistics[];
  /** By kind. All 0 at the destination. */
  readonly classes: Readonly<Record<'mirror' | 'memory' | 'bulk', ClassStatistics>>;
}

/**
 * A prediction of a duration, in ms: never wider than three to one. About nine of ten hold what it comes to, of downtimes fewer: see {@link Prediction}.
 */
export interface Interval {
  /** It takes so long at least. */
  readonly lowMs: number;
  /** It takes so long at the most. */
  readonly highMs: number;
}

/**
 * Whether memory and disks come to where the rest fits the downtime. `yes`: as the guest is. `throttled`: only with the guest slowed. `no`: not even so, as
 * far as the policy lets it be slowed; the migration would end with `not-converging`, if the guest stays as it is.
 */
export type Converges = 'yes' | 'throttled' | 'no';

/**
 * How a migration is expected to go. Of the guest, the link and the disks as they are: a link that is cut, say, is not foreseen, nor what the destination's hooks take.
 */
export interface Prediction {
  /** From `run()` to its end. Nine of ten hold, or more, in simulations (20 to 200 Mbit/s, round trips up to 200 ms; figures in docs/testing.md). */
  readonly total: Interval;
  /** How long the guest will stand still. Nine of ten hold in the same simulations. */
  readonly downtime: Interval;
  /** Whether it comes to an end at all. */
  readonly converges: Converges;
  /** How hard the guest will have to be slowed, 0 to 1. */
  readonly throttle: number;
}

/** What comes with an {@link SourceMigration.estimate}. */
export interface EstimateOptions extends CallOptions {
  /** For how long guest and link are looked at, in ms: 500 to 60,000. Default 3,000. */
  readonly durationMs?: number;
}

/** What `estimate()` resolves to; frozen. */
export interface Estimate extends Prediction {
  /** What is expected to be sent, in bytes. */
  readonly bytes: number;
  /** How fast the guest dirties its memory: bytes of different pages in a second. */
  readonly dirtyBytesPerSecond: number;
  /** How fast the guest writes to each disk that is copied, in bytes a second, by its id. Disks of which that is not known are not there. */
  readonly diskBytesPerSecond: Readonly<Record<string, number>>;
  /** What the link carries, in bytes a second. */
  readonly linkBytesPerSecond: number;
  /** The smallest round trip seen, in ms. */
  readonly roundTripMs: number;
}

/** What the migration has cost the guest so far, in ms. */
export interface GuestLoss {
  /** Of its processors' time, for the throttle: a second at 30 % is 300 ms. */
  readonly throttleMs: number;
  /** For how long its disk writes were held, all of them added up. */
  readonly holdMs: number;
  /** For how long it stood still. */
  readonly pauseMs: number;
}

/** A `progress` event: emitted at most a few times a second while bytes move. */
export interface Progress {
  /** The phase that runs. */
  readonly phase: Phase;
  /** Since `run()`. */
  readonly elapsedMs: number;
  /** Payload bytes sent (source) or received (destination) so far. */
  readonly transferredBytes: number;
  /** Over about the last second. */
  readonly bytesPerSecond: number;
  /** Disks first, memory last. */
  readonly streams: readonly StreamProgress[];
  /** Memory rounds finished. */
  readonly rounds: number;
  /** The throttle in force, 0 to 1. */
  readonly throttle: number;
  /**
   * How far all of it is, 0 to 1: disks, memory, and the rounds and the handover that are still to come, by the time that they take. Never falls; 1 is a
   * migration that went well and is over.
   */
  readonly fraction: number;
  /** Source only: what the migration has cost the guest so far. */
  readonly lost: GuestLoss;
  /** Source only: how it is expected to go on. Undefined before there is anything to go by. */
  readonly prediction?: ProgressPrediction;
  /** The connections. Undefined before there are any. */
  readonly link?: LinkStatistics;
  /** What compression was good for so far. Undefined where it is off. */
  readonly compression?: CompressionStatistics;
}

/** What `progress` says of what is still to come. */
export interface ProgressPrediction extends Prediction {
  /** From now to the end. */
  readonly eta: Interval;
}

/** The link was gone, and came back: an `outage` event, and a part of the report. */
export interface Outage {
  /** From when the peer was heard last until both ends knew again what the other has, in ms. */
  readonly durationMs: number;
  /** What had been sent and not received, and so was sent again, in bytes. At the destination 0, or next to it: it sends little. */
  readonly resentBytes: number;
}

/** A `round` event: one pass over dirty memory is over. */
export interface RoundStatistics {
  /** 1 is the first pass, over all memory. */
  readonly round: number;
  /** Page content sent, zero pages counted in full. */
  readonly bytes: number;
  /** From its start until all of it was queued and nearly all sent. */
  readonly durationMs: number;
  /** What the convergence rule made of it. */
  readonly decision: 'continue' | 'throttle' | 'switchover' | 'fail';
  /** The throttle that is in force from now on, 0 to 1. */
  readonly throttle: number;
}

/** A `retreat` event: a switchover failed, and the guest runs on at the source. */
export interface Retreat {
  /** Which one, 1 and up. */
  readonly attempt: number;
  /** Why. */
  readonly error: MigrationError;
  /** How long the guest stood still; at the destination from FINAL's arrival until the word of it came, 0 if there was none. */
  readonly stunnedMs: number;
}

/** What a {@link Warning} is about. */
export type WarningKind = 'slow-link' | 'slow-disk';

/** A `warning` event: as things are this migration will not end well, or the guest will be slowed for it. Told once for each kind and disk, early. */
export interface Warning {
  /** `slow-link`: the guest dirties memory and writes disks faster than the link carries, or nearly (nine tenths of it). `slow-disk`: it writes to a disk faster than the destination does. */
  readonly kind: WarningKind;
  /** Which disk; undefined for the link. */
  readonly disk?: string;
  /** What the guest produces, in bytes a second. */
  readonly guestBytesPerSecond: number;
  /** What the link carries, or the destination writes to that disk. */
  readonly bytesPerSecond: number;
  /** For people, with these figures, and what the policy makes of it. */
  readonly message: string;
}

/**
 * How a migration ended. `rehearsed`: up to READY, as was asked for, and then the guest ran on at the source. `copied`: of disks alone, the destination has
 * them, and the guest runs on at the source.
 */
export type Outcome = 'completed' | 'rehearsed' | 'copied' | 'failed' | 'undecided';

/** Bytes by kind. Ranges of zeros count as 0 here, whatever their length. */
export interface BytesByKind {
  /** Page content. */
  readonly memory: number;
  /** Bulk copy of disks. */
  readonly disk: number;
  /** Content of disks that the destination held already, so that the bulk copy did not send it. At a destination 0 unless FINAL came. */
  readonly unchanged: number;
  /** Mirrored guest writes. */
  readonly mirror: number;
  /** Device state. */
  readonly state: number;
  /** Everything that this end sent and received on its connections. */
  readonly wire: number;
}

/** Where a downtime went, in ms: one part follows the other, and they sum up to it. What went on beside others is in the part that was waited for. */
export interface DowntimeParts {
  /** `stun()`: the vCPUs were stopped, devices quiesced, I/O in flight finished. */
  readonly quiesceMs: number;
  /** The last pages were read and queued. */
  readonly lastRoundsMs: number;
  /** The device state was saved and queued, after the last pages were. */
  readonly stateMs: number;
  /** The taps' last writes and what was left of the bulk copy were queued, after both. */
  readonly mirrorMs: number;
  /** Messages were on their way: FINAL there, READY back and GO there, or FINAL alone. What waited in the network's queues meanwhile is in it. */
  readonly flightMs: number;
  /** The destination had FINAL, and not yet all that it names: still on its way, or not in place. */
  readonly applyMs: number;
  /** The destination's disks were flushed. */
  readonly flushMs: number;
  /** Digests were compared, and what the audit drew. */
  readonly verifyMs: number;
  /** The device state was loaded. */
  readonly loadMs: number;
  /** The source's VM was sealed. */
  readonly sealMs: number;
  /** Ownership was claimed, at both ends. */
  readonly claimsMs: number;
  /** The destination's hooks ran before the guest did. */
  readonly hooksMs: number;
  /** The guest was started. */
  readonly startMs: number;
  /** By how much the whole, and `flightMs`, may be wrong: half of the smallest round trip seen. */
  readonly uncertaintyMs: number;
}

/** What `run()` resolves to, at either end; frozen. */
export interface MigrationReport {
  /** Which end reports. */
  readonly role: 'source' | 'destination';
  /** The VM, as in its description; empty at a destination that no source told of one. */
  readonly vmId: string;
  /** The attempt's number, 0 if it did not get that far. */
  readonly epoch: number;
  /** How it ended. */
  readonly outcome: Outcome;
  /** Which end may run the VM now. */
  readonly owner: Owner;
  /** Why it did not complete. Of a completed one: what the source could not let go of, if anything (`hypervisor`), or which of the destination's hooks failed (`hook-failed`). */
  readonly error?: MigrationError;
  /** From `run()` to its end. */
  readonly totalMs: number;
  /**
   * How long the guest stood still. Source: from the call of `stun()`, or from when the hypervisor said that it stops the guest (`StunOptions.onStopping`), to the arrival of DONE, less half of the smallest
   * round trip seen; uncertain by that half. 0 if the guest was not stunned, and if the switchover failed, until it ran again: of several,
   * the last; the others are told as they end, by `retreat`. Destination: from FINAL's arrival until the guest was started (a part of the
   * whole, measured there).
   *
   * Of a rehearsal, at the source: from the same moment to the arrival of READY, and half of the smallest round trip, which GO would
   * have taken. What the handover does beside (sealing the VM, a claim at each end, starting the guest) is not in it: it is not done.
   */
  readonly downtimeMs: number;
  /** Its parts. At the source, of a migration that completed or was rehearsed. */
  readonly downtime?: DowntimeParts;
  /** How often the guest was stunned; at the destination, as far as FINAL came. */
  readonly switchoverAttempts: number;
  /** How long each phase took. */
  readonly phases: Readonly<Partial<Record<Phase, number>>>;
  /** What was sent (source) or received (destination). */
  readonly bytes: BytesByKind;
  /** Memory rounds, those of the stun included. */
  readonly rounds: number;
  /** The hardest throttle that was in force, 0 to 1. */
  readonly throttleMax: number;
  /** For how long there was one, in ms, until the guest was stunned. What it lost by that is `lost.throttleMs`. */
  readonly throttledMs: number;
  /** What it cost the guest; at the destination 0. */
  readonly lost: GuestLoss;
  /** When the link was gone, and came back; the first 256. */
  readonly outages: readonly Outage[];
  /** Guest writes that were mirrored, and those whose extents were set back to be copied again. */
  readonly guestWrites: {
    /** Sent as they were made. */
    readonly mirrored: number;
    /** Not sent: their extents were copied again. */
    readonly setBack: number;
  };
  /** For how long guest writes were held, the longest one. 0 unless `guestWriteHoldMsMax` allows more. */
  readonly guestWriteHoldMs: number;
  /** What was compared of both ends before the destination was to run the guest. */
  readonly audit: AuditReport;
  /** The smallest round trip seen on the control connection, in ms; 0 if none was measured. */
  readonly roundTripMs: number;
  /** The connections. Undefined if there were none. */
  readonly link?: LinkStatistics;
  /** What compression was good for. Undefined where it was off: by the policy, or because the ends have no codec in common. */
  readonly compression?: CompressionStatistics;
  /** At the destination: how long the caller's hooks took. Undefined if none was called. */
  readonly hooks?: HookDurations;
}

/** Events of both ends. Listeners run synchronously; what they throw fails nothing. */
export type MigrationEvents = {
  /** A phase begins. */
  phase: (phase: Phase) => void;
  /** How far it is. */
  progress: (progress: Progress) => void;
  /** Source only. */
  round: (round: RoundStatistics) => void;
  /** A switchover failed, and another one follows. */
  retreat: (retreat: Retreat) => void;
  /** The link was gone, and is there again. */
  outage: (outage: Outage) => void;
  /** Source only: it may not converge, or at the guest's cost. */
  warning: (warning: Warning) => void;
};
