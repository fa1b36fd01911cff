import { getUint64, NBD_PAYLOAD_BYTES_MAX, nbdViolation, putUint64 } from './nbd-protocol.ts';

/**
 * The handshake of NBD as values and bytes; drawn at the top of nbd-protocol.ts. The numbers are those of
 * doc/proto.md of the NetworkBlockDevice project, sections "Handshake phase", "Option types", "Option reply
 * types" and "NBD_INFO".
 *
 * What a client sends that does not parse is answered with ERR_INVALID, so those parsers return `undefined`;
 * what a server sends that does not parse ends the connection, so those throw `protocol`.
 */

const NBD_MAGIC = 0x4e42444d41474943n; // "NBDMAGIC"
const OPTION_MAGIC = 0x49484156454f5054n; // "IHAVEOPT"
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;

/** Sizes of the fixed parts, in bytes. */
export const NBD_GREETING_BYTES = 18;
export const NBD_OPTION_HEADER_BYTES = 16;
export const NBD_OPTION_REPLY_HEADER_BYTES = 20;

/** "Strings": no name or query is longer, in bytes. */
export const NBD_STRING_BYTES_MAX = 4096;

/**
 * The most data of one option or option reply that either of our ends takes: two strings of the longest kind
 * and room for some queries beside them. A peer that wants more is not one of ours.
 */
export const NBD_OPTION_BYTES_MAX = 64 * 1024;

/** "Handshake flags" of the server and "Client flags": the same two bits. */
export const NbdHandshakeFlag = { fixedNewstyle: 1 << 0, noZeroes: 1 << 1 } as const;

/** "Option types". */
export const NbdOption = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

/** "Option reply types". Those with bit 31 set are errors and carry a message for people. */
export const NBD_REPLY_ERROR_BIT = 2 ** 31;
export const NbdOptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsup: NBD_REPLY_ERROR_BIT + 1,
  errPolicy: NBD_REPLY_ERROR_BIT + 2,
  errInvalid: NBD_REPLY_ERROR_BIT + 3,
  errTlsReqd: NBD_REPLY_ERROR_BIT + 5,
  errUnknown: NBD_REPLY_ERROR_BIT + 6,
  errShutdown: NBD_REPLY_ERROR_BIT + 7,
  errBlockSizeReqd: NBD_REPLY_ERROR_BIT + 8,
  errTooBig: NBD_REPLY_ERROR_BIT + 9,
} as const;

/** "NBD_INFO" types. */
export const NbdInfo = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** The one metadata context that the document defines. */
export const NBD_BASE_ALLOCATION = 'base:allocation';

/** "Block size constraints" of an export, in bytes. */
export interface NbdBlockBytes {
  /** Offsets and lengths are multiples of it. A power of two, 1 to 64 KiB. */
  readonly minimum: number;
  /** What is served without reading more than was asked. A power of two, at least `minimum`. */
  readonly preferred: number;
  /** The most that one READ or WRITE carries; a multiple of `minimum`. */
  readonly maximum: number;
}

/** What GO and EXPORT_NAME tell of an export. */
export interface NbdExportInfo {
  readonly sizeBytes: number;
  /** {@link NbdFlag} bits. */
  readonly flags: number;
}

/** What the server says first. */
export function encodeGreeting(handshakeFlags: number): Buffer {
  const bytes = Buffer.allocUnsafe(NBD_GREETING_BYTES);
  bytes.writeBigUInt64BE(NBD_MAGIC, 0);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 8);
  bytes.writeUInt16BE(handshakeFlags, 16);
  return bytes;
}

/**
 * The handshake flags of a greeting. Throws `protocol` on what is not NBD, and on the handshakes before fixed
 * newstyle.
 */
export function parseGreeting(bytes: Buffer): number {
  if (bytes.readBigUInt64BE(0) !== NBD_MAGIC) throw nbdViolation('the server does not speak NBD');
  if (bytes.readBigUInt64BE(8) !== OPTION_MAGIC)
    throw nbdViolation('the server speaks only the oldstyle handshake');
  const flags = bytes.readUInt16BE(16);
  if ((flags & NbdHandshakeFlag.fixedNewstyle) === 0)
    throw nbdViolation('the server has no fixed newstyle handshake');
  return flags;
}

/** What the client answers to the greeting. */
export function encodeClientFlags(flags: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(flags, 0);
  return bytes;
}

/** An option with its data. */
export function encodeOption(option: number, data: Uint8Array = new Uint8Array(0)): Buffer {
  const bytes = Buffer.allocUnsafe(NBD_OPTION_HEADER_BYTES + data.length);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  bytes.set(data, NBD_OPTION_HEADER_BYTES);
  return bytes;
}

/**
 * Parses the 16 bytes before an option's data. Throws `protocol` on another magic or more data than we take.
 */
export function parseOptionHeader(bytes: Buffer): { readonly option: number; readonly length: number } {
  if (bytes.readBigUInt64BE(0) !== OPTION_MAGIC)
    throw nbdViolation('an option does not begin with its magic');
  const length = bytes.readUInt32BE(12);
  if (length > NBD_OPTION_BYTES_MAX) throw nbdViolation(`an option of ${length} bytes`);
  return { option: bytes.readUInt32BE(8), length };
}

/** A reply to an option. */
export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Buffer {
  const bytes = Buffer.allocUnsafe(NBD_OPTION_REPLY_HEADER_BYTES + data.length);
  bytes.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(data.length, 16);
  bytes.set(data, NBD_OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

/**
 * Parses the 20 bytes before a reply's data. Throws `protocol` if it answers another option or is too long.
 */
export function parseOptionReplyHeader(
  bytes: Buffer,
  option: number,
): { readonly type: number; readonly length: number } {
  if (bytes.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC)
    throw nbdViolation('an option reply has another magic');
  if (bytes.readUInt32BE(8) !== option) throw nbdViolation('a reply to an option that was not sent');
  const length = bytes.readUInt32BE(16);
  if (length > NBD_OPTION_BYTES_MAX) throw nbdViolation(`an option reply of ${length} bytes`);
  return { type: bytes.readUInt32BE(12), length };
}

function string32(text: string): Buffer {
  const textBytes = Buffer.from(text, 'utf8');
  const bytes = Buffer.allocUnsafe(4 + textBytes.length);
  bytes.writeUInt32BE(textBytes.length, 0);
  textBytes.copy(bytes, 4);
  return bytes;
}

/** Reads one option's data from front to back; every step is `undefined` once something did not fit. */
class Fields {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get ended(): boolean {
    return this.#at === this.#bytes.length;
  }

  uint(size: 2 | 4): number | undefined {
    if (this.#bytes.length - this.#at < size) return undefined;
    const value = this.#bytes.readUIntBE(this.#at, size);
    this.#at += size;
    return value;
  }

  string(): string | undefined {
    const length = this.uint(4);
    if (length === undefined || length > NBD_STRING_BYTES_MAX || this.#bytes.length - this.#at < length)
      return undefined;
    const text = this.#bytes.toString('utf8', this.#at, this.#at + length);
    this.#at += length;
    return text;
  }
}

/** The data of GO and INFO: the export, and the kinds of information that are asked for. */
export function encodeInfoRequest(exportName: string, infos: readonly number[]): Buffer {
  const tail = Buffer.allocUnsafe(2 + 2 * infos.length);
  tail.writeUInt16BE(infos.length, 0);
  for (const [index, info] of infos.entries()) tail.writeUInt16BE(info, 2 + 2 * index);
  return Buffer.concat([string32(exportName), tail]);
}

/** Parses the data of GO and INFO; `undefined` if it is malformed. */
export function parseInfoRequest(
  data: Buffer,
): { readonly exportName: string; readonly infos: readonly number[] } | undefined {
  const fields = new Fields(data);
  const exportName = fields.string();
  const count = fields.uint(2);
  if (exportName === undefined || count === undefined) return undefined;
  const infos: number[] = [];
  for (let index = 0; index < count; index += 1) {
    const info = fields.uint(2);
    if (info === undefined) return undefined;
    infos.push(info);
  }
  return fields.ended ? { exportName, infos } : undefined;
}

/** The data of SET_META_CONTEXT and LIST_META_CONTEXT. */
export function encodeMetaRequest(exportName: string, queries: readonly string[]): Buffer {
  const count = Buffer.allocUnsafe(4);
  count.writeUInt32BE(queries.length, 0);
  return Buffer.concat([string32(exportName), count, ...queries.map(string32)]);
}

/** Parses the data of SET_META_CONTEXT and LIST_META_CONTEXT; `undefined` if it is malformed. */
export function parseMetaRequest(
  data: Buffer,
): { readonly exportName: string; readonly queries: readonly string[] } | undefined {
  const fields = new Fields(data);
  const exportName = fields.string();
  const count = fields.uint(4);
  if (exportName === undefined || count === undefined) return undefined;
  const queries: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const query = fields.string();
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return fields.ended ? { exportName, queries } : undefined;
}

/** The data of a SERVER reply (to LIST). */
export function encodeServerReply(exportName: string): Buffer {
  return string32(exportName);
}

/** The data of a META_CONTEXT reply. */
export function encodeMetaContext(id: number, name: string): Buffer {
  const nameBytes = Buffer.from(name, 'utf8');
  const bytes = Buffer.allocUnsafe(4 + nameBytes.length);
  bytes.writeUInt32BE(id, 0);
  nameBytes.copy(bytes, 4);
  return bytes;
}

/** Parses the data of a META_CONTEXT reply. Throws `protocol` when it is too short. */
export function parseMetaContext(data: Buffer): { readonly id: number; readonly name: string } {
  if (data.length < 4) throw nbdViolation('a metadata context without a number');
  return { id: data.readUInt32BE(0), name: data.toString('utf8', 4) };
}

/** Size and flags of an export, as they end EXPORT_NAME and, after a type, stand in INFO_EXPORT. */
export function encodeExport(info: NbdExportInfo): Buffer {
  const bytes = Buffer.allocUnsafe(10);
  putUint64(bytes, info.sizeBytes, 0);
  bytes.writeUInt16BE(info.flags, 8);
  return bytes;
}

/** The data of an INFO reply of type EXPORT. */
export function encodeInfoExport(info: NbdExportInfo): Buffer {
  return Buffer.concat([Buffer.from([0, NbdInfo.export]), encodeExport(info)]);
}

/** The data of an INFO reply of type BLOCK_SIZE. */
export function encodeInfoBlockSize(block: NbdBlockBytes): Buffer {
  const bytes = Buffer.allocUnsafe(14);
  bytes.writeUInt16BE(NbdInfo.blockSize, 0);
  bytes.writeUInt32BE(block.minimum, 2);
  bytes.writeUInt32BE(block.preferred, 6);
  bytes.writeUInt32BE(block.maximum, 10);
  return bytes;
}

/**
 * Parses the data of an INFO reply; `undefined` for kinds that we did not ask for. Throws `protocol` on
 * nonsense.
 */
export function parseInfo(data: Buffer): NbdExportInfo | NbdBlockBytes | undefined {
  if (data.length < 2) throw nbdViolation('an information reply without a type');
  switch (data.readUInt16BE(0)) {
    case NbdInfo.export: {
      if (data.length !== 12) throw nbdViolation('an export description of the wrong length');
      const sizeBytes = getUint64(data, 2);
      if (!Number.isSafeInteger(sizeBytes)) throw nbdViolation('an export larger than 8 PiB');
      return { sizeBytes, flags: data.readUInt16BE(10) };
    }
    case NbdInfo.blockSize: {
      if (data.length !== 14) throw nbdViolation('block sizes of the wrong length');
      return checkedBlockBytes(data.readUInt32BE(2), data.readUInt32BE(6), data.readUInt32BE(10));
    }
    default:
      return undefined;
  }
}

/** Block sizes as a server gave them, the maximum brought down to what we ever send. */
function checkedBlockBytes(minimum: number, preferred: number, maximum: number): NbdBlockBytes {
  const isPowerOfTwo = (value: number): boolean => value > 0 && Number.isInteger(Math.log2(value));
  const sane =
    isPowerOfTwo(minimum) && minimum <= 64 * 1024 && isPowerOfTwo(preferred) && preferred >= minimum;
  if (!sane || maximum < minimum) throw nbdViolation(`block sizes ${minimum}, ${preferred}, ${maximum}`);
  const bounded = Math.min(maximum, NBD_PAYLOAD_BYTES_MAX);
  return { minimum, preferred, maximum: bounded - (bounded % minimum) };
}
