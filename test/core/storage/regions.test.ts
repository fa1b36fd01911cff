/**
 * Goal: when everything is copied and nothing is held, replaying the stream by number gives the source's disk, whatever the guest
 * wrote meanwhile, whenever bulk reads saw the medium, and wherever the mirror's buffer was full.
 *
 * Method: on disks of two or three bytes every interleaving is tried of guest writes (on the medium; told), bulk
 * reads (begun; ended, with any content that each byte has shown meanwhile; failed) and full buffers. The rules run beside a plain
 * model of them, and must agree with it in all that a caller can see; interleavings that lead to a state that was there
 * before are not followed twice. Larger disks are played at random. That the method would notice is shown with
 * models that have a mistake each, and with numbers taken at the wrong time.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Regions } from '../../../src/core/storage/regions.ts';
import type { ByteRange } from '../../../src/interfaces/content.ts';
import { contiguousRanges, drawn, enumerate, enumerateStates, sequences } from './enumerate.ts';
import { type Mistake, RegionsModel, SideBySide } from './regions-model.ts';
import { play, type Scenario } from './regions-world.ts';

type Setting = Omit<Scenario, 'writes'>;

/** Two regions of a byte each. */
const twoRegions: Setting = {
  sizeBytes: 2,
  regionBytes: 1,
  readBytesMax: 1,
  readsMax: 2,
  setBacksMax: 1,
  failuresMax: 0,
  numbering: 'after-read',
};
/** A region of two bytes, and one that is cut short by the end of the disk. */
const shortRegion: Setting = { ...twoRegions, sizeBytes: 3, regionBytes: 2, readBytesMax: 2 };
/** Three regions, each of which waits if it was written before and after one of them was taken. */
const hotRegions: Setting = { ...twoRegions, sizeBytes: 3, spellBytes: 1, unitRegions: 1, setBacksMax: 0 };
/** Three regions, of which up to two are read at once. */
const longReads: Setting = { ...twoRegions, sizeBytes: 3, readBytesMax: 2, setBacksMax: 0 };

/** Every sequence of so many guest writes. */
function guestWrites(setting: Setting, count: number): ByteRange[][] {
  return sequences(contiguousRanges(setting.sizeBytes), count);
}

/** Tries every interleaving of every sequence of `writes` guest writes. */
function tryAll(setting: Setting, writes: number) {
  let states = 0;
  let problem: string | undefined;
  for (const sequence of guestWrites(setting, writes)) {
    const tried = enumerateStates((choose, enter) => {
      const rules = new SideBySide(new Regions(setting), new RegionsModel(setting));
      const ending = play(rules, { ...setting, writes: sequence }, choose, (tellState) =>
        enter(() => rules.state() + tellState()),
      );
      problem = ending?.problem;
      return problem === undefined;
    });
    states += tried.states;
    if (problem !== undefined) return { states, problem: `${problem}: ${JSON.stringify(sequence)}` };
  }
  return { states, problem };
}

/** The first problem that a model with a mistake, or with numbers taken at the wrong time, runs into. */
function firstProblem(setting: Setting, mistake?: Mistake): string | undefined {
  let problem: string | undefined;
  for (const sequence of guestWrites(setting, 2)) {
    enumerate((choose) => {
      problem = play(new RegionsModel(setting, mistake), { ...setting, writes: sequence }, choose)?.problem;
      return problem === undefined;
    });
    if (problem !== undefined) return problem;
  }
  return undefined;
}

const region = (index: number, count = 1): ByteRange => ({ offset: index * 100, length: count * 100 });

describe('Regions', () => {
  it('copies a disk once around, the short last region too', () => {
    const regions = new Regions({ sizeBytes: 250, regionBytes: 100 });
    expect(regions).toMatchObject({ notCopiedBytes: 250, beingCopiedBytes: 0, complete: false });
    const first = regions.nextToCopy(200);
    expect(first).toEqual({ offset: 0, length: 200 });
    const last = regions.nextToCopy(200);
    expect(last).toEqual({ offset: 200, length: 50 });
    expect(regions).toMatchObject({ notCopiedBytes: 0, beingCopiedBytes: 250, complete: false });
    expect(regions.nextToCopy(200)).toBeUndefined();
    regions.copyNumbered(region(0));
    regions.copyNumbered(region(1));
    regions.copyNumbered({ offset: 200, length: 50 });
    expect(regions).toMatchObject({ notCopiedBytes: 0, beingCopiedBytes: 0, complete: true });
  });

  it('has nothing to do for an empty disk', () => {
    const regions = new Regions({ sizeBytes: 0, regionBytes: 100 });
    expect(regions.complete).toBe(true);
    expect(regions.nextToCopy(100)).toBeUndefined();
  });

  it('takes one region even if less is asked for, and goes on behind it', () => {
    const regions = new Regions({ sizeBytes: 300, regionBytes: 100 });
    expect(regions.nextToCopy(10)).toEqual(region(0));
    expect(regions.nextToCopy(199)).toEqual(region(1));
  });

  it('meets what was set back after the rest of the disk', () => {
    const regions = new Regions({ sizeBytes: 400, regionBytes: 100 });
    regions.nextToCopy(200);
    regions.copyNumbered(region(0, 2));
    regions.setBack({ offset: 50, length: 10 });
    expect(regions.nextToCopy(1000)).toEqual(region(2, 2));
    expect(regions.nextToCopy(1000)).toEqual(region(0));
  });

  it('passes over what is written again and again, and comes back to it at the end', () => {
    const regions = new Regions({ sizeBytes: 600, regionBytes: 100, spellBytes: 100, unitRegions: 1 });
    const write = (index: number) => regions.guestWrite(region(index), undefined);
    write(2);
    write(5);
    expect(regions.nextToCopy(100)).toEqual(region(0));
    write(2);
    expect(regions.nextToCopy(1000)).toEqual(region(1));
    regions.copyNumbered(region(0, 2));
    // What is set back comes after the rest, as ever, and what is written often does not wait for it.
    regions.setBack(region(1));
    expect(regions.nextToCopy(1000)).toEqual(region(3, 3));
    regions.copyNumbered(region(3, 3));
    expect(regions.allCopiedOnce).toBe(false);
    write(2);
    expect(regions.nextToCopy(1000)).toEqual(region(1, 2));
    regions.copyNumbered(region(1, 2));
    expect(regions).toMatchObject({ allCopiedOnce: true, complete: true });
  });

  it('passes over nothing that was written in one go, however often', () => {
    const regions = new Regions({ sizeBytes: 600, regionBytes: 100, spellBytes: 200, unitRegions: 1 });
    for (let times = 0; times < 100; times++) regions.guestWrite(region(2, 2), undefined);
    expect(regions.nextToCopy(1000)).toEqual(region(0, 6));
  });

  it('waits for no region, written often or not, within what may be taken', () => {
    const regions = new Regions({ sizeBytes: 600, regionBytes: 100, spellBytes: 100, unitRegions: 1 });
    const write = (index: number) => regions.guestWrite(region(index), undefined);
    for (const index of [1, 2]) write(index);
    expect(regions.nextToCopy(100, 300)).toEqual(region(0));
    for (const index of [1, 2]) write(index);
    expect(regions.nextToCopy(100, 300)).toEqual(region(1));
    expect(regions.nextToCopy(1000, 300)).toEqual(region(2));
    expect(regions.nextToCopy(1000, 300)).toBeUndefined();
    expect(regions.nextToCopy(1000)).toEqual(region(3, 3));
  });

  it('says what becomes of a guest write', () => {
    const regions = new Regions<string>({ sizeBytes: 300, regionBytes: 100 });
    regions.nextToCopy(100);
    regions.copyNumbered(region(0));
    regions.nextToCopy(100);
    expect(regions.guestWrite({ offset: 10, length: 10 }, 'in copied')).toBe('mirror');
    expect(regions.guestWrite({ offset: 210, length: 10 }, 'in not copied')).toBe('nothing');
    expect(regions.guestWrite({ offset: 110, length: 10 }, 'in being copied')).toBe('held');
    expect(regions.guestWrite({ offset: 0, length: 300 }, 'everywhere')).toBe('held');
    expect(regions.guestWrite({ offset: 10, length: 10 }, 'behind a held one')).toBe('held');
    expect(regions.guestWrite({ offset: 10, length: 0 }, 'empty')).toBe('nothing');
    expect(regions.heldCount).toBe(3);
    expect(regions.copyNumbered(region(1))).toEqual(['in being copied', 'everywhere', 'behind a held one']);
    expect(regions.heldCount).toBe(0);
  });

  it('lets held writes go when their read failed', () => {
    const regions = new Regions<string>({ sizeBytes: 100, regionBytes: 100 });
    regions.nextToCopy(100);
    regions.guestWrite({ offset: 10, length: 10 }, 'held');
    expect(regions.copyFailed(region(0))).toEqual(['held']);
    expect(regions).toMatchObject({ notCopiedBytes: 100, beingCopiedBytes: 0, heldCount: 0 });
  });

  it('gives back all held writes when it is over', () => {
    const regions = new Regions<string>({ sizeBytes: 100, regionBytes: 100 });
    regions.nextToCopy(100);
    regions.guestWrite({ offset: 0, length: 10 }, 'one');
    regions.guestWrite({ offset: 0, length: 10 }, 'two');
    expect(regions.abandon()).toEqual(['one', 'two']);
    expect(regions.heldCount).toBe(0);
  });

  it('refuses what lies outside the disk, and reads that are not out', () => {
    const regions = new Regions<string>({ sizeBytes: 250, regionBytes: 100 });
    const internal = expect.objectContaining({ code: 'internal' });
    expect(() => regions.guestWrite({ offset: 200, length: 51 }, 'too long')).toThrow(internal);
    expect(() => regions.setBack({ offset: -1, length: 1 })).toThrow(internal);
    expect(() => regions.copyNumbered(region(0))).toThrow(internal);
    regions.nextToCopy(200);
    expect(() => regions.copyNumbered({ offset: 0, length: 150 })).toThrow(internal);
    expect(() => regions.copyNumbered({ offset: 0, length: 250 })).toThrow(internal);
    expect(() => new Regions({ sizeBytes: 1, regionBytes: 0 })).toThrow(internal);
  });

  describe('source and destination are equal after every interleaving of', () => {
    it('two guest writes over two regions, a full buffer and a failed read', () => {
      const { states, problem } = tryAll({ ...twoRegions, failuresMax: 1 }, 2);
      expect(problem).toBeUndefined();
      expect(states).toBeGreaterThan(8000);
    }, 120_000);

    it('two guest writes over a whole and a short region, and a full buffer', () => {
      const { states, problem } = tryAll(shortRegion, 2);
      expect(problem).toBeUndefined();
      expect(states).toBeGreaterThan(15_000);
    }, 120_000);

    it('two guest writes over three regions, read together and numbered together or apart', () => {
      const { states, problem } = tryAll(longReads, 2);
      expect(problem).toBeUndefined();
      expect(states).toBeGreaterThan(9000);
    }, 120_000);

    it('two guest writes over three regions, of which what is written twice waits', () => {
      const { states, problem } = tryAll(hotRegions, 2);
      expect(problem).toBeUndefined();
      expect(states).toBeGreaterThan(9000);
    }, 120_000);

    it('three guest writes over two regions, of which what is written twice waits, and a full buffer', () => {
      const { states, problem } = tryAll({ ...hotRegions, sizeBytes: 2, setBacksMax: 1 }, 3);
      expect(problem).toBeUndefined();
      expect(states).toBeGreaterThan(25_000);
    }, 120_000);

    it('three guest writes over two regions, and a full buffer', () => {
      const { states, problem } = tryAll(twoRegions, 3);
      expect(problem).toBeUndefined();
      expect(states).toBeGreaterThan(25_000);
    }, 120_000);
  });

  it('source and destination are equal after long interleavings drawn at random', () => {
    const disk = fc.record({
      sizeBytes: fc.integer({ min: 1, max: 40 }),
      regionBytes: fc.integer({ min: 1, max: 9 }),
      spellBytes: fc.integer({ min: 1, max: 30 }),
      unitRegions: fc.integer({ min: 1, max: 3 }),
    });
    const bounds = fc.record({
      readBytesMax: fc.integer({ min: 1, max: 20 }),
      readsMax: fc.integer({ min: 1, max: 4 }),
      setBacksMax: fc.nat(4),
      failuresMax: fc.nat(2),
    });
    const ends = fc.array(fc.tuple(fc.nat(1000), fc.nat(1000)), { maxLength: 16 });
    fc.assert(
      fc.property(disk, bounds, ends, fc.nat(), (size, limits, pairs, seed) => {
        const writes = pairs.map(([one, other]) => {
          const offset = one % size.sizeBytes;
          return { offset, length: 1 + (other % (size.sizeBytes - offset)) };
        });
        const rules = new SideBySide(new Regions(size), new RegionsModel(size));
        const scenario: Scenario = { ...size, ...limits, writes, numbering: 'after-read' };
        const ending = play(rules, scenario, drawn(seed));
        expect(ending?.problem).toBeUndefined();
      }),
      { numRuns: 2000 },
    );
  }, 120_000);

  describe('a mistake in the rules is noticed', () => {
    const mistakes: readonly Mistake[] = [
      'mirrored-while-being-copied',
      'left-to-the-read-that-is-out',
      'released-early',
      'not-held-behind-held',
      'taken-under-a-held-write',
      'set-back-lost-while-being-copied',
      'read-twice-at-once',
      'mildest-region-decides',
    ];

    it.each(mistakes)(
      '%s',
      (mistake) => {
        expect(firstProblem(twoRegions, mistake)).toMatch(/^destination .* source /);
      },
      60_000,
    );

    it('last-region-forgotten', () => {
      expect(firstProblem(shortRegion, 'last-region-forgotten')).toBeDefined();
    });

    it.each(['before-take', 'after-release'] as const)(
      'the bulk number taken %s',
      (numbering) => {
        expect(firstProblem({ ...twoRegions, numbering })).toMatch(/^destination .* source /);
      },
      60_000,
    );
  });
});
