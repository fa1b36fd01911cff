import type { Socket } from 'node:net';
import type { MigrationError } from '../errors.ts';
import type { ReadBlocks } from './read-blocks.ts';
import { ReceiveQueue } from './receive-queue.ts';

/** What may wait for the consumer before the socket is paused. */
const receiveBytesMax = 256 * 1024;

/**
 * What a chunk costs beside its bytes: a peer who sends byte by byte must not make 256 KiB into 256 Ki
 * objects.
 */
const chunkOverheadBytes = 256;

/** The receiving half of a socket: what arrives waits here, and what is too much with the peer. */
export class SocketReader {
  readonly queue = new ReceiveQueue(() => this.#resumeIfRoom());
  readonly #blocks: ReadBlocks | undefined;
  readonly #gathers: boolean;
  #gathering = false;
  #socket: Socket | undefined;

  /**
   * `blocks`: where to read to. Without, or where the socket does not let us, Node makes a buffer for each read. `gathers`: what is read within a turn of the event loop
   * becomes one chunk. TLS reads 16 KiB at a time, several times a turn.
   */
  constructor(blocks?: ReadBlocks, gathers = false) {
    this.#blocks = blocks;
    this.#gathers = gathers;
  }

  /** Reads the socket from now on. */
  read(socket: Socket): void {
    this.#socket = socket;
    socket.pause();
    // A socket that reads into blocks emits none of these, and comes to its end only if it flows all the same.
    socket.on('data', (chunk: Uint8Array) => this.#arrived(chunk));
    // What came before is emitted first.
    if (socket.readableLength > 0) socket.read();
    if (this.#blocks !== undefined) readInto(socket, this.#blocks, () => this.#filled());
    socket.resume();
  }

  /** Takes back a chunk that left the queue; of one that Node made nothing is done. */
  recycle(chunk: Uint8Array): void {
    this.#blocks?.giveBack(chunk);
  }

  /** Nothing more comes: the consumer gets what was read, then the end, or the error if there is one. */
  over(error?: MigrationError): void {
    this.#take();
    this.queue.end(error);
  }

  /** The socket is closed: nothing more is read into a block. */
  closed(): void {
    this.#blocks?.end();
  }

  #filled(): void {
    if (!this.#gathers || this.#blocks?.full) {
      this.#take();
    } else if (!this.#gathering) {
      this.#gathering = true;
      setImmediate(() => {
        this.#gathering = false;
        this.#take();
      });
    }
  }

  #take(): void {
    const chunk = this.#blocks?.take();
    if (chunk !== undefined) this.#arrived(chunk);
  }

  #arrived(chunk: Uint8Array): void {
    if (!this.queue.push(chunk)) this.recycle(chunk);
    if (this.#load() >= receiveBytesMax) this.#socket?.pause();
  }

  #resumeIfRoom(): void {
    if (this.#socket?.isPaused() && this.#load() <= receiveBytesMax / 2) this.#socket.resume();
  }

  #load(): number {
    return this.queue.bytes + this.queue.length * chunkOverheadBytes;
  }
}

/**
 * Has a connected socket read into blocks, as one does that was made with the option `onread`. Node takes that of who connects, but neither for a socket that a server accepted
 * nor for TLS above a socket. So this does what the option would have done, in fields that Node's documentation does not name: where they are not there, the
 * socket stays as it is, and reads as Node likes.
 */
function readInto(socket: Socket, blocks: ReadBlocks, filled: () => void): void {
  const fields = Object.getOwnPropertySymbols(socket);
  const [buffer, bufferCb, bufferGen] = ['kBuffer', 'kBufferCb', 'kBufferGen'].map((name) =>
    fields.find(({ description }) => description === name),
  );
  const inner = socket as unknown as Record<symbol, unknown> & {
    readonly _handle?: { readonly useUserBuffer?: (room: Uint8Array) => void } | null;
  };
  const handle = inner._handle;
  if (buffer === undefined || bufferCb === undefined || bufferGen === undefined) return;
  if (typeof handle?.useUserBuffer !== 'function') return;
  const room = blocks.room();
  inner[buffer] = room;
  inner[bufferGen] = () => blocks.room();
  inner[bufferCb] = (bytes: number) => {
    blocks.filled(bytes);
    filled();
    return true;
  };
  handle.useUserBuffer(room);
}
