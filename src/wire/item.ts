/**
 * Items: the payload of a data frame. An item is some ranges with their content: pages of memory, a stretch of a disk,
 * a piece of device state. Its number within the stream is the frame's.
 *
 * ```
 *  0  4  count of ranges
 *  4  4  0
 *  8     for each range, 24 bytes:
 *          0  2  space: index of the memory region; 0 for disks and device state
 *          2  2  kind: 0 bytes, 1 zeros
 *          4  4  0
 *          8  8  offset
 *         16  8  length
 *        then the content of all ranges of bytes, one after the other
 * ```
 */
import { MigrationError } from '../errors.ts';
import type { ByteRange, Chunks, Content } from '../interfaces/content.ts';
import { joinChunks, sliceChunks } from '../util/chunks.ts';
import { itemCreditBytesMin, itemRangesMax } from './limits.ts';

const tableHeaderBytes = 8;
const entryBytes = 24;

/** One range of an item. */
export interface ItemRange extends ByteRange {
  /** Index of the memory region; 0 for disks and device state. */
  readonly space: number;
  readonly content: Content;
}

/** The item's payload: its table, then the content's own chunks, not copied. */
export function encodeItem(ranges: readonly ItemRange[]): Chunks {
  const table = new Uint8Array(tableHeaderBytes + ranges.length * entryBytes);
  const view = new DataView(table.buffer);
  view.setUint32(0, ranges.length);
  const payload: Uint8Array[] = [table];
  let at = tableHeaderBytes;
  for (const range of ranges) {
    view.setUint16(at, range.space);
    view.setUint16(at + 2, range.content === 'zero' ? 1 : 0);
    view.setBigUint64(at + 8, BigInt(range.offset));
    view.setBigUint64(at + 16, BigInt(range.length));
    at += entryBytes;
    if (range.content !== 'zero') payload.push(...range.content);
  }
  return payload;
}

/** What an item takes of its stream's credit. */
export function creditOf(payloadBytes: number): number {
  return Math.max(payloadBytes, itemCreditBytesMin);
}

interface TableEntry extends ByteRange {
  readonly space: number;
  readonly zero: boolean;
}

function bad(what: string): MigrationError {
  return new MigrationError('protocol', `an item ${what}`);
}

function decodeTable(view: DataView, count: number): TableEntry[] {
  const entries: TableEntry[] = [];
  for (let index = 0; index < count; index++) {
    const at = index * entryBytes;
    const kind = view.getUint16(at + 2);
    const offset = Number(view.getBigUint64(at + 8));
    const length = Number(view.getBigUint64(at + 16));
    if (kind > 1) throw bad('has a range of an unknown kind');
    if (length === 0 || !Number.isSafeInteger(offset + length)) throw bad('has a range out of bounds');
    entries.push({ space: view.getUint16(at), zero: kind === 1, offset, length });
  }
  return entries;
}

/**
 * The ranges of an item, their content as slices of the payload. Throws `protocol` unless table and content fit together
 * exactly. Whether a range lies within its disk or region is for the receiver to check.
 */
export function decodeItem(payload: Chunks, payloadBytes: number): readonly ItemRange[] {
  if (payloadBytes < tableHeaderBytes) throw bad('is too short');
  const head = joinChunks(sliceChunks(payload, 0, tableHeaderBytes));
  const count = new DataView(head.buffer, head.byteOffset).getUint32(0);
  const tableBytes = count * entryBytes;
  if (count === 0 || count > itemRangesMax || tableHeaderBytes + tableBytes > payloadBytes) {
    throw bad('has a table that does not fit');
  }
  const table = joinChunks(sliceChunks(payload, tableHeaderBytes, tableBytes));
  const entries = decodeTable(new DataView(table.buffer, table.byteOffset, table.byteLength), count);
  const contentBytes = payloadBytes - tableHeaderBytes - tableBytes;
  const announced = entries.reduce((sum, entry) => sum + (entry.zero ? 0 : entry.length), 0);
  if (announced !== contentBytes) throw bad('has content that does not fit its table');
  return sliceContent(entries, sliceChunks(payload, tableHeaderBytes + tableBytes, contentBytes));
}

function sliceContent(entries: readonly TableEntry[], content: Chunks): readonly ItemRange[] {
  const [first] = entries;
  if (first !== undefined && entries.length === 1) {
    return [
      {
        space: first.space,
        offset: first.offset,
        length: first.length,
        content: first.zero ? 'zero' : content,
      },
    ];
  }
  const ranges: ItemRange[] = [];
  let chunk = 0;
  let within = 0;
  for (const { space, zero, offset, length } of entries) {
    if (zero) {
      ranges.push({ space, offset, length, content: 'zero' });
      continue;
    }
    const parts: Uint8Array[] = [];
    let rest = length;
    while (rest > 0) {
      const bytes = content[chunk];
      if (bytes === undefined) throw bad('ends early');
      const part = bytes.subarray(within, Math.min(bytes.byteLength, within + rest));
      parts.push(part);
      rest -= part.byteLength;
      within += part.byteLength;
      if (within === bytes.byteLength) {
        chunk++;
        within = 0;
      }
    }
    ranges.push({ space, offset, length, content: parts });
  }
  return ranges;
}

/**
 * The running sum of a stream's items, in any order: equal sums at both ends show that the same items were queued and applied,
 * each once. Two independent 32-bit sums of a mix of key, number and payload checksum (the mix is the finaliser of MurmurHash3, 32 bit).
 */
export class ItemDigest {
  readonly #key: number;
  #low = 0;
  #high = 0;

  /** The same `key` (32 bits) at both ends. */
  constructor(key: number) {
    this.#key = key >>> 0;
  }

  add(number: number, payloadCrc: number): void {
    const upper = Math.floor(number / 0x1_0000_0000);
    const a = mix(mix(mix(this.#key ^ (number >>> 0)) ^ upper) ^ payloadCrc);
    const b = mix(a ^ Math.imul(payloadCrc, 0x9e3779b1) ^ 0x5bd1e995);
    this.#low = (this.#low + a) >>> 0;
    this.#high = (this.#high + b) >>> 0;
  }

  /** 16 hexadecimal digits. */
  toString(): string {
    return this.#high.toString(16).padStart(8, '0') + this.#low.toString(16).padStart(8, '0');
  }
}

function mix(value: number): number {
  let h = value >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
