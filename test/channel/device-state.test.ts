/**
 * Goal: the device state arrives whole whatever the order of its pieces, and a peer can make its receiver hold no more than the limit. Method:
 * sender and receiver joined by the test, which plays the channel; and pieces that no sender makes.
 */
import { describe, expect, it } from 'vitest';
import { type ReceivedItem, ReceiveStream } from '../../src/channel/receive-stream.ts';
import type { QueuedFrame } from '../../src/channel/scheduler.ts';
import { SendStream } from '../../src/channel/send-stream.ts';
import { StateReceiver } from '../../src/core/state-receiver.ts';
import { StateSender } from '../../src/core/state-sender.ts';
import type { MigrationError } from '../../src/errors.ts';
import { joinChunks } from '../../src/util/chunks.ts';
import { deviceStateBytesMax, deviceStatePiecesMax } from '../../src/wire/limits.ts';
import { fixedCredit } from './pair.ts';

async function* chunksOf(bytes: Uint8Array, chunkBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes);
}

async function sendState(state: AsyncIterable<Uint8Array>, itemBytesMax: () => number = () => 1 << 20) {
  const frames: QueuedFrame[] = [];
  const stream: SendStream = new SendStream(
    0,
    {
      now: () => 0,
      itemBytesMax,
      isHeld: () => false,
      enqueue: (frame) => {
        frames.push(frame);
        stream.left(frame.class, frame.payloadBytes, frame.itemBytes);
      },
      releaseFailed: () => {},
    },
    7,
  );
  const sender = new StateSender(stream);
  await sender.send(state);
  return { frames, bytes: sender.bytes };
}

function createReceiver() {
  const failures: MigrationError[] = [];
  const receiver = new StateReceiver((error) => failures.push(error));
  const stream = new ReceiveStream(0, 7, fixedCredit(4 << 20), receiver.arrived, () => {});
  receiver.attach(stream);
  return { receiver, stream, failures };
}

const piece = (number: number, offset: number, content: Uint8Array): ReceivedItem => ({
  number,
  class: 'memory',
  release: () => {},
  payloadBytes: content.byteLength,
  payloadCrc: 0,
  ranges: [{ space: 0, offset, length: content.byteLength, content: [content] }],
});

describe('device state', () => {
  for (const chunkBytes of [1000, 100_000, 3_000_000]) {
    it(`arrives whole, last piece first, from chunks of ${chunkBytes} bytes`, async () => {
      const bytes = new Uint8Array(2_500_001).map((_, index) => index * 31);
      const { frames, bytes: sent } = await sendState(chunksOf(bytes, chunkBytes));
      expect(sent).toBe(bytes.byteLength);
      expect(frames.length).toBeLessThan(40);
      const { receiver, stream } = createReceiver();
      const complete = receiver.complete(frames.length, sent);
      for (const frame of frames.reverse()) {
        // In memory that is written over as soon as nobody is to look at it any more.
        const payload = frame.payload.map((chunk) => new Uint8Array(chunk));
        const release = () => {
          for (const chunk of payload) chunk.fill(0xa5);
        };
        stream.accept({ ...frame, payload, release, sequence: 0 });
      }
      await complete;
      expect(Buffer.compare(joinChunks(receiver.chunks), bytes)).toBe(0);
    });
  }

  it('goes out in pieces as small as the lanes take, from chunks of any length', async () => {
    const bytes = new Uint8Array(160_000).map((_, index) => index * 31);
    for (const chunkBytes of [1000, 160_000]) {
      const { frames, bytes: sent } = await sendState(chunksOf(bytes, chunkBytes), () => 16 << 10);
      expect(sent).toBe(bytes.byteLength);
      expect(frames).toHaveLength(10);
    }
  });

  it('arrives whole where what lanes take changes while a piece waits for more', async () => {
    const bytes = new Uint8Array(400_000).map((_, index) => index * 31);
    for (const chunkBytes of [1000, 30_000, 400_000]) {
      let asked = 0;
      const itemBytesMax = () => [1 << 20, 16 << 10, 32 << 10][asked++ % 3] ?? 0;
      const { frames, bytes: sent } = await sendState(chunksOf(bytes, chunkBytes), itemBytesMax);
      expect(sent).toBe(bytes.byteLength);
      const { receiver, stream } = createReceiver();
      const complete = receiver.complete(frames.length, sent);
      for (const frame of frames) stream.accept({ ...frame, sequence: 0 });
      await complete;
      expect(Buffer.compare(joinChunks(receiver.chunks), bytes)).toBe(0);
    }
  });

  it('is complete only when every piece is here, and only of the length that was announced', async () => {
    const { frames, bytes } = await sendState(chunksOf(new Uint8Array(200_000), 70_000));
    const { receiver, stream } = createReceiver();
    let complete = false;
    const waiting = receiver.complete(3, bytes).then(() => {
      complete = true;
    });
    for (const frame of frames.slice(1)) stream.accept({ ...frame, sequence: 0 });
    await new Promise((resolve) => setImmediate(resolve));
    expect(complete).toBe(false);
    const [first] = frames;
    if (first !== undefined) stream.accept({ ...first, sequence: 0 });
    await waiting;
    await expect(receiver.complete(3, bytes + 1)).rejects.toMatchObject({ code: 'protocol' });
  });

  it('of which pieces overlap is bounded by the limit all the same', () => {
    const { receiver, failures } = createReceiver();
    const content = new Uint8Array(1 << 20);
    const pieces = deviceStateBytesMax / content.byteLength;
    for (let index = 0; index < pieces; index++) receiver.arrived(piece(index + 1, index, content));
    expect(failures).toEqual([]);
    receiver.arrived(piece(pieces + 1, pieces, content));
    expect(failures).toMatchObject([{ code: 'protocol' }]);
  });

  it('may not come in ever so many pieces', () => {
    const { receiver, failures } = createReceiver();
    const content = new Uint8Array(1);
    for (let index = 0; index < deviceStatePiecesMax; index++) {
      receiver.arrived(piece(index + 1, index, content));
    }
    expect(failures).toEqual([]);
    receiver.arrived(piece(deviceStatePiecesMax + 1, deviceStatePiecesMax, content));
    expect(failures).toMatchObject([{ code: 'protocol' }]);
  });
});
