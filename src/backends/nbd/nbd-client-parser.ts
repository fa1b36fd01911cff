import { MigrationError } from '../../errors.ts';
import type { Parser, Wanted } from './nbd-intake.ts';
import {
  encodeClientFlags,
  encodeInfoRequest,
  encodeMetaRequest,
  encodeOption,
  NBD_BASE_ALLOCATION,
  NBD_GREETING_BYTES,
  NBD_OPTION_REPLY_HEADER_BYTES,
  NBD_REPLY_ERROR_BIT,
  type NbdBlockBytes,
  type NbdExportInfo,
  NbdHandshakeFlag,
  NbdInfo,
  NbdOption,
  NbdOptionReply,
  parseGreeting,
  parseInfo,
  parseMetaContext,
  parseOptionReplyHeader,
} from './nbd-options.ts';
import {
  getUint64,
  NBD_CHUNK_DONE,
  NBD_CHUNK_ERROR_BIT,
  NBD_CHUNK_HEADER_BYTES,
  NBD_PAYLOAD_BYTES_MAX,
  NBD_SIMPLE_REPLY_BYTES,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  NbdChunk,
  NbdCommand,
  type NbdExtent,
  type NbdFailure,
  nbdErrnoName,
  nbdViolation,
  parseBlockStatusChunk,
  parseErrorChunk,
} from './nbd-protocol.ts';

/**
 * The client's half of NBD as it reads a connection: first the handshake, then replies. Both are generators
 * that an {@link Intake} feeds; see there.
 */

/**
 * Replies to one option. GO is answered with one for each kind of information, of which the document knows
 * five.
 */
const OPTION_REPLIES_MAX = 64;
/** An error chunk holds a message of at most 65535 bytes and, in one kind, an offset. */
const ERROR_CHUNK_BYTES_MAX = 6 + 0xffff + 8;
/** QEMU answers BLOCK_STATUS with at most 128 Ki extents of 8 bytes; four times that. */
const BLOCK_STATUS_CHUNK_BYTES_MAX = 4 * 1024 * 1024;
/**
 * Pieces in which a READ may be lying about at once. Servers answer in order, so one or two are what is seen.
 */
const READ_GAPS_MAX = 1024;

/**
 * Block sizes of an export whose server names none ("Block size constraints"): what every server takes. One whose disk is no multiple of 512
 * serves smaller pieces, or nobody could reach its end.
 */
function defaultBlockBytes(sizeBytes: number): NbdBlockBytes {
  const minimum = sizeBytes % 512 === 0 ? 512 : 1;
  return { minimum, preferred: 4096, maximum: NBD_PAYLOAD_BYTES_MAX };
}

/** What a handshake settled. */
export interface NbdAgreement {
  readonly info: NbdExportInfo;
  readonly blockBytes: NbdBlockBytes;
  readonly structured: boolean;
  /** The number under which the server reports `base:allocation`, if it does. */
  readonly contextId: number | undefined;
}

/**
 * Negotiates: structured replies and `base:allocation` if the server has them, then GO, with a question
 * for block sizes unless requests are to be `unaligned`. Throws `hypervisor`
 * if the server refuses the export and `protocol` if it breaks the protocol.
 */
export function* negotiate(
  exportName: string,
  unaligned: boolean,
  send: (bytes: Buffer) => void,
): Generator<Wanted, NbdAgreement, Buffer> {
  const serverFlags = parseGreeting(yield NBD_GREETING_BYTES);
  send(encodeClientFlags(NbdHandshakeFlag.fixedNewstyle | (serverFlags & NbdHandshakeFlag.noZeroes)));

  send(encodeOption(NbdOption.structuredReply));
  const structured = (yield* optionReplies(NbdOption.structuredReply, () => {})) === undefined;

  let contextId: number | undefined;
  if (structured) {
    send(encodeOption(NbdOption.setMetaContext, encodeMetaRequest(exportName, [NBD_BASE_ALLOCATION])));
    yield* optionReplies(NbdOption.setMetaContext, (type, data) => {
      if (type !== NbdOptionReply.metaContext) return;
      const context = parseMetaContext(data);
      if (context.name === NBD_BASE_ALLOCATION) contextId = context.id;
    });
  }

  let info: NbdExportInfo | undefined;
  let blockBytes: NbdBlockBytes | undefined;
  send(encodeOption(NbdOption.go, encodeInfoRequest(exportName, unaligned ? [] : [NbdInfo.blockSize])));
  const refusal = yield* optionReplies(NbdOption.go, (type, data) => {
    const part = type === NbdOptionReply.info ? parseInfo(data) : undefined;
    if (part === undefined) return;
    if ('sizeBytes' in part) info = part;
    else blockBytes = part;
  });
  if (refusal !== undefined)
    throw new MigrationError('hypervisor', `NBD: export "${exportName}": ${refusal}`);
  if (info === undefined) throw nbdViolation('GO was acknowledged without a description of the export');
  return { info, blockBytes: blockBytes ?? defaultBlockBytes(info.sizeBytes), structured, contextId };
}

/**
 * Reads the replies to one option up to the last one. Returns `undefined` for ACK, else how the server
 * refused.
 */
function* optionReplies(
  option: number,
  onReply: (type: number, data: Buffer) => void,
): Generator<Wanted, string | undefined, Buffer> {
  for (let count = 0; count < OPTION_REPLIES_MAX; count += 1) {
    const { type, length } = parseOptionReplyHeader(yield NBD_OPTION_REPLY_HEADER_BYTES, option);
    const data = yield length;
    if (type === NbdOptionReply.ack) return undefined;
    if (type >= NBD_REPLY_ERROR_BIT) return refusalText(type, data.toString('utf8'));
    onReply(type, data);
  }
  throw nbdViolation('an option was answered without end');
}

function refusalText(type: number, message: string): string {
  const name = Object.entries(NbdOptionReply).find(([, value]) => value === type)?.[0] ?? `error ${type}`;
  return message === '' ? `refused (${name})` : `refused (${name}): ${message}`;
}

/** A request that waits for its reply. */
export interface NbdPending {
  readonly command: number;
  /** Bytes from the start of the export. */
  readonly offset: number;
  readonly length: number;
  /** READ: `length` bytes to be filled. */
  readonly target: Buffer | undefined;
  /** READ: what of `target` has arrived. */
  readonly arrived: ArrivedRanges;
  /** BLOCK_STATUS: what was reported. */
  extents: readonly NbdExtent[] | undefined;
  /** The first error that was reported. */
  failure: NbdFailure | undefined;
}

/** Which bytes of a READ have arrived. Memory is bounded by {@link READ_GAPS_MAX} pieces. */
export class ArrivedRanges {
  /** Ascending, apart from one another. */
  readonly #pieces: { start: number; end: number }[] = [];

  /** Adds a range. Throws `protocol` if it overlaps what is there, or if there are too many pieces. */
  add(start: number, end: number): void {
    const pieces = this.#pieces;
    let index = pieces.length;
    while (index > 0 && (pieces[index - 1]?.start ?? 0) >= start) index -= 1;
    const before = pieces[index - 1];
    const after = pieces[index];
    if ((before !== undefined && before.end > start) || (after !== undefined && after.start < end)) {
      throw nbdViolation('two chunks of one reply overlap');
    }
    if (before?.end === start && after?.start === end) {
      before.end = after.end;
      pieces.splice(index, 1);
    } else if (before?.end === start) before.end = end;
    else if (after?.start === end) after.start = start;
    else if (pieces.length >= READ_GAPS_MAX) throw nbdViolation('a reply in too many pieces');
    else pieces.splice(index, 0, { start, end });
  }

  /** True if exactly `0` to `length` has arrived. */
  covers(length: number): boolean {
    const first = this.#pieces[0];
    if (first === undefined) return length === 0;
    return this.#pieces.length === 1 && first.start === 0 && first.end === length;
  }
}

/**
 * Reads replies for ever. `find` gives the request of a cookie, `done` is told that its reply is complete,
 * with `failure`, `extents` and `target` as the server left them. Throws `protocol` at the first thing that
 * is not a reply to a request under way.
 */
export function* readReplies(
  agreement: NbdAgreement,
  find: (cookie: number) => NbdPending | undefined,
  done: (cookie: number) => void,
): Parser {
  const { structured, contextId } = agreement;
  const pendingOf = (head: Buffer): NbdPending => {
    const pending = find(getUint64(head, 8));
    if (pending === undefined) throw nbdViolation('a reply to a request that was not sent');
    return pending;
  };
  for (;;) {
    const head = yield NBD_SIMPLE_REPLY_BYTES;
    const magic = head.readUInt32BE(0);
    const cookie = getUint64(head, 8);
    if (magic === NBD_SIMPLE_REPLY_MAGIC) {
      const pending = pendingOf(head);
      yield* readSimple(pending, head.readUInt32BE(4), structured);
      done(cookie);
    } else if (magic === NBD_STRUCTURED_REPLY_MAGIC && structured) {
      const pending = pendingOf(head);
      const last = (head.readUInt16BE(4) & NBD_CHUNK_DONE) !== 0;
      const type = head.readUInt16BE(6);
      const length = (yield NBD_CHUNK_HEADER_BYTES - NBD_SIMPLE_REPLY_BYTES).readUInt32BE(0);
      yield* readChunk(pending, type, length, last, contextId);
      if (last) {
        checkComplete(pending);
        done(cookie);
      }
    } else throw nbdViolation('a reply does not begin with a magic that was agreed');
  }
}

function* readSimple(pending: NbdPending, errno: number, structured: boolean): Parser {
  if (structured && pending.command === NbdCommand.read)
    throw nbdViolation('a simple reply to a structured read');
  if (errno !== 0) pending.failure = { errno, message: nbdErrnoName(errno) };
  else if (pending.target !== undefined) {
    yield pending.target;
    pending.arrived.add(0, pending.length);
  }
  checkComplete(pending);
}

function* readChunk(
  pending: NbdPending,
  type: number,
  length: number,
  last: boolean,
  contextId: number | undefined,
): Parser {
  if (type >= NBD_CHUNK_ERROR_BIT) {
    checkLength(type, length, 6, ERROR_CHUNK_BYTES_MAX);
    const failure = parseErrorChunk(yield length);
    pending.failure ??= failure;
    return;
  }
  switch (type) {
    case NbdChunk.none:
      checkLength(type, length, 0, 0);
      if (!last) throw nbdViolation('an empty chunk that is not the last');
      return;
    case NbdChunk.offsetData: {
      checkLength(type, length, 9, 8 + pending.length);
      yield targetRange(pending, getUint64(yield 8, 0), length - 8);
      return;
    }
    case NbdChunk.offsetHole: {
      checkLength(type, length, 12, 12);
      const hole = yield length;
      targetRange(pending, getUint64(hole, 0), hole.readUInt32BE(8)).fill(0);
      return;
    }
    case NbdChunk.blockStatus: {
      checkLength(type, length, 12, BLOCK_STATUS_CHUNK_BYTES_MAX);
      const wanted = pending.command === NbdCommand.blockStatus && pending.extents === undefined;
      if (!wanted || contextId === undefined || length % 8 !== 4)
        throw nbdViolation('block status out of turn');
      pending.extents = parseBlockStatusChunk(yield length, contextId, pending.offset, pending.length);
      return;
    }
    default:
      throw nbdViolation(`a chunk of the unknown type ${type}`);
  }
}

function checkLength(type: number, length: number, min: number, max: number): void {
  if (length < min || length > max) throw nbdViolation(`a chunk of type ${type} with ${length} bytes`);
}

/**
 * Where a content chunk belongs. Throws `protocol` if that is not within the request, or was there before.
 */
function targetRange(pending: NbdPending, offset: number, length: number): Buffer {
  const start = offset - pending.offset;
  const end = start + length;
  if (pending.target === undefined) throw nbdViolation('content in a reply to something that is not a read');
  if (start < 0 || length === 0 || end > pending.length)
    throw nbdViolation('a chunk outside the range that was read');
  pending.arrived.add(start, end);
  return pending.target.subarray(start, end);
}

/** A reply without an error must have delivered what was asked for. */
function checkComplete(pending: NbdPending): void {
  if (pending.failure !== undefined) return;
  if (pending.target !== undefined && !pending.arrived.covers(pending.length)) {
    throw nbdViolation('a read ended before all of it had come');
  }
  if (pending.command === NbdCommand.blockStatus && pending.extents === undefined) {
    throw nbdViolation('a block status request was answered without extents');
  }
}
