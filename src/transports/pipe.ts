import type { MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import { Fifo } from './fifo.ts';
import { ReceiveQueue } from './receive-queue.ts';

/** What a pipe tells the end that sends into it. */
export interface PipeSender {
  /** The link took something: `bufferedBytes` went down. */
  onRoom(): void;
  /** The other end has seen the end of the stream, and word of it is back. */
  onEndSeen(): void;
}

/** What a pipe tells the end that it leads to. Chunks go into {@link Pipe.queue} without a word. */
export interface PipeReceiver {
  /** The end of the stream is here, behind all its chunks. */
  onEnd(): void;
  /** The sender aborted. */
  onReset(error: MigrationError): void;
}

/** What a pipe needs of the link that it is a part of. */
export interface PipeLink {
  /** The time, in ms. */
  now(): number;
  /** The pipe may have become sendable. */
  offer(pipe: Pipe): void;
  /** So many bytes more (or fewer) wait or travel. */
  account(bytes: number): void;
  /** Calls back once the one-way delay has passed; at once if there is none. */
  afterDelay(callback: () => void): void;
}

/** What a pipe gives in one turn. */
export interface Turn {
  readonly chunks: Chunks;
  readonly bytes: number;
  /** When the last of it was sent. */
  readonly sentAt: number;
  /** The end of the stream is behind it. */
  readonly end: boolean;
}

interface WaitingChunk {
  readonly bytes: Uint8Array;
  readonly sentAt: number;
}

/**
 * One direction of one connection: what waits for the link at one end, what waits for the consumer at the
 * other.
 */
export class Pipe {
  /** What has arrived. Taking from it makes room in the window. */
  readonly queue: ReceiveQueue;
  sender: PipeSender | undefined;
  receiver: PipeReceiver | undefined;
  /** For the link: whether the pipe has its place in the round robin. */
  queued = false;
  readonly #link: PipeLink;
  readonly #chunks = new Fifo<WaitingChunk>();
  #bufferedBytes = 0;
  #windowBytes: number;
  #ending = false;
  #endedAt = 0;
  #dropped = false;

  /** `windowBytes`: how much may be on its way or in the queue at once. */
  constructor(link: PipeLink, windowBytes: number) {
    this.#link = link;
    this.#windowBytes = windowBytes;
    this.queue = new ReceiveQueue((chunk) => {
      this.#windowBytes += chunk.byteLength;
      this.#link.offer(this);
    });
  }

  /** Bytes that were sent and that the link has not taken yet. */
  get bufferedBytes(): number {
    return this.#bufferedBytes;
  }

  /** Nothing goes into the link, or comes out of it, any more. */
  get dropped(): boolean {
    return this.#dropped;
  }

  /**
   * Puts copies of the chunks behind what waits: as with any network, what the sender does to its own
   * afterwards is not seen here.
   */
  send(chunks: Chunks): void {
    const sentAt = this.#link.now();
    for (const chunk of chunks) {
      if (chunk.byteLength === 0) continue;
      this.#chunks.push({ bytes: new Uint8Array(chunk), sentAt });
      this.#buffer(chunk.byteLength);
    }
    this.#link.offer(this);
  }

  /** Puts the end of the stream behind what waits. */
  end(): void {
    this.#ending = true;
    this.#endedAt = this.#link.now();
    this.#link.offer(this);
  }

  /** Forgets what waits and what is on its way. */
  drop(): void {
    this.#dropped = true;
    this.#chunks.clear();
    this.#buffer(-this.#bufferedBytes);
  }

  /** Drops, and lets the receiver know. */
  reset(error: MigrationError): void {
    this.drop();
    this.#link.afterDelay(() => this.receiver?.onReset(error));
  }

  /** For the link: whether a turn is worth while, for a whole parcel, or all that waits, or the end. */
  sendable(parcelBytes: number): boolean {
    if (this.#dropped) return false;
    if (this.#bufferedBytes === 0) return this.#ending;
    return this.#windowBytes >= Math.min(parcelBytes, this.#bufferedBytes);
  }

  /** For the link: takes up to `bytesMax` bytes, and the end if it is reached with them. */
  take(bytesMax: number): Turn {
    const limit = Math.min(bytesMax, this.#windowBytes);
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    let sentAt = this.#endedAt;
    while (bytes < limit) {
      const chunk = this.#chunks.shift();
      if (chunk === undefined) break;
      const part = chunk.bytes.subarray(0, limit - bytes);
      const rest = chunk.bytes.subarray(part.byteLength);
      if (rest.byteLength > 0) this.#chunks.unshift({ bytes: rest, sentAt: chunk.sentAt });
      chunks.push(part);
      bytes += part.byteLength;
      sentAt = chunk.sentAt;
    }
    this.#bufferedBytes -= bytes;
    this.#windowBytes -= bytes;
    const end = this.#ending && this.#bufferedBytes === 0;
    if (end) this.#ending = false;
    this.sender?.onRoom();
    return { chunks, bytes, sentAt, end };
  }

  /**
   * For the link: what was taken has arrived. What nobody will receive makes room at once, which may make the
   * pipe sendable.
   */
  arrive({ chunks, end }: Turn): void {
    for (const chunk of chunks) {
      if (!this.queue.push(chunk)) this.#windowBytes += chunk.byteLength;
    }
    if (!end) return;
    this.receiver?.onEnd();
    this.#link.afterDelay(() => this.sender?.onEndSeen());
  }

  #buffer(bytes: number): void {
    this.#bufferedBytes += bytes;
    this.#link.account(bytes);
  }
}
