/**
 * Goal: what comes compressed costs a receiver what its table says and no more, whatever it turns out to be, and only what was agreed upon is taken. Method: the receiving side
 * of a stream by itself, with a peer that makes items up, and a codec whose calls end when the test says so.
 */
import { describe, expect, it } from 'vitest';
import { Decompressor } from '../../src/channel/decompressor.ts';
import { type ReceivedItem, ReceiveStream } from '../../src/channel/receive-stream.ts';
import type { Codec, MigrationError } from '../../src/index.ts';
import { crc32cOfChunks } from '../../src/util/checksum.ts';
import { chunksLength, joinChunks } from '../../src/util/chunks.ts';
import { type Deferred, deferred } from '../../src/util/promises.ts';
import type { IncomingFrame } from '../../src/wire/frame.ts';
import { encodeCompressed, encodeItem, ItemDigest, type ItemRange } from '../../src/wire/item.ts';
import { fixedCredit } from './pair.ts';

const mebibyte = 1 << 20;

interface Call {
  readonly length: number;
  readonly result: Deferred<Uint8Array>;
}

function createBench({ creditBytes = 64 * mebibyte, callsMax = 2, agreed = true } = {}) {
  const calls: Call[] = [];
  const codec: Codec = {
    name: 'by hand',
    callsMax,
    compress: () => Promise.reject(new Error('not asked for')),
    decompress: (_, length) => {
      const result = deferred<Uint8Array>();
      calls.push({ length, result });
      return result.promise;
    },
  };
  const failures: MigrationError[] = [];
  const decompressor = new Decompressor({ codec, now: () => 0, failed: (error) => failures.push(error) });
  const arrived: ReceivedItem[] = [];
  const stream = new ReceiveStream(
    1,
    7,
    fixedCredit(creditBytes),
    (item) => arrived.push(item),
    () => {},
    agreed ? decompressor : undefined,
  );
  return { stream, calls, failures, arrived, decompressor };
}

function ranges(bytes: number, fill: number): readonly ItemRange[] {
  return [{ space: 0, offset: 0, length: bytes, content: [new Uint8Array(bytes).fill(fill)] }];
}

/** An item of so many bytes, which travels in one. */
function compressed(number: number, bytes: number): IncomingFrame {
  const payload = encodeCompressed(encodeItem(ranges(bytes, number)), new Uint8Array(1));
  const payloadBytes = chunksLength(payload);
  const payloadCrc = crc32cOfChunks(payload);
  const frame = {
    type: 'data',
    class: 'memory',
    stream: 1,
    number,
    payload,
    payloadBytes,
    payloadCrc,
  } as const;
  return { ...frame, sequence: 1, release: () => {} };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('a stream whose items come compressed', () => {
  it('hands them over as they are, with the checksum that they have uncompressed', async () => {
    const { stream, calls, arrived, failures } = createBench();
    stream.accept(compressed(1, 5000));
    expect(arrived).toHaveLength(0);
    calls[0]?.result.resolve(new Uint8Array(5000).fill(1));
    await stream.decompressed();
    const [item] = arrived;
    if (item === undefined) throw new Error('nothing arrived');
    const plain = encodeItem(ranges(5000, 1));
    expect(item).toMatchObject({ number: 1, class: 'memory', payloadBytes: chunksLength(plain) });
    const [range] = item.ranges;
    expect(range?.content === 'zero' ? 0 : joinChunks(range?.content ?? [])).toEqual(
      new Uint8Array(5000).fill(1),
    );
    expect(stream.contentBytes.memory).toBe(5000);
    stream.applied(item);
    const digest = new ItemDigest(7 ^ 1);
    digest.add(1, crc32cOfChunks(plain));
    expect(stream.digest).toBe(digest.toString());
    expect(failures).toEqual([]);
  });

  it('takes of its credit what they come to, as they arrive: a flood of bombs ends it before any is decompressed', () => {
    const { stream, calls } = createBench({ creditBytes: 8 * mebibyte });
    // Each has a table too, so eight do not fit.
    for (let number = 1; number <= 7; number++) stream.accept(compressed(number, mebibyte));
    expect(() => stream.accept(compressed(8, mebibyte))).toThrow(/beyond its credit/);
    expect(calls).toHaveLength(2);
  });

  it('gives back as much when they are applied', async () => {
    const { stream, calls, arrived } = createBench({ creditBytes: 8 * mebibyte });
    stream.accept(compressed(1, mebibyte));
    calls[0]?.result.resolve(new Uint8Array(mebibyte));
    await stream.decompressed();
    for (const item of arrived) stream.applied(item);
    const table = 32;
    expect(stream.position).toMatchObject({ applied: 1, creditBytes: 9 * mebibyte + table });
  });

  it('decompresses only so many at once, the others in turn', async () => {
    const { stream, calls, arrived } = createBench();
    for (let number = 1; number <= 5; number++) stream.accept(compressed(number, 1000 * number));
    expect(calls.map(({ length }) => length)).toEqual([1000, 2000]);
    calls[1]?.result.resolve(new Uint8Array(2000));
    await turn();
    expect(calls.map(({ length }) => length)).toEqual([1000, 2000, 3000]);
    expect(arrived.map(({ number }) => number)).toEqual([2]);
    for (const index of [0, 2, 3, 4]) {
      calls[index]?.result.resolve(new Uint8Array(calls[index]?.length ?? 0));
      await turn();
    }
    expect(arrived.map(({ number }) => number)).toEqual([2, 1, 3, 4, 5]);
  });

  it('says when all that has come was handed over, whatever comes meanwhile', async () => {
    const { stream, calls } = createBench();
    stream.accept(compressed(1, 1000));
    let caughtUp = false;
    const waiting = stream.decompressed().then(() => {
      caughtUp = true;
    });
    stream.accept(compressed(2, 2000));
    await turn();
    expect(caughtUp).toBe(false);
    calls[0]?.result.resolve(new Uint8Array(1000));
    await waiting;
    expect(caughtUp).toBe(true);
  });

  it('keeps what comes after its end, decompressed, until it goes on', async () => {
    const { stream, calls, arrived } = createBench();
    stream.endAt(0);
    stream.accept(compressed(1, 1000));
    expect(stream.goesOn).toBe(true);
    calls[0]?.result.resolve(new Uint8Array(1000));
    await stream.decompressed();
    expect(arrived).toHaveLength(0);
    stream.goOn();
    expect(arrived.map(({ number }) => number)).toEqual([1]);
  });

  it.each([
    ['rejects', (call: Call) => call.result.reject(new Error('nonsense'))],
    ['comes to less', (call: Call) => call.result.resolve(new Uint8Array(999))],
    ['comes to more', (call: Call) => call.result.resolve(new Uint8Array(1001))],
  ])('fails the channel with protocol, once, and hands nothing over, if a call %s', async (_, end) => {
    const { stream, calls, arrived, failures } = createBench();
    for (const number of [1, 2, 3]) stream.accept(compressed(number, 1000));
    const [first, second] = calls;
    if (first === undefined || second === undefined) throw new Error('nothing is decompressed');
    end(first);
    await turn();
    end(second);
    await turn();
    expect(failures.map(({ code }) => code)).toEqual(['protocol']);
    expect(arrived).toHaveLength(0);
    expect(calls).toHaveLength(2);
  });

  it('takes none where that was not agreed upon', () => {
    const { stream } = createBench({ agreed: false });
    expect(() => stream.accept(compressed(1, 1000))).toThrow(/not agreed upon/);
  });
});
