import type { OnReadOpts, Socket } from 'node:net';
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
  /** For the options of the socket, where it is to read into blocks; undefined without them. */
  readonly onread: OnReadOpts | undefined;
  readonly #blocks: ReadBlocks | undefined;
  #socket: Socket | undefined;

  /** `blocks`: where to read to. Without, Node makes a buffer for each read. */
  constructor(blocks?: ReadBlocks) {
    this.#blocks = blocks;
    this.onread = blocks && {
      buffer: () => blocks.room(),
      callback: (bytes) => {
        this.#arrived(blocks.filled(bytes));
        return true;
      },
    };
  }

  /** Reads the socket from now on. */
  read(socket: Socket): void {
    this.#socket = socket;
    // A socket that reads into blocks emits none of these, and comes to its end only if it flows all the same.
    socket.on('data', (chunk: Uint8Array) => this.#arrived(chunk));
    // What a server has accepted may be paused, and then listening does not make it flow.
    socket.resume();
  }

  /** Takes back a chunk that left the queue; of one that Node made nothing is done. */
  recycle(chunk: Uint8Array): void {
    this.#blocks?.giveBack(chunk);
  }

  /** Nothing more comes. */
  end(): void {
    this.#blocks?.end();
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
