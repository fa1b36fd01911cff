/**
 * Goal: one read of a destination disk that takes long beside many that do not holds up what is behind it, and not for ever. Method: the digests of a disk,
 * through a scheduler and a stream with credit, to a source that takes them in order, as it does.
 */
import { expect, it } from 'vitest';
import { CreditPool } from '../../../src/channel/credit-pool.ts';
import { ReceiveStream } from '../../../src/channel/receive-stream.ts';
import { Scheduler } from '../../../src/channel/scheduler.ts';
import { SendStream } from '../../../src/channel/send-stream.ts';
import { BlockDigests } from '../../../src/core/storage/block-digests.ts';
import { DigestSender } from '../../../src/core/storage/digest-sender.ts';
import type { BlockDevice } from '../../../src/index.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';

const sizeBytes = 1 << 30;
const readBytes = 512 << 10;
const blockBytes = 64 << 10;

it('a read that stalls keeps its place, and all of the disk is told', { timeout: 60_000 }, async () => {
  const environment = createVirtualEnvironment();
  const piece = new Uint8Array(readBytes).fill(7);
  const disk = {
    id: 'disk',
    sizeBytes,
    blockBytes: 512,
    readOnly: false,
    extents: async (offset: number, length: number) => [{ offset, length, zero: false }],
    read: async (offset: number) => {
      await new Promise<void>((resolve) => environment.setTimer(offset === 0 ? 9000 : 0.1, resolve));
      return [piece];
    },
  } as unknown as BlockDevice;
  const fail = (error: unknown) => {
    throw error;
  };
  const scheduler = new Scheduler();
  const digests = new BlockDigests(sizeBytes, fail);
  // As much as a disk beside seven others gets.
  const pool = new CreditPool({
    totalBytes: 16 << 20,
    streams: 8,
    now: () => environment.now(),
    roundTripMs: () => 1,
  });
  let sequence = 0;
  const pump = (): void => {
    for (let frame = scheduler.next(); frame !== undefined; frame = scheduler.next()) {
      stream.left(frame.class, frame.payloadBytes, frame.itemBytes);
      receive.accept({ ...frame, sequence: ++sequence });
      frame.release();
    }
  };
  const grant = (): void => {
    const { position } = receive;
    scheduler.grant(2, position.creditBytes, position.applied);
    stream.positioned(position);
    environment.setTimer(0, pump);
  };
  const receive = new ReceiveStream(2, 0, pool.open(), digests.arrived, grant);
  digests.attach(receive);
  const stream = new SendStream(
    2,
    {
      enqueue: (frame) => {
        scheduler.enqueue(frame);
        environment.setTimer(0, pump);
      },
      now: () => environment.now(),
      itemBytesMax: () => 1 << 20,
      isHeld: () => false,
      releaseFailed: fail,
    },
    0,
  );
  grant();
  const { signal } = new AbortController();
  const sender = new DigestSender({ disk, stream, environment, signal, failed: fail });
  sender.start();
  let asked = 0;
  while (asked < sizeBytes && environment.now() < 60_000) {
    for (; asked < digests.toldBytes; asked += blockBytes)
      digests.holds(asked, [piece.subarray(0, blockBytes)]);
    await environment.run(environment.now() + 10);
  }
  expect(asked).toBe(sizeBytes);
  await environment.run(sender.stop());
});
