/**
 * Goal: the source's rules and the destination's, together, make the disks equal: what one numbers the other may get in any order.
 *
 * Method: every interleaving of two guest writes, bulk reads and a full buffer at the source gives its stream of numbered items.
 * Streams whose items cover the same bytes are applied together at the destination, in every order of arrivals and completions, or,
 * if they are long, in many that are drawn at random.
 */
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { NewestWins } from '../../../src/core/storage/newest-wins.ts';
import { Regions } from '../../../src/core/storage/regions.ts';
import {
  type Choose,
  contiguousRanges,
  drawn,
  type Enter,
  enumerate,
  enumerateStates,
  sequences,
} from './enumerate.ts';
import { type Arrival, applyInSomeOrder } from './newest-wins-model.ts';
import { type Ending, play } from './regions-world.ts';

const disk = { sizeBytes: 2, regionBytes: 1 };
/** Streams of more items are not tried in every order: five have 113,400 of them. */
const itemsMaxForAll = 4;

/** Streams whose items cover the same bytes. */
interface Alike {
  readonly arrivals: readonly Arrival[];
  /** Without repetition, by what is in them. */
  readonly endings: Map<string, Ending>;
}

/** Every stream that the source can send, with what its medium holds at the end. */
function allStreams(): Alike[] {
  const groups = new Map<string, Alike>();
  const setting = { ...disk, readBytesMax: 1, readsMax: 2, setBacksMax: 1, failuresMax: 0 };
  for (const writes of sequences(contiguousRanges(disk.sizeBytes), 2)) {
    enumerate((choose) => {
      const ending = play(new Regions(disk), { ...setting, writes, numbering: 'after-read' }, choose);
      if (ending !== undefined) addTo(groups, ending);
      return true;
    });
  }
  return [...groups.values()];
}

function addTo(groups: Map<string, Alike>, ending: Ending): void {
  const arrivals = ending.stream.map(({ number, offset, content }) => ({
    number,
    ranges: [{ offset, length: content.length }],
  }));
  const key = JSON.stringify(arrivals);
  const group = groups.get(key) ?? { arrivals, endings: new Map() };
  group.endings.set(JSON.stringify(ending), ending);
  groups.set(key, group);
}

/**
 * Applies streams in some order. Whether the destination's disk is the source's then, for each of them; undefined if `enter`
 * did not want to go on.
 */
function arriveWhole(group: Alike, choose: Choose, enter?: Enter): boolean | undefined {
  const outcome = applyInSomeOrder(new NewestWins(), group.arrivals, choose, enter);
  if (outcome === undefined) return undefined;
  if (outcome.problem !== undefined) return false;
  return [...group.endings.values()].every(({ stream, medium }) =>
    medium.every((value, byte) => {
      const item = stream.find(({ number }) => number === outcome.disk.get(byte));
      return item?.content[byte - item.offset] === value;
    }),
  );
}

describe('source rules and destination rules together', () => {
  let groups: Alike[];
  beforeAll(() => {
    groups = allStreams();
  }, 120_000);

  it('make the disks equal for every short stream in every order', () => {
    const short = groups.filter(({ arrivals }) => arrivals.length <= itemsMaxForAll);
    expect(short.length).toBeGreaterThan(40);
    for (const group of short) {
      let whole: boolean | undefined;
      enumerateStates((choose, enter) => {
        whole = arriveWhole(group, choose, enter);
        return whole !== false;
      });
      expect(whole, JSON.stringify(group.arrivals)).not.toBe(false);
    }
  }, 120_000);

  it('make the disks equal for every longer stream in orders drawn at random', () => {
    const long = groups.filter(({ arrivals }) => arrivals.length > itemsMaxForAll);
    expect(long.length).toBeGreaterThan(30);
    fc.assert(
      fc.property(fc.constantFrom(...long), fc.nat(), (group, seed) => {
        expect(arriveWhole(group, drawn(seed))).toBe(true);
      }),
      { numRuns: 5000 },
    );
  }, 120_000);
});
