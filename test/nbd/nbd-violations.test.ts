import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NbdClient, nbdErrorName } from '../../src/backends/nbd/nbd-client.ts';
import { ArrivedRanges, type NbdPending, readReplies } from '../../src/backends/nbd/nbd-client-parser.ts';
import { Intake } from '../../src/backends/nbd/nbd-intake.ts';
import {
  encodeClientFlags,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoRequest,
  encodeMetaContext,
  encodeMetaRequest,
  encodeOption,
  encodeOptionReply,
  NBD_BASE_ALLOCATION,
  NBD_OPTION_REPLY_HEADER_BYTES,
  NbdInfo,
  NbdOption,
  NbdOptionReply,
  parseOptionReplyHeader,
} from '../../src/backends/nbd/nbd-options.ts';
import {
  encodeBlockStatusChunk,
  encodeDataChunkHead,
  encodeErrorChunk,
  encodeNoneChunk,
  encodeRequest,
  encodeSimpleReply,
  NBD_CHUNK_HEADER_BYTES,
  NbdChunk,
  NbdCommand,
  NbdErrno,
  NbdFlag,
  parseRequest,
} from '../../src/backends/nbd/nbd-protocol.ts';
import { NbdServer } from '../../src/backends/nbd/nbd-server.ts';
import {
  codeOf,
  Hand,
  MemoryDisk,
  pathOf,
  pattern,
  privateDirectory,
  scriptedServer,
} from './nbd-fixtures.ts';

/**
 * Goal: whatever the other end says, our NBD client and server answer as the protocol document says, or end
 * that one connection with `protocol`; nothing is allocated on the word of a length, nothing hangs, and
 * nobody else notices. Method: the other end is driven by hand, byte by byte.
 */

const SIZE = 65536;
let directory: ReturnType<typeof privateDirectory>;
let cleanups: (() => Promise<void> | void)[] = [];

beforeEach(() => {
  directory = privateDirectory();
  cleanups = [];
});

afterEach(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
  directory.remove();
});

describe('our server, when a client', () => {
  let disk = new MemoryDisk(SIZE);
  let server: NbdServer;

  beforeEach(async () => {
    disk = new MemoryDisk(SIZE);
    server = await NbdServer.listen({
      address: { path: join(directory.path, 's') },
      exports: [{ exportName: 'disk0', sizeBytes: SIZE, handler: disk }],
    });
    cleanups.push(() => server.close());
  });

  /** A client up to the point where it may send options. */
  async function greeted(flags = 3): Promise<Hand> {
    const hand = await Hand.to(pathOf(server));
    expect((await hand.hear(18)).equals(encodeGreeting(3))).toBe(true);
    hand.say(encodeClientFlags(flags));
    return hand;
  }

  /** The replies to an option up to its last. */
  async function ask(
    hand: Hand,
    option: number,
    data?: Uint8Array,
  ): Promise<{ type: number; data: Buffer }[]> {
    hand.say(encodeOption(option, data));
    const replies: { type: number; data: Buffer }[] = [];
    for (;;) {
      const { type, length } = parseOptionReplyHeader(await hand.hear(NBD_OPTION_REPLY_HEADER_BYTES), option);
      replies.push({ type, data: await hand.hear(length) });
      if (type === NbdOptionReply.ack || type >= 2 ** 31) return replies;
    }
  }

  async function transmitting(structured: boolean): Promise<Hand> {
    const hand = await greeted();
    if (structured) await ask(hand, NbdOption.structuredReply);
    await ask(hand, NbdOption.go, encodeInfoRequest('', []));
    return hand;
  }

  /** That the offender is gone, and the server still serves somebody else. */
  async function stillServes(offender: Hand): Promise<void> {
    await offender.hearEnd();
    const goneBefore = disk.gone.length;
    const client = await NbdClient.connect({ path: pathOf(server), exportName: 'disk0' });
    expect((await client.read(0, 8)).length).toBe(8);
    await client.disconnect();
    while (disk.gone.length === goneBefore) await sleep(1);
  }

  it('sends flags that nobody knows, is hung up on', async () => {
    await stillServes(await greeted(4));
    expect(disk.gone).toEqual([undefined]);
  });

  it('speaks something else, is hung up on', async () => {
    const hand = await Hand.to(pathOf(server));
    hand.say(Buffer.from('GET / HTTP/1.1\r\nHost: disk\r\n\r\n'));
    await stillServes(hand);
    const second = await greeted();
    second.say(pattern(100, 1));
    await stillServes(second);
  });

  it('announces an option of 64 KiB and a byte, or of 4 GiB, is hung up on before it sent it', async () => {
    for (const length of [65537, 0xffffffff]) {
      const hand = await greeted();
      const option = encodeOption(NbdOption.go);
      option.writeUInt32BE(length, 12);
      hand.say(option);
      await stillServes(hand);
    }
  });

  it('haggles without end, is hung up on', async () => {
    const hand = await greeted();
    for (let count = 0; count < 63; count += 1) await ask(hand, NbdOption.list);
    hand.say(encodeOption(NbdOption.list));
    await stillServes(hand);
  });

  it('asks for what there is not, is told so and may go on', async () => {
    const hand = await greeted();
    const go = encodeInfoRequest('other', []);
    for (const [option, data, answer] of [
      [NbdOption.startTls, undefined, NbdOptionReply.errUnsup],
      [NbdOption.extendedHeaders, undefined, NbdOptionReply.errUnsup],
      [4711, Buffer.alloc(4096), NbdOptionReply.errUnsup],
      [NbdOption.go, go, NbdOptionReply.errUnknown],
      [NbdOption.info, go, NbdOptionReply.errUnknown],
      [NbdOption.go, go.subarray(0, 5), NbdOptionReply.errInvalid],
      [NbdOption.go, Buffer.concat([go, Buffer.alloc(1)]), NbdOptionReply.errInvalid],
      [NbdOption.go, Buffer.from([0xff, 0xff, 0xff, 0xff, 0, 0]), NbdOptionReply.errInvalid],
      [NbdOption.go, Buffer.from([0, 0, 0, 0, 0xff, 0xff]), NbdOptionReply.errInvalid],
      [NbdOption.list, Buffer.alloc(1), NbdOptionReply.errInvalid],
      [NbdOption.structuredReply, Buffer.alloc(1), NbdOptionReply.errInvalid],
      [NbdOption.setMetaContext, encodeMetaRequest('', [NBD_BASE_ALLOCATION]), NbdOptionReply.errInvalid],
    ] as const) {
      expect((await ask(hand, option, data)).map(({ type }) => type)).toEqual([answer]);
    }
    await ask(hand, NbdOption.structuredReply);
    const meta = (names: string[], exportName = '') => encodeMetaRequest(exportName, names);
    const badMeta = Buffer.from([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    for (const [option, data, answers] of [
      [NbdOption.setMetaContext, badMeta, [NbdOptionReply.errInvalid]],
      [NbdOption.setMetaContext, meta([], 'other'), [NbdOptionReply.errUnknown]],
      [NbdOption.setMetaContext, meta(['qemu:dirty-bitmap:x']), [NbdOptionReply.ack]],
      [NbdOption.listMetaContext, meta([]), [NbdOptionReply.metaContext, NbdOptionReply.ack]],
      [NbdOption.listMetaContext, meta(['base:']), [NbdOptionReply.metaContext, NbdOptionReply.ack]],
      [
        NbdOption.setMetaContext,
        meta(['x:y', NBD_BASE_ALLOCATION]),
        [NbdOptionReply.metaContext, NbdOptionReply.ack],
      ],
      [NbdOption.list, undefined, [NbdOptionReply.server, NbdOptionReply.ack]],
      [NbdOption.info, encodeInfoRequest('disk0', []), [NbdOptionReply.info, NbdOptionReply.ack]],
    ] as const) {
      expect((await ask(hand, option, data)).map(({ type }) => type)).toEqual(answers);
    }
    const replies = await ask(hand, NbdOption.go, encodeInfoRequest('disk0', [NbdInfo.blockSize]));
    expect(replies.map(({ type }) => type)).toEqual([
      NbdOptionReply.info,
      NbdOptionReply.info,
      NbdOptionReply.ack,
    ]);
    expect(
      replies[1]?.data.equals(encodeInfoBlockSize({ minimum: 1, preferred: 4096, maximum: 1024 * 1024 })),
    ).toBe(true);
    expect(disk.connects).toBe(1);
    hand.hangUp();
  });

  it('takes its leave with ABORT, gets its answer', async () => {
    const hand = await greeted();
    expect((await ask(hand, NbdOption.abort)).map(({ type }) => type)).toEqual([NbdOptionReply.ack]);
    await stillServes(hand);
  });

  it('uses EXPORT_NAME, is served, with or without the 124 zeros, and hung up on for another name', async () => {
    for (const [flags, padding] of [
      [3, 0],
      [1, 124],
      [0, 124],
    ] as const) {
      const hand = await greeted(flags);
      hand.say(encodeOption(NbdOption.exportName, Buffer.from('disk0')));
      const answer = await hand.hear(10 + padding);
      expect(answer.readBigUInt64BE(0)).toBe(BigInt(SIZE));
      expect(answer.readUInt16BE(8) & (NbdFlag.hasFlags | NbdFlag.sendDf)).toBe(NbdFlag.hasFlags);
      hand.say(encodeRequest(NbdCommand.read, 0, 99, 0, 10));
      expect((await hand.hear(26)).subarray(0, 16).equals(encodeSimpleReply(0, 99n))).toBe(true);
      hand.hangUp();
    }
    const hand = await greeted();
    hand.say(encodeOption(NbdOption.exportName, Buffer.from('disk1')));
    await stillServes(hand);
  });

  it('sends a request that is none, or a write of 32 MiB and a byte, is hung up on', async () => {
    const garbage = await transmitting(true);
    garbage.say(pattern(28, 5));
    await stillServes(garbage);
    const huge = await transmitting(true);
    huge.say(encodeRequest(NbdCommand.write, 0, 1, 0, 32 * 1024 * 1024 + 1));
    await stillServes(huge);
    expect(disk.gone.map((reason) => reason?.code)).toEqual(['protocol', undefined, 'protocol', undefined]);
  });

  it('is cut off in the middle of a frame, the handler hears of complete requests only', async () => {
    for (const cut of [10, 28, 29, 127]) {
      const hand = await transmitting(true);
      const request = Buffer.concat([encodeRequest(NbdCommand.write, 0, 1, 0, 100), pattern(100, 1)]);
      hand.say(request, request.subarray(0, cut));
      expect((await hand.hear(16)).equals(encodeSimpleReply(0, 1n))).toBe(true);
      hand.hangUp();
    }
    while (disk.gone.length < 4) await sleep(1);
    expect(disk.calls).toEqual(['write 0+100', 'write 0+100', 'write 0+100', 'write 0+100']);
    expect(disk.gone.every((reason) => reason?.code === 'hypervisor')).toBe(true);
  });

  it.each([false, true])(
    'asks for what it may not, gets an error number and may go on (structured: %s)',
    async (structured) => {
      const hand = await transmitting(structured);
      const { read, write, flush, trim, writeZeroes, blockStatus } = NbdCommand;
      const cases: [command: number, flags: number, offset: number, length: number, errno: number][] = [
        [4711, 0, 0, 0, NbdErrno.EINVAL],
        [5, 0, 0, 512, NbdErrno.EINVAL],
        [read, 1 << 9, 0, 8, NbdErrno.EINVAL],
        [write, 1 << 4, 0, 8, NbdErrno.EINVAL],
        [writeZeroes, 1 << 4, 0, 8, NbdErrno.EINVAL],
        [flush, 0, 1, 0, NbdErrno.EINVAL],
        [read, 0, SIZE, 1, NbdErrno.EINVAL],
        [read, 0, 0, 0xffffffff, NbdErrno.EINVAL],
        [write, 0, SIZE - 1, 2, NbdErrno.ENOSPC],
        [write, 0, Number.MAX_SAFE_INTEGER, 2, NbdErrno.ENOSPC],
        [writeZeroes, 0, 1, SIZE, NbdErrno.ENOSPC],
        [trim, 0, 1, SIZE, NbdErrno.EINVAL],
        [blockStatus, 0, 0, SIZE, NbdErrno.EINVAL],
      ];
      for (const [command, flags, offset, length, errno] of cases) {
        hand.say(
          encodeRequest(command, flags, 7, offset, length),
          command === write ? Buffer.alloc(length) : Buffer.alloc(0),
        );
        if (structured) {
          const message = `refused: ${errno === NbdErrno.EINVAL ? 'EINVAL' : 'ENOSPC'}`;
          const expected = encodeErrorChunk(7n, { errno, message });
          expect((await hand.hear(expected.length)).equals(expected)).toBe(true);
        } else expect((await hand.hear(16)).equals(encodeSimpleReply(errno, 7n))).toBe(true);
      }
      for (const command of [read, write, trim, writeZeroes, flush]) {
        hand.say(encodeRequest(command, command === writeZeroes ? 3 : 1, 8, 0, 0));
        const expected = structured && command === read ? encodeNoneChunk(8n) : encodeSimpleReply(0, 8n);
        expect((await hand.hear(expected.length)).equals(expected)).toBe(true);
      }
      hand.say(encodeRequest(read, 0, 2 ** 53 - 1, 4, 8));
      const head = structured
        ? encodeDataChunkHead(2n ** 53n - 1n, 4, 8)
        : encodeSimpleReply(0, 2n ** 53n - 1n);
      expect((await hand.hear(head.length + 8)).equals(Buffer.concat([head, Buffer.alloc(8)]))).toBe(true);
      expect(disk.calls).toEqual(['flush', 'flush', 'flush', 'flush', 'read 4+8']);
      hand.hangUp();
    },
  );

  it('says goodbye with requests under way, gets their replies first', async () => {
    let open: () => void = () => {};
    disk.write = () =>
      new Promise((resolve) => {
        open = resolve;
      });
    const hand = await transmitting(true);
    hand.say(
      encodeRequest(NbdCommand.write, 0, 1, 0, 8),
      Buffer.alloc(8),
      encodeRequest(NbdCommand.disconnect, 0, 2, 0, 0),
    );
    hand.socket.end();
    await sleep(30);
    expect(disk.gone).toEqual([]);
    open();
    expect((await hand.hearEnd()).equals(encodeSimpleReply(0, 1n))).toBe(true);
    while (disk.gone.length === 0) await sleep(1);
    expect(disk.gone).toEqual([undefined]);
  });

  it('selects metadata of one export and takes another, gets none of that', async () => {
    const exports = ['a', 'b'].map((exportName) => ({ exportName, sizeBytes: SIZE, handler: disk }));
    const two = await NbdServer.listen({ address: { path: join(directory.path, 'two') }, exports });
    cleanups.push(() => two.close());
    for (const [taken, errno] of [
      ['a', 0],
      ['b', NbdErrno.EINVAL],
    ] as const) {
      const hand = await Hand.to(pathOf(two));
      await hand.hear(18);
      hand.say(encodeClientFlags(3));
      await ask(hand, NbdOption.structuredReply);
      await ask(hand, NbdOption.setMetaContext, encodeMetaRequest('a', [NBD_BASE_ALLOCATION]));
      await ask(hand, NbdOption.go, encodeInfoRequest(taken, []));
      hand.say(encodeRequest(NbdCommand.blockStatus, 0, 1, 0, 4096));
      const chunk = await hand.hear(NBD_CHUNK_HEADER_BYTES);
      const type = errno === 0 ? NbdChunk.blockStatus : NbdChunk.error;
      expect([taken, chunk.readUInt16BE(6)]).toEqual([taken, type]);
      const payload = await hand.hear(chunk.readUInt32BE(16));
      if (errno !== 0) expect(payload.readUInt32BE(0)).toBe(errno);
      hand.hangUp();
    }
  });

  it('asks and asks and takes no answers, is not read any further', async () => {
    const big = new MemoryDisk(32 * 1024 * 1024);
    const other = await NbdServer.listen({
      address: { path: join(directory.path, 'b') },
      exports: [{ sizeBytes: big.bytes.length, handler: big }],
    });
    cleanups.push(() => other.close());
    const hand = await Hand.to(pathOf(other));
    await hand.hear(18);
    hand.say(encodeClientFlags(3), encodeOption(NbdOption.exportName));
    await hand.hear(10);
    hand.socket.pause();
    for (let index = 0; index < 200; index += 1)
      hand.say(encodeRequest(NbdCommand.read, 0, index, 0, 4 * 1024 * 1024));
    let before = -1;
    while (before < big.calls.length) {
      before = big.calls.length;
      await sleep(100);
    }
    expect(big.calls.length).toBeLessThan(30);
    hand.hangUp();
  });
});

describe('our client, when a server', () => {
  const path = (): string => join(directory.path, 's');
  const connect = (): Promise<NbdClient> => NbdClient.connect({ path: path(), exportName: 'disk0' });
  const exportInfo = encodeInfoExport({ sizeBytes: SIZE, flags: NbdFlag.hasFlags | NbdFlag.sendFlush });
  const ack = (option: number): Buffer => encodeOptionReply(option, NbdOptionReply.ack);
  const reply = encodeOptionReply;

  async function serve(script: (hand: Hand) => Promise<void>): Promise<void> {
    const server = await scriptedServer(path(), script);
    cleanups.push(() => server.close());
  }

  async function hearOption(hand: Hand, option: number): Promise<Buffer> {
    const head = await hand.hear(16);
    if (head.readUInt32BE(8) !== option) throw new Error(`option ${head.readUInt32BE(8)}, not ${option}`);
    return await hand.hear(head.readUInt32BE(12));
  }

  /** The server's half of the handshake, each part to be replaced. */
  async function handshake(
    hand: Hand,
    say: { greeting?: Buffer; structured?: Buffer; meta?: Buffer; go?: Buffer } = {},
  ): Promise<void> {
    const { structuredReply, setMetaContext, go } = NbdOption;
    hand.say(say.greeting ?? encodeGreeting(3));
    await hand.hear(4);
    await hearOption(hand, structuredReply);
    hand.say(say.structured ?? ack(structuredReply));
    if (say.structured === undefined) {
      await hearOption(hand, setMetaContext);
      const context = reply(
        setMetaContext,
        NbdOptionReply.metaContext,
        encodeMetaContext(5, NBD_BASE_ALLOCATION),
      );
      hand.say(say.meta ?? Buffer.concat([context, ack(setMetaContext)]));
    }
    await hearOption(hand, go);
    hand.say(say.go ?? Buffer.concat([reply(go, NbdOptionReply.info, exportInfo), ack(go)]));
  }

  const nothing = Buffer.alloc(0);
  const infoReply = (data: Buffer): Buffer => reply(NbdOption.go, NbdOptionReply.info, data);
  const sizes = (minimum: number, preferred: number, maximum: number): Buffer =>
    Buffer.concat([
      infoReply(encodeInfoBlockSize({ minimum, preferred, maximum })),
      infoReply(exportInfo),
      ack(NbdOption.go),
    ]);
  const oversized = reply(NbdOption.go, NbdOptionReply.info);
  oversized.writeUInt32BE(65537, 16);
  const tooBigExport = encodeInfoExport({ sizeBytes: 0, flags: 1 });
  tooBigExport.writeBigUInt64BE(2n ** 53n, 2);

  it.each([
    ['is no NBD server', { greeting: Buffer.from('SSH-2.0-OpenSSH_9.2') }, 'protocol'],
    [
      'speaks oldstyle',
      { greeting: Buffer.from('NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0', 'latin1') },
      'protocol',
    ],
    ['has no fixed newstyle', { greeting: encodeGreeting(2) }, 'protocol'],
    ['answers another option', { structured: ack(NbdOption.list) }, 'protocol'],
    ['answers with 64 KiB and a byte', { go: oversized }, 'protocol'],
    ['answers without end', { go: Buffer.concat(Array(64).fill(infoReply(exportInfo))) }, 'protocol'],
    ['acknowledges GO and describes nothing', { go: ack(NbdOption.go) }, 'protocol'],
    [
      'gives information without a type',
      { go: Buffer.concat([infoReply(nothing), ack(NbdOption.go)]) },
      'protocol',
    ],
    ['gives a short description', { go: infoReply(exportInfo.subarray(0, 11)) }, 'protocol'],
    ['exports more than 8 PiB', { go: infoReply(tooBigExport) }, 'protocol'],
    ['has blocks of 3 bytes', { go: sizes(3, 4096, 4096) }, 'protocol'],
    ['has blocks of 0 bytes', { go: sizes(0, 4096, 4096) }, 'protocol'],
    ['takes less than a block', { go: sizes(4096, 4096, 512) }, 'protocol'],
    [
      'gives a context without a number',
      { meta: reply(NbdOption.setMetaContext, NbdOptionReply.metaContext) },
      'protocol',
    ],
    [
      'refuses the export',
      { go: reply(NbdOption.go, NbdOptionReply.errUnknown, Buffer.from('no such disk')) },
      'hypervisor',
    ],
    ['refuses without a word', { go: reply(NbdOption.go, 2 ** 31 + 77) }, 'hypervisor'],
  ])('%s, gives up the connecting', async (_what, say, code) => {
    await serve((hand) => handshake(hand, say));
    expect(await codeOf(connect())).toBe(code);
  });

  it('hangs up at any point of the handshake, gives up; when it falls silent, the signal ends it', async () => {
    let bytesLeft = 0;
    await serve(async (hand) => {
      const say = hand.say.bind(hand);
      hand.say = (...parts) => {
        const all = Buffer.concat(parts);
        say(all.subarray(0, bytesLeft));
        bytesLeft -= all.length;
        if (bytesLeft <= 0) hand.socket.end();
      };
      await handshake(hand);
    });
    for (const bytes of [0, 5, 18, 30, 38, 50, 70, 100, 110, 130]) {
      bytesLeft = bytes;
      expect(await codeOf(connect())).toBe('hypervisor');
    }
    const silent = await scriptedServer(join(directory.path, 'q'), async () => {});
    cleanups.push(() => silent.close());
    const stalled = NbdClient.connect({
      path: join(directory.path, 'q'),
      exportName: '',
      signal: AbortSignal.timeout(30),
    });
    expect(await codeOf(stalled)).toBe('aborted');
  });

  it('has neither structured replies nor contexts nor block sizes, makes do', async () => {
    const bytes = pattern(100_000, 4);
    await serve(async (hand) => {
      await handshake(hand, { structured: reply(NbdOption.structuredReply, NbdOptionReply.errUnsup) });
      for (;;) {
        const request = parseRequest(await hand.hear(28));
        if (request.command === NbdCommand.flush) hand.say(encodeSimpleReply(NbdErrno.EIO, request.cookie));
        else if (request.offset === 512) hand.say(encodeSimpleReply(9999, request.cookie));
        else hand.say(encodeSimpleReply(0, request.cookie), bytes.subarray(0, request.length));
      }
    });
    const client = await connect();
    expect(client.blockBytes).toEqual({ minimum: 512, preferred: 4096, maximum: 32 * 1024 * 1024 });
    expect(client.canBlockStatus).toBe(false);
    const [large, failed, small] = [client.read(0, 51200), client.read(512, 512), client.read(1024, 512)];
    expect(bytes.subarray(0, 51200).equals(await large)).toBe(true);
    expect(nbdErrorName(await failed.catch((error: unknown) => error))).toBe('errno 9999');
    expect(bytes.subarray(0, 512).equals(await small)).toBe(true);
    expect(nbdErrorName(await client.flush().catch((error: unknown) => error))).toBe('EIO');
    client.abort('done');
  });

  const holeChunk = (cookie: bigint, offset: number, length: number, flags = 0): Buffer => {
    const bytes = Buffer.concat([encodeDataChunkHead(cookie, offset, 4), Buffer.alloc(4)]);
    bytes.writeUInt16BE(flags, 4);
    bytes.writeUInt16BE(2, 6);
    bytes.writeUInt32BE(length, 28);
    return bytes;
  };
  const dataChunk = (cookie: bigint, offset: number, data: Buffer, flags = 0): Buffer => {
    const bytes = Buffer.concat([encodeDataChunkHead(cookie, offset, data.length), data]);
    bytes.writeUInt16BE(flags, 4);
    return bytes;
  };
  const withType = (bytes: Buffer, type: number, length = bytes.readUInt32BE(16)): Buffer => {
    bytes.writeUInt16BE(type, 6);
    bytes.writeUInt32BE(length, 16);
    return bytes;
  };
  const status = (cookie: bigint, lengths: readonly number[], context = 5): Buffer =>
    encodeBlockStatusChunk(
      cookie,
      context,
      lengths.map((length) => ({ offset: 0, length, zero: false, hole: true })),
    );

  /** A server that answers every request with the same, and the client for it. */
  async function answering(answer: (cookie: bigint) => Buffer): Promise<NbdClient> {
    await serve(async (hand) => {
      await handshake(hand, { go: sizes(1, 4096, 65536) });
      for (;;) hand.say(answer(parseRequest(await hand.hear(28)).cookie));
    });
    return await connect();
  }

  const data = pattern(1000, 7);

  it('answers before the range, ends the connection', async () => {
    const client = await answering((cookie) => dataChunk(cookie, 0, data, 1));
    expect(await codeOf(client.read(1000, 1000))).toBe('disk-read');
    expect((await client.closed)?.code).toBe('protocol');
  });

  it('answers in pieces, in any order and with holes, puts them together', async () => {
    const client = await answering((cookie) =>
      Buffer.concat([
        dataChunk(cookie, 900, data.subarray(900)),
        dataChunk(cookie, 0, data.subarray(0, 100)),
        holeChunk(cookie, 200, 700),
        dataChunk(cookie, 100, data.subarray(100, 200)),
        encodeNoneChunk(cookie),
      ]),
    );
    const expected = Buffer.concat([data.subarray(0, 200), Buffer.alloc(700), data.subarray(900)]);
    expect(expected.equals(await client.read(0, 1000))).toBe(true);
    client.abort('done');
  });

  it('reports an error among pieces, fails that read alone', async () => {
    const unknownKind = (cookie: bigint): Buffer =>
      withType(encodeErrorChunk(cookie, { errno: 28, message: 'x' }), 0x8123);
    let first = true;
    const client = await answering((cookie) => {
      const error = first
        ? encodeErrorChunk(cookie, { errno: 5, message: 'bad sector' })
        : unknownKind(cookie);
      first = false;
      error.writeUInt16BE(0, 4);
      return Buffer.concat([error, dataChunk(cookie, 10, data.subarray(0, 100), 1)]);
    });
    const error: unknown = await client.read(0, 1000).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'disk-read', message: 'NBD: 1000 bytes at 0: EIO: bad sector' });
    expect(nbdErrorName(await client.read(0, 1000).catch((reason: unknown) => reason))).toBe('ENOSPC');
    client.abort('done');
  });

  it.each<[string, (cookie: bigint) => Buffer]>([
    ['answers a request that was not sent', (cookie) => encodeSimpleReply(0, cookie + 1n)],
    ['answers with 64 bits that no counter reaches', () => encodeNoneChunk(2n ** 64n - 1n)],
    ['answers with another magic', () => pattern(64, 2)],
    ['answers a read with a simple reply', (cookie) => encodeSimpleReply(0, cookie)],
    ['answers a read with nothing', (cookie) => encodeNoneChunk(cookie)],
    ['ends a read early', (cookie) => dataChunk(cookie, 0, data.subarray(1), 1)],
    [
      'leaves a gap in a read',
      (cookie) =>
        Buffer.concat([
          dataChunk(cookie, 0, data.subarray(0, 9)),
          dataChunk(cookie, 10, data.subarray(10), 1),
        ]),
    ],
    ['answers a read with more', (cookie) => dataChunk(cookie, 0, Buffer.alloc(1001), 1)],
    ['answers a read with 4 GiB', (cookie) => withType(encodeNoneChunk(cookie), 1, 0xffffffff)],
    ['answers past the range', (cookie) => dataChunk(cookie, 1, data, 1)],
    ['answers with an empty hole', (cookie) => holeChunk(cookie, 0, 0)],
    ['answers with a hole of 4 GiB', (cookie) => holeChunk(cookie, 0, 0xffffffff)],
    [
      'answers the same bytes twice',
      (cookie) =>
        Buffer.concat([
          dataChunk(cookie, 0, data.subarray(0, 500)),
          dataChunk(cookie, 499, data.subarray(499), 1),
        ]),
    ],
    ['sends data without an offset', (cookie) => withType(encodeNoneChunk(cookie), 1, 8)],
    ['ends with an empty chunk of 1 byte', (cookie) => withType(encodeNoneChunk(cookie), 0, 1)],
    ['sends an empty chunk that is not the last', (cookie) => withFlags(encodeNoneChunk(cookie), 0)],
    ['sends a chunk of no known type', (cookie) => withType(encodeNoneChunk(cookie), 99, 0)],
    ['sends an error without a number', (cookie) => encodeErrorChunk(cookie, { errno: 0, message: 'x' })],
    [
      'sends an error longer than its chunk',
      (cookie) => withMessageBytes(encodeErrorChunk(cookie, { errno: 5, message: 'x' }), 2),
    ],
    ['sends an error of 1 MiB', (cookie) => withType(encodeNoneChunk(cookie), 0x8001, 1024 * 1024)],
    ['sends an error of 5 bytes', (cookie) => withType(encodeNoneChunk(cookie), 0x8001, 5)],
    ['answers a read with block status', (cookie) => status(cookie, [1000])],
  ])('%s, ends the connection', async (_what, answer) => {
    const client = await answering(answer);
    const read = client.read(0, 1000);
    expect(await codeOf(read)).toBe('disk-read');
    expect((await client.closed)?.code).toBe('protocol');
    expect(await codeOf(client.flush())).not.toBe('resolved');
  });

  function withFlags(bytes: Buffer, flags: number): Buffer {
    bytes.writeUInt16BE(flags, 4);
    return bytes;
  }

  function withMessageBytes(bytes: Buffer, length: number): Buffer {
    bytes.writeUInt16BE(length, 24);
    return bytes;
  }

  it.each<[string, (cookie: bigint) => Buffer]>([
    ['reports another context', (cookie) => status(cookie, [1000], 6)],
    ['reports an empty extent', (cookie) => status(cookie, [500, 0])],
    ['reports no extent', (cookie) => withType(status(cookie, []), 5)],
    ['reports past the range', (cookie) => status(cookie, [1000, 1])],
    [
      'reports half an extent',
      (cookie) => withType(Buffer.concat([status(cookie, [1, 1]), Buffer.alloc(4)]), 5, 24),
    ],
    ['reports 8 MiB of extents', (cookie) => withType(encodeNoneChunk(cookie), 5, 8 * 1024 * 1024 + 4)],
    ['reports twice', (cookie) => Buffer.concat([withFlags(status(cookie, [1]), 0), status(cookie, [1])])],
    ['answers without extents', (cookie) => encodeSimpleReply(0, cookie)],
    ['answers with an end and no extents', (cookie) => encodeNoneChunk(cookie)],
    ['answers with data', (cookie) => dataChunk(cookie, 0, data, 1)],
  ])('%s to a block status request, ends the connection', async (_what, answer) => {
    const client = await answering(answer);
    expect(await codeOf(client.blockStatus(0, 1000))).toBe('disk-read');
    expect((await client.closed)?.code).toBe('protocol');
  });

  it('reports less than was asked for, or more, gets asked again, or cut', async () => {
    const client = await answering((cookie) => status(cookie, [300]));
    expect(await client.blockStatus(0, 1000)).toEqual([{ offset: 0, length: 1000, zero: false, hole: true }]);
    client.abort('done');
  });

  it('is cut off in the middle of a frame, fails what was under way', async () => {
    for (const cut of [0, 15, 16, 19, 28, 500]) {
      const server = await scriptedServer(join(directory.path, `c${cut}`), async (hand) => {
        await handshake(hand, { go: sizes(1, 4096, 65536) });
        const { cookie } = parseRequest(await hand.hear(28));
        hand.say(dataChunk(cookie, 0, data, 1).subarray(0, cut));
        hand.socket.end();
      });
      cleanups.push(() => server.close());
      const client = await NbdClient.connect({ path: join(directory.path, `c${cut}`), exportName: '' });
      expect(await Promise.all([codeOf(client.read(0, 1000)), codeOf(client.flush())])).toEqual([
        'disk-read',
        'disk-write',
      ]);
      expect((await client.closed)?.code).toBe('hypervisor');
    }
  });
});

describe('the bytes of replies', () => {
  function request(command: number): NbdPending {
    const target = command === NbdCommand.read ? Buffer.alloc(5000, 1) : undefined;
    const arrived = new ArrivedRanges();
    return { command, offset: 0, length: 5000, target, arrived, extents: undefined, failure: undefined };
  }

  it('are counted as arrived exactly once', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(40), fc.integer({ min: 1, max: 8 }))), (ranges) => {
        const arrived = new ArrivedRanges();
        const seen = new Set<number>();
        for (const [start, length] of ranges) {
          const bytes = Array.from({ length }, (_, index) => start + index);
          const add = (): void => arrived.add(start, start + length);
          if (bytes.some((byte) => seen.has(byte))) expect(add).toThrow('overlap');
          else {
            add();
            for (const byte of bytes) seen.add(byte);
          }
        }
        for (let length = 1; length <= 48; length += 1) {
          const whole =
            seen.size === length &&
            Array.from({ length }, (_, index) => index).every((byte) => seen.has(byte));
          expect(arrived.covers(length)).toBe(whole);
        }
      }),
    );
    const many = new ArrivedRanges();
    for (let piece = 0; piece < 1024; piece += 1) many.add(2 * piece, 2 * piece + 1);
    expect(() => many.add(5000, 5001)).toThrow('too many pieces');
  });

  it('mean the same however they are cut into chunks', () => {
    const data = pattern(5000, 1);
    const stream = Buffer.concat([
      encodeDataChunkHead(0n, 0, 5000),
      data,
      encodeSimpleReply(28, 1n),
      encodeErrorChunk(2n, { errno: 5, message: 'no' }),
      encodeBlockStatusChunk(3n, 1, [{ offset: 0, length: 4096, zero: true, hole: false }]),
    ]);
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1 }),
        fc.integer({ min: 1, max: 6000 }),
        (cuts, directMin) => {
          const { read, write, flush, blockStatus } = NbdCommand;
          const pending = [read, write, flush, blockStatus].map((command) => request(command));
          const done: number[] = [];
          const agreement = {
            info: { sizeBytes: SIZE, flags: 1 },
            blockBytes: { minimum: 1, preferred: 1, maximum: SIZE },
            structured: true,
            contextId: 1,
          };
          const intake = new Intake(
            readReplies(
              agreement,
              (cookie) => pending[cookie],
              (cookie) => done.push(cookie),
            ),
          );
          for (let at = 0, index = 0; at < stream.length; index += 1) {
            const end = Math.min(stream.length, at + (cuts[index % cuts.length] ?? 1));
            const room = intake.room(directMin);
            if (room === undefined) intake.push(Buffer.from(stream.subarray(at, end)));
            else intake.filled(stream.copy(room, 0, at, Math.min(end, at + room.length)));
            at = room === undefined ? end : Math.min(end, at + room.length);
          }
          expect(done).toEqual([0, 1, 2, 3]);
          expect(pending[0]?.target?.equals(data)).toBe(true);
          expect(pending.map((one) => one.failure?.errno)).toEqual([undefined, 28, 5, undefined]);
          expect(pending[3]?.extents).toEqual([{ offset: 0, length: 4096, zero: true, hole: false }]);
        },
      ),
    );
  });
});
