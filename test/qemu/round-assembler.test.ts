/**
 * How rounds and batches are made of single pages. Goal: what the contract of `MemorySource.round` says of them holds for any
 * sequence of pages, and applying the batches in order gives the memory that the pages in order would have.
 *
 * Method: generated sequences, against a plain array as the memory.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MigrationFeed } from '../../src/backends/qemu/migration-feed.ts';
import { type AssembledItem, RoundAssembler } from '../../src/backends/qemu/round-assembler.ts';
import type { MemoryRegion } from '../../src/interfaces/memory.ts';

const PAGE = 4096;
const MIB = 1024 * 1024;
const REGIONS: readonly MemoryRegion[] = [
  { name: 'a', sizeBytes: 1000 * PAGE, pageBytes: PAGE },
  { name: 'b', sizeBytes: 40_000 * PAGE, pageBytes: PAGE },
];

function takeAll(assembler: RoundAssembler): AssembledItem[] {
  const items: AssembledItem[] = [];
  for (let item = assembler.take(); item !== undefined; item = assembler.take()) items.push(item);
  return items;
}

/** The pages of the batches: region and number, and what they are filled with. */
function pagesOf(items: readonly AssembledItem[]): (readonly [string, number])[] {
  return items.flatMap((item) =>
    item === 'roundEnd'
      ? []
      : item.runs.flatMap((run) => {
          const bytes = run.content === 'zero' ? Buffer.alloc(run.length) : Buffer.concat(run.content);
          expect(bytes.length).toBe(run.length);
          return Array.from({ length: run.length / PAGE }, (_, index) => {
            const page = bytes.subarray(index * PAGE, (index + 1) * PAGE);
            if (!Buffer.alloc(PAGE, page[0]).equals(page)) throw new Error('mixed pages');
            return [`${run.region}:${run.offset / PAGE + index}`, page[0] ?? 0] as const;
          });
        }),
  );
}

const anyPages = fc
  .array(
    fc.record({
      region: fc.nat(1),
      first: fc.nat(400),
      count: fc.integer({ min: 1, max: 300 }),
      fill: fc.nat(3),
    }),
    { maxLength: 12 },
  )
  .map((stretches) =>
    stretches.flatMap(({ region, first, count, fill }) =>
      Array.from({ length: count }, (_, index) => ({ region, page: first + index, fill })),
    ),
  );

describe('any sequence of pages', () => {
  it('comes out in order, complete, without a page twice in a batch, four times in a round, or twice in the first, and in batches of 1 MiB at most', () => {
    fc.assert(
      fc.property(anyPages, fc.boolean(), (pages, reuse) => {
        const assembler = new RoundAssembler(REGIONS);
        const items: AssembledItem[] = [];
        const out: (readonly [string, number])[] = [];
        const take = (): void => {
          for (const item of takeAll(assembler)) {
            items.push(item);
            out.push(...pagesOf([item]));
            // Its memory may be written over from here on.
            if (reuse && item !== 'roundEnd') item.release();
            if (item === 'roundEnd') assembler.count();
          }
        };
        for (const { region, page, fill } of pages) {
          assembler.page(region, page * PAGE, fill === 0 ? 'zero' : Buffer.alloc(PAGE, fill));
          take();
        }
        assembler.flush();
        take();
        expect(out).toEqual(pages.map(({ region, page, fill }) => [`${region}:${page}`, fill]));
        let times = new Map<string, number>();
        let timesMax = 1;
        for (const item of items) {
          if (item === 'roundEnd') {
            times = new Map();
            timesMax = 3;
            continue;
          }
          const inBatch = new Set<string>();
          const bytes = item.runs.reduce((sum, run) => sum + (run.content === 'zero' ? 0 : run.length), 0);
          expect(bytes).toBeLessThanOrEqual(MIB);
          for (const run of item.runs) {
            for (let offset = 0; offset < run.length; offset += PAGE) {
              const key = `${run.region}:${run.offset + offset}`;
              expect(inBatch.has(key)).toBe(false);
              inBatch.add(key);
              times.set(key, (times.get(key) ?? 0) + 1);
              expect(times.get(key)).toBeLessThanOrEqual(timesMax);
            }
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});

it('a round is what was dirty when it began: the pass that QEMU is in, and the next', () => {
  const assembler = new RoundAssembler(REGIONS);
  const passes = [[0, 1, 2, 3], [1, 2], [2], [2, 3], [0, 3], [3]];
  const rounds: number[][] = [[]];
  for (const page of passes.flat()) {
    assembler.page(0, page * PAGE, Buffer.alloc(PAGE, 1));
    for (const item of takeAll(assembler)) {
      if (item === 'roundEnd') {
        assembler.count();
        rounds.push([]);
      } else rounds.at(-1)?.push(...pagesOf([item]).map(([key]) => Number(key.slice(2))));
    }
  }
  // Where a pass begins with other pages than the one before had, it is not seen. The last round is still open, and its page not in a batch.
  expect(rounds).toEqual([[0, 1, 2, 3], [1, 2, 2], [2, 3, 0, 3], []]);
});

it('passes from before the round do not end it, however many', () => {
  const assembler = new RoundAssembler(REGIONS);
  const pass = () => assembler.page(0, 0, Buffer.alloc(PAGE, 1));
  for (let passes = 0; passes < 2; passes++) pass();
  expect(takeAll(assembler).at(-1)).toBe('roundEnd');
  for (let passes = 0; passes < 5; passes++) pass();
  expect(takeAll(assembler)).not.toContain('roundEnd');
  assembler.count();
  for (let passes = 0; passes < 2; passes++) pass();
  expect(takeAll(assembler)).not.toContain('roundEnd');
  pass();
  expect(takeAll(assembler).at(-1)).toBe('roundEnd');
});

describe('batches', () => {
  it('join adjoining pages into one run, and no others', () => {
    const assembler = new RoundAssembler(REGIONS);
    const content = Buffer.alloc(PAGE, 1);
    for (const page of [0, 1, 2, 4]) assembler.page(0, page * PAGE, content);
    assembler.page(1, 5 * PAGE, content);
    for (const page of [6, 7]) assembler.page(1, page * PAGE, 'zero');
    assembler.flush();
    const [batch] = takeAll(assembler);
    expect(batch).not.toBe('roundEnd');
    const runs =
      batch === 'roundEnd'
        ? []
        : batch?.runs.map(({ region, offset, length }) => [region, offset / PAGE, length / PAGE]);
    expect(runs).toEqual([
      ...[
        [0, 0, 3],
        [0, 4, 1],
        [1, 5, 1],
        [1, 6, 2],
      ],
    ]);
  });

  it('are bounded also where zero pages, which have no content, make them up', () => {
    const assembler = new RoundAssembler(REGIONS);
    for (let page = 0; page < 40_000; page++) assembler.page(1, page * PAGE, 'zero');
    const lengths = takeAll(assembler).map((item) => (item === 'roundEnd' ? 0 : (item.runs[0]?.length ?? 0)));
    expect(lengths).toEqual([64 * MIB, 64 * MIB]);
  });

  it('keep their content until they are released, also twice', () => {
    const assembler = new RoundAssembler(REGIONS);
    const put = (fill: number): AssembledItem => {
      assembler.page(0, 0, Buffer.alloc(PAGE, fill));
      assembler.endRound();
      const [batch] = takeAll(assembler);
      if (batch === undefined) throw new Error('no batch');
      return batch;
    };
    const first = put(1);
    const second = put(2);
    expect(pagesOf([first, second])).toEqual([
      ['0:0', 1],
      ['0:0', 2],
    ]);
    if (first !== 'roundEnd') for (let times = 0; times < 2; times++) first.release();
    const [third, fourth] = [put(3), put(4)];
    expect(pagesOf([second, third, fourth])).toEqual([
      ['0:0', 2],
      ['0:0', 3],
      ['0:0', 4],
    ]);
  });
});

describe('the feed', () => {
  function feed(): MigrationFeed {
    const fed = new MigrationFeed('pc', REGIONS);
    fed.configuration('pc');
    // Listed in another order than the regions.
    fed.blocks([
      { name: 'b', sizeBytes: 40_000 * PAGE },
      { name: 'a', sizeBytes: 1000 * PAGE },
    ]);
    return fed;
  }
  const page = Buffer.alloc(PAGE, 1);
  const whole = { atBoundary: true, drained: true };

  it('ends a round at an empty part only if nothing has come after it', () => {
    const fed = feed();
    fed.page(0, 0, page);
    fed.part(1, false);
    expect(fed.chunkEnd(whole)).toBe('goOn');
    fed.part(0, false);
    expect(fed.chunkEnd({ atBoundary: false, drained: true })).toBe('goOn');
    fed.page(1, 0, page);
    fed.part(1, false);
    expect(fed.chunkEnd(whole)).toBe('goOn');
    fed.part(0, false);
    expect(fed.chunkEnd(whole)).toBe('pause');
    expect(takeAll(fed.rounds).map((item) => (item === 'roundEnd' ? item : pagesOf([item])))).toEqual([
      ...[
        [
          ['1:0', 1],
          ['0:0', 1],
        ],
        'roundEnd',
      ],
    ]);
  });

  it('says one empty round at a time, however many empty parts lie about', () => {
    const fed = feed();
    for (let parts = 0; parts < 3; parts++) {
      fed.part(0, false);
      fed.chunkEnd(whole);
    }
    expect(takeAll(fed.rounds)).toEqual(['roundEnd']);
  });

  it('ends no round with what QEMU wrote before it: all that is in the socket, and the part that it could not write yet', () => {
    const fed = feed();
    fed.part(0, false);
    fed.chunkEnd(whole);
    expect(takeAll(fed.rounds)).toEqual(['roundEnd']);
    fed.beginRound();
    fed.part(0, false);
    // There is more in the socket.
    expect(fed.chunkEnd({ atBoundary: true, drained: false })).toBe('goOn');
    fed.page(0, 0, page);
    fed.part(1, false);
    fed.part(0, false);
    expect(fed.chunkEnd(whole)).toBe('goOn');
    fed.part(0, false);
    expect(fed.chunkEnd(whole)).toBe('pause');
    // What was sent before is sent, and ends nothing.
    expect(takeAll(fed.rounds)).not.toContain('roundEnd');
    fed.part(0, false);
    expect(fed.chunkEnd(whole)).toBe('pause');
    expect(takeAll(fed.rounds)).toEqual(['roundEnd']);
  });

  it('ends the rounds of the switchover at the end of RAM alone', () => {
    const fed = feed();
    fed.beginSwitchover();
    fed.part(0, false);
    fed.chunkEnd(whole);
    expect(fed.rounds.length).toBe(0);
    fed.page(0, 0, page);
    fed.part(1, true);
    expect(fed.ramEnded).toBe(true);
    fed.beginRound();
    expect(pagesOf(takeAll(fed.rounds))).toEqual([['1:0', 1]]);
    fed.deviceState(page, false);
    expect(fed.stateComplete).toBe(false);
    fed.deviceState(page.subarray(1), true);
    expect([fed.takeState(), fed.takeState(), fed.takeState()]).toEqual([page, page.subarray(1), undefined]);
    expect(fed.stateComplete).toBe(true);
  });

  it('begins the next round where a round was ended from outside, with QEMU in a part of before it', () => {
    const fed = feed();
    fed.endRound();
    fed.beginRound();
    fed.chunkEnd(whole);
    fed.endRound();
    expect(takeAll(fed.rounds)).toEqual(['roundEnd']);
    // The part that QEMU was in, and more of what nobody has asked for.
    for (let times = 0; times < 4; times++) {
      fed.page(0, 0, page);
      fed.part(1, false);
    }
    fed.part(0, false);
    fed.chunkEnd(whole);
    expect(takeAll(fed.rounds)).not.toContain('roundEnd');
    expect(fed.rounds.counts).toBe(false);
  });

  it('gives out a page once that came again and again until the guest stood still, as it was last', () => {
    const fed = feed();
    fed.beginSwitchover();
    const contents = [Buffer.alloc(PAGE, 1), 'zero', Buffer.alloc(PAGE, 2)] as const;
    for (const content of contents) {
      fed.page(0, PAGE, content);
      fed.page(1, 0, content);
      fed.part(2, false);
      fed.chunkEnd(whole);
    }
    fed.page(0, 0, page);
    fed.page(0, PAGE, 'zero');
    fed.beginRound();
    // From then on they come as they are.
    fed.page(1, 0, Buffer.alloc(PAGE, 3));
    fed.part(1, true);
    expect(pagesOf(takeAll(fed.rounds))).toEqual([
      ['0:0', 2],
      ['1:0', 1],
      ['1:1', 0],
      ['0:0', 3],
    ]);
  });

  it('refuses a machine or memory other than what was described', () => {
    const fed = new MigrationFeed('pc', REGIONS);
    expect(() => fed.configuration('q35')).toThrow(/q35/);
    expect(() => fed.blocks([{ name: 'a', sizeBytes: 1000 * PAGE }])).toThrow(/changed.*b/);
    const more = [...REGIONS, { name: 'c', sizeBytes: PAGE }];
    expect(() => fed.blocks(more)).toThrow(/changed/);
    const larger = REGIONS.map(({ name, sizeBytes }) => ({ name, sizeBytes: sizeBytes + PAGE }));
    expect(() => fed.blocks(larger)).toThrow(/changed.*a/);
  });
});
