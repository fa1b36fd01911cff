/**
 * The receiver's positions, sent back on the control connection. All are absolute and only grow, so a later one replaces all
 * before it.
 *
 * ```
 *  0  2  count of lanes
 *  2  2  count of streams
 *  4     for each lane, 8 bytes:    0 2 lane   2 2 0   4 4 sequence received, modulo 2^32
 *        for each stream, 32 bytes: 0 2 stream 2 6 0
 *                                   8 8 applied: every number up to it
 *                                  16 8 credit: what the sender's items may have taken in all
 *                                  24 8 flushed: every number up to it
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
  readonly flushed: number;
}

export interface Positions {
  readonly lanes: readonly LanePosition[];
  readonly streams: readonly StreamPosition[];
}

const laneBytes = 8;
const streamBytes = 32;

export function encodePositions(positions: Positions): Uint8Array {
  const bytes = new Uint8Array(
    4 + positions.lanes.length * laneBytes + positions.streams.length * streamBytes,
  );
  const view = new DataView(bytes.buffer);
  view.setUint16(0, positions.lanes.length);
  view.setUint16(2, positions.streams.length);
  let at = 4;
  for (const { lane, sequence } of positions.lanes) {
    view.setUint16(at, lane);
    view.setUint32(at + 4, sequence);
    at += laneBytes;
  }
  for (const { stream, applied, creditBytes, flushed } of positions.streams) {
    view.setUint16(at, stream);
    view.setBigUint64(at + 8, BigInt(applied));
    view.setBigUint64(at + 16, BigInt(creditBytes));
    view.setBigUint64(at + 24, BigInt(flushed));
    at += streamBytes;
  }
  return bytes;
}

/** Throws `protocol` unless the lengths fit exactly and every position is a safe integer. */
export function decodePositions(bytes: Uint8Array): Positions {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const laneCount = bytes.byteLength >= 4 ? view.getUint16(0) : 0;
  const streamCount = bytes.byteLength >= 4 ? view.getUint16(2) : 0;
  const expected = 4 + laneCount * laneBytes + streamCount * streamBytes;
  if (laneCount > connectionsMax || streamCount > streamsMax || bytes.byteLength !== expected) {
    throw new MigrationError('protocol', 'positions do not fit their length');
  }
  const lanes: LanePosition[] = [];
  const streams: StreamPosition[] = [];
  let at = 4;
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
      flushed: position(at + 24),
    });
  }
  return { lanes, streams };
}
