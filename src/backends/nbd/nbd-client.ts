import { asMigrationError, MigrationError } from '../../errors.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import { BufferPool } from '../../util/buffer-pool.ts';
import { onAbort } from '../../util/on-abort.ts';
import { abortError, throwIfAborted } from '../../util/promises.ts';
import type { NbdAgreement } from './nbd-client-parser.ts';
import type { NbdBlockBytes } from './nbd-options.ts';
import { NbdCommand, NbdCommandFlag, type NbdExtent, NbdFlag } from './nbd-protocol.ts';
import { type NbdRequestSpec, NbdWire } from './nbd-wire.ts';

export type { NbdBlockBytes } from './nbd-options.ts';
export type { NbdExtent } from './nbd-protocol.ts';
export { nbdErrorName } from './nbd-wire.ts';

/** Requests without a payload are sent for at most this much; the length field holds 4 GiB - 1. */
const RANGE_BYTES_MAX = 1024 * 1024 * 1024;
/** One `read` is one buffer, of the next power of two: far above what a copier asks for, far below what Node refuses. */
const READ_BYTES_MAX = 1024 * 1024 * 1024;
/** What all clients of the thread read into. Of what was recycled at most so much waits to be read into again. */
const buffers = new BufferPool(32 * 1024 * 1024);

/** How {@link NbdClient.connect} finds its export. */
export interface NbdClientOptions {
  /** The server's unix socket. */
  readonly path: string;
  /** The export's name; `''` is the server's default export. */
  readonly exportName: string;
  /**
   * Requests under way at once, 1 or more; further ones wait. Default 16, the most that QEMU's server works
   * on at once.
   */
  readonly inFlightMax?: number;
  /**
   * Not to ask for block sizes: who asks must keep to them. QEMU's server takes any offset and length then, whatever its disk is made of, and
   * says so; others may refuse. Default false.
   */
  readonly unaligned?: boolean;
  /** Bounds the connecting and the handshake, which have no limit of their own. */
  readonly signal?: AbortSignal | undefined;
}

/** What a write may ask for beside its range. */
export interface NbdWriteOptions extends CallOptions {
  /** Durable before the promise resolves. Needs `canFua`. Default false. */
  readonly fua?: boolean;
}

/**
 * One connection to an export of an NBD server on a unix socket.
 *
 * Offsets and lengths are in bytes, multiples of `blockBytes.minimum`, and lie within the export: everything
 * else rejects with `invalid-argument` and sends nothing. What is larger than one request may be is split.
 * Any number of calls may be under way; they reach the server in the order of the calls, and it may finish
 * them in any order.
 *
 * A server's error rejects that call alone, with `disk-read`, `disk-write`, or `disk-full` for a write that found no room
 * ({@link nbdErrorName} has the number's name). A lost or broken connection, {@link NbdClient.abort} and {@link NbdClient.disconnect} end
 * it for good: calls under way reject with the code of their kind and the reason as cause, later ones too; a
 * new connection is a new client. A call whose signal is aborted rejects at once; a request of it that was
 * sent already is still carried out by the server, or not: the range of a write is undefined then.
 */
export class NbdClient {
  readonly sizeBytes: number;
  readonly blockBytes: NbdBlockBytes;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  readonly canFua: boolean;
  readonly canMultiConn: boolean;
  readonly canFastZero: boolean;
  /** False: {@link NbdClient.blockStatus} knows nothing and calls everything data. */
  readonly canBlockStatus: boolean;
  readonly #wire: NbdWire;

  private constructor(wire: NbdWire, agreement: NbdAgreement) {
    const has = (flag: number): boolean => (agreement.info.flags & flag) !== 0;
    this.#wire = wire;
    this.sizeBytes = agreement.info.sizeBytes;
    this.blockBytes = agreement.blockBytes;
    this.readOnly = has(NbdFlag.readOnly);
    this.canFlush = has(NbdFlag.sendFlush);
    this.canTrim = has(NbdFlag.sendTrim);
    this.canWriteZeroes = has(NbdFlag.sendWriteZeroes);
    this.canFua = has(NbdFlag.sendFua);
    this.canMultiConn = has(NbdFlag.canMultiConn);
    this.canFastZero = has(NbdFlag.sendFastZero);
    this.canBlockStatus = agreement.contextId !== undefined;
  }

  /**
   * Connects and negotiates. Rejects with `connect-failed` if nobody listens, `hypervisor` if the server
   * refuses the export or hangs up, `protocol` if it does not speak NBD, `aborted`; then nothing is left
   * open.
   */
  static async connect(options: NbdClientOptions): Promise<NbdClient> {
    const inFlightMax = options.inFlightMax ?? 16;
    if (!Number.isInteger(inFlightMax) || inFlightMax < 1) {
      throw new MigrationError('invalid-argument', `inFlightMax is ${inFlightMax}`);
    }
    const { signal } = options;
    throwIfAborted(signal);
    const wire = new NbdWire(options.path, options.exportName, inFlightMax, options.unaligned ?? false);
    const takeBack = signal && onAbort(signal, () => wire.fail(abortError(signal), true));
    try {
      return new NbdClient(wire, await wire.agreed);
    } finally {
      takeBack?.();
    }
  }

  /**
   * Resolves, never rejects, when the connection has ended: with the reason, or `undefined` after
   * {@link NbdClient.disconnect}.
   */
  get closed(): Promise<MigrationError | undefined> {
    return this.#wire.closed;
  }

  /** Reads a range of at most 1 GiB. The bytes are the caller's own, to be given to {@link NbdClient.recycle} or not. Rejects with `disk-read`. */
  async read(offset: number, length: number, options: CallOptions = {}): Promise<Uint8Array> {
    this.#checkRange(offset, length, READ_BYTES_MAX);
    throwIfAborted(options.signal);
    const whole = buffers.take(length);
    await this.#split(offset, length, this.blockBytes.maximum, options, (start, pieceBytes) => ({
      command: NbdCommand.read,
      flags: 0,
      offset: start,
      length: pieceBytes,
      code: 'disk-read',
      target: whole.subarray(start - offset, start - offset + pieceBytes),
    }));
    return whole;
  }

  /** Nobody looks any more at what {@link NbdClient.read} resolved to, of any client: it is read into again. */
  static recycle(bytes: Uint8Array): void {
    buffers.giveBack(bytes);
  }

  /**
   * Writes the chunks one after the other from `offset`. They are sent as they are and must not change until
   * the promise settles, nor after an abort until the client has ended. Rejects with `disk-write`; then the
   * range's content is undefined.
   */
  async write(offset: number, chunks: Chunks, options: NbdWriteOptions = {}): Promise<void> {
    let length = 0;
    for (const chunk of chunks) length += chunk.length;
    this.#checkRange(offset, length, this.sizeBytes);
    this.#checkWritable();
    const flags = this.#fua(options);
    const cut = chunkCutter(chunks);
    await this.#split(offset, length, this.blockBytes.maximum, options, (start, pieceBytes) => ({
      command: NbdCommand.write,
      flags,
      offset: start,
      length: pieceBytes,
      code: 'disk-write',
      payload: cut(pieceBytes),
    }));
  }

  /**
   * Makes a range read as zeros. `punchHole` lets the server deallocate it; without, it stays or becomes
   * allocated. Rejects with `unsupported` unless `canWriteZeroes`, and with `disk-write`; then the range's
   * content is undefined.
   */
  async writeZeroes(
    offset: number,
    length: number,
    options: NbdWriteOptions & { readonly punchHole?: boolean } = {},
  ): Promise<void> {
    this.#checkRange(offset, length, this.sizeBytes);
    this.#checkWritable();
    this.#need(this.canWriteZeroes, 'write zeroes');
    const flags = this.#fua(options) | (options.punchHole === true ? 0 : NbdCommandFlag.noHole);
    await this.#ranges(NbdCommand.writeZeroes, flags, offset, length, options);
  }

  /**
   * Says that a range's content is of no interest any more; it may read as anything afterwards. Rejects with
   * `unsupported` unless `canTrim`, and with `disk-write`.
   */
  async trim(offset: number, length: number, options: CallOptions = {}): Promise<void> {
    this.#checkRange(offset, length, this.sizeBytes);
    this.#checkWritable();
    this.#need(this.canTrim, 'trim');
    await this.#ranges(NbdCommand.trim, 0, offset, length, options);
  }

  /**
   * Makes every write that had resolved before the call durable. Rejects with `unsupported` unless
   * `canFlush`, and with `disk-write`; then nothing is known to be durable.
   */
  async flush(options: CallOptions = {}): Promise<void> {
    this.#need(this.canFlush, 'flush');
    await this.#wire.request(
      { command: NbdCommand.flush, flags: 0, offset: 0, length: 0, code: 'disk-write' },
      options,
    );
  }

  /**
   * The extents of a range, in order, without gaps, covering all of it; neighbours differ. Rejects with
   * `disk-read`. Without `canBlockStatus` it is one extent of data.
   */
  async blockStatus(
    offset: number,
    length: number,
    options: CallOptions = {},
  ): Promise<readonly NbdExtent[]> {
    this.#checkRange(offset, length, this.sizeBytes);
    throwIfAborted(options.signal);
    if (length === 0) return [];
    if (!this.canBlockStatus) return [{ offset, length, zero: false, hole: false }];
    const merged: NbdExtent[] = [];
    const end = offset + length;
    let position = offset;
    while (position < end) {
      const { extents = [] } = await this.#wire.request(
        {
          command: NbdCommand.blockStatus,
          flags: 0,
          offset: position,
          length: Math.min(end - position, RANGE_BYTES_MAX),
          code: 'disk-read',
        },
        options,
      );
      for (const extent of extents) {
        appendExtent(merged, extent);
        position = extent.offset + extent.length;
      }
    }
    return merged;
  }

  /**
   * Waits for the calls under way, says goodbye and closes. No new calls from here on. Never rejects;
   * resolves at once if the connection has ended already. May be called twice. A server that hangs is ended
   * with {@link NbdClient.abort}.
   */
  async disconnect(): Promise<void> {
    await this.#wire.disconnect();
  }

  /**
   * Drops the connection now; calls under way reject with the reason. May be called in any state, and twice.
   */
  abort(reason: unknown): void {
    this.#wire.fail(asMigrationError(reason, 'aborted'), true);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disconnect();
  }

  async #ranges(
    command: number,
    flags: number,
    offset: number,
    length: number,
    options: CallOptions,
  ): Promise<void> {
    await this.#split(offset, length, RANGE_BYTES_MAX, options, (start, pieceBytes) => ({
      command,
      flags,
      offset: start,
      length: pieceBytes,
      code: 'disk-write',
    }));
  }

  /** One request for each piece of a range, all under way at once as far as there is room. */
  async #split(
    offset: number,
    length: number,
    pieceBytesMax: number,
    options: CallOptions,
    specOf: (start: number, pieceBytes: number) => NbdRequestSpec,
  ): Promise<void> {
    throwIfAborted(options.signal);
    if (length === 0) return;
    if (length <= pieceBytesMax) {
      await this.#wire.request(specOf(offset, length), options);
      return;
    }
    const pieces: Promise<unknown>[] = [];
    for (let start = offset; start < offset + length; start += pieceBytesMax) {
      const pieceBytes = Math.min(pieceBytesMax, offset + length - start);
      pieces.push(this.#wire.request(specOf(start, pieceBytes), options));
    }
    await Promise.all(pieces);
  }

  #fua(options: NbdWriteOptions): number {
    if (options.fua !== true) return 0;
    this.#need(this.canFua, 'FUA');
    return NbdCommandFlag.fua;
  }

  #checkRange(offset: number, length: number, lengthMax: number): void {
    const unit = this.blockBytes.minimum;
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
    if (
      !whole ||
      length > lengthMax ||
      offset + length > this.sizeBytes ||
      offset % unit !== 0 ||
      length % unit !== 0
    ) {
      const size = `a disk of ${this.sizeBytes} bytes in blocks of ${unit}`;
      throw new MigrationError('invalid-argument', `range of ${length} bytes at ${offset} of ${size}`);
    }
  }

  #checkWritable(): void {
    if (this.readOnly) throw new MigrationError('disk-write', 'NBD: the export is read-only');
  }

  #need(capability: boolean, what: string): void {
    if (!capability) throw new MigrationError('unsupported', `NBD: the server cannot ${what}`);
  }
}

/** Hands out the chunks' bytes in order, as views, as many as asked for at a time. */
function chunkCutter(chunks: Chunks): (bytes: number) => Uint8Array[] {
  let index = 0;
  let used = 0;
  return (bytes) => {
    const views: Uint8Array[] = [];
    let missing = bytes;
    for (let chunk = chunks[index]; chunk !== undefined && missing > 0; chunk = chunks[index]) {
      const end = Math.min(chunk.length, used + missing);
      if (end > used) views.push(used === 0 && end === chunk.length ? chunk : chunk.subarray(used, end));
      missing -= end - used;
      used = end;
      if (used === chunk.length) {
        index += 1;
        used = 0;
      }
    }
    return views;
  };
}

function appendExtent(extents: NbdExtent[], extent: NbdExtent): void {
  const last = extents.at(-1);
  if (last !== undefined && last.zero === extent.zero && last.hole === extent.hole) {
    extents[extents.length - 1] = { ...last, length: last.length + extent.length };
  } else extents.push(extent);
}
