import { connect, type Socket } from 'node:net';
import { asMigrationError, type ErrorCode, MigrationError } from '../../errors.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import { breakIfDue } from '../../util/breaks.ts';
import { type Deferred, deferred, raceAbort, throwIfAborted } from '../../util/promises.ts';
import {
  ArrivedRanges,
  type NbdAgreement,
  type NbdPending,
  negotiate,
  readReplies,
} from './nbd-client-parser.ts';
import { Intake, type Parser } from './nbd-intake.ts';
import { encodeRequest, NbdCommand, NbdErrno, type NbdFailure, nbdErrnoName } from './nbd-protocol.ts';
import { corkForThisTick } from './socket-cork.ts';

/** What the socket reads into when it does not read into a request's own buffer. */
const SCRATCH_BYTES = 64 * 1024;
/**
 * From this many missing bytes on the socket reads straight into the request's buffer; below, a copy is
 * cheaper.
 */
const DIRECT_BYTES_MIN = 32 * 1024;

/** One request, as {@link NbdWire.request} sends it. */
export interface NbdRequestSpec {
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** What it rejects with when the server answers with an error, or the connection is lost. */
  readonly code: ErrorCode;
  /** READ: where the bytes go. */
  readonly target?: Buffer;
  /** WRITE: the bytes, `length` in all. */
  readonly payload?: Chunks;
}

interface Outstanding extends NbdPending {
  readonly code: ErrorCode;
  readonly reply: Deferred<NbdPending>;
}

/**
 * The server's error number under a {@link MigrationError} of a client: `'ENOSPC'`; `undefined` if it has
 * none.
 */
export function nbdErrorName(error: unknown): string | undefined {
  const cause = error instanceof MigrationError ? error.cause : undefined;
  return cause instanceof NbdServerError ? cause.errnoName : undefined;
}

/** The cause of a `disk-read` or `disk-write` that the server reported. */
class NbdServerError extends Error {
  readonly errnoName: string;

  constructor(failure: NbdFailure) {
    super(failure.message);
    this.name = 'NbdServerError';
    this.errnoName = nbdErrnoName(failure.errno);
  }
}

/**
 * One client connection: the socket, and the requests that wait for a reply or for room. What they mean is
 * the business of {@link NbdClient}.
 */
export class NbdWire {
  readonly #path: string;
  readonly #socket: Socket;
  readonly #intake: Intake;
  readonly #scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);
  readonly #inFlightMax: number;
  #inFlight = 0;
  /** Calls that wait for room, first come, first served. */
  readonly #waiting: Deferred<void>[] = [];
  readonly #pending = new Map<number, Outstanding>();
  #nextCookie = 0;

  readonly #agreed = deferred<NbdAgreement>();
  readonly #closed = deferred<MigrationError | undefined>();
  readonly #socketClosed = deferred<void>();
  #connected = false;
  /** Why it ended, and whether calls reject with exactly that. */
  #ended: { readonly reason: MigrationError; readonly exact: boolean } | undefined;
  #goodbye: Promise<void> | undefined;
  #idle: Deferred<void> | undefined;

  /** Starts to connect; {@link NbdWire.agreed} tells the rest. */
  constructor(path: string, exportName: string, inFlightMax: number, unaligned: boolean) {
    this.#path = path;
    this.#inFlightMax = inFlightMax;
    this.#intake = new Intake(this.#parse(exportName, unaligned));
    this.#socket = connect({
      path,
      onread: {
        buffer: () => this.#intake.room(DIRECT_BYTES_MIN) ?? this.#scratch,
        callback: (bytes, buffer) => {
          breakIfDue();
          return this.#onBytes(bytes, buffer);
        },
      },
    });
    this.#socket.on('connect', () => {
      this.#connected = true;
    });
    this.#socket.on('error', (error) => this.#onError(error));
    this.#socket.on('end', () => this.#lost('the server hung up'));
    this.#socket.on('close', () => {
      this.#lost('the connection was closed');
      this.#socketClosed.resolve();
    });
  }

  /** The end of the handshake; rejects as {@link NbdClient.connect} says. */
  get agreed(): Promise<NbdAgreement> {
    return this.#agreed.promise;
  }

  /** See {@link NbdClient.closed}. */
  get closed(): Promise<MigrationError | undefined> {
    return this.#closed.promise;
  }

  /**
   * Sends a request as soon as there is room and resolves with its complete reply. Requests are sent in the
   * order of the calls. Rejects with `aborted`, or with the code of the request.
   */
  async request(spec: NbdRequestSpec, options: CallOptions): Promise<NbdPending> {
    throwIfAborted(options.signal);
    if (this.#goodbye !== undefined)
      throw new MigrationError('invalid-state', 'NBD: the client was disconnected');
    if (this.#ended !== undefined) throw this.#endedError(spec.code);
    // A place is handed on, not given up, while somebody waits for one: nobody overtakes.
    if (this.#inFlight < this.#inFlightMax) this.#inFlight += 1;
    else await this.#room(spec.code, options);
    return await raceAbort(this.#send(spec), options.signal);
  }

  /** See {@link NbdClient.disconnect}. */
  disconnect(): Promise<void> {
    this.#goodbye ??= this.#sayGoodbye();
    return this.#goodbye;
  }

  /**
   * Ends the connection. `exact`: calls reject with the reason itself and not with the code of their kind.
   */
  fail(reason: MigrationError, exact = false): void {
    this.#socket.destroy();
    if (this.#ended !== undefined) return;
    this.#ended = { reason, exact };
    this.#intake.end();
    this.#agreed.reject(reason);
    this.#closed.resolve(reason);
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { code, reply } of pending) reply.reject(this.#endedError(code));
    for (const waiting of this.#waiting.splice(0)) waiting.reject(reason);
    this.#idle?.resolve();
  }

  *#parse(exportName: string, unaligned: boolean): Parser {
    const agreement = yield* negotiate(exportName, unaligned, (bytes) => this.#socket.write(bytes));
    this.#agreed.resolve(agreement);
    const find = (cookie: number): NbdPending | undefined => this.#pending.get(cookie);
    yield* readReplies(agreement, find, (cookie) => this.#settle(cookie));
  }

  #onBytes(bytes: number, buffer: Uint8Array): boolean {
    try {
      if (buffer === this.#scratch) this.#intake.push(this.#scratch.subarray(0, bytes));
      else this.#intake.filled(bytes);
    } catch (error) {
      this.fail(asMigrationError(error, 'internal'));
    }
    return true;
  }

  #onError(error: Error): void {
    const code = this.#connected ? 'hypervisor' : 'connect-failed';
    this.fail(asMigrationError(error, code, `NBD server at ${this.#path}`));
  }

  #lost(what: string): void {
    this.fail(new MigrationError('hypervisor', `NBD server at ${this.#path}: ${what}`));
  }

  #endedError(code: ErrorCode): MigrationError {
    const ended = this.#ended;
    if (ended === undefined) return new MigrationError('internal', 'NBD: not ended');
    if (ended.exact) return ended.reason;
    return new MigrationError(code, `NBD connection lost: ${ended.reason.message}`, { cause: ended.reason });
  }

  async #room(code: ErrorCode, options: CallOptions): Promise<void> {
    const waiting = deferred<void>();
    this.#waiting.push(waiting);
    try {
      await raceAbort(waiting.promise, options.signal, () => this.#leave());
    } catch (error) {
      throw error === this.#ended?.reason ? this.#endedError(code) : error;
    }
  }

  /** Gives a place in flight to the next call that waits for one. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next !== undefined) next.resolve();
    else this.#inFlight -= 1;
    if (this.#inFlight === 0) this.#idle?.resolve();
  }

  #send(spec: NbdRequestSpec): Promise<NbdPending> {
    const reply = deferred<NbdPending>();
    if (this.#ended !== undefined) {
      reply.reject(this.#endedError(spec.code));
      return reply.promise;
    }
    const cookie = this.#nextCookie;
    this.#nextCookie += 1;
    const { command, offset, length, code, target } = spec;
    this.#pending.set(cookie, {
      command,
      offset,
      length,
      code,
      reply,
      target,
      arrived: new ArrivedRanges(),
      extents: undefined,
      failure: undefined,
    });
    corkForThisTick(this.#socket);
    this.#socket.write(encodeRequest(command, spec.flags, cookie, offset, length));
    for (const chunk of spec.payload ?? []) this.#socket.write(chunk);
    return reply.promise;
  }

  #settle(cookie: number): void {
    const pending = this.#pending.get(cookie);
    if (pending === undefined) return;
    this.#pending.delete(cookie);
    const { code, offset, length, failure, reply } = pending;
    if (failure === undefined) reply.resolve(pending);
    else {
      const cause = new NbdServerError(failure);
      const where = `${length} bytes at ${offset}`;
      const full = code === 'disk-write' && failure.errno === NbdErrno.ENOSPC;
      reply.reject(
        new MigrationError(
          full ? 'disk-full' : code,
          `NBD: ${where}: ${cause.errnoName}: ${failure.message}`,
          { cause },
        ),
      );
    }
    this.#leave();
  }

  async #sayGoodbye(): Promise<void> {
    if (this.#inFlight > 0 && this.#ended === undefined) {
      this.#idle = deferred();
      await this.#idle.promise;
    }
    if (this.#ended === undefined) {
      this.#ended = {
        reason: new MigrationError('invalid-state', 'NBD: the client was disconnected'),
        exact: true,
      };
      this.#intake.end();
      this.#closed.resolve(undefined);
      this.#socket.write(encodeRequest(NbdCommand.disconnect, 0, this.#nextCookie, 0, 0));
      this.#socket.destroySoon();
    }
    await this.#socketClosed.promise;
  }
}
