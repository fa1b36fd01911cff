/**
 * The one error class of the library. What went wrong is in `code`; the codes are listed here and described,
 * each with what to do about it, in docs/errors.md.
 */

/** A phase of a migration, in the order in which they run. `idle` is before `run()`, `done` after it. */
export type Phase =
  | 'idle'
  | 'connect'
  | 'prepare'
  | 'copyDisks'
  | 'copyMemory'
  | 'stun'
  | 'verify'
  | 'handover'
  | 'release'
  | 'done';

/** Who owns the VM: the end that may run it. `undecided` only between commit and the destination's answer. */
export type Owner = 'source' | 'destination' | 'undecided';

/** How the guest is, as far as this end knows. */
export type GuestState = 'running' | 'paused' | 'lost' | 'unknown';

/** Every code that a {@link MigrationError} can carry. */
export const errorCodes = [
  /** An argument or option is out of its range; nothing was changed. */
  'invalid-argument',
  /** A method was called in a state that does not allow it (for example `run()` twice). */
  'invalid-state',
  /** The migration was aborted by the caller's signal. */
  'aborted',
  /** The transport could not open or accept a connection. */
  'connect-failed',
  /** With TLS: a certificate has expired, or is not valid yet. */
  'certificate-expired',
  /** With TLS: a certificate is not of the CA that was given, or is not taken for another reason; or none was shown. */
  'certificate-untrusted',
  /** With TLS: a certificate is for another host. */
  'certificate-host',
  /** Nobody answered, or nothing arrived, within the time that the policy allows. */
  'timeout',
  /** The link was lost, for longer than the policy allows, or the other end ended the channel. */
  'connection-lost',
  /** The peer sent what the protocol does not allow: bad length, a message out of turn. */
  'protocol',
  /** The two ends have no protocol version in common. */
  'version-mismatch',
  /** The peer refused this connection (another session, another purpose). */
  'refused',
  /** The other end could not prove that it has the migration's ticket. */
  'ticket-mismatch',
  /** The destination cannot take the VM as described; the message lists every difference. */
  'incompatible',
  /** A plug point lacks a capability that this migration needs. */
  'unsupported',
  /** The peer failed and said so; its own error is in the message. */
  'peer-failed',
  /** The guest dirties memory or disk faster than can be sent, and the policy ends here. */
  'not-converging',
  /** Stun to READY took longer than `stunMsMax`. */
  'stun-timeout',
  /** A source disk's tap cannot vouch for every write since it was set. */
  'tap-gap',
  /** The destination did not apply exactly what the source sent. */
  'digest-mismatch',
  /** An audit found memory or disks of the destination to be other than the source's, and again after they were sent anew. */
  'audit-mismatch',
  /** A disk could not be read. */
  'disk-read',
  /** A disk could not be written or flushed. */
  'disk-write',
  /** The destination has no room for a disk: told at prepare where that can be known, else by the write that found none. */
  'disk-full',
  /** Guest memory could not be read or written. */
  'memory',
  /** Device state could not be saved or loaded. */
  'device-state',
  /** The hypervisor failed, died, or answered with an error. */
  'hypervisor',
  /** This hypervisor version cannot be migrated safely. */
  'hypervisor-unsafe',
  /** The guest stopped or powered off by itself during the migration. */
  'guest-stopped',
  /** The ownership register could not be read or written, or holds a damaged record. */
  'register',
  /** The destination declined ownership after commit; the source took the VM back. */
  'declined',
  /** After commit the destination's decision could not be learned. */
  'owner-undecided',
  /** A hook of the destination's caller failed, or was late; the migration is complete, and the guest runs. */
  'hook-failed',
  /** An impossible state inside the library: a bug. The migration fails; the host process goes on. */
  'internal',
] as const;

/** One of {@link errorCodes}. */
export type ErrorCode = (typeof errorCodes)[number];

/** What a {@link MigrationError} says beside its message. */
export interface MigrationErrorDetails {
  /** The phase in which it happened. Default: `idle`. */
  readonly phase?: Phase;
  /** Who owns the VM now. Default: `source`. */
  readonly owner?: Owner;
  /** How the guest is now. Default: `unknown`. */
  readonly guest?: GuestState;
  /** The error beneath, if any. */
  readonly cause?: unknown;
}

/**
 * Every error that the library throws or rejects with. `owner` and `guest` answer what an operator asks first: who may
 * run the VM, and is it running.
 */
export class MigrationError extends Error {
  /** What went wrong: see docs/errors.md. */
  readonly code: ErrorCode;
  /** The phase in which it happened; `idle` outside of a migration. */
  readonly phase: Phase;
  /** Who owns the VM now. */
  readonly owner: Owner;
  /** How the guest is now, as far as this end knows. */
  readonly guest: GuestState;

  constructor(code: ErrorCode, message: string, details: MigrationErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'MigrationError';
    this.code = code;
    this.phase = details.phase ?? 'idle';
    this.owner = details.owner ?? 'source';
    this.guest = details.guest ?? 'unknown';
  }

  /** The same error with the details filled in that only the engine knows. */
  with(details: MigrationErrorDetails): MigrationError {
    return new MigrationError(this.code, this.message, {
      phase: details.phase ?? this.phase,
      owner: details.owner ?? this.owner,
      guest: details.guest ?? this.guest,
      cause: details.cause ?? this.cause,
    });
  }
}

/** Any thrown value as a {@link MigrationError}: itself if it is one, else wrapped under `code`. */
export function asMigrationError(error: unknown, code: ErrorCode, context?: string): MigrationError {
  if (error instanceof MigrationError) return error;
  const message = messageOf(error);
  return new MigrationError(code, context === undefined ? message : `${context}: ${message}`, {
    cause: error,
  });
}

/** What any thrown value says of itself. Never throws, whatever it is: what depends on it is a roll-back. */
export function messageOf(thrown: unknown): string {
  try {
    return thrown instanceof Error ? thrown.message : String(thrown);
  } catch {
    return 'something without a message was thrown';
  }
}
