import type { Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import type { Connection } from '../interfaces/transport.ts';
import type { Acceptable } from '../util/accept-queue.ts';
import { breakIfDue } from '../util/breaks.ts';
import { type Deferred, deferred } from '../util/promises.ts';
import { SocketReader } from './socket-reader.ts';
import { tlsWrites } from './tls-writes.ts';

/**
 * Bytes handed to the socket and not yet to the kernel, above which `send()` waits until there are none.
 * Below what the kernel itself holds (2.5 to 4 MiB on Linux), so it is refilled before the wire runs dry;
 * above one frame, so a frame goes out in one system call.
 */
const sendBytesMax = 1024 * 1024;

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
  readonly #reader: SocketReader;
  #room: Deferred<void> | undefined;
  /** Why nothing can be sent any more. */
  #stopped: MigrationError | undefined;
  #closing = false;
  #ended = false;
  #gone = false;

  /** `lowest`: the TCP socket under a TLS socket. `reader`: what reads the socket. */
  constructor(socket: Socket, label: string, lowest: Socket = socket, reader = new SocketReader()) {
    this.label = label;
    this.#socket = socket;
    this.#lowest = lowest;
    this.#reader = reader;
    this.gone = new Promise((resolve) => {
      socket.once('close', () => {
        this.#gone = true;
        this.#break(this.#lost('it is gone'));
        reader.closed();
        resolve();
      });
    });
    socket.on('drain', () => {
      this.#room?.resolve();
      this.#room = undefined;
    });
    socket.on('error', (error) => this.#break(this.#lost(error.message, error)));
    socket.on('end', () => this.#onEnd());
    reader.read(socket);
  }

  get spent(): boolean {
    return this.#gone && (!this.#ended || this.#reader.queue.length === 0);
  }

  send(chunks: Chunks): Promise<void> {
    if (this.#stopped !== undefined) return Promise.reject(this.#stopped);
    breakIfDue();
    const socket = this.#socket;
    socket.cork();
    for (const chunk of this.#lowest === socket ? chunks : tlsWrites(chunks)) socket.write(chunk);
    socket.uncork();
    // The socket's own high-water mark is far lower, so above ours a 'drain' is sure to come.
    if (socket.writableLength < sendBytesMax) return Promise.resolve();
    this.#room ??= deferred();
    return this.#room.promise;
  }

  receive(): AsyncIterable<Uint8Array> {
    return this.#reader.queue.iterate();
  }

  recycle(chunk: Uint8Array): void {
    this.#reader.recycle(chunk);
  }

  close(): Promise<void> {
    if (this.#closing || this.#gone) return this.gone;
    this.#closing = true;
    this.#stopSending(this.#lost('it was closed here'));
    this.#reader.over();
    this.#reader.queue.drop();
    this.#socket.end();
    this.#socket.resume();
    return this.gone;
  }

  abort(reason?: unknown): void {
    const detail = reason === undefined ? '' : `: ${asMigrationError(reason, 'connection-lost').message}`;
    const error = this.#lost(`it was aborted here${detail}`, reason);
    this.#stopSending(error);
    this.#reader.queue.abort(error);
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
      this.#reader.over();
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
    this.#reader.over(error);
  }

  #stopSending(error: MigrationError): void {
    this.#stopped ??= error;
    this.#room?.reject(this.#stopped);
    this.#room = undefined;
  }

  #lost(what: string, cause?: unknown): MigrationError {
    return new MigrationError('connection-lost', `${this.label}: ${what}`, { cause });
  }
}
