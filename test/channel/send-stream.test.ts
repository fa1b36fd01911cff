/** Goal: whoever asks a stream for room is held by what others of his kind have queued, and not by guest writes. Method: a stream whose frames stay queued until told. */
import { expect, it } from 'vitest';
import type { QueuedFrame } from '../../src/channel/scheduler.ts';
import { SendStream } from '../../src/channel/send-stream.ts';

it('gives the bulk copy room whatever is mirrored, and none while its own content waits', async () => {
  const queued: QueuedFrame[] = [];
  const stream = new SendStream(
    2,
    {
      enqueue: (frame) => void queued.push(frame),
      now: () => 0,
      itemBytesMax: () => 1 << 20,
      isHeld: () => false,
      releaseFailed: (error) => {
        throw error;
      },
    },
    0,
  );
  const push = (frameClass: 'mirror' | 'bulk') =>
    stream.push(
      frameClass,
      [{ space: 0, offset: 0, length: 1000, content: [new Uint8Array(1000)] }],
      () => {},
    );
  for (let count = 0; count < 5; count++) push('mirror');
  await stream.room(1000);
  push('bulk');
  let hasRoom = false;
  const room = stream.room(1000).then(() => {
    hasRoom = true;
  });
  for (const frame of queued.slice(0, 5)) stream.left(frame.class, frame.payloadBytes, frame.itemBytes);
  await Promise.resolve();
  expect(hasRoom).toBe(false);
  for (const frame of queued.slice(5)) stream.left(frame.class, frame.payloadBytes, frame.itemBytes);
  await room;
  expect(stream.sentBytes).toBe(queued.reduce((sum, { payloadBytes }) => sum + payloadBytes, 0));
});
