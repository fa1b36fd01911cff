import { MigrationError } from '../../errors.ts';
import { Intake, type Parser } from '../nbd/nbd-intake.ts';
import {
  PAGE_BYTES,
  PageFlag,
  RAM_VERSION,
  SectionType,
  STREAM_MAGIC,
  STREAM_VERSION,
  StreamCommand,
} from './migration-stream.ts';

/** A block of guest RAM as the stream lists it. */
export interface StreamBlock {
  readonly name: string;
  readonly sizeBytes: number;
}

/** Takes what the parser finds, in the stream's order. What a method throws comes out of `push()`, and ends the parsing. */
export interface MigrationStreamHandler {
  /** The name of the machine. */
  configuration(machine: string): void;
  /** All blocks of RAM. Comes before the first page. */
  blocks(blocks: readonly StreamBlock[]): void;
  /** One page, by the index of its block. The content is a view that is valid during the call only. */
  page(block: number, offset: number, content: Uint8Array | 'zero'): void;
  /** A part has ended, and held so many pages. After the `last` one there is only device state. */
  part(pages: number, last: boolean): void;
  /** Device state, in pieces, which are the handler's to keep; `complete` with the last piece. */
  deviceState(piece: Uint8Array, complete: boolean): void;
}

/** Machine names are a few dozen characters. */
const MACHINE_BYTES_MAX = 1024;
/** A guest has about ten blocks, and one for each further memory module or device with memory of its own. */
const BLOCKS_MAX = 4096;
/** Usually 100 to 300 KB; a graphics card may put its surfaces into it. What is larger is iterative, and refused anyway. */
const DEVICE_STATE_BYTES_MAX = 256 * 1024 * 1024;
/** The known ones have 4 bytes at most. */
const COMMAND_BYTES_MAX = 1024;

const COMMANDS: readonly number[] = Object.values(StreamCommand);
const OPENING_BRACE = 0x7b;
const CLOSING_BRACE = 0x7d;

/**
 * Reads the stream that a QEMU sends, out of chunks that are cut anywhere. It copies nothing but what straddles two
 * chunks, and device state, which is kept. Whatever it does not know is an error (`hypervisor`) that says where and what it was: there are no lengths by
 * which it could be skipped. After an error the parser must not be used again.
 */
export class MigrationStreamParser {
  readonly #handler: MigrationStreamHandler;
  readonly #intake: Intake;
  /** How much of the stream has come, and how much of it has been parsed. */
  #arrivedBytes = 0;
  #position = 0;
  #betweenSections = false;
  #ramEnded = false;

  readonly #blocks: StreamBlock[] = [];
  readonly #blockIndex = new Map<string, number>();
  /** The block of the page before, which a later part may refer to as well. */
  #block: number | undefined;

  #deviceState: Uint8Array[] = [];
  #deviceStateBytes = 0;
  #complete = false;

  constructor(handler: MigrationStreamHandler) {
    this.#handler = handler;
    this.#intake = new Intake(this.#parse());
  }

  /** Behind the pages of a part, or between two sections: all that was pushed has been handed on. */
  get atBoundary(): boolean {
    return this.#betweenSections;
  }

  /** Parses a chunk, of which nothing is kept. */
  push(chunk: Uint8Array): void {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    if (this.#ramEnded) {
      this.#takeDeviceState(bytes);
      return;
    }
    const chunkAt = this.#arrivedBytes;
    this.#arrivedBytes += bytes.length;
    this.#intake.push(bytes);
    if (this.#ramEnded && this.#position < this.#arrivedBytes) {
      this.#takeDeviceState(bytes.subarray(this.#position - chunkAt));
    }
  }

  *#parse(): Parser {
    const head = yield* this.#take(8);
    if (head.readUInt32BE(0) !== STREAM_MAGIC || head.readUInt32BE(4) !== STREAM_VERSION) {
      throw this.#unexpected('header', head);
    }
    yield* this.#parseConfiguration();
    for (;;) {
      this.#betweenSections = true;
      const type = (yield* this.#take(1)).readUInt8();
      this.#betweenSections = false;
      const listed = this.#blocks.length > 0;
      if (type === SectionType.command) yield* this.#parseCommand();
      else if (type === SectionType.start && !listed) yield* this.#parseStart();
      else if ((type === SectionType.part || type === SectionType.last) && listed) {
        const id = (yield* this.#take(4)).readUInt32BE();
        const pages = yield* this.#parsePages();
        const last = type === SectionType.last;
        if (!last) this.#handler.part(pages, false);
        // QEMU flushes where the pages end, and keeps the footer until it has something to follow.
        this.#betweenSections = !last;
        yield* this.#parseFooter(id);
        this.#ramEnded = last;
        if (!last) continue;
        this.#handler.part(pages, true);
        return;
      } else {
        // Among them a second start: a device that sends its state in rounds of its own, and does not say where it ends.
        throw this.#unexpected('section type', Buffer.from([type]));
      }
    }
  }

  *#parseConfiguration(): Generator<number, void, Buffer> {
    const head = yield* this.#take(5);
    const length = head.readUInt32BE(1);
    if (head.readUInt8() !== SectionType.configuration || length > MACHINE_BYTES_MAX) {
      throw this.#unexpected('configuration', head);
    }
    this.#handler.configuration((yield* this.#take(length)).toString('utf8'));
  }

  *#parseCommand(): Generator<number, void, Buffer> {
    const head = yield* this.#take(4);
    const length = head.readUInt16BE(2);
    if (!COMMANDS.includes(head.readUInt16BE()) || length > COMMAND_BYTES_MAX) {
      throw this.#unexpected('command', head);
    }
    yield* this.#take(length);
  }

  /** The set-up of the RAM section, with the list of blocks. */
  *#parseStart(): Generator<number, void, Buffer> {
    const head = Buffer.from(yield* this.#take(5));
    const name = Buffer.from(yield* this.#take(head.readUInt8(4)));
    if (name.toString('utf8') !== 'ram') throw this.#unexpected(`section "${name.toString('utf8')}"`, name);
    const rest = Buffer.from(yield* this.#take(16));
    const low = rest.readUInt32BE(12);
    if (rest.readUInt32BE(4) !== RAM_VERSION || (low & (PAGE_BYTES - 1)) !== PageFlag.memorySize) {
      throw this.#unexpected('RAM set-up', rest);
    }
    let left = rest.readUInt32BE(8) * 2 ** 32 + low - PageFlag.memorySize;
    while (left > 0) {
      const length = (yield* this.#take(1)).readUInt8();
      const entry = yield* this.#take(length + 8);
      const blockName = entry.toString('utf8', 0, length);
      const sizeBytes = entry.readUInt32BE(length) * 2 ** 32 + entry.readUInt32BE(length + 4);
      const refused = length === 0 || this.#blockIndex.has(blockName) || this.#blocks.length === BLOCKS_MAX;
      if (refused || sizeBytes === 0 || sizeBytes % PAGE_BYTES !== 0 || sizeBytes > left) {
        throw this.#unexpected('block list', entry);
      }
      this.#blockIndex.set(blockName, this.#blocks.length);
      this.#blocks.push({ name: blockName, sizeBytes });
      left -= sizeBytes;
    }
    if (this.#blocks.length === 0) throw this.#unexpected('block list', rest);
    this.#handler.blocks(this.#blocks);
    const end = yield* this.#take(8);
    if (end.readUInt32BE() !== 0 || end.readUInt32BE(4) !== PageFlag.endOfSection) {
      throw this.#unexpected('flags', end);
    }
    yield* this.#parseFooter(head.readUInt32BE());
  }

  /** The pages of a part, to its end; returns their number. It runs for every page, so it does its own counting. */
  *#parsePages(): Generator<number, number, Buffer> {
    const handler = this.#handler;
    for (let pages = 0; ; pages++) {
      const address = yield 8;
      this.#position += 8;
      const low = address.readUInt32BE(4);
      const flags = low & (PAGE_BYTES - 1);
      const offset = address.readUInt32BE() * 2 ** 32 + (low - flags);
      if (flags === PageFlag.endOfSection && offset === 0) return pages;
      const kind = flags & ~PageFlag.continued;
      if (kind !== PageFlag.page && kind !== PageFlag.zero) throw this.#unexpected('flags', address);
      if ((flags & PageFlag.continued) === 0) {
        const name = yield* this.#take((yield* this.#take(1)).readUInt8());
        this.#block = this.#blockIndex.get(name.toString('utf8'));
        if (this.#block === undefined) throw this.#unexpected('block name', name);
      }
      const block = this.#block ?? -1;
      if (offset >= (this.#blocks[block]?.sizeBytes ?? 0)) {
        throw new MigrationError(
          'hypervisor',
          `QEMU's migration stream: page ${offset} is outside of its block`,
        );
      }
      const bytes = kind === PageFlag.page ? PAGE_BYTES : 1;
      const content = yield bytes;
      this.#position += bytes;
      if (kind === PageFlag.page) handler.page(block, offset, content);
      else {
        if (content[0] !== 0) throw this.#unexpected('fill byte', content);
        handler.page(block, offset, 'zero');
      }
    }
  }

  *#parseFooter(section: number): Generator<number, void, Buffer> {
    const footer = yield* this.#take(5);
    if (footer.readUInt8() !== SectionType.footer || footer.readUInt32BE(1) !== section) {
      throw this.#unexpected('footer', footer);
    }
  }

  /** The next bytes, valid until more are asked for. */
  *#take(bytes: number): Generator<number, Buffer, Buffer> {
    const taken = yield bytes;
    this.#position += bytes;
    return taken;
  }

  #takeDeviceState(view: Uint8Array): void {
    if (view.length === 0) return;
    const piece = new Uint8Array(view);
    this.#deviceStateBytes += piece.length;
    if (this.#complete) throw this.#unexpected('bytes after the end', Buffer.from(piece));
    if (this.#deviceStateBytes > DEVICE_STATE_BYTES_MAX) {
      const limit = `more than ${DEVICE_STATE_BYTES_MAX} bytes of device state`;
      throw new MigrationError('hypervisor', `QEMU's migration stream: ${limit}`);
    }
    this.#deviceState.push(piece);
    if (piece.at(-1) === CLOSING_BRACE) {
      const whole = Buffer.concat(this.#deviceState);
      this.#deviceState = [whole];
      this.#complete = isCompleteDeviceState(whole);
    }
    this.#handler.deviceState(piece, this.#complete);
  }

  #unexpected(what: string, bytes: Buffer): MigrationError {
    const hex = bytes.toString('hex', 0, Math.min(bytes.length, 64));
    return new MigrationError(
      'hypervisor',
      `QEMU's migration stream: unknown ${what} ${hex} before byte ${this.#position}`,
    );
  }
}

/**
 * Whether these bytes are device state to its end. There are no lengths in it, and QEMU keeps the socket open; but it ends with a
 * description in JSON that has one, and whose length ends where everything ends.
 */
export function isCompleteDeviceState(state: Buffer): boolean {
  if (state.at(-1) !== CLOSING_BRACE) return false;
  const mark = Buffer.from([SectionType.end, SectionType.vmDescription]);
  for (let at = state.indexOf(mark); at >= 0; at = state.indexOf(mark, at + 1)) {
    if (at + 6 >= state.length) return false;
    if (state.readUInt32BE(at + 2) === state.length - at - 6 && state[at + 6] === OPENING_BRACE) return true;
  }
  return false;
}
