/**
 * Frames: everything on a connection after the greeting.
 *
 * ```
 *  0  1  type: 1 data, 2 control, 3 positions, 4 ping, 5 pong, 6 end
 *  1  1  class of a data frame: 1 mirror, 2 memory, 3 bulk; else 0
 *  2  2  stream of a data frame; else 0
 *  4  4  length of the payload in bytes
 *  8  8  number: data: within its stream, 1, 2, ...; control: within the channel; positions: of each end, the newest has the highest; else 0
 * 16  4  sequence: 1, 2, ... on this connection, modulo 2^32; of positions: that of the frame before them
 * 20  4  CRC-32C of the payload
 * 24  4  CRC-32C of bytes 0 to 23
 * 28     payload
 * ```
 *
 * The header's own checksum is looked at before its length is believed. What arrives damaged is nobody's fault and ends the connection (`connection-lost`), whose
 * frames go over another; what arrives whole and cannot be right breaks the protocol.
 */
import { MigrationError } from '../errors.ts';
import type { Chunks } from '../interfaces/content.ts';
import { crc32c } from '../util/checksum.ts';
import { controlBytesMax, framePayloadBytesMax, streamsMax } from './limits.ts';

export const frameHeaderBytes = 28;

/** `end`, on the control connection: the sender is done with the channel, and its connections end because of that. */
export type FrameType = 'data' | 'control' | 'positions' | 'ping' | 'pong' | 'end';
/** What a data frame is for; it decides who goes first. */
export type FrameClass = 'mirror' | 'memory' | 'bulk';

const types: readonly FrameType[] = ['data', 'control', 'positions', 'ping', 'pong', 'end'];
export const frameClasses: readonly FrameClass[] = ['mirror', 'memory', 'bulk'];

interface FrameFields {
  readonly type: FrameType;
  /** Data frames only. */
  readonly class?: FrameClass;
  readonly stream: number;
  readonly number: number;
  readonly payload: Chunks;
  readonly payloadBytes: number;
  readonly payloadCrc: number;
}

/** A frame to be sent. */
export type OutgoingFrame = FrameFields;

/** A frame as it arrived, whole and checked. */
export interface IncomingFrame extends FrameFields {
  readonly sequence: number;
  /** Nobody looks at the payload any more: what it lies in may be written over. Who does not call it may keep the payload for ever. */
  release(): void;
}

/** A frame's header for its place on a connection. */
export function encodeFrameHeader(frame: OutgoingFrame, sequence: number): Uint8Array {
  const bytes = new Uint8Array(frameHeaderBytes);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, types.indexOf(frame.type) + 1);
  view.setUint8(1, frame.class === undefined ? 0 : frameClasses.indexOf(frame.class) + 1);
  view.setUint16(2, frame.stream);
  view.setUint32(4, frame.payloadBytes);
  view.setBigUint64(8, BigInt(frame.number));
  view.setUint32(16, sequence >>> 0);
  view.setUint32(20, frame.payloadCrc);
  view.setUint32(24, crc32c(bytes.subarray(0, 24)));
  return bytes;
}

interface Header extends Omit<IncomingFrame, 'payload' | 'release'> {}

function decodeHeader(bytes: Uint8Array): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(24) !== crc32c(bytes.subarray(0, 24))) {
    throw new MigrationError('connection-lost', 'a frame header arrived damaged');
  }
  const type = types[view.getUint8(0) - 1];
  const classIndex = view.getUint8(1);
  const frameClass = frameClasses[classIndex - 1];
  const stream = view.getUint16(2);
  const payloadBytes = view.getUint32(4);
  const number = Number(view.getBigUint64(8));
  if (type === undefined || !Number.isSafeInteger(number) || stream >= streamsMax) {
    throw new MigrationError('protocol', 'a frame header makes no sense');
  }
  if ((type === 'data') !== (frameClass !== undefined) || (type !== 'data' && classIndex !== 0)) {
    throw new MigrationError('protocol', 'a frame has the wrong class');
  }
  if (payloadBytes > (type === 'data' ? framePayloadBytesMax : controlBytesMax)) {
    throw new MigrationError('protocol', `a frame announces ${payloadBytes} bytes, more than is allowed`);
  }
  const fields = {
    type,
    stream,
    number,
    payloadBytes,
    sequence: view.getUint32(16),
    payloadCrc: view.getUint32(20),
  };
  return frameClass === undefined ? fields : { ...fields, class: frameClass };
}

/**
 * A payload of at most so many bytes is copied out of what arrived, as is all that is not data: one small piece that somebody keeps would keep a whole block
 * of memory from being used again.
 */
const copiedBytesMax = 8 * 1024;

/** A chunk that arrived, held by the frames that have a part of their payload in it. */
class HeldChunk {
  readonly #free: () => void;
  #holders = 1;

  constructor(free: () => void) {
    this.#free = free;
  }

  hold(): void {
    this.#holders++;
  }

  letGo(): void {
    this.#holders--;
    if (this.#holders === 0) this.#free();
  }
}

/**
 * Cuts a connection's bytes into frames. Payloads are slices of the chunks that arrived: nothing is copied but a
 * header that straddles two chunks, and what is small.
 */
export class FrameParser {
  readonly #header = new Uint8Array(frameHeaderBytes);
  readonly #free: (chunk: Uint8Array) => void;
  #headerFilled = 0;
  #current: Header | undefined;
  #payload: Uint8Array[] = [];
  /** What the payload so far lies in. */
  #held: HeldChunk[] = [];
  #copied = false;
  #missing = 0;
  /** Of the payload so far: each piece is summed up while it is still in the processor's cache. */
  #crc = 0;
  #sequence = 0;

  /** `free` is told of each chunk, once, of which the parser has everything and nobody holds a frame. */
  constructor(free: (chunk: Uint8Array) => void = () => {}) {
    this.#free = free;
  }

  /** True between frames: a connection that ends here ended cleanly. */
  get atBoundary(): boolean {
    return this.#headerFilled === 0 && this.#current === undefined;
  }

  /**
   * The frames that the chunk completes. Throws `connection-lost` at the first frame that is damaged, `protocol` at the first that cannot be right; the
   * connection is of no use after either.
   */
  *push(chunk: Uint8Array): Generator<IncomingFrame> {
    const held = new HeldChunk(() => this.#free(chunk));
    let at = 0;
    while (at < chunk.byteLength) {
      if (this.#current === undefined) {
        at += this.#takeHeader(chunk, at);
      } else {
        const taken = Math.min(this.#missing, chunk.byteLength - at);
        this.#takePayload(chunk.subarray(at, at + taken), held);
        at += taken;
      }
      if (this.#current !== undefined && this.#missing === 0) yield this.#finish(this.#current);
    }
    held.letGo();
  }

  #takeHeader(chunk: Uint8Array, at: number): number {
    const taken = Math.min(frameHeaderBytes - this.#headerFilled, chunk.byteLength - at);
    this.#header.set(chunk.subarray(at, at + taken), this.#headerFilled);
    this.#headerFilled += taken;
    if (this.#headerFilled === frameHeaderBytes) {
      const header = decodeHeader(this.#header);
      if (header.type !== 'positions') this.#sequence = (this.#sequence + 1) >>> 0;
      if (header.sequence !== this.#sequence)
        throw new MigrationError('protocol', 'a frame is out of sequence');
      this.#current = header;
      this.#missing = header.payloadBytes;
      this.#copied = header.type !== 'data' || header.payloadBytes <= copiedBytesMax;
      this.#headerFilled = 0;
    }
    return taken;
  }

  #takePayload(piece: Uint8Array, held: HeldChunk): void {
    this.#crc = crc32c(piece, this.#crc);
    if (this.#copied) {
      this.#payload.push(new Uint8Array(piece));
    } else {
      held.hold();
      this.#held.push(held);
      this.#payload.push(piece);
    }
    this.#missing -= piece.byteLength;
  }

  #finish(header: Header): IncomingFrame {
    const payload = this.#payload;
    const held = this.#held;
    this.#payload = [];
    this.#held = [];
    this.#current = undefined;
    const crc = this.#crc;
    this.#crc = 0;
    if (crc !== header.payloadCrc) throw new MigrationError('connection-lost', 'a frame arrived damaged');
    const release = () => {
      for (const chunk of held.splice(0)) chunk.letGo();
    };
    return { ...header, payload, release };
  }
}
