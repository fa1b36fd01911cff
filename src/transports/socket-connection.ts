import type { Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import type { Connection } from '../interfaces/transport.ts';
import type { Acceptable } from '../util/accept-queue.ts';
import { type Deferred, deferred } from '../util/promises.ts';
import { ReceiveQueue } from './receive-queue.ts';

/**
 * Bytes handed to the socket and not yet to the kernel, above which `send()` waits until there are none.
 * Below what the kernel itself holds (2.5 to 4 MiB on Linux), so it is refilled before the wire runs dry;
 * above one frame, so a frame goes out in one system call.
 */
const sendBytesMax = 1024 * 1024;

/**
 * What may wait for the consumer before the socket is paused: four reads of the 64 KiB that Node takes at
 * once.
 */
const receiveBytesMax = 256 * 1024;

/**
 * What a chunk costs beside its bytes: a peer who sends byte by byte must not make 256 KiB into 256 Ki
 * objects.
 */
const chunkOverheadBytes = 256;

/**
 * A {@link Connection} over a connected TCP socket with `allowHalfOpen`, or over TLS on one. When the peer has ended, so has this
 * end.
 *
 * `close()` goes on reading, and drops what it reads, until the peer has ended too: a socket that is closed
 * with unread bytes resets the connection, and the reset overtakes what was sent last.
 */
export class SocketConnection implements Connection, Acceptable {
  readonly label: string;
  readonly gone: Promise<void>;
  readonly #socket: Socket;
  /** What is reset: a TLS socket cannot be. */
  readonly #lowest: Socket;
  readonly #queue = new ReceiveQueue(() => this.#resumeIfRoom());
  #room: Deferred<void> | undefined;
  /** Why nothing can be sent any more. */
  #stopped: MigrationError | undefined;
  #closing = false;
  #ended = false;
  #gone = false;

  /** `lowest`: the TCP socket under a TLS socket. */
  constructor(socket: Socket, label: string, lowest: Socket = socket) {
    this.label = label;
    this.#socket = socket;
    this.#lowest = lowest;
    this.gone = new Promise((resolve) => {
      socket.once('close', () => {
        this.#gone = true;
        this.#break(this.#lost('it is gone'));
        resolve();
      });
    });
    socket.on('drain', () => {
      this.#room?.resolve();
      this.#room = undefined;
    });
    socket.on('error', (error) => this.#break(this.#lost(error.message, error)));
    socket.on('end', () => this.#onEnd());
    socket.on('data', (chunk: Uint8Array) => {
      this.#queue.push(chunk);
      if (this.#load() >= receiveBytesMax) socket.pause();
    });
  }

  get spent(): boolean {
    return this.#gone && (!this.#ended || this.#queue.length === 0);
  }

  send(chunks: Chunks): Promise<void> {
    if (this.#stopped !== undefined) return Promise.reject(this.#stopped);
    const socket = this.#socket;
    socket.cork();
    for (const chunk of chunks) socket.write(chunk);
    socket.uncork();
    // The socket's own high-water mark is far lower, so above ours a 'drain' is sure to come.
    if (socket.writableLength < sendBytesMax) return Promise.resolve();
    this.#room ??= deferred();
    return this.#room.promise;
  }

  receive(): AsyncIterable<Uint8Array> {
    return this.#queue.iterate();
  }

  close(): Promise<void> {
    if (this.#closing || this.#gone) return this.gone;
    this.#closing = true;
    this.#stopSending(this.#lost('it was closed here'));
    this.#queue.end();
    this.#queue.drop();
    this.#socket.end();
    this.#socket.resume();
    return this.gone;
  }

  abort(reason?: unknown): void {
    const detail = reason === undefined ? '' : `: ${asMigrationError(reason, 'connection-lost').message}`;
    const error = this.#lost(`it was aborted here${detail}`, reason);
    this.#stopSending(error);
    this.#queue.abort(error);
    const socket = this.#socket;
    if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0) {
      // The end is on its way to the kernel, and there a reset fails and leaves the socket open; it takes a
      // turn of the event loop.
      socket.once('finish', () => this.#lowest.resetAndDestroy());
    } else if (!socket.destroyed) {
      this.#lowest.resetAndDestroy();
    }
  }

  /**
   * The peer ended, or so it seems: of a reset behind unread data Node makes an end, too. Then the reset is
   * still to be had from the system, which gives it to the next write, even to one of no bytes. TLS keeps such a
   * write to itself, so that its TCP socket is asked behind it, when nothing of TLS's own is on its way there.
   */
  #onEnd(): void {
    if (this.#closing) return;
    this.#stopSending(this.#lost('the peer closed it'));
    const ended = () => {
      this.#ended = true;
      this.#queue.end();
      this.#socket.end();
    };
    const ask = (socket: Socket, next: () => void) => {
      socket.write(new Uint8Array(0), (error) => {
        if (error) this.#break(this.#lost(error.message, error));
        else next();
      });
    };
    ask(this.#socket, this.#lowest === this.#socket ? ended : () => ask(this.#lowest, ended));
  }

  #break(error: MigrationError): void {
    this.#stopSending(error);
    this.#queue.end(error);
  }

  #stopSending(error: MigrationError): void {
    this.#stopped ??= error;
    this.#room?.reject(this.#stopped);
    this.#room = undefined;
  }

  #resumeIfRoom(): void {
    if (this.#socket.isPaused() && this.#load() <= receiveBytesMax / 2) this.#socket.resume();
  }

  #load(): number {
    return this.#queue.bytes + this.#queue.length * chunkOverheadBytes;
  }

  #lost(what: string, cause?: unknown): MigrationError {
    return new MigrationError('connection-lost', `${this.label}: ${what}`, { cause });
  }
}
