import type { MigrationError } from '../../errors.ts';
import {
  NBD_PAYLOAD_BYTES_MAX,
  NbdCommand,
  NbdCommandFlag,
  NbdErrno,
  type NbdExtent,
  type NbdFailure,
  NbdFlag,
  type NbdRequest,
} from './nbd-protocol.ts';
import type { NbdServerAgreement } from './nbd-server-handshake.ts';

/** What the server does with requests: the contract of its handler, and the decisions that need no I/O. */

/** Extents in one reply, 8 bytes each. A client asks again for the rest. */
const EXTENTS_MAX = 1024;

/**
 * Serves the export. The server calls it in the order in which requests arrived complete, each at once, and
 * without waiting for earlier ones; the reply goes out when the promise settles. All ranges lie within the
 * export and none is empty. A rejection becomes an error reply: its error number is that of the error or of
 * its cause (`code: 'ENOSPC'`), else EIO. A handler that never settles holds that request, and past
 * `inFlightMax` the connection.
 */
export interface NbdServerHandler {
  /**
   * Resolves with exactly `length` bytes, which must not change until they are sent. Absent: reads are
   * refused.
   */
  read?(offset: number, length: number): Promise<Uint8Array>;
  /** `data` is the handler's own from here on. */
  write(offset: number, data: Uint8Array): Promise<void>;
  /** The range is to read as zeros; `mayPunch` if it may be deallocated. */
  writeZeroes(offset: number, length: number, options: { readonly mayPunch: boolean }): Promise<void>;
  /** The range's content is of no interest any more. Absent: the export offers no trim. */
  trim?(offset: number, length: number): Promise<void>;
  /** Resolves once every write that had resolved before the call is durable. */
  flush(): Promise<void>;
  /**
   * The extents of the range, in order and without gaps from `offset` on; may end early, and had better where
   * finding them is work. Absent: no block status.
   */
  extents?(offset: number, length: number): Promise<readonly NbdExtent[]>;
  /**
   * A client has finished its handshake; requests may follow. `connection` numbers the server's clients. Must
   * not throw.
   */
  connected?(connection: number): void;
  /**
   * A client that had finished its handshake has gone: no call for it follows, and what is under way has
   * nobody to tell. `undefined` if it said goodbye and everything was answered, else why. Must not throw.
   */
  disconnected(reason: MigrationError | undefined, connection: number): void;
}

/** The flags that go with each command; FUA goes with all ("Command flags"). */
const COMMAND_FLAGS: ReadonlyMap<number, number> = new Map([
  [NbdCommand.read, NbdCommandFlag.df],
  [NbdCommand.write, 0],
  [NbdCommand.flush, 0],
  [NbdCommand.trim, 0],
  [NbdCommand.writeZeroes, NbdCommandFlag.noHole],
  [NbdCommand.blockStatus, NbdCommandFlag.reqOne],
]);

/** The flags of an export as its handler and options make it. */
export function exportFlags(handler: NbdServerHandler, readOnly: boolean, multiConn: boolean): number {
  return (
    NbdFlag.hasFlags |
    NbdFlag.sendFlush |
    NbdFlag.sendFua |
    (readOnly ? NbdFlag.readOnly : NbdFlag.sendWriteZeroes) |
    (!readOnly && handler.trim !== undefined ? NbdFlag.sendTrim : 0) |
    (multiConn ? NbdFlag.canMultiConn : 0)
  );
}

/** The error number with which a request is refused, or `undefined` if it may go to the handler. */
export function checkRequest(
  { command, flags, offset, length }: NbdRequest,
  { offer, baseAllocation }: NbdServerAgreement,
): number | undefined {
  const { handler } = offer;
  const flagsOfCommand = COMMAND_FLAGS.get(command);
  if (flagsOfCommand === undefined) return NbdErrno.EINVAL;
  if ((flags & ~(flagsOfCommand | NbdCommandFlag.fua)) !== 0) return NbdErrno.EINVAL;
  if (command === NbdCommand.flush) return offset === 0 && length === 0 ? undefined : NbdErrno.EINVAL;

  const writes = command === NbdCommand.write || command === NbdCommand.writeZeroes;
  if ((writes || command === NbdCommand.trim) && (offer.flags & NbdFlag.readOnly) !== 0)
    return NbdErrno.EPERM;
  if (offset + length > offer.sizeBytes) return writes ? NbdErrno.ENOSPC : NbdErrno.EINVAL;
  const unit = offer.blockBytes.minimum;
  if (offset % unit !== 0 || length % unit !== 0) return NbdErrno.EINVAL;

  switch (command) {
    case NbdCommand.read:
      return handler.read === undefined || length > NBD_PAYLOAD_BYTES_MAX ? NbdErrno.EINVAL : undefined;
    case NbdCommand.trim:
      return handler.trim === undefined ? NbdErrno.EINVAL : undefined;
    case NbdCommand.blockStatus:
      return baseAllocation && length > 0 ? undefined : NbdErrno.EINVAL;
    default:
      return undefined;
  }
}

/** System error codes that the wire has no number for, and those of {@link NbdErrno} that say the same. */
const SAME_ERRNO: Readonly<Record<string, keyof typeof NbdErrno>> = {
  EACCES: 'EPERM',
  EROFS: 'EPERM',
  EDQUOT: 'ENOSPC',
  EFBIG: 'ENOSPC',
  EOPNOTSUPP: 'ENOTSUP',
};

/** What a handler's rejection becomes on the wire. */
export function failureOf(error: unknown): NbdFailure {
  const message = error instanceof Error ? error.message : String(error);
  const cause = error instanceof Error ? error.cause : undefined;
  return { errno: errnoOf(error) ?? errnoOf(cause) ?? NbdErrno.EIO, message };
}

function errnoOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return undefined;
  const name = SAME_ERRNO[error.code] ?? error.code;
  return Object.entries(NbdErrno).find(([known]) => known === name)?.[1];
}

/**
 * A handler's extents as a reply may carry them: cut to the request, from its first byte, equal neighbours
 * joined, at most {@link EXTENTS_MAX} or, if `one`, one. Throws when they leave a gap or there is none.
 */
export function clipExtents(
  extents: readonly NbdExtent[],
  offset: number,
  length: number,
  one: boolean,
): readonly NbdExtent[] {
  const clipped: NbdExtent[] = [];
  const end = offset + length;
  let position = offset;
  for (const { offset: start, length: bytes, zero, hole } of extents) {
    const extentEnd = Math.min(start + bytes, end);
    if (extentEnd <= position) continue;
    if (start > position) throw new Error('the handler left a gap between extents');
    const last = clipped.at(-1);
    if (last !== undefined && last.zero === zero && last.hole === hole) {
      clipped[clipped.length - 1] = { ...last, length: extentEnd - last.offset };
    } else if (clipped.length === (one ? 1 : EXTENTS_MAX)) break;
    else clipped.push({ offset: position, length: extentEnd - position, zero, hole });
    position = extentEnd;
  }
  if (clipped.length === 0) throw new Error('the handler returned no extents');
  return clipped;
}
