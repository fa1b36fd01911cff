/**
 * Goal: pages that the guest writes again and again are sent later than those that it does not, and once, as they are then. Method: rounds of a small VM, read by the test, whose writes come between and
 * in the middle of them.
 */
import { afterEach, expect, it } from 'vitest';
import { createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';
import type { PageBatch } from '../../../src/interfaces/memory.ts';

const pageBytes = 4096;
const pages = 256;
let vm: MemoryVm | undefined;
afterEach(() => vm?.destroy());

/** The pages of a batch, by their number, with the first byte of each. */
function pagesOf({ runs }: PageBatch): (readonly [page: number, first: number])[] {
  return runs.flatMap(({ offset, length, content }) =>
    Array.from({ length: length / pageBytes }, (_, index) => {
      const first = content === 'zero' ? 0 : Buffer.concat(content)[index * pageBytes];
      return [offset / pageBytes + index, first ?? 0] as const;
    }),
  );
}

it('sends what was in the round before too at the end of a round, once, and as it is then', async () => {
  vm = createMemoryVm({ vmId: 'v', memoryBytes: pages * pageBytes, disks: [] });
  const { guest } = vm;
  const { memory } = vm.source();
  const write = (page: number, value: number) => guest.writeMemory(0, page * pageBytes, Uint8Array.of(value));
  const round = async (during: () => Promise<void> = async () => {}) => {
    const order: (readonly [number, number])[] = [];
    for await (const batch of memory.round()) {
      if (order.length === 0) await during();
      order.push(...pagesOf(batch));
    }
    return order;
  };
  expect(await round()).toHaveLength(pages);
  for (const page of [5, 100]) await write(page, 1);
  expect(await round()).toEqual([
    [5, 1],
    [100, 1],
  ]);
  for (const page of [5, 7, 100, 200]) await write(page, 2);
  const last = await round(() => write(5, 3));
  expect(last).toEqual([
    [7, 2],
    [200, 2],
    [5, 3],
    [100, 2],
  ]);
  expect(await round()).toEqual([]);
});
