/**
 * Goal: compression takes nothing from anybody: a frame that waits is shortened if there is time, goes as it is if there is none, and whoever lent its content has it back once,
 * never while the codec reads it. Method: a compressor by itself, with a codec whose calls end when the test says so.
 */
import { describe, expect, it } from 'vitest';
import { Compressor } from '../../src/channel/compressor.ts';
import type { QueuedFrame } from '../../src/channel/scheduler.ts';
import type { Codec } from '../../src/index.ts';
import { crc32cOfChunks } from '../../src/util/checksum.ts';
import { chunksLength } from '../../src/util/chunks.ts';
import { type Deferred, deferred } from '../../src/util/promises.ts';
import type { FrameClass } from '../../src/wire/frame.ts';
import { encodeItem, type ItemRange, openItem } from '../../src/wire/item.ts';
import { itemRangesMax } from '../../src/wire/limits.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';

const itemBytes = 256 << 10;

interface Call {
  readonly data: Uint8Array;
  readonly result: Deferred<Uint8Array>;
}

interface Frame extends QueuedFrame {
  released: number;
}

function createBench({ bytesPerSecond = 10e6, callsMax = 1 } = {}) {
  const environment = createVirtualEnvironment();
  const calls: Call[] = [];
  const codec: Codec = {
    name: 'by hand',
    callsMax,
    compress: (data) => {
      const result = deferred<Uint8Array>();
      calls.push({ data, result });
      return result.promise;
    },
    decompress: () => Promise.reject(new Error('not asked for')),
  };
  const queue: Frame[] = [];
  let shrunk = 0;
  const compressor = new Compressor({
    codec,
    environment,
    link: () => ({
      bytesPerSecond,
      queuedBytes: queue.reduce((sum, { payloadBytes }) => sum + payloadBytes, 0),
    }),
    shrunk: (_, bytes) => {
      shrunk += bytes;
    },
  });
  let numbers = 0;
  const push = (frameClass: FrameClass = 'bulk', bytes = itemBytes, stream = 2): Frame => {
    const content = [new Uint8Array(bytes).fill(numbers + 1)];
    return pushItem([{ space: 0, offset: 0, length: bytes, content }], frameClass, stream);
  };
  /** As many as an item can name: their table is larger than much content. */
  const pushZeros = () => {
    const zeros = Array.from({ length: itemRangesMax }, (_, index): ItemRange => {
      return { space: 0, offset: 2 * index, length: 1, content: 'zero' };
    });
    return pushItem(zeros, 'bulk', 2);
  };
  const pushItem = (ranges: readonly ItemRange[], frameClass: FrameClass, stream: number): Frame => {
    const number = ++numbers;
    const payload = encodeItem(ranges);
    const payloadBytes = chunksLength(payload);
    const frame: Frame = {
      type: 'data',
      class: frameClass,
      stream,
      number,
      payload,
      payloadBytes,
      payloadCrc: crc32cOfChunks(payload),
      itemBytes: payloadBytes,
      queuedMs: 0,
      released: 0,
      release: () => {
        frame.released++;
      },
    };
    queue.push(frame);
    compressor.offer(frame);
    return frame;
  };
  const leave = (frame: Frame) => {
    queue.splice(queue.indexOf(frame), 1);
    compressor.left(frame);
    return frame;
  };
  /** Ends the call that began `index`th, with this many bytes, and lets what follows happen. */
  const end = async (index: number, bytes: number) => {
    await environment.run(environment.now() + 1);
    calls[index]?.result.resolve(new Uint8Array(bytes).fill(0xee));
    await environment.run(environment.now());
  };
  return { compressor, calls, push, pushZeros, leave, end, queue, environment, shrunk: () => shrunk };
}

/** Something waits, and a first sample has shrunk: what comes last from now on is compressed. */
async function sampled(options: Parameters<typeof createBench>[0] = {}) {
  const bench = createBench(options);
  const ahead = [bench.push(), bench.push(), bench.push()];
  expect(bench.calls).toHaveLength(1);
  await bench.end(0, 1000);
  return { ...bench, ahead };
}

describe('a frame that waits', () => {
  it('is sampled, then compressed, and let go of at once', async () => {
    const { calls, end, ahead, shrunk, compressor } = await sampled();
    const [, , last] = ahead;
    expect(calls.map(({ data }) => data.byteLength)).toEqual([64 << 10, itemBytes]);
    const before = last?.payloadBytes ?? 0;
    await end(1, 1000);
    if (last === undefined) throw new Error('nothing waits');
    expect(last.released).toBe(1);
    expect(last.payloadBytes).toBe(chunksLength(last.payload));
    expect(last.payloadBytes).toBeLessThan(1100);
    expect(last.payloadCrc).toBe(crc32cOfChunks(last.payload));
    expect(last.itemBytes).toBe(before);
    expect(openItem(last.payload, last.payloadBytes)).toMatchObject({
      compressed: true,
      payloadBytes: before,
    });
    expect(shrunk()).toBe(before - last.payloadBytes);
    expect(compressor.count.statistics).toEqual({
      codec: 'by hand',
      inputBytes: itemBytes,
      savedBytes: itemBytes - 1000,
      callsMs: 2,
    });
    last.release();
    expect(last.released).toBe(1);
  });

  it('goes last first, the others while there is time', async () => {
    const { calls, end, ahead } = await sampled();
    await end(1, 1000);
    // One has none before it, so its turn may be now.
    expect(calls.map(({ data }) => data[0])).toEqual([2, 3, 2]);
    await end(2, 1000);
    expect(calls).toHaveLength(3);
    expect(ahead.map(({ released }) => released)).toEqual([0, 1, 1]);
  });

  it('goes as it is if its turn comes while the codec is at it, and is let go of when both are done with it', async () => {
    for (const peerFirst of [true, false]) {
      const { leave, end, ahead } = await sampled();
      const last = ahead[2];
      if (last === undefined) throw new Error('nothing waits');
      const { payload, payloadBytes } = last;
      // What the lane remembers when it sends.
      const { release } = leave(last);
      if (peerFirst) release();
      expect(last.released).toBe(0);
      await end(1, 1000);
      if (!peerFirst) {
        expect(last.released).toBe(0);
        release();
      }
      expect(last.released).toBe(1);
      expect(last.payload).toBe(payload);
      expect(last.payloadBytes).toBe(payloadBytes);
    }
  });

  it('stays as it is if it does not shrink by an eighth', async () => {
    const { end, ahead, compressor } = await sampled();
    const before = ahead.map(({ payloadBytes }) => payloadBytes);
    await end(1, itemBytes - (itemBytes >> 3) + 1);
    expect(ahead.map(({ payloadBytes }) => payloadBytes)).toEqual(before);
    expect(ahead.map(({ released }) => released)).toEqual([0, 0, 0]);
    expect(compressor.count.statistics.inputBytes).toBe(0);
  });

  it('is left alone if it is a guest write, device state, small, or all zeros', async () => {
    const { push, pushZeros, calls } = await sampled({ callsMax: 2 });
    const begun = calls.length;
    push('mirror');
    push('memory', itemBytes, 0);
    push('bulk', 8 << 10);
    pushZeros();
    expect(calls).toHaveLength(begun);
  });

  it('is left alone while nobody knows the link', () => {
    const { push, calls } = createBench({ bytesPerSecond: 0 });
    for (let count = 0; count < 20; count++) push();
    expect(calls).toHaveLength(0);
  });
});

describe('a compressor', () => {
  it('has no more calls under way than the codec takes', async () => {
    const { push, calls, end } = await sampled({ callsMax: 3 });
    for (let count = 0; count < 10; count++) push();
    const under = () => calls.length;
    const most = under();
    await end(1, 1000);
    expect(under()).toBe(most + 1);
  });

  it('does not hold content of a codec that failed, nor calls it again', async () => {
    const { push, calls, ahead, environment, leave } = await sampled();
    calls[1]?.result.reject(new Error('out of order'));
    await environment.run(environment.now() + 1);
    push();
    push();
    expect(calls).toHaveLength(2);
    for (const frame of ahead) leave(frame).release();
    expect(ahead.map(({ released }) => released)).toEqual([1, 1, 1]);
  });

  it('forgets what waits when all is dropped, but keeps what the codec reads until it is done', async () => {
    const { compressor, calls, ahead, end, queue } = await sampled();
    compressor.stop();
    for (const frame of queue) frame.release();
    expect(ahead.map(({ released }) => released)).toEqual([1, 1, 0]);
    let idle = false;
    void compressor.idle().then(() => {
      idle = true;
    });
    await Promise.resolve();
    expect(idle).toBe(false);
    await end(1, 1000);
    expect(idle).toBe(true);
    expect(ahead.map(({ released }) => released)).toEqual([1, 1, 1]);
    expect(calls).toHaveLength(2);
  });

  it('knows how much more the link carries by it', async () => {
    const { compressor, leave, end, ahead } = await sampled();
    expect(compressor.gain).toBe(1);
    await end(1, 1000);
    const [first, , last] = ahead;
    if (first === undefined || last === undefined) throw new Error('nothing waits');
    leave(first);
    expect(compressor.gain).toBe(1);
    leave(last);
    expect(compressor.gain).toBeCloseTo(2, 1);
  });
});
