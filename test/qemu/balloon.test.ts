/**
 * Goal: memory of a guest whose balloon moved, or of which QEMU does not tell, is not compared, since QEMU discards what goes into a balloon without a word to its
 * dirty log. Method: a monitor from a table, and memory that is always there to be read.
 */
import { describe, expect, it } from 'vitest';
import { Balloon } from '../../src/backends/qemu/balloon.ts';
import type { GuestMemoryReader } from '../../src/backends/qemu/guest-memory-reader.ts';
import type { MigrationSettings } from '../../src/backends/qemu/migration-settings.ts';
import { type QmpClient, QmpCommandError, type QmpEvent } from '../../src/backends/qemu/qmp.ts';
import { QemuSourceMemory } from '../../src/backends/qemu/source-memory.ts';
import { MigrationError } from '../../src/index.ts';

const none = 'DeviceNotActive';

/** A QEMU whose balloon is so large, or that answers with an error of some class. */
function monitor(first: number | string) {
  const state = { answer: first };
  const listeners: ((event: QmpEvent) => void)[] = [];
  const qmp = {
    execute: async (command: string) => {
      if (typeof state.answer === 'number') return { actual: state.answer };
      const cause = new QmpCommandError(command, state.answer, 'no');
      throw new MigrationError('hypervisor', cause.message, { cause });
    },
    on: (event: string, listener: (event: QmpEvent) => void) => {
      if (event === 'BALLOON_CHANGE') listeners.push(listener);
      return () => {};
    },
  } as unknown as QmpClient;
  const tell = () => {
    for (const listener of listeners) listener({ name: 'BALLOON_CHANGE', data: {} });
  };
  return { qmp, state, tell };
}

/** What of two pages is read with the guest stunned, when something came in between. */
async function audited(
  first: number | string,
  then: (one: ReturnType<typeof monitor>) => void,
): Promise<number | undefined> {
  const one = monitor(first);
  const balloon = await Balloon.watch(one.qmp);
  if (balloon === undefined) return undefined;
  const memory = new QemuSourceMemory({
    qmp: one.qmp,
    settings: {} as MigrationSettings,
    socketPath: '',
    machine: 'pc',
    regions: [{ name: 'pc.ram', sizeBytes: 8192, pageBytes: 4096 }],
    reader: {
      read: async (ranges: readonly unknown[]) => ranges.map(() => [new Uint8Array(4096)]),
    } as unknown as GuestMemoryReader,
    balloon,
  });
  then(one);
  const ranges = [0, 4096].map((offset) => ({ region: 0, offset, length: 4096 }));
  return (await memory.read(ranges)).filter((content) => content !== undefined).length;
}

describe('a guest with a balloon', () => {
  it.each([
    ['that stays as it is is audited', 1e9, 1e9, 2],
    ['that moved is not', 1e9, 9e8, 0],
    ['that cannot be asked any more is not', 1e9, 'GenericError', 0],
    ['that is gone is not', 1e9, none, 0],
    ['that it does not have is audited', none, none, 2],
    ['that could never be asked is not', 'GenericError', 'GenericError', undefined],
    ['of which KVM keeps QEMU from telling is not', 'KVMMissingCap', 'KVMMissingCap', undefined],
  ] as const)('%s', async (_, first, now, pages) => {
    const read = await audited(first, ({ state }) => {
      state.answer = now;
    });
    expect(read).toBe(pages);
  });

  it('that moved and came back is not', async () => {
    expect(await audited(1e9, ({ tell }) => tell())).toBe(0);
    expect(await audited(none, ({ tell }) => tell())).toBe(0);
  });
});
