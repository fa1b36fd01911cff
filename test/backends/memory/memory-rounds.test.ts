/**
 * Goal: rounds of dirty pages lose no guest write, whatever happens between and during them, and are what the
 * contract of `MemorySource` says. Method: single cases for each sentence of the contract, and a random story
 * of writes, rounds, and rounds ended early, against a copy of the memory kept by applying what the rounds
 * brought.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';
import type { PageBatch, PageRun } from '../../../src/interfaces/memory.ts';
import { chunksLength } from '../../../src/util/chunks.ts';
import { failureCode } from './support/failure-code.ts';

const PAGE = 4096;
const MIB = 1024 * 1024;

/** All of its first region. */
function everything(vm: MemoryVm): Buffer {
  return vm.memory.read(0, 0, vm.memory.regions[0]?.sizeBytes ?? 0);
}

/** A run whose content is its own. */
function copyOf(run: PageRun): PageRun {
  const { content } = run;
  return content === 'zero' ? run : { ...run, content: content.map((chunk) => new Uint8Array(chunk)) };
}

/** What a run holds, in one piece; of zeros, nothing. */
function bytesOf(run: PageRun | undefined): Buffer {
  return run === undefined || run.content === 'zero' ? Buffer.alloc(0) : Buffer.concat(run.content);
}

/** Reads a round to its end: all runs, their content copied. */
async function readRound(vm: MemoryVm): Promise<PageRun[]> {
  const runs: PageRun[] = [];
  for await (const batch of vm.source().memory.round()) {
    runs.push(...batch.runs.map(copyOf));
    batch.release();
  }
  return runs;
}

function pagesOf(runs: readonly PageRun[], pageBytes = PAGE): string[] {
  return runs.flatMap(({ region, offset, length }) =>
    Array.from({ length: length / pageBytes }, (_, index) => `${region}:${offset / pageBytes + index}`),
  );
}

function apply(copy: readonly Buffer[], batch: PageBatch): void {
  for (const { region, offset, length, content } of batch.runs) {
    if (content === 'zero') copy[region]?.fill(0, offset, offset + length);
    else copy[region]?.set(Buffer.concat(content), offset);
  }
}

describe('a round', () => {
  test('the first brings all pages, zero pages as ranges; the next, of an idle guest, none', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 64 * PAGE, fill: 0.5, seed: 5 });
    const runs = await readRound(vm);
    const copy = [Buffer.alloc(64 * PAGE, 0xff)];
    apply(copy, { runs, release: () => {} });
    expect(copy[0]?.equals(everything(vm))).toBe(true);
    expect(pagesOf(runs).length).toBe(64);
    for (const { content } of runs)
      expect(content === 'zero' || content.some((chunk) => chunk.some((byte) => byte !== 0))).toBe(true);
    expect(runs.some(({ content }) => content === 'zero')).toBe(true);
    expect(await readRound(vm)).toEqual([]);
  });

  test('brings adjoining pages as one run, and exactly the pages that were written', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 64 * PAGE });
    await readRound(vm);
    await vm.guest.writeMemory(0, 10 * PAGE - 1, new Uint8Array(2).fill(1));
    await vm.guest.writeMemory(0, 20 * PAGE, new Uint8Array(PAGE).fill(2));
    expect(vm.source().memory.dirtyBytes()).toBe(3 * PAGE);
    const runs = await readRound(vm);
    expect(runs.map(({ offset, length }) => [offset / PAGE, length / PAGE])).toEqual([
      [9, 2],
      [20, 1],
    ]);
    expect(vm.source().memory.dirtyBytes()).toBe(0);
  });

  test('a page whose last byte alone is set is not zero', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 4 * PAGE, fill: 'zero' });
    await vm.guest.writeMemory(0, 2 * PAGE - 1, Uint8Array.of(1));
    const runs = await readRound(vm);
    expect(runs.map(({ offset, content }) => [offset / PAGE, content === 'zero'])).toEqual([
      [0, true],
      [1, false],
      [2, true],
    ]);
  });

  test('takes several regions with pages of their own size', async () => {
    const regions = [
      { name: 'low', sizeBytes: 4 * PAGE, pageBytes: PAGE },
      { name: 'high', sizeBytes: 4 * MIB, pageBytes: MIB },
    ];
    const vm = createMemoryVm({ vmId: 'vm', regions });
    expect(vm.source().memory.regions).toEqual(regions);
    await readRound(vm);
    await vm.guest.writeMemory(1, MIB + 5, Uint8Array.of(9));
    expect(vm.source().memory.dirtyBytes()).toBe(MIB);
    const runs = await readRound(vm);
    expect(runs.map(({ region, offset, length }) => ({ region, offset, length }))).toEqual([
      { region: 1, offset: MIB, length: MIB },
    ]);
  });

  test('no batch has more than 1 MiB of content, or a page twice, also when dirty pages are scattered', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 16 * MIB, fill: 0.3, seed: 1 });
    for (let page = 0; page < 4096; page += 2) await vm.guest.writeMemory(0, page * PAGE, Uint8Array.of(1));
    for await (const { runs, release } of vm.source().memory.round()) {
      const content = runs.reduce(
        (sum, run) => sum + (run.content === 'zero' ? 0 : chunksLength(run.content)),
        0,
      );
      expect(content).toBeLessThanOrEqual(MIB);
      expect(runs.length).toBeGreaterThan(0);
      const pages = pagesOf(runs);
      expect(new Set(pages).size).toBe(pages.length);
      release();
    }
  });

  test('what a batch holds does not change until it is released, whatever the guest and later batches do', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 6 * MIB, seed: 2 });
    const before = everything(vm);
    const batches: PageBatch[] = [];
    for await (const batch of vm.source().memory.round()) {
      batches.push(batch);
      await vm.guest.writeMemory(0, 0, new Uint8Array(MIB).fill(batches.length));
    }
    const copy = [Buffer.alloc(6 * MIB)];
    for (const batch of batches) apply(copy, batch);
    // Only the first MiB was written, after it had been read.
    expect(copy[0]?.equals(before)).toBe(true);
    // A batch that is released twice must not be lent to two later ones.
    for (const batch of batches) {
      batch.release();
      batch.release();
    }
    vm.memory.markAllDirty();
    const again: PageBatch[] = [];
    for await (const batch of vm.source().memory.round()) again.push(batch);
    for (const batch of again) apply(copy, batch);
    expect(copy[0]?.equals(everything(vm))).toBe(true);
  });

  test('a write behind the pass is in the next round, one ahead of it in this', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 3 * MIB });
    let batches = 0;
    const copy = [Buffer.alloc(3 * MIB)];
    for await (const batch of vm.source().memory.round()) {
      apply(copy, batch);
      batches += 1;
      if (batches === 1) {
        await vm.guest.writeMemory(0, 0, Uint8Array.of(77));
        await vm.guest.writeMemory(0, 2 * MIB, Uint8Array.of(78));
      }
      batch.release();
    }
    expect(copy[0]?.[2 * MIB]).toBe(78);
    expect(pagesOf(await readRound(vm))).toEqual(['0:0']);
  });
});

describe('an unfinished round', () => {
  const endings: Record<string, (vm: MemoryVm) => Promise<void>> = {
    'return()': async (vm) => {
      for await (const batch of vm.source().memory.round()) {
        batch.release();
        break;
      }
    },
    'return() after the last batch': async (vm) => {
      const round = vm.source().memory.round()[Symbol.asyncIterator]();
      for (let batches = 0; batches < 4; batches += 1) await round.next();
      await round.return?.();
    },
    'the signal': async (vm) => {
      const aborter = new AbortController();
      const read = async () => {
        for await (const batch of vm.source().memory.round({ signal: aborter.signal })) {
          batch.release();
          aborter.abort();
        }
      };
      expect(await failureCode(read())).toBe('aborted');
    },
    'stop()': async (vm) => {
      const read = async () => {
        for await (const batch of vm.source().memory.round()) {
          batch.release();
          await vm.source().memory.stop();
        }
      };
      expect(await failureCode(read())).toBe('aborted');
    },
  };

  for (const [name, end] of Object.entries(endings)) {
    test(`ended by ${name}, gives back what it had taken`, async () => {
      const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 4 * MIB });
      expect(vm.source().memory.keepsUnsentPages).toBe(true);
      await end(vm);
      expect(vm.source().memory.dirtyBytes()).toBe(4 * MIB);
      expect(pagesOf(await readRound(vm)).length).toBe(1024);
    });
  }

  test('a signal that is aborted already takes nothing', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: MIB });
    const round = vm.source().memory.round({ signal: AbortSignal.abort() });
    expect(await failureCode(round[Symbol.asyncIterator]().next())).toBe('aborted');
    expect(vm.source().memory.dirtyBytes()).toBe(MIB);
  });
});

describe('a memory source', () => {
  test('begins anew after stop(), also when a round was left lying', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 2 * MIB });
    const left = vm.source().memory.round()[Symbol.asyncIterator]();
    await left.next();
    await vm.source().memory.stop();
    await vm.source().memory.stop();
    expect(pagesOf(await readRound(vm)).length).toBe(512);
    expect(await failureCode(left.next())).toBe('aborted');
  });

  test('lets timers have their turn during a long round', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 128 * MIB, fill: 'zero' });
    let turns = 0;
    const timer = setInterval(() => {
      turns += 1;
    }, 0);
    await readRound(vm);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(1);
  });

  test('of a destroyed VM fails with memory', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: 4 * MIB });
    const round = vm.source().memory.round()[Symbol.asyncIterator]();
    await round.next();
    vm.destroy();
    expect(await failureCode(round.next())).toBe('memory');
    expect(await failureCode(readRound(vm))).toBe('memory');
  });
});

test('no write is lost and no batch changes while it is held, whatever is written before, during and between rounds, some of them ended early', async () => {
  const pages = 700;
  const write = fc.record({
    offset: fc.nat(pages * PAGE - 1),
    length: fc.integer({ min: 1, max: 3 * PAGE }),
    value: fc.nat(2),
  });
  const writes = fc.array(write, { maxLength: 6 });
  // Each round: the writes after each of its batches, and after which batch it is ended, if at all.
  const round = fc.record({
    during: fc.array(writes, { maxLength: 4 }),
    endAfter: fc.option(fc.nat(3)),
    between: writes,
  });
  const story = fc.array(round, { minLength: 1, maxLength: 6 });

  await fc.assert(
    fc.asyncProperty(story, fc.nat(1000), async (rounds, seed) => {
      const vm = createMemoryVm({ vmId: 'vm', memoryBytes: pages * PAGE, fill: 0.4, seed });
      const copy = [Buffer.alloc(pages * PAGE, 0xee)];
      const writeAll = async (list: readonly { offset: number; length: number; value: number }[]) => {
        for (const { offset, length, value } of list) {
          await vm.guest.writeMemory(
            0,
            offset,
            new Uint8Array(Math.min(length, pages * PAGE - offset)).fill(value),
          );
        }
      };
      for (const { during, endAfter, between } of rounds) {
        let batches = 0;
        const held: { readonly batch: PageBatch; readonly asItWas: readonly PageRun[] }[] = [];
        const letGo = () => {
          for (const { batch, asItWas } of held.splice(0)) {
            const same = batch.runs.every((run, index) => bytesOf(run).equals(bytesOf(asItWas[index])));
            expect(same).toBe(true);
            batch.release();
          }
        };
        for await (const batch of vm.source().memory.round()) {
          held.push({ batch, asItWas: batch.runs.map(copyOf) });
          // An ended round's last batch is never applied: as if it had been lost on its way.
          if (endAfter === batches) break;
          await writeAll(during[batches] ?? []);
          apply(copy, batch);
          if (batches % 2 === 1) letGo();
          batches += 1;
        }
        await writeAll(between);
        letGo();
      }
      await vm.source().stun();
      for (let runs = 1; runs > 0; ) {
        runs = 0;
        for await (const batch of vm.source().memory.round()) {
          apply(copy, batch);
          runs += batch.runs.length;
          batch.release();
        }
      }
      expect(copy[0]?.equals(everything(vm))).toBe(true);
    }),
    { numRuns: 60 },
  );
});
