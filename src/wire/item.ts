/**
 * Items: the payload of a data frame. An item is some ranges with their content: pages of memory, a stretch of a disk,
 * a piece of device state. Its number within the stream is the frame's.
 *
 * ```
 *  0  4  count of ranges
 *  4  4  0, or 1: the content is compressed
 *  8     for each range, 24 bytes:
 *          0  2  space: index of the memory region; 0 for disks and device state
 *          2  2  kind: 0 bytes, 1 zeros
 *          4  4  0
 *          8  8  offset
 *         16  8  length
 *        then the content of all ranges of bytes, one after the other; or that as a whole, compressed, which is shorter
 * ```
 *
 * The table is never compressed: it says how long the content is, so that nothing is allocated, nor taken of a stream's credit, by what only comes to
 * light later. Whatever travels, credit and digest go by the item as it is uncompressed.
 */
import { MigrationError } from '../errors.ts';
import type { ByteRange, Chunks, Content } from '../interfaces/content.ts';
import { joinChunks, sliceChunks } from '../util/chunks.ts';
import { itemContentBytesMax, itemCreditBytesMin, itemRangesMax } from './limits.ts';

const tableHeaderBytes = 8;
const entryBytes = 24;
const compressedFlag = 1;

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

/** The payload of an item with its content compressed. `payload`: as {@link encodeItem} made it. `compressed`: its content, compressed, and shorter. */
export function encodeCompressed(payload: Chunks, compressed: Uint8Array): Chunks {
  const table = new Uint8Array(joinChunks(payload.slice(0, 1)));
  new DataView(table.buffer).setUint32(4, compressedFlag);
  return [table, compressed];
}

/** The content of what {@link encodeItem} made. */
export function contentOf(payload: Chunks): Chunks {
  return payload.slice(1);
}

/** What an item takes of its stream's credit. `payloadBytes`: uncompressed. */
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

/** An item that has arrived, its table read and its content looked at no further. */
export interface OpenedItem {
  /** The bytes before the content, as they are in an item that is not compressed. */
  readonly head: Uint8Array;
  /** The item's, uncompressed. */
  readonly payloadBytes: number;
  /** As it came. */
  readonly content: Chunks;
  /** The content's, uncompressed. */
  readonly contentBytes: number;
  readonly compressed: boolean;
  /** The ranges with this content, which is all of it uncompressed, as slices of it. */
  ranges(content: Chunks): readonly ItemRange[];
}

/**
 * Reads an item's table. Throws `protocol` unless table and content fit together: exactly, or, where the content is compressed, so that it is shorter for that,
 * and no more than an item may carry. Whether a range lies within its disk or region is for the receiver to check.
 */
export function openItem(payload: Chunks, payloadBytes: number): OpenedItem {
  if (payloadBytes < tableHeaderBytes) throw bad('is too short');
  const start = joinChunks(sliceChunks(payload, 0, tableHeaderBytes));
  const startView = new DataView(start.buffer, start.byteOffset);
  const [count, flag] = [startView.getUint32(0), startView.getUint32(4)];
  const headBytes = tableHeaderBytes + count * entryBytes;
  if (count === 0 || count > itemRangesMax || headBytes > payloadBytes) {
    throw bad('has a table that does not fit');
  }
  if (flag > compressedFlag) throw bad('is of an unknown kind');
  const compressed = flag === compressedFlag;
  let head = joinChunks(sliceChunks(payload, 0, headBytes));
  const table = new DataView(head.buffer, head.byteOffset + tableHeaderBytes);
  const entries = decodeTable(table, count);
  const contentBytes = entries.reduce((sum, entry) => sum + (entry.zero ? 0 : entry.length), 0);
  const cameBytes = payloadBytes - headBytes;
  const fits = compressed
    ? cameBytes > 0 && cameBytes < contentBytes && contentBytes <= itemContentBytesMax
    : cameBytes === contentBytes;
  if (!fits) throw bad('has content that does not fit its table');
  if (compressed) {
    // Not by slice(): of a Buffer that is no copy.
    head = new Uint8Array(head);
    new DataView(head.buffer).setUint32(4, 0);
  }
  return {
    head,
    payloadBytes: headBytes + contentBytes,
    content: sliceChunks(payload, headBytes, cameBytes),
    contentBytes,
    compressed,
    ranges: (content) => sliceContent(entries, content),
  };
}

/** The ranges of an item that is not compressed, their content as slices of the payload. Throws `protocol` as {@link openItem}, and for one that is. */
export function decodeItem(payload: Chunks, payloadBytes: number): readonly ItemRange[] {
  const item = openItem(payload, payloadBytes);
  if (item.compressed) throw bad('is compressed, which was not agreed upon');
  return item.ranges(item.content);
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
