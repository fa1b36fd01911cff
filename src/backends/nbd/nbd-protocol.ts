import { MigrationError } from '../../errors.ts';

/**
 * The transmission phase of NBD as values and bytes: constants, encoders, parsers. Pure: no sockets, no
 * state. The handshake is in nbd-options.ts.
 *
 * Every number is the one of the protocol document, doc/proto.md of the NetworkBlockDevice project; the
 * section is named at each group. All integers are big-endian; the number in brackets is the size in bytes.
 *
 *     handshake (fixed newstyle)                         transmission
 *     S  NBDMAGIC (8)  IHAVEOPT (8)  flags (2)           C  0x25609513 (4)  flags (2)  command (2)
 *     C  flags (4)                                          cookie (8)  offset (8)  length (4)
 *     C  IHAVEOPT (8)  option (4)  length (4)  data  ┐      [WRITE: payload (length)]
 *     S  0x3e889045565a9 (8)  option (4)  type (4)   │   S  simple: 0x67446698 (4)  errno (4)  cookie (8)
 *          length (4)  data     (one or more)        ┘      [READ without structured replies: payload]
 *     … until GO is acknowledged, or EXPORT_NAME:        S  structured: 0x668e33ef (4)  flags (2)  type (2)
 *     S  size (8)  flags (2)  [zeroes (124)]                cookie (8)  length (4)  payload
 *                                                           (one or more chunks, the last with DONE)
 *
 * A cookie ("handle" in older versions of the document) is any 64 bits to a server, which echoes it. Our
 * client's are counters, so the client knows them as numbers.
 */

/** "Transmission": the magic numbers. */
export const NBD_REQUEST_MAGIC = 0x25609513;
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;

/** Sizes of the fixed parts, in bytes. */
export const NBD_REQUEST_BYTES = 28;
export const NBD_SIMPLE_REPLY_BYTES = 16;
export const NBD_CHUNK_HEADER_BYTES = 20;

/**
 * The largest READ or WRITE payload that a peer may count on when no other size was announced ("Block size
 * constraints"): 32 MiB. Also the most that either of our ends takes in one request.
 */
export const NBD_PAYLOAD_BYTES_MAX = 32 * 1024 * 1024;

/** "Transmission flags": what an export can do. */
export const NbdFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendFastZero: 1 << 11,
} as const;

/** "Request types". */
export const NbdCommand = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** "Command flags". */
export const NbdCommandFlag = {
  /** Durable before the reply. */
  fua: 1 << 0,
  /** WRITE_ZEROES: allocate, do not punch. */
  noHole: 1 << 1,
  /** READ: at most one content chunk. */
  df: 1 << 2,
  /** BLOCK_STATUS: at most one extent. */
  reqOne: 1 << 3,
  /** WRITE_ZEROES: fail rather than write zeros slowly. */
  fastZero: 1 << 4,
} as const;

/** "Structured reply flags" and "Structured reply types". Types with bit 15 set are errors. */
export const NBD_CHUNK_DONE = 1 << 0;
export const NBD_CHUNK_ERROR_BIT = 1 << 15;
export const NbdChunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: NBD_CHUNK_ERROR_BIT + 1,
  errorOffset: NBD_CHUNK_ERROR_BIT + 2,
} as const;

/** "Metadata contexts": the flags of `base:allocation`. */
export const NbdState = { hole: 1 << 0, zero: 1 << 1 } as const;

/** "Error values": the only numbers that travel, whatever the system calls them. */
export const NbdErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The name of an error number of {@link NbdErrno}; `errno N` for a number that is not in the document. */
export function nbdErrnoName(errno: number): string {
  for (const [name, value] of Object.entries(NbdErrno)) if (value === errno) return name;
  return `errno ${errno}`;
}

/** What `base:allocation` says of one range of an export. */
export interface NbdExtent {
  /** Bytes from the start of the export. */
  readonly offset: number;
  /** Bytes; at least 1. */
  readonly length: number;
  /** Reads as zeros. False: may hold anything, also when `hole` is true. */
  readonly zero: boolean;
  /** Not allocated. */
  readonly hole: boolean;
}

/** A request as it stands on the wire, without its payload. */
export interface NbdRequest {
  readonly flags: number;
  readonly command: number;
  readonly cookie: bigint;
  /** Bytes; beyond `Number.MAX_SAFE_INTEGER` it is rounded and out of every range. */
  readonly offset: number;
  /** Bytes, 0 to 2^32 - 1. */
  readonly length: number;
}

/** An error with which a server answered a request. */
export interface NbdFailure {
  readonly errno: number;
  readonly message: string;
}

/** What a peer did that the protocol does not allow; the connection cannot go on. */
export function nbdViolation(message: string): MigrationError {
  return new MigrationError('protocol', `NBD: ${message}`);
}

/** Writes a whole number of up to 2^53 - 1 as 64 bits. */
export function putUint64(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32BE(Math.floor(value / 0x1_0000_0000), at);
  bytes.writeUInt32BE(value % 0x1_0000_0000, at + 4);
}

/**
 * Reads 64 bits. What is not a safe integer comes out rounded and is still not a safe integer: callers check.
 */
export function getUint64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4);
}

/** The 28 bytes of a request; a WRITE's payload follows them. */
export function encodeRequest(
  command: number,
  flags: number,
  cookie: number,
  offset: number,
  length: number,
): Buffer {
  const bytes = Buffer.allocUnsafe(NBD_REQUEST_BYTES);
  bytes.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(command, 6);
  putUint64(bytes, cookie, 8);
  putUint64(bytes, offset, 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

/** Parses the 28 bytes of a request. Throws `protocol` on another magic. */
export function parseRequest(bytes: Buffer): NbdRequest {
  if (bytes.readUInt32BE(0) !== NBD_REQUEST_MAGIC)
    throw nbdViolation('a request does not begin with its magic');
  return {
    flags: bytes.readUInt16BE(4),
    command: bytes.readUInt16BE(6),
    cookie: bytes.readBigUInt64BE(8),
    offset: getUint64(bytes, 16),
    length: bytes.readUInt32BE(24),
  };
}

/** A simple reply; `errno` 0 is success. */
export function encodeSimpleReply(errno: number, cookie: bigint): Buffer {
  const bytes = Buffer.allocUnsafe(NBD_SIMPLE_REPLY_BYTES);
  bytes.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(errno, 4);
  bytes.writeBigUInt64BE(cookie, 8);
  return bytes;
}

function chunk(
  flags: number,
  type: number,
  cookie: bigint,
  payloadBytes: number,
  inlineBytes: number,
): Buffer {
  const bytes = Buffer.allocUnsafe(NBD_CHUNK_HEADER_BYTES + inlineBytes);
  bytes.writeUInt32BE(NBD_STRUCTURED_REPLY_MAGIC, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeUInt32BE(payloadBytes, 16);
  return bytes;
}

/** The chunk that ends a structured reply and says nothing else. */
export function encodeNoneChunk(cookie: bigint): Buffer {
  return chunk(NBD_CHUNK_DONE, NbdChunk.none, cookie, 0, 0);
}

/** Header and offset of the one and last content chunk of a READ; the data follows it. */
export function encodeDataChunkHead(cookie: bigint, offset: number, dataBytes: number): Buffer {
  const bytes = chunk(NBD_CHUNK_DONE, NbdChunk.offsetData, cookie, 8 + dataBytes, 8);
  putUint64(bytes, offset, NBD_CHUNK_HEADER_BYTES);
  return bytes;
}

/**
 * A last chunk that carries an error. The message is cut to 256 bytes, the length up to which peers should
 * show one.
 */
export function encodeErrorChunk(cookie: bigint, failure: NbdFailure): Buffer {
  const scratch = Buffer.allocUnsafe(256);
  const messageBytes = scratch.write(failure.message, 'utf8');
  const bytes = chunk(NBD_CHUNK_DONE, NbdChunk.error, cookie, 6 + messageBytes, 6 + messageBytes);
  bytes.writeUInt32BE(failure.errno, NBD_CHUNK_HEADER_BYTES);
  bytes.writeUInt16BE(messageBytes, NBD_CHUNK_HEADER_BYTES + 4);
  scratch.copy(bytes, NBD_CHUNK_HEADER_BYTES + 6, 0, messageBytes);
  return bytes;
}

/**
 * The last chunk of a BLOCK_STATUS reply. The extents follow one another from the offset that was asked for.
 */
export function encodeBlockStatusChunk(
  cookie: bigint,
  contextId: number,
  extents: readonly NbdExtent[],
): Buffer {
  const payloadBytes = 4 + 8 * extents.length;
  const bytes = chunk(NBD_CHUNK_DONE, NbdChunk.blockStatus, cookie, payloadBytes, payloadBytes);
  bytes.writeUInt32BE(contextId, NBD_CHUNK_HEADER_BYTES);
  let at = NBD_CHUNK_HEADER_BYTES + 4;
  for (const extent of extents) {
    bytes.writeUInt32BE(extent.length, at);
    bytes.writeUInt32BE((extent.hole ? NbdState.hole : 0) | (extent.zero ? NbdState.zero : 0), at + 4);
    at += 8;
  }
  return bytes;
}

/**
 * The payload of an error chunk. Throws `protocol` when the message does not fit in it, or the error number
 * is 0. `bytes` has at least 6 bytes.
 */
export function parseErrorChunk(bytes: Buffer): NbdFailure {
  const errno = bytes.readUInt32BE(0);
  const messageBytes = bytes.readUInt16BE(4);
  if (errno === 0) throw nbdViolation('an error chunk without an error');
  if (messageBytes > bytes.length - 6) throw nbdViolation('an error message longer than its chunk');
  return { errno, message: bytes.toString('utf8', 6, 6 + messageBytes) };
}

/**
 * The payload of a BLOCK_STATUS chunk for `base:allocation`, for a request of `length` bytes from `offset`.
 * The last extent may reach past the request and is cut there. Throws `protocol` on another context, an empty
 * extent, or an extent that begins past the request.
 */
export function parseBlockStatusChunk(
  bytes: Buffer,
  contextId: number,
  offset: number,
  length: number,
): readonly NbdExtent[] {
  if (bytes.readUInt32BE(0) !== contextId)
    throw nbdViolation('block status of a context that was not selected');
  const extents: NbdExtent[] = [];
  const end = offset + length;
  let position = offset;
  for (let at = 4; at < bytes.length; at += 8) {
    const extentBytes = bytes.readUInt32BE(at);
    const state = bytes.readUInt32BE(at + 4);
    if (extentBytes === 0) throw nbdViolation('an empty extent');
    if (position >= end) throw nbdViolation('an extent past the range that was asked for');
    const cut = Math.min(extentBytes, end - position);
    extents.push({
      offset: position,
      length: cut,
      zero: (state & NbdState.zero) !== 0,
      hole: (state & NbdState.hole) !== 0,
    });
    position += cut;
  }
  return extents;
}
