/**
 * QEMU's migration stream, read and written. Goal: nothing of a stream is lost or misread, wherever its chunks are cut, and
 * nothing that a confused or hostile QEMU sends is taken for something else, or costs memory without bound.
 *
 * Method: a stream is put together here byte by byte, after what QEMU 10 was seen to send, and not by the
 * encoder under test; it is then cut at every byte. The encoder is checked against the parser with generated pages.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  encodePing,
  encodeRamEnd,
  encodeShut,
  encodeStreamStart,
  encodeSwitchoverAck,
  PartEncoder,
} from '../../src/backends/qemu/migration-stream.ts';
import {
  isCompleteDeviceState,
  MigrationStreamParser,
} from '../../src/backends/qemu/migration-stream-parser.ts';
import { ReturnPathParser } from '../../src/backends/qemu/return-path-parser.ts';
import type { MemoryRegion, PageRun } from '../../src/interfaces/memory.ts';

const PAGE = 4096;

const u8 = (value: number): Buffer => Buffer.from([value]);
const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255]);
const u32 = (value: number): Buffer =>
  Buffer.from([value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]);
const u64 = (value: number | bigint): Buffer =>
  Buffer.from(BigInt(value).toString(16).padStart(16, '0'), 'hex');
const text = (value: string): Buffer => Buffer.from(value, 'latin1');
const named = (value: string): Buffer => Buffer.concat([u8(value.length), text(value)]);
const filled = (value: number): Buffer => Buffer.alloc(PAGE, value);
const patterns = Array.from({ length: 256 }, (_, value) => filled(value));
const isFilled = (content: Uint8Array): boolean => patterns[content[0] ?? 0]?.equals(content) === true;

const HEADER = Buffer.concat([text('QEVM'), u32(3)]);
const CONFIGURATION = Buffer.concat([u8(7), u32(14), text('pc-i440fx-10.0')]);
const OPEN_RETURN_PATH = Buffer.concat([u8(8), u16(1), u16(0)]);
const PING = Buffer.concat([u8(8), u16(2), u16(4), u32(1)]);
const SWITCHOVER_START = Buffer.concat([u8(8), u16(0x0b), u16(0)]);
const END_OF_SECTION = u64(0x10);
const FOOTER = Buffer.concat([u8(0x7e), u32(1)]);
const RAM_START = Buffer.concat([u8(1), u32(1), named('ram'), u32(0), u32(4)]);
const BLOCK_LIST = Buffer.concat([
  u64((16 * PAGE + 2 * PAGE) | 4),
  ...[named('pc.ram'), u64(16 * PAGE), named('0000:00:02.0/vga.vram'), u64(2 * PAGE)],
]);
const SETUP = Buffer.concat([RAM_START, BLOCK_LIST, END_OF_SECTION, FOOTER]);

const part = (...pages: Buffer[]): Buffer => Buffer.concat([u8(2), u32(1), ...pages, END_OF_SECTION, FOOTER]);
const page = (offset: number, name: string, content: Buffer): Buffer =>
  Buffer.concat([u64(offset + 0x08), named(name), content]);
const nextPage = (offset: number, content: Buffer): Buffer => Buffer.concat([u64(offset | 0x28), content]);
const zeroPage = (offset: number, name: string): Buffer =>
  Buffer.concat([u64(offset | 0x02), named(name), u8(0)]);
const nextZeroPage = (offset: number): Buffer => Buffer.concat([u64(offset | 0x22), u8(0)]);

const DESCRIPTION = text('{"configuration": {"page_size": 4096}, "devices": [{"name": "timer"}]}');
// A mark of the end in its midst, with a length that is not right, and braces.
const DEVICE_STATE = Buffer.concat([
  ...[u8(4), u32(0), named('timer'), u32(0), u32(2), u8(0), u8(6), u32(70), text('{}}'), FOOTER],
  ...[u8(0), u8(6), u32(DESCRIPTION.length), DESCRIPTION],
]);
const HEAD = Buffer.concat([HEADER, CONFIGURATION, OPEN_RETURN_PATH, PING, SETUP]);
const RAM_END = Buffer.concat([u8(3), u32(1), nextPage(PAGE, filled(9)), END_OF_SECTION, FOOTER]);

const STREAM = Buffer.concat([
  HEAD,
  part(page(0, 'pc.ram', filled(1)), nextPage(PAGE, filled(2)), nextZeroPage(2 * PAGE)),
  part(nextPage(3 * PAGE, filled(3)), zeroPage(PAGE, '0000:00:02.0/vga.vram'), nextPage(0, filled(4))),
  part(),
  part(page(15 * PAGE, 'pc.ram', filled(5))),
  SWITCHOVER_START,
  RAM_END,
  DEVICE_STATE,
]);

const SEEN = [
  'machine pc-i440fx-10.0',
  'blocks pc.ram:65536 0000:00:02.0/vga.vram:8192',
  ...['0@0=1', '0@4096=2', '0@8192=zero', 'part 3'],
  ...['0@12288=3', '1@4096=zero', '1@0=4', 'part 3'],
  'part 0',
  ...['0@61440=5', 'part 1'],
  ...['0@4096=9', 'last 1'],
];

/** Parses chunks and tells what came out; device state by its bytes. */
function parse(...chunks: readonly Uint8Array[]): {
  seen: string[];
  state: Buffer;
  complete: boolean;
  boundaries: number;
} {
  const seen: string[] = [];
  const pieces: Uint8Array[] = [];
  let complete = false;
  let boundaries = 0;
  const parser = new MigrationStreamParser({
    configuration: (machine) => seen.push(`machine ${machine}`),
    blocks: (blocks) =>
      seen.push(`blocks ${blocks.map(({ name, sizeBytes }) => `${name}:${sizeBytes}`).join(' ')}`),
    page: (block, offset, content) => {
      if (content !== 'zero') {
        // Not `expect` for each: there are a hundred thousand of them.
        if (!isFilled(content)) throw new Error('not the content of one page');
      }
      seen.push(`${block}@${offset}=${content === 'zero' ? content : content[0]}`);
    },
    part: (pages, last) => seen.push(`${last ? 'last' : 'part'} ${pages}`),
    deviceState: (piece, isComplete) => {
      if (complete) throw new Error('device state after its end');
      pieces.push(piece);
      complete = isComplete;
    },
  });
  // All are read into the same memory, one over the other.
  const memory = Buffer.alloc(Math.max(0, ...chunks.map(({ length }) => length)));
  for (const chunk of chunks) {
    memory.set(chunk);
    parser.push(memory.subarray(0, chunk.length));
    memory.fill(0xdb);
    if (parser.atBoundary) boundaries++;
  }
  return { seen, state: Buffer.concat(pieces), complete, boundaries };
}

/** The stream's bytes cut at these places. */
function cutAt(bytes: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...places].sort((a, b) => a - b);
  return [...ends, bytes.length].map((end, index) => bytes.subarray(ends[index - 1] ?? 0, end));
}

describe('reading', () => {
  it('finds everything in a stream of one chunk', () => {
    expect(parse(STREAM)).toMatchObject({ seen: SEEN, state: DEVICE_STATE, complete: true });
  });

  it('finds the same when the stream is cut in two, at every byte', () => {
    for (let cut = 0; cut <= STREAM.length; cut++) {
      const { seen, state, complete } = parse(...cutAt(STREAM, [cut]));
      if (state.equals(DEVICE_STATE) && complete && seen.join() === SEEN.join()) continue;
      expect({ cut, seen, state, complete }).toEqual({
        cut,
        seen: SEEN,
        state: DEVICE_STATE,
        complete: true,
      });
    }
  });

  it('finds the same byte by byte, and cut anywhere', () => {
    const bytes = [...STREAM].map((byte) => Buffer.from([byte]));
    expect(parse(...bytes)).toMatchObject({ seen: SEEN, state: DEVICE_STATE, complete: true });
    fc.assert(
      fc.property(fc.array(fc.nat(STREAM.length), { maxLength: 30 }), (places) => {
        expect(parse(...cutAt(STREAM, places))).toMatchObject({
          seen: SEEN,
          state: DEVICE_STATE,
          complete: true,
        });
      }),
    );
  });

  it('says when nothing is held back', () => {
    const parts = [part(), part(page(0, 'pc.ram', filled(1)))];
    expect(parse(HEAD, ...parts).boundaries).toBe(3);
    expect(parse(HEAD.subarray(0, -1)).boundaries).toBe(0);
    expect(parse(HEAD, Buffer.concat([part(), u8(2)])).boundaries).toBe(1);
  });

  it('does not call device state complete before it is', () => {
    for (let length = 0; length < DEVICE_STATE.length; length++) {
      expect(isCompleteDeviceState(DEVICE_STATE.subarray(0, length))).toBe(false);
    }
    expect(isCompleteDeviceState(DEVICE_STATE)).toBe(true);
    expect(isCompleteDeviceState(Buffer.concat([DEVICE_STATE, u8(0x7d)]))).toBe(false);
  });

  const head = (...rest: Buffer[]): Buffer => Buffer.concat([HEAD, ...rest]);
  const refused: readonly (readonly [string, Buffer, RegExp])[] = [
    ['another magic', Buffer.concat([text('QEVN'), u32(3)]), /header 5145564e/],
    ['another version', Buffer.concat([text('QEVM'), u32(4)]), /header .*00000004/],
    ['no configuration', Buffer.concat([HEADER, SETUP]), /configuration 01/],
    ['a machine name of 4 GiB', Buffer.concat([HEADER, u8(7), u32(0xffffffff)]), /configuration 07ffffffff/],
    ['a subsection', Buffer.concat([HEADER, CONFIGURATION, u8(5)]), /section type 05/],
    ['another section that migrates in rounds', head(u8(1)), /section type 01/],
    [
      'one before RAM',
      Buffer.concat([HEADER, CONFIGURATION, u8(1), u32(1), named('vfio')]),
      /section "vfio"/,
    ],
    ['device state before RAM', Buffer.concat([HEADER, CONFIGURATION, u8(4)]), /section type 04/],
    ['an unknown command', head(u8(8), u16(5), u16(0)), /command 0005/],
    ['a command of 64 KiB', head(u8(8), u16(2), u16(0xffff)), /command 0002ffff/],
    [
      'another RAM version',
      Buffer.concat([HEADER, CONFIGURATION, RAM_START.subarray(0, -1), u8(5), u64(4)]),
      /RAM set-up/,
    ],
    ['compressed pages', head(part(u64(0x108), filled(0))), /flags 0000000000000108/],
    [
      'a page of more than one kind',
      head(part(u64(0x0a), named('pc.ram'), filled(0))),
      /flags 000000000000000a/,
    ],
    ['a page of an unknown block', head(part(page(0, 'pc.rom', filled(0)))), /block name 70632e726f6d/],
    ['a page without any block', head(part(nextPage(0, filled(0)))), /outside of its block/],
    ['a page outside of its block', head(part(page(16 * PAGE, 'pc.ram', filled(0)))), /outside of its block/],
    [
      'a page at 2^63',
      head(part(page(0, 'pc.ram', filled(0)), u64((1n << 63n) | 0x28n), filled(0))),
      /outside/,
    ],
    ['a fill byte', head(part(Buffer.concat([u64(0x02), named('pc.ram'), u8(7)]))), /fill byte 07/],
    ['no footer', head(u8(2), u32(1), END_OF_SECTION, u8(2), u32(1)), /footer 02/],
    ['the footer of another section', head(u8(2), u32(2), END_OF_SECTION, FOOTER), /footer 7e00000001/],
    ['bytes after the end', Buffer.concat([STREAM, u8(0)]), /bytes after the end 00/],
  ];
  it.each(refused)('refuses %s, and shows it', (_, bytes, message) => {
    // As one chunk the end of the stream cannot be seen before what follows it.
    const chunks = bytes.length > STREAM.length ? cutAt(bytes, [STREAM.length]) : [bytes];
    expect(() => parse(...chunks)).toThrow(
      expect.objectContaining({ code: 'hypervisor', message: expect.stringMatching(message) }),
    );
    if (bytes.length <= STREAM.length) {
      expect(() => parse(...[...bytes].map((byte) => u8(byte)))).toThrow(message);
    }
  });

  const listed = (...entries: readonly (readonly [string, number | bigint])[]): Buffer => {
    const total = entries.reduce((sum, [, size]) => sum + BigInt(size), 0n);
    const blocks = entries.flatMap(([name, size]) => [named(name), u64(size)]);
    return Buffer.concat([
      HEADER,
      CONFIGURATION,
      RAM_START,
      u64(total | 4n),
      ...blocks,
      END_OF_SECTION,
      FOOTER,
    ]);
  };
  const lists: readonly (readonly [string, Buffer])[] = [
    ['empty', listed()],
    ['with a name twice', listed(['a', PAGE], ['a', PAGE])],
    ['with an empty name', listed(['', PAGE])],
    ['with a block of part of a page', listed(['a', 2048], ['b', 2048])],
    [
      'with a block larger than all together',
      Buffer.concat([HEADER, CONFIGURATION, RAM_START, u64(PAGE | 4), named('a'), u64(2 * PAGE)]),
    ],
    [
      'with blocks without end',
      listed(...Array.from({ length: 5000 }, (_, index) => [`${index}`, PAGE] as const)),
    ],
  ];
  it.each(lists)('refuses a block list %s', (_, bytes) => {
    expect(() => parse(bytes)).toThrow(/unknown block list/);
  });

  it('takes blocks beyond 4 GiB', () => {
    const far = 5 * 2 ** 40;
    const { seen } = parse(listed(['a', far + PAGE]), part(page(far, 'a', filled(1))));
    expect(seen.slice(1)).toEqual([`blocks a:${far + PAGE}`, `0@${far}=1`, 'part 1']);
  });

  it('takes 256 MiB of device state and no more', () => {
    const chunk = Buffer.alloc(1024 * 1024, 4);
    const start = head(u8(3), u32(1), END_OF_SECTION, FOOTER);
    expect(() => parse(start, ...Array.from({ length: 257 }, () => chunk))).toThrow(
      /more than 268435456 bytes/,
    );
  });
});

describe('writing', () => {
  const regions: readonly MemoryRegion[] = [
    { name: 'pc.ram', sizeBytes: 1024 * PAGE, pageBytes: PAGE },
    { name: '/rom@etc/acpi/tables', sizeBytes: 32 * PAGE, pageBytes: PAGE },
  ];

  it('starts a stream as QEMU does', () => {
    const expected = Buffer.concat([
      ...[HEADER, CONFIGURATION, OPEN_RETURN_PATH, RAM_START],
      ...[
        u64((16 * PAGE + 2 * PAGE) | 4),
        named('pc.ram'),
        u64(16 * PAGE),
        named('0000:00:02.0/vga.vram'),
        u64(2 * PAGE),
      ],
      ...[END_OF_SECTION, FOOTER],
    ]);
    const start = encodeStreamStart('pc-i440fx-10.0', [
      { name: 'pc.ram', sizeBytes: 16 * PAGE, pageBytes: PAGE },
      { name: '0000:00:02.0/vga.vram', sizeBytes: 2 * PAGE, pageBytes: PAGE },
    ]);
    expect(start.toString('hex')).toBe(expected.toString('hex'));
    expect(encodePing(1)).toEqual(PING);
    expect(encodeRamEnd()).toEqual(Buffer.concat([u8(3), u32(1), END_OF_SECTION, FOOTER]));
    expect(encodeSwitchoverAck().toString('hex')).toBe('00070000');
    expect(encodeShut(0).toString('hex')).toBe('0001000400000000');
  });

  it('writes pages that are read as they were', () => {
    const anyRun = fc
      .record({
        region: fc.nat(1),
        page: fc.nat(31),
        pages: fc.integer({ min: 1, max: 100 }),
        fill: fc.nat(255),
        chunk: fc.integer({ min: 1, max: 20_000 }),
      })
      .map(({ region, page: first, pages, fill, chunk }) => {
        const length = Math.min(pages, region === 0 ? 1024 - first : 32 - first) * PAGE;
        const bytes = Buffer.alloc(length, fill);
        const chunks = Array.from({ length: Math.ceil(length / chunk) }, (_, index) =>
          bytes.subarray(index * chunk, (index + 1) * chunk),
        );
        return { region, offset: first * PAGE, length, content: fill === 0 ? 'zero' : chunks } as PageRun;
      });
    fc.assert(
      fc.property(fc.array(anyRun, { maxLength: 12 }), (runs) => {
        const encoder = new PartEncoder(regions);
        // One buffer for all: what comes out is valid until the next is asked for.
        const copies: Buffer[] = [];
        for (const bytes of encoder.encode(runs)) copies.push(Buffer.from(bytes));
        const { seen } = parse(encodeStreamStart('m', regions), ...copies);
        const pages = seen.slice(2).filter((line) => line.includes('@'));
        const wanted = runs.flatMap(({ region, offset, length, content }) =>
          Array.from({ length: length / PAGE }, (_, index) => {
            const value = content === 'zero' ? 'zero' : content[0]?.[0];
            return `${region}@${offset + index * PAGE}=${value}`;
          }),
        );
        expect(pages).toEqual(wanted);
      }),
      { numRuns: 30 },
    );
  });
});

describe('the return path', () => {
  const bytes = Buffer.from('00070000' + '0002000400000007' + '0001000400000000' + '0001000400000001', 'hex');
  const messages = [
    { kind: 'switchoverAck' },
    { kind: 'pong', value: 7 },
    { kind: 'shut', error: 0 },
    { kind: 'shut', error: 1 },
  ];

  it('is read wherever it is cut', () => {
    for (let cut = 0; cut <= bytes.length; cut++) {
      const parser = new ReturnPathParser();
      expect(cutAt(bytes, [cut]).flatMap((chunk) => parser.push(chunk))).toEqual(messages);
    }
  });

  it.each(['00030000', '00020003000000', '0001ffff', '000700040000'])('refuses %s', (hex) => {
    const parser = new ReturnPathParser();
    expect(() => parser.push(Buffer.from(`${hex}00000000`, 'hex'))).toThrow(/return path: unknown message/);
  });

  it('says that a part is over where its pages end: QEMU keeps the footer until something follows', () => {
    const empty = part();
    const { seen, boundaries } = parse(HEAD, empty.subarray(0, -FOOTER.length));
    expect(seen).toEqual(parse(HEAD, empty).seen);
    expect(boundaries).toBe(2);
    const inFooter = [HEAD, empty.subarray(0, -FOOTER.length), FOOTER.subarray(0, 2), FOOTER.subarray(2)];
    expect(parse(...inFooter).seen).toEqual(seen);
  });
});
