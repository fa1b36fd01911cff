import type { Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../../errors.ts';
import { Intake, type Parser } from './nbd-intake.ts';
import {
  encodeBlockStatusChunk,
  encodeDataChunkHead,
  encodeErrorChunk,
  encodeNoneChunk,
  encodeSimpleReply,
  NBD_PAYLOAD_BYTES_MAX,
  NBD_REQUEST_BYTES,
  NbdCommand,
  NbdCommandFlag,
  NbdErrno,
  type NbdExtent,
  type NbdFailure,
  type NbdRequest,
  nbdErrnoName,
  nbdViolation,
  parseRequest,
} from './nbd-protocol.ts';
import {
  NBD_SERVER_CONTEXT_ID,
  type NbdExportOffers,
  type NbdServerAgreement,
  serveHandshake,
} from './nbd-server-handshake.ts';
import { checkRequest, clipExtents, failureOf, type NbdServerHandler } from './nbd-server-rules.ts';
import { corkForThisTick } from './socket-cork.ts';

/** Replies that the client has not taken from us. Past this nothing more is read from it until it has. */
const UNSENT_BYTES_MAX = 8 * 1024 * 1024;

/** What a server's connections have in common. */
export interface NbdConnectionContext {
  readonly offers: NbdExportOffers;
  readonly inFlightMax: number;
  readonly inFlightBytesMax: number;
  /** The handshake is over; requests may follow from here on, for this handler. */
  readonly onReady: (handler: NbdServerHandler) => void;
  /** The connection is over, `undefined` if the client said so. After `onReady` or without it; once. */
  readonly onEnded: (reason: MigrationError | undefined) => void;
}

/** What a handler came back with: READ data, extents, or nothing. */
type Outcome = Uint8Array | readonly NbdExtent[] | undefined;

/** One client of the server: reads its requests, calls the handler, writes the replies. */
export class NbdServerConnection {
  readonly #socket: Socket;
  readonly #context: NbdConnectionContext;
  readonly #intake: Intake;
  #agreement: NbdServerAgreement;
  #inFlight = 0;
  #inFlightBytes = 0;
  #held = false;
  /** The client has said goodbye; it goes when the last reply is out. */
  #leaving = false;
  #ended = false;

  constructor(socket: Socket, context: NbdConnectionContext) {
    this.#socket = socket;
    this.#context = context;
    this.#agreement = { offer: context.offers[0], structured: false, baseAllocation: false };
    socket.on('error', (error) => this.drop(asMigrationError(error, 'hypervisor', 'NBD client')));
    socket.on('end', () => this.#onEnd());
    socket.on('close', () => this.#onClose());
    socket.on('drain', () => this.#releaseIfRoom());
    this.#intake = new Intake(this.#parse());
    socket.on('data', (chunk) => this.#run(() => this.#intake.push(chunk)));
  }

  /** Ends the connection now; replies that are outstanding are not sent. */
  drop(reason: MigrationError): void {
    this.#end(reason);
    this.#socket.destroy();
  }

  *#parse(): Parser {
    const agreement = yield* serveHandshake(this.#context.offers, (bytes) => this.#write(bytes));
    if (agreement === undefined) {
      this.#leave();
      return;
    }
    this.#agreement = agreement;
    this.#context.onReady(agreement.offer.handler);
    for (;;) {
      const request = parseRequest(yield NBD_REQUEST_BYTES);
      if (request.command === NbdCommand.disconnect) {
        this.#leave();
        return;
      }
      let payload: Buffer | undefined;
      if (request.command === NbdCommand.write) {
        if (request.length > NBD_PAYLOAD_BYTES_MAX) throw nbdViolation(`a write of ${request.length} bytes`);
        payload = Buffer.allocUnsafeSlow(request.length);
        yield payload;
      }
      this.#dispatch(request, payload);
    }
  }

  /** Calls the handler, here and now: the order in which requests came is the order of the calls. */
  #dispatch(request: NbdRequest, payload: Buffer | undefined): void {
    const refusal = checkRequest(request, this.#agreement);
    if (refusal !== undefined) {
      this.#replyFailure(request, { errno: refusal, message: `refused: ${nbdErrnoName(refusal)}` });
      return;
    }
    const bytes = payload?.length ?? (request.command === NbdCommand.read ? request.length : 0);
    this.#inFlight += 1;
    this.#inFlightBytes += bytes;
    this.#handle(request, payload)
      .then(
        (outcome) => this.#reply(request, outcome),
        (error: unknown) => this.#replyFailure(request, failureOf(error)),
      )
      .catch((error: unknown) => this.drop(asMigrationError(error, 'internal')))
      .finally(() => {
        this.#inFlight -= 1;
        this.#inFlightBytes -= bytes;
        this.#releaseIfRoom();
        if (this.#leaving && this.#inFlight === 0) this.#socket.destroySoon();
      });
    this.#holdIfFull();
  }

  /** Runs synchronously up to and including the call of the handler. */
  async #handle(request: NbdRequest, payload: Buffer | undefined): Promise<Outcome> {
    const { handler } = this.#agreement.offer;
    const { command, flags, offset, length } = request;
    switch (command) {
      case NbdCommand.read:
        return length === 0 ? new Uint8Array(0) : await handler.read?.(offset, length);
      case NbdCommand.write:
        if (payload !== undefined && length > 0) await handler.write(offset, payload);
        break;
      case NbdCommand.writeZeroes:
        if (length > 0) {
          await handler.writeZeroes(offset, length, { mayPunch: (flags & NbdCommandFlag.noHole) === 0 });
        }
        break;
      case NbdCommand.trim:
        if (length > 0) await handler.trim?.(offset, length);
        break;
      case NbdCommand.flush:
        await handler.flush();
        return undefined;
      default: {
        const extents = await handler.extents?.(offset, length);
        return clipExtents(extents ?? [], offset, length, (flags & NbdCommandFlag.reqOne) !== 0);
      }
    }
    if ((flags & NbdCommandFlag.fua) !== 0) await handler.flush();
    return undefined;
  }

  #reply(request: NbdRequest, outcome: Outcome): void {
    const { command, cookie, offset, length } = request;
    const { structured } = this.#agreement;
    if (command === NbdCommand.read) {
      if (!(outcome instanceof Uint8Array) || outcome.length !== length) {
        this.#replyFailure(request, { errno: NbdErrno.EIO, message: 'the handler returned another length' });
        return;
      }
      if (!structured) this.#write(encodeSimpleReply(0, cookie), outcome);
      else if (length === 0) this.#write(encodeNoneChunk(cookie));
      else this.#write(encodeDataChunkHead(cookie, offset, length), outcome);
    } else if (command === NbdCommand.blockStatus) {
      const extents = Array.isArray(outcome) ? (outcome as readonly NbdExtent[]) : [];
      this.#write(encodeBlockStatusChunk(cookie, NBD_SERVER_CONTEXT_ID, extents));
    } else this.#write(encodeSimpleReply(0, cookie));
  }

  #replyFailure(request: NbdRequest, failure: NbdFailure): void {
    const { cookie } = request;
    this.#write(
      this.#agreement.structured
        ? encodeErrorChunk(cookie, failure)
        : encodeSimpleReply(failure.errno, cookie),
    );
  }

  #write(...parts: readonly Uint8Array[]): void {
    if (this.#ended) return;
    corkForThisTick(this.#socket);
    for (const part of parts) this.#socket.write(part);
  }

  #isFull(): boolean {
    const { inFlightMax, inFlightBytesMax } = this.#context;
    return (
      this.#inFlight >= inFlightMax ||
      this.#inFlightBytes >= inFlightBytesMax ||
      this.#socket.writableLength >= UNSENT_BYTES_MAX
    );
  }

  #holdIfFull(): void {
    if (this.#held || this.#ended || !this.#isFull()) return;
    this.#held = true;
    this.#intake.hold();
    this.#socket.pause();
  }

  #releaseIfRoom(): void {
    if (!this.#held || this.#ended || this.#isFull()) return;
    this.#held = false;
    this.#socket.resume();
    this.#run(() => this.#intake.release());
  }

  /** A client that breaks the protocol loses its connection, and nobody else loses anything. */
  #run(parse: () => void): void {
    try {
      parse();
    } catch (error) {
      this.drop(asMigrationError(error, 'internal'));
    }
  }

  #leave(): void {
    this.#leaving = true;
    if (this.#inFlight === 0) this.#socket.destroySoon();
  }

  /** A client that said goodbye may shut its side down and still gets its last replies. */
  #onEnd(): void {
    if (!this.#leaving) this.#hungUp();
  }

  #onClose(): void {
    if (this.#leaving && this.#inFlight === 0) this.#end(undefined);
    else this.#hungUp();
  }

  #hungUp(): void {
    this.drop(new MigrationError('hypervisor', 'NBD: the client hung up without saying goodbye'));
  }

  #end(reason: MigrationError | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#intake.end();
    this.#context.onEnded(reason);
  }
}
