import type { Socket } from 'node:net';
import type { MigrationError } from '../errors.ts';
import { breakIfDue } from '../util/breaks.ts';
import { readInto } from '../util/read-into.ts';
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
    socket.on('data', (chunk: Uint8Array) => {
      breakIfDue();
      this.#arrived(chunk);
    });
    // What came before is emitted first.
    if (socket.readableLength > 0) socket.read();
    const blocks = this.#blocks;
    if (blocks !== undefined) {
      readInto(
        socket,
        () => blocks.room(),
        (bytes) => {
          blocks.filled(bytes);
          this.#filled();
        },
      );
    }
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
