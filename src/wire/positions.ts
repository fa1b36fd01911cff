/**
 * Positions, sent on the control connection: a receiver's, and what a sender gives back of its credit. All are absolute, so a
 * later one replaces all before it; and all only grow, but for what is left.
 *
 * ```
 *  0  2  count of lanes
 *  2  2  count of streams that this end receives
 *  4  2  count of streams that this end sends, of those that gave something back
 *  6  2  0
 *  8  8  control messages received
 * 16     for each lane, 8 bytes:              0 2 lane   2 2 0   4 4 sequence received, modulo 2^32
 *        for each received stream, 48 bytes:  0 2 stream 2 6 0
 *                                             8 8 applied: every number up to it
 *                                            16 8 credit: what the sender's items may have taken in all
 *                                            24 8 work that has arrived, in all, see `workOf`
 *                                            32 8 of that, what was begun
 *                                            40 8 ... and what is left
 *        for each sent stream, 16 bytes:      0 2 stream 2 6 0
 *                                             8 8 credit given back in all
 * ```
 */
import { MigrationError } from '../errors.ts';
import { connectionsMax, streamsMax } from './limits.ts';

export interface LanePosition {
  readonly lane: number;
  readonly sequence: number;
}

export interface StreamPosition {
  readonly stream: number;
  readonly applied: number;
  readonly creditBytes: number;
  readonly arrived: number;
  readonly begun: number;
  readonly left: number;
}

/** Of a stream that this end sends. */
export interface ReturnedCredit {
  readonly stream: number;
  readonly bytes: number;
}

export interface Positions {
  /** How many control messages have arrived. */
  readonly control: number;
  readonly lanes: readonly LanePosition[];
  readonly streams: readonly StreamPosition[];
  readonly returned: readonly ReturnedCredit[];
}

const headerBytes = 16;
const laneBytes = 8;
const streamBytes = 48;
const returnedBytes = 16;

export function encodePositions({ control, lanes, streams, returned }: Positions): Uint8Array {
  const counts = [lanes.length, streams.length, returned.length] as const;
  const bytes = new Uint8Array(lengthOf(...counts));
  const view = new DataView(bytes.buffer);
  for (const [index, count] of counts.entries()) view.setUint16(2 * index, count);
  view.setBigUint64(8, BigInt(control));
  let at = headerBytes;
  for (const { lane, sequence } of lanes) {
    view.setUint16(at, lane);
    view.setUint32(at + 4, sequence);
    at += laneBytes;
  }
  for (const { stream, applied, creditBytes, arrived, begun, left } of streams) {
    view.setUint16(at, stream);
    view.setBigUint64(at + 8, BigInt(applied));
    view.setBigUint64(at + 16, BigInt(creditBytes));
    view.setBigUint64(at + 24, BigInt(arrived));
    view.setBigUint64(at + 32, BigInt(begun));
    view.setBigUint64(at + 40, BigInt(left));
    at += streamBytes;
  }
  for (const { stream, bytes } of returned) {
    view.setUint16(at, stream);
    view.setBigUint64(at + 8, BigInt(bytes));
    at += returnedBytes;
  }
  return bytes;
}

function lengthOf(lanes: number, streams: number, returned: number): number {
  return headerBytes + lanes * laneBytes + streams * streamBytes + returned * returnedBytes;
}

/** Throws `protocol` unless the lengths fit exactly and every position is a safe integer. */
export function decodePositions(bytes: Uint8Array): Positions {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = (at: number): number => (bytes.byteLength >= headerBytes ? view.getUint16(at) : 0);
  const [laneCount, streamCount, returnedCount] = [count(0), count(2), count(4)];
  const tooMany = laneCount > 2 * connectionsMax || streamCount > streamsMax || returnedCount > streamsMax;
  if (tooMany || bytes.byteLength !== lengthOf(laneCount, streamCount, returnedCount)) {
    throw new MigrationError('protocol', 'positions do not fit their length');
  }
  const lanes: LanePosition[] = [];
  const streams: StreamPosition[] = [];
  const returned: ReturnedCredit[] = [];
  let at = headerBytes;
  for (let index = 0; index < laneCount; index++, at += laneBytes) {
    lanes.push({ lane: view.getUint16(at), sequence: view.getUint32(at + 4) });
  }
  const position = (offset: number): number => {
    const value = Number(view.getBigUint64(offset));
    if (!Number.isSafeInteger(value)) throw new MigrationError('protocol', 'a position is out of bounds');
    return value;
  };
  for (let index = 0; index < streamCount; index++, at += streamBytes) {
    streams.push({
      stream: view.getUint16(at),
      applied: position(at + 8),
      creditBytes: position(at + 16),
      arrived: position(at + 24),
      begun: position(at + 32),
      left: position(at + 40),
    });
  }
  for (let index = 0; index < returnedCount; index++, at += returnedBytes) {
    returned.push({ stream: view.getUint16(at), bytes: position(at + 8) });
  }
  return { control: position(8), lanes, streams, returned };
}
