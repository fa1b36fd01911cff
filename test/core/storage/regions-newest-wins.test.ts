/**
 * Goal: the source's rules and the destination's, together, make the disks equal: what one numbers the other may get in any order.
 *
 * Method: every interleaving of two guest writes, bulk reads and a full buffer at the source gives its stream of numbered items. Each
 * different stream is then applied at the destination in every order of arrivals and completions, or, if it is long, in
 * many that are drawn at random.
 */
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { NewestWins } from '../../../src/core/storage/newest-wins.ts';
import { Regions } from '../../../src/core/storage/regions.ts';
import { type Choose, contiguousRanges, enumerate, enumerateStates, sequences } from './enumerate.ts';
import { applyInSomeOrder } from './newest-wins-model.ts';
import { type Ending, play } from './regions-world.ts';

const disk = { sizeBytes: 2, regionBytes: 1 };
/** Streams of more items are not tried in every order: seven items have 681,080,400. */
const itemsMaxForAll = 4;

/** Every different stream that the source can send, with what its medium holds at the end. */
function allStreams(): Ending[] {
  const endings = new Map<string, Ending>();
  for (const writes of sequences(contiguousRanges(disk.sizeBytes), 2)) {
    const setting = { ...disk, readBytesMax: 1, readsMax: 2, setBacksMax: 1, failuresMax: 0 };
    enumerate((choose) => {
      const ending = play(new Regions(disk), { ...setting, writes, numbering: 'after-read' }, choose);
      if (ending !== undefined) endings.set(JSON.stringify(ending), ending);
      return true;
    });
  }
  return [...endings.values()];
}

/** Applies a stream in some order; whether the destination's disk is the source's then. Undefined if that was tried before. */
function arrivesWhole(
  { stream, medium }: Ending,
  choose: Choose,
  enter?: (tellState: () => string) => boolean,
): boolean | undefined {
  const arrivals = stream.map((item) => ({
    number: item.number,
    ranges: [{ offset: item.offset, length: item.content.length }],
  }));
  const outcome = applyInSomeOrder(new NewestWins(), arrivals, choose, enter);
  if (outcome === undefined) return undefined;
  const byNumber = new Map(stream.map((item) => [item.number, item]));
  return (
    outcome.problem === undefined &&
    medium.every((value, byte) => {
      const item = byNumber.get(outcome.disk.get(byte) ?? 0);
      return item?.content[byte - item.offset] === value;
    })
  );
}

describe('source rules and destination rules together', () => {
  let streams: Ending[];
  beforeAll(() => {
    streams = allStreams();
  }, 120_000);

  it('make the disks equal for every short stream in every order', () => {
    const short = streams.filter(({ stream }) => stream.length <= itemsMaxForAll);
    expect(short.length).toBeGreaterThan(100);
    for (const ending of short) {
      let whole: boolean | undefined;
      enumerateStates((choose, enter) => {
        whole = arrivesWhole(ending, choose, enter);
        return whole !== false;
      });
      expect(whole, JSON.stringify(ending)).not.toBe(false);
    }
  }, 120_000);

  it('make the disks equal for every longer stream in orders drawn at random', () => {
    const long = streams.filter(({ stream }) => stream.length > itemsMaxForAll);
    expect(long.length).toBeGreaterThan(100);
    fc.assert(
      fc.property(fc.constantFrom(...long), fc.infiniteStream(fc.nat()), (ending, choices) => {
        expect(arrivesWhole(ending, (options) => choices.next().value % options)).toBe(true);
      }),
      { numRuns: 20_000 },
    );
  }, 120_000);
});
