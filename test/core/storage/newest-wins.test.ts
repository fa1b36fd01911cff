/**
 * Goal: whatever order numbered items arrive in, and however long each write takes, the disk ends up as if they had been
 * applied one after the other by number; and what is remembered for that stays within the sender's window.
 *
 * Method: for small sets of items over a few bytes, every order of arrivals and of completions is tried, with every
 * shape of item. Two writes to one byte that are in flight together count as wrong whatever comes of it, so torn writes need no cases
 * of their own. Larger sets are drawn at random. That the method would notice is shown with rules that have a mistake each.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NewestWins } from '../../../src/core/storage/newest-wins.ts';
import type { ByteRange } from '../../../src/interfaces/content.ts';
import { drawn, enumerate, sequences } from './enumerate.ts';
import {
  type Arrival,
  type ArrivalMistake,
  type ArrivalRules,
  applyInSomeOrder,
  NewestWinsModel,
} from './newest-wins-model.ts';

/** Every set of bytes as the ranges of one item: contiguous or with holes. */
function shapes(bytes: number): ByteRange[][] {
  const found: ByteRange[][] = [];
  for (let bits = 1; bits < 2 ** bytes; bits++) found.push(rangesOf(bits, bytes));
  return found;
}

function rangesOf(bits: number, bytes: number): ByteRange[] {
  const ranges: ByteRange[] = [];
  for (let byte = 0; byte < bytes; byte++) {
    const last = ranges.at(-1);
    if ((bits & (1 << byte)) === 0) continue;
    if (last !== undefined && last.offset + last.length === byte) {
      ranges[ranges.length - 1] = { ...last, length: last.length + 1 };
    } else {
      ranges.push({ offset: byte, length: 1 });
    }
  }
  return ranges;
}

/** Tries everything with `items` items over `bytes` bytes; returns the first problem, and how many orders were tried. */
function tryAll(makeRules: () => ArrivalRules, items: number, bytes: number) {
  let orders = 0;
  for (const ranges of sequences(shapes(bytes), items)) {
    const set = ranges.map((shape, index): Arrival => ({ number: index + 1, ranges: shape }));
    let problem: string | undefined;
    orders += enumerate((choose) => {
      problem = applyInSomeOrder(makeRules(), set, choose)?.problem;
      return problem === undefined;
    });
    if (problem !== undefined) return { orders, problem: `${problem}: ${JSON.stringify(set)}` };
  }
  return { orders, problem: undefined };
}

const newestWins = () => new NewestWins();

/** Items of up to three disjoint ranges on a disk of 60 bytes. */
const someItems = fc
  .array(fc.uniqueArray(fc.nat(60), { minLength: 2, maxLength: 6 }), { minLength: 1, maxLength: 24 })
  .map((all) => all.map((cuts, index): Arrival => ({ number: index + 1, ranges: betweenCuts(cuts) })));

function betweenCuts(cuts: readonly number[]): ByteRange[] {
  const sorted = [...cuts].sort((a, b) => a - b);
  const ranges: ByteRange[] = [];
  for (let index = 0; index + 1 < sorted.length; index += 2) {
    const offset = sorted[index] ?? 0;
    ranges.push({ offset, length: (sorted[index + 1] ?? 0) - offset });
  }
  return ranges;
}

describe('NewestWins', () => {
  it('gives an item that comes in its turn all that it asks for', () => {
    const rule = new NewestWins();
    const ranges = [
      { offset: 0, length: 4096 },
      { offset: 8192, length: 512 },
    ];
    expect(rule.arrived(1, ranges)).toEqual([]);
    expect(rule.begin(1)).toEqual([
      { index: 0, offset: 0, length: 4096 },
      { index: 1, offset: 8192, length: 512 },
    ]);
    rule.finished(1);
    expect(rule).toMatchObject({ appliedThrough: 1, rememberedRanges: 0 });
  });

  it('leaves to a late old item what no newer one has taken', () => {
    const rule = new NewestWins();
    rule.arrived(2, [{ offset: 10, length: 5 }]);
    expect(rule.arrived(1, [{ offset: 0, length: 20 }])).toEqual([]);
    expect(rule.begin(1)).toEqual([
      { index: 0, offset: 0, length: 10 },
      { index: 0, offset: 15, length: 5 },
    ]);
  });

  it('has nothing written of a block but what is being written and the newest, however often it comes meanwhile', () => {
    const rule = new NewestWins();
    const block = { offset: 4096, length: 4096 };
    const written: number[] = [];
    rule.arrived(1, [block]);
    if (rule.begin(1).length > 0) written.push(1);
    for (let number = 2; number <= 50; number++) rule.arrived(number, [block]);
    for (let number = 1; number <= 50; number++) {
      if (number > 1 && rule.begin(number).length > 0) written.push(number);
      rule.finished(number);
    }
    expect(written).toEqual([1, 50]);
    expect(rule).toMatchObject({ appliedThrough: 50, rememberedRanges: 0 });
  });

  it('leaves to an item that was overtaken while it waited what no newer one has claimed', () => {
    const rule = new NewestWins();
    rule.arrived(1, [{ offset: 0, length: 30 }]);
    expect(rule.arrived(2, [{ offset: 0, length: 30 }])).toEqual([1]);
    expect(rule.arrived(3, [{ offset: 10, length: 10 }])).toEqual([2]);
    expect(() => rule.begin(2)).toThrow(expect.objectContaining({ code: 'internal' }));
    rule.begin(1);
    rule.finished(1);
    expect(rule.begin(2)).toEqual([
      { index: 0, offset: 0, length: 10 },
      { index: 0, offset: 20, length: 10 },
    ]);
  });

  it('lets a new item wait for old writes in flight that it touches, and for no others', () => {
    const rule = new NewestWins();
    rule.arrived(1, [{ offset: 0, length: 10 }]);
    rule.arrived(2, [{ offset: 10, length: 10 }]);
    rule.arrived(3, [{ offset: 20, length: 10 }]);
    rule.begin(2);
    rule.finished(2);
    expect(rule.arrived(4, [{ offset: 5, length: 10 }])).toEqual([1]);
  });

  it('refuses a number that came before, is none, or overlaps itself', () => {
    const rule = new NewestWins();
    const range = { offset: 0, length: 1 };
    rule.arrived(1, [range]);
    rule.begin(1);
    rule.finished(1);
    rule.arrived(3, [range]);
    for (const number of [1, 3, 0, -1, 1.5, Number.NaN]) {
      expect(() => rule.arrived(number, [range])).toThrow(expect.objectContaining({ code: 'protocol' }));
    }
    expect(() => rule.arrived(4, [range, range])).toThrow(expect.objectContaining({ code: 'protocol' }));
  });

  it('notices a caller that finishes what has not begun, twice, or out of turn', () => {
    const rule = new NewestWins();
    rule.arrived(1, [{ offset: 0, length: 2 }]);
    rule.arrived(2, [{ offset: 1, length: 2 }]);
    expect(() => rule.finished(2)).toThrow(expect.objectContaining({ code: 'internal' }));
    expect(() => rule.finished(3)).toThrow(expect.objectContaining({ code: 'internal' }));
    rule.arrived(3, []);
    expect(() => rule.finished(3)).toThrow(expect.objectContaining({ code: 'internal' }));
    rule.begin(3);
    expect(() => rule.begin(3)).toThrow(expect.objectContaining({ code: 'internal' }));
    rule.finished(3);
    expect(() => rule.finished(3)).toThrow(expect.objectContaining({ code: 'internal' }));
  });

  it('tells what is left to do: what waits, less what newer items have come for', () => {
    const rule = new NewestWins();
    const of = (offset: number, length: number) => [{ offset, length }];
    rule.arrived(1, of(0, 10), 100);
    rule.arrived(2, of(20, 10), 100);
    expect(rule.work).toEqual({ arrived: 200, waiting: 2, left: 200, begun: 0 });
    rule.begin(1);
    expect(rule.work).toEqual({ arrived: 200, waiting: 1, left: 100, begun: 100 });
    // Over one that has begun, and half of one that has not.
    rule.arrived(3, [...of(0, 5), ...of(25, 5)], 80);
    expect(rule.work).toEqual({ arrived: 280, waiting: 3, left: 130, begun: 100 });
    // Over the other half.
    rule.arrived(4, of(20, 5), 50);
    expect(rule.work).toEqual({ arrived: 330, waiting: 3, left: 130, begun: 100 });
    expect([2, 3, 4].map((number) => rule.isOvertaken(number))).toEqual([true, false, false]);
    rule.finished(1);
    rule.begin(2);
    rule.finished(2);
    rule.begin(3);
    // Of an item that is written part by part the others wait.
    expect(rule.work).toEqual({ arrived: 330, waiting: 2, left: 90, begun: 140 });
    rule.finished(3);
    rule.begin(4);
    rule.finished(4);
    expect(rule.work).toEqual({ arrived: 330, waiting: 0, left: 0, begun: 230 });
  });

  it('has nothing left to do when all is done, in whatever order, and no more than came', () => {
    fc.assert(
      fc.property(someItems, fc.nat(), (items, seed) => {
        const rule = new NewestWins();
        const weighed = {
          arrived: (number: number, ranges: readonly ByteRange[]) => rule.arrived(number, ranges, 1000),
          begin: (number: number) => rule.begin(number),
          finished: (number: number) => rule.finished(number),
          get appliedThrough() {
            return rule.appliedThrough;
          },
        };
        applyInSomeOrder(weighed, items, drawn(seed), () => {
          expect(rule.work.left).toBeGreaterThanOrEqual(0);
          expect(rule.work.left).toBeLessThanOrEqual(rule.work.arrived - rule.work.begun + 0.001);
          return true;
        });
        expect(rule.work).toMatchObject({ waiting: 0, left: 0 });
        expect(rule.work.begun).toBeLessThanOrEqual(1000 * items.length + 0.001);
      }),
      { numRuns: 1000 },
    );
  }, 120_000);

  it('ends as by number for three items of any shape over four bytes, in every order', () => {
    expect(tryAll(newestWins, 3, 4)).toEqual({ orders: 217_162, problem: undefined });
  }, 120_000);

  it('ends as by number for four items of any shape over two bytes, in every order', () => {
    expect(tryAll(newestWins, 4, 2)).toEqual({ orders: 125_239, problem: undefined });
  }, 120_000);

  it('ends as by number for larger sets, in orders drawn at random', () => {
    fc.assert(
      fc.property(someItems, fc.nat(), (items, seed) => {
        const rule = new NewestWins();
        const outcome = applyInSomeOrder(rule, items, drawn(seed));
        expect(outcome?.problem).toBeUndefined();
        expect(rule.rememberedRanges).toBe(0);
      }),
      { numRuns: 2000 },
    );
  }, 120_000);

  it('remembers two stretches at most for each range above what is applied', () => {
    fc.assert(
      fc.property(someItems, fc.nat(), (items, seed) => {
        const rule = new NewestWins();
        applyInSomeOrder(rule, items, drawn(seed), () => {
          const above = items.filter((item) => item.number > rule.appliedThrough);
          expect(rule.rememberedRanges).toBeLessThanOrEqual(2 * above.flatMap((item) => item.ranges).length);
          return true;
        });
      }),
      { numRuns: 500 },
    );
  }, 120_000);

  it('remembers no more after a long run than the window holds', () => {
    const rule = new NewestWins();
    const window = 100;
    let remembered = 0;
    for (let number = 1; number <= 20_000; number++) {
      rule.arrived(number, [{ offset: (number * 7919) % 65_536, length: 64 }]);
      if (number > window) {
        rule.begin(number - window);
        rule.finished(number - window);
      }
      remembered = Math.max(remembered, rule.rememberedRanges);
    }
    expect(remembered).toBeGreaterThan(window / 2);
    expect(remembered).toBeLessThanOrEqual(2 * window);
  });

  describe('a mistake in the rule is noticed', () => {
    const mistakes: readonly ArrivalMistake[] = [
      'last-to-arrive-wins',
      'gives-way-as-a-whole',
      'does-not-wait',
      'waits-for-one',
      'forgets-when-finished',
      'overtaken-as-a-whole',
    ];

    it('and a rule without one passes', () => {
      expect(tryAll(() => new NewestWinsModel(), 3, 2).problem).toBeUndefined();
    });

    it.each(mistakes)('%s', (mistake) => {
      expect(tryAll(() => new NewestWinsModel(mistake), 3, 3).problem).toBeDefined();
    });
  });
});
