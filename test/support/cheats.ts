/** Hypervisors that keep something to themselves: what an audit is for. */
import type { MemorySource, PageBatch, PageRange, SourceDisk } from '../../src/index.ts';
import type { TapHandler } from '../../src/interfaces/block-device.ts';
import { withChanges } from './worlds.ts';

const pageBytes = 4096;

/** Pages of a region, one after the other. */
interface Hidden {
  /** Default 0. */
  readonly region?: number;
  readonly firstPage: number;
  /** Default 1. */
  readonly pages?: number;
}

/** Memory of which some pages are in the first round, and in no other; `again`: until an audit has found something. */
export function withoutPages(
  memory: MemorySource,
  { region = 0, firstPage, pages = 1, again }: Hidden & { readonly again: boolean },
): MemorySource {
  let [rounds, offered] = [0, false];
  const hidden = { region, from: firstPage * pageBytes, to: (firstPage + pages) * pageBytes };
  return withChanges(memory, {
    round: async function* (call) {
      const hides = !offered && rounds++ > 0;
      for await (const batch of memory.round(call)) yield hides ? cut(batch, hidden) : batch;
    },
    offer: async (ranges: readonly PageRange[], call) => {
      offered ||= again;
      await memory.offer(ranges, call);
    },
  });
}

function cut(
  batch: PageBatch,
  hidden: { readonly region: number; readonly from: number; readonly to: number },
): PageBatch {
  const runs = batch.runs.flatMap((run) => {
    const { region, offset, length, content } = run;
    const end = offset + length;
    if (region !== hidden.region || hidden.to <= offset || hidden.from >= end) return [run];
    const slice = (from: number, to: number) => {
      if (to <= from) return [];
      const part =
        content === 'zero' ? content : [Buffer.concat(content).subarray(from - offset, to - offset)];
      return [{ region, offset: from, length: to - from, content: part }];
    };
    return [...slice(offset, hidden.from), ...slice(hidden.to, end)];
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
