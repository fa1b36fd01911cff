import type { MigrationError } from '../../errors.ts';
import type { MemorySink } from '../../interfaces/memory.ts';
import { ApplyQueue } from '../apply-queue.ts';

/** Applies pages to the destination's memory, one item at a time, newest content last. */
export function createMemoryReceiver(sink: MemorySink, failed: (error: MigrationError) => void): ApplyQueue {
  return new ApplyQueue({
    spaceBytes: sink.regions.map((region) => region.sizeBytes),
    writers: 1,
    errorCode: 'memory',
    failed,
    write: (ranges, signal) =>
      sink.write(
        ranges.map(({ space, offset, length, content }) => ({ region: space, offset, length, content })),
        { signal },
      ),
  });
}
