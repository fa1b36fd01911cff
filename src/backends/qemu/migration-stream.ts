/**
 * QEMU's migration stream as values and bytes: constants, and the encoders for a destination. Reading it is in
 * migration-stream-parser.ts. All integers are big-endian; the number in brackets is the size in bytes.
 *
 *     "QEVM"  version 3 (4)
 *     07  length (4)  machine name                                     configuration
 *     08  command (2)  length (2)  payload                             command, anywhere between sections
 *     01  section (4)  length (1) "ram"  instance (4)  version (4)     RAM set-up
 *           total | 0x04 (8)  { length (1) name  size (8) }…  0x10 (8)
 *     02  section (4)  { address | flags (8)  [length (1) name]  content }…  0x10 (8)         part, many times
 *     03  as 02                                                        RAM end: the last pages
 *     04…                                                              device state: opaque, without lengths
 *     00  06  length (4)  { json }                                     its end
 *
 * Each of 01, 02 and 03 is followed by a footer: 7e section (4). A page's content is 4096 bytes, or, with the flag
 * for zero, a single 0. With the flag CONTINUE the name is left out: it is the block of the page before.
 *
 * The destination does not care how pages are dealt into parts, nor in which order they come, so an engine may take the
 * stream apart at the source, send the pages as it likes, and put a stream of its own together at the destination.
 * What it needs beside the pages follows from the VM's description: the configuration is the name of the machine,
 * because everything else that QEMU would put there depends on capabilities that we switch off (or on a guest architecture that
 * we refuse), and the block list is the list of the memory regions. So nothing of the source's head has to travel, and the
 * destination finds out while it is prepared, not at the end, whether its QEMU takes it.
 */

import type { MemoryRegion, PageRun } from '../../interfaces/memory.ts';
import { ChunkCursor } from './chunk-cursor.ts';

/** The unit in which QEMU migrates RAM on x86, whatever backs it. */
export const PAGE_BYTES = 4096;

/** "QEVM". */
export const STREAM_MAGIC = 0x5145564d;
/** The only version that there has been since 2007. */
export const STREAM_VERSION = 3;
/** The version of the RAM section. */
export const RAM_VERSION = 4;

/** The byte with which each piece of the stream begins. */
export const SectionType = {
  end: 0x00,
  start: 0x01,
  part: 0x02,
  last: 0x03,
  full: 0x04,
  subsection: 0x05,
  vmDescription: 0x06,
  configuration: 0x07,
  command: 0x08,
  footer: 0x7e,
} as const;

/** Flags in the low bits of a RAM section's addresses. */
export const PageFlag = {
  zero: 0x02,
  memorySize: 0x04,
  page: 0x08,
  endOfSection: 0x10,
  continued: 0x20,
} as const;

/** Commands within the stream. */
export const StreamCommand = {
  openReturnPath: 1,
  ping: 2,
  switchoverStart: 0x0b,
} as const;

/** Messages against the stream's direction. */
export const ReturnMessage = {
  shut: 1,
  pong: 2,
  switchoverAck: 7,
} as const;

/** Any number will do; QEMU's own RAM section has this one or a small one. */
const RAM_SECTION = 1;
const RAM_NAME = Buffer.from('ram', 'latin1');
const FOOTER_BYTES = 13;

/** What a page can take in a part: its address, the longest name, its content. */
const PAGE_RECORD_BYTES_MAX = 8 + 256 + PAGE_BYTES;
/** One write to the socket. Large enough that its cost does not count, small enough to have one for each migration. */
const PART_BYTES = 256 * 1024;

function uint(bytes: 1 | 2 | 4, value: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  buffer.writeUIntBE(value, 0, bytes);
  return buffer;
}

function uint64(value: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64BE(BigInt(value));
  return buffer;
}

/** Writes an address and flags, with numbers only: this is done for every page. */
function putAddress(buffer: Buffer, at: number, address: number, flags: number): number {
  const high = Math.floor(address / 2 ** 32);
  buffer.writeUInt32BE(high, at);
  buffer.writeUInt32BE(address - high * 2 ** 32 + flags, at + 4);
  return at + 8;
}

function putFooter(buffer: Buffer, at: number): number {
  const end = putAddress(buffer, at, 0, PageFlag.endOfSection);
  buffer.writeUInt8(SectionType.footer, end);
  buffer.writeUInt32BE(RAM_SECTION, end + 1);
  return at + FOOTER_BYTES;
}

function footer(): Buffer {
  const buffer = Buffer.alloc(FOOTER_BYTES);
  putFooter(buffer, 0);
  return buffer;
}

function command(number: number, payload: Uint8Array = new Uint8Array()): Buffer {
  return Buffer.concat([uint(1, SectionType.command), uint(2, number), uint(2, payload.length), payload]);
}

/** Everything that comes before the first page: header, configuration, the request for answers, and the block list. */
export function encodeStreamStart(machine: string, regions: readonly MemoryRegion[]): Buffer {
  const name = Buffer.from(machine, 'utf8');
  const total = regions.reduce((sum, region) => sum + region.sizeBytes, 0);
  const blocks = regions.flatMap((region) => {
    const regionName = Buffer.from(region.name, 'utf8');
    return [uint(1, regionName.length), regionName, uint64(region.sizeBytes)];
  });
  return Buffer.concat([
    uint(4, STREAM_MAGIC),
    uint(4, STREAM_VERSION),
    uint(1, SectionType.configuration),
    uint(4, name.length),
    name,
    command(StreamCommand.openReturnPath),
    uint(1, SectionType.start),
    uint(4, RAM_SECTION),
    uint(1, RAM_NAME.length),
    RAM_NAME,
    uint(4, 0),
    uint(4, RAM_VERSION),
    uint64(total + PageFlag.memorySize),
    ...blocks,
    footer(),
  ]);
}

/** A question that QEMU answers with a PONG of the same value once it has applied everything before it. */
export function encodePing(value: number): Buffer {
  return command(StreamCommand.ping, uint(4, value));
}

/** The end of RAM: a last part, without pages. Only device state may follow. */
export function encodeRamEnd(): Buffer {
  return Buffer.concat([uint(1, SectionType.last), uint(4, RAM_SECTION), footer()]);
}

/** "The engine has all that it needs: stop the guest." From a destination to its source. */
export function encodeSwitchoverAck(): Buffer {
  return Buffer.concat([uint(2, ReturnMessage.switchoverAck), uint(2, 0)]);
}

/** "The migration has ended", well if `error` is 0. From a destination to its source. */
export function encodeShut(error: number): Buffer {
  return Buffer.concat([uint(2, ReturnMessage.shut), uint(2, 4), uint(4, error)]);
}

/** Turns page runs into part sections. */
export class PartEncoder {
  readonly #names: readonly Buffer[];
  readonly #buffer = Buffer.allocUnsafeSlow(PART_BYTES);

  constructor(regions: readonly MemoryRegion[]) {
    this.#names = regions.map((region) => Buffer.from(region.name, 'utf8'));
  }

  /**
   * The runs as whole part sections, in order. All are made in one buffer: each must be on its way (the kernel has it) before the
   * next is asked for. The runs lie within their regions, in whole pages; the caller has checked.
   */
  *encode(runs: readonly PageRun[]): Generator<Buffer, void, undefined> {
    const buffer = this.#buffer;
    let at = 0;
    let region: number | undefined;
    for (const run of runs) {
      const cursor = run.content === 'zero' ? undefined : new ChunkCursor(run.content);
      for (let offset = run.offset; offset < run.offset + run.length; offset += PAGE_BYTES) {
        if (at + PAGE_RECORD_BYTES_MAX + FOOTER_BYTES > buffer.length) {
          yield buffer.subarray(0, putFooter(buffer, at));
          at = 0;
          region = undefined;
        }
        if (at === 0) {
          buffer.writeUInt8(SectionType.part, 0);
          buffer.writeUInt32BE(RAM_SECTION, 1);
          at = 5;
        }
        const kind = cursor === undefined ? PageFlag.zero : PageFlag.page;
        if (region === run.region) at = putAddress(buffer, at, offset, kind | PageFlag.continued);
        else {
          at = this.#putName(putAddress(buffer, at, offset, kind), run.region);
          region = run.region;
        }
        if (cursor === undefined) buffer[at++] = 0;
        else at = cursor.copy(buffer, at, PAGE_BYTES);
      }
    }
    if (at > 0) yield buffer.subarray(0, putFooter(buffer, at));
  }

  #putName(at: number, region: number): number {
    const name = this.#names[region] ?? Buffer.alloc(0);
    this.#buffer.writeUInt8(name.length, at);
    name.copy(this.#buffer, at + 1);
    return at + 1 + name.length;
  }
}
