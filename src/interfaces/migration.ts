import type { MigrationError, Owner, Phase } from '../errors.ts';

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

/** How a migration is to go. Everything has a default; units are in the names. */
export interface MigrationPolicy {
  /** Connections for data, beside one for control: 1 to 256. Default: 4 to 16 at first, by the round trip, and then, up to 256, as many as carry more than fewer would. */
  readonly connections?: number;
  /**
   * The downtime to aim for: 30 (loading the state takes 20 of them) to 60,000. Switchover waits until the rest is expected to fit. Default
   * 300, and the handover's 1.5 round trips come on top.
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
  /** Memory rounds at most before each switchover, or the policy ends (`not-converging`): 2 to 100,000. Default 200. */
  readonly roundsMax?: number;
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
   * For all disks that are copied. Default `none`. `compare` is for a migration that is started again after it failed or was cancelled, for a golden image and for an
   * old replica: disks at the destination may hold anything, and none of it is believed unread. It takes a read of all that is on them there; a disk, or
   * a part of it, that cannot be read is sent.
   */
  readonly seed?: DiskSeed;
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

/** What the connections of a migration do. */
export interface LinkStatistics {
  /** Those that are open, control apart; of a migration that is over, as they were at its end. */
  readonly lanes: readonly LaneStatistics[];
  /** By kind. All 0 at the destination. */
  readonly classes: Readonly<Record<'mirror' | 'memory' | 'bulk', ClassStatistics>>;
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
  /** The connections. Undefined before there are any. */
  readonly link?: LinkStatistics;
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
  /** `slow-link`: the guest dirties memory and writes disks faster than the link carries. `slow-disk`: it writes to a disk faster than the destination does. */
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
  /** Why it did not complete. Of a completed one: what the source could not let go of, if anything (`hypervisor`). */
  readonly error?: MigrationError;
  /** From `run()` to its end. */
  readonly totalMs: number;
  /**
   * How long the guest stood still. Source: from the call of `stun()` to the arrival of DONE, less half of the smallest
   * round trip seen; uncertain by that half. 0 if the guest was not stunned, and if the switchover failed, until it ran again: of several,
   * the last; the others are told as they end, by `retreat`. Destination: from FINAL's arrival until the guest was started (a part of the
   * whole, measured there).
   *
   * Of a rehearsal, at the source: from the call of `stun()` to the arrival of READY, and half of the smallest round trip, which GO would
   * have taken. What the handover does beside (sealing the VM, a claim at each end, starting the guest) is not in it: it is not done.
   */
  readonly downtimeMs: number;
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
  /** The smallest round trip seen on the control connection, in ms; 0 if none was measured. */
  readonly roundTripMs: number;
  /** The connections. Undefined if there were none. */
  readonly link?: LinkStatistics;
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
