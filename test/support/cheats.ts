/** Hypervisors that keep something to themselves: what an audit is for. */
import type { MemorySource, PageBatch, PageRange, SourceDisk } from '../../src/index.ts';
import type { TapHandler } from '../../src/interfaces/block-device.ts';
import { withChanges } from './worlds.ts';

const pageBytes = 4096;

/** Memory of which one page is in the first round, and in no other; `again`: until an audit has found something. */
export function withoutPage(
  memory: MemorySource,
  { region = 0, page, again }: { readonly region?: number; readonly page: number; readonly again: boolean },
): MemorySource {
  let [rounds, offered] = [0, false];
  const at = page * pageBytes;
  return withChanges(memory, {
    round: async function* (call) {
      const hides = !offered && rounds++ > 0;
      for await (const batch of memory.round(call)) yield hides ? cut(batch, region, at) : batch;
    },
    offer: async (ranges: readonly PageRange[], call) => {
      offered ||= again;
      await memory.offer(ranges, call);
    },
  });
}

function cut(batch: PageBatch, hidden: number, at: number): PageBatch {
  const runs = batch.runs.flatMap((run) => {
    const { region, offset, length, content } = run;
    if (region !== hidden || at < offset || at >= offset + length) return [run];
    const slice = (from: number, to: number) => {
      if (to <= from) return [];
      const part =
        content === 'zero' ? content : [Buffer.concat(content).subarray(from - offset, to - offset)];
      return [{ region, offset: from, length: to - from, content: part }];
    };
    return [...slice(offset, at), ...slice(at + pageBytes, offset + length)];
  });
  return { runs, release: () => batch.release() };
}

/** A tap that never says a word of writes to a block. */
export function deafTo(disk: SourceDisk, offset: number): SourceDisk {
  return withChanges<SourceDisk>(disk, {
    tap: (handler: TapHandler, call) =>
      disk.tap(
        {
          ...handler,
          write: (write) => {
            if (offset < write.offset || offset >= write.offset + write.length) return handler.write(write);
            write.release();
            return undefined;
          },
          invalidate: (range) => handler.invalidate(range),
          broken: (error) => handler.broken(error),
        },
        call,
      ),
  });
}
