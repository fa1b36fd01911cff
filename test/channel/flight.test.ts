/** Goal: of what a stunned guest waits for, copies go out where they are cheap, and content is let go of when nobody needs it any more. Method: the pure rule. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Copy, Flight } from '../../src/channel/flight.ts';
import type { QueuedFrame } from '../../src/channel/scheduler.ts';

const kibibyte = 1 << 10;
/** A quarter of its round trip is 1 MiB. */
const link = {
  bytesPerSecond: 40 << 20,
  roundTripMs: 100,
  aheadBytes: 0,
  spreadBytesPerSecond: undefined,
};
/** A time at which the link has long had the time for whatever was sent. */
let clockMs = 0;
const later = (): number => {
  clockMs += 10_000;
  return clockMs;
};

function frame(number: number, payloadBytes: number, release: () => void = () => {}): QueuedFrame {
  return {
    type: 'data',
    class: 'memory',
    stream: 1,
    number,
    payload: [],
    payloadBytes,
    payloadCrc: 0,
    itemBytes: payloadBytes,
    queuedMs: 0,
    release,
  };
}

describe('the last flight', () => {
  it('goes out once more, over another lane than the first', () => {
    const flight = new Flight(link, 0);
    const [a, b] = [{}, {}];
    flight.first(frame(1, kibibyte), a, 0);
    flight.first(frame(2, kibibyte), b, 0);
    expect(flight.second(a, later())?.frame.number).toBe(2);
    expect(flight.second(a, later())).toBeUndefined();
    expect(flight.second(b, later())?.frame.number).toBe(1);
    expect(flight.second(b, later())).toBeUndefined();
  });

  it('does not send again what has arrived by a copy of a flight before, and lets go of it when no lane holds it', () => {
    let released = 0;
    const [a, b, c] = [{}, {}, {}];
    const before = new Flight(link, 0);
    const kept = before.before(
      frame(1, kibibyte, () => released++),
      a,
      0,
    );
    const copy = before.second(b, later());
    const flight = new Flight(link, later());
    const keptAgain = flight.before(kept, a, 0);
    expect(keptAgain.hasArrived).toBe(false);
    copy?.release();
    expect([keptAgain.hasArrived, released]).toEqual([true, 0]);
    expect(flight.second(c, later())).toBeUndefined();
    keptAgain.release();
    expect(released).toBe(1);
  });

  it('does not keep control waiting for a link that has not had the time for what is ahead, whoever asked before', () => {
    const flight = new Flight({ ...link, aheadBytes: 40 << 20 }, 0);
    flight.before(frame(1, kibibyte), {}, 0);
    flight.control(frame(2, kibibyte));
    flight.waitMs(1);
    expect(flight.second({}, 2)?.frame.number).toBe(2);
  });

  it('is spread out as what was sent before it, or a little faster than the link, whichever is more, however long it is', () => {
    const paces = [
      { before: 48 << 20, spread: 48 << 20 },
      { before: 1 << 20, spread: 50 << 20 },
    ];
    for (const { before, spread } of paces) {
      const flight = new Flight({ ...link, spreadBytesPerSecond: before }, 0);
      let bytes = 0;
      for (let ms = 0; ms < 3000; ms++) {
        while (flight.spreadMs(ms) === 0) {
          flight.first(frame(bytes, 64 * kibibyte), {}, ms);
          bytes += 64 * kibibyte;
        }
      }
      expect(bytes / 3 / spread).toBeCloseTo(1, 1);
    }
    expect(new Flight({ ...link, spreadBytesPerSecond: Number.POSITIVE_INFINITY }, 0).spreadMs(0)).toBe(0);
  });

  it('takes no more copies than the link carries in a quarter of a round trip', () => {
    const flight = new Flight(link, 0);
    for (let number = 1; number <= 30; number++) flight.first(frame(number, 64 * kibibyte), {}, 0);
    let copies = 0;
    for (let ms = 50; ms < 130; ms++) if (flight.second({}, ms) !== undefined) copies++;
    expect(copies).toBe(16);
  });

  it('has more than that copied only where it is late', () => {
    const flight = new Flight(link, 0);
    const lane = {};
    flight.first(frame(1, 2 << 20), lane, 50);
    // The link takes 50 ms for it; and then 1.25 round trips and 10 ms.
    expect(flight.second({}, 234)).toBeUndefined();
    expect(flight.second(lane, 235)).toBeUndefined();
    expect(flight.second({}, 235)?.frame.number).toBe(1);
  });

  it('has what was copied copied once more where both are late, over a further lane', () => {
    const flight = new Flight(link, 0);
    const [a, b, c] = [{}, {}, {}];
    flight.first(frame(1, kibibyte), a, 0);
    expect(flight.second(b, 10)?.frame.number).toBe(1);
    expect(flight.second(c, 145)).toBeUndefined();
    expect(flight.waitMs(100)).toBeCloseTo(45, 1);
    for (const had of [a, b]) expect(flight.second(had, 146)).toBeUndefined();
    expect(flight.second(c, 146)?.frame.number).toBe(1);
    // Twice as long as before.
    expect(flight.second(b, 146 + 269)).toBeUndefined();
    const copy = flight.second(b, 146 + 271);
    copy?.release();
    expect(copy?.frame.number).toBe(1);
    expect(flight.second(c, later())).toBeUndefined();
  });

  it('has what was copied copied once more where the lane of the copy was lost', () => {
    const flight = new Flight(link, 0);
    flight.first(frame(1, kibibyte), {}, 0);
    flight.second({}, 10)?.drop();
    expect(flight.second({}, 146)?.frame.number).toBe(1);
  });

  it('has what goes again over another lane, because its own was lost, copied where that is late', () => {
    const flight = new Flight(link, 0);
    const lane = {};
    const kept = flight.first(frame(1, 2 << 20), {}, 0);
    expect(flight.first(kept, lane, 1000)).toBe(kept);
    // 50 ms, and 1.25 round trips and 10 ms.
    expect(flight.second({}, 1184)).toBeUndefined();
    expect(flight.second(lane, 1185)).toBeUndefined();
    expect(flight.second({}, 1185)?.frame.number).toBe(1);
  });

  it('has nothing copied that a link which loses nothing brings in its time, however much it is', () => {
    const flight = new Flight(link, 0);
    const arrivesMs = (number: number) => (number + 1) * (1000 / 80) + link.roundTripMs + 20;
    const kept: QueuedFrame[] = [];
    for (let number = 0; number < 32; number++) kept.push(flight.first(frame(number, 512 * kibibyte), {}, 0));
    const copied: (number | undefined)[] = [];
    for (let ms = 0; ms < 1000; ms++) {
      for (const [number, { release }] of kept.entries()) if (Math.ceil(arrivesMs(number)) === ms) release();
      const copy = flight.second({}, ms);
      if (copy !== undefined) copied.push(copy.frame.number);
    }
    // The two that fit in a quarter of a round trip had arrived before the link was free.
    expect(copied).toEqual([]);
  });

  it('has no copies before the link has had the time for what was sent, and then one after the other', () => {
    const flight = new Flight({ ...link, aheadBytes: 4 << 20 }, 0);
    flight.first(frame(1, 512 * kibibyte), {}, 0);
    flight.first(frame(2, 512 * kibibyte), {}, 0);
    expect(flight.second({}, 124)).toBeUndefined();
    expect(flight.waitMs(100)).toBe(25);
    expect(flight.second({}, 125)?.frame.number).toBe(1);
    expect(flight.second({}, 137)).toBeUndefined();
    expect(flight.second({}, 137.5)?.frame.number).toBe(2);
    // The first copy is late then.
    expect(flight.waitMs(137.5)).toBe(135);
  });

  it('has what was on its way before copied where it is late, the oldest first, however much it is', () => {
    const flight = new Flight(link, 1000);
    const lane = {};
    for (const [number, sentMs] of [
      [1, 960],
      [2, 940],
      [3, 950],
    ] as const)
      flight.before(frame(number, 1 << 20), lane, sentMs);
    // 1.25 round trips and 10 ms.
    expect(flight.second({}, 1074)).toBeUndefined();
    expect(flight.waitMs(1000)).toBe(75);
    expect(flight.second(lane, 1200)).toBeUndefined();
    expect(flight.second({}, 1200)?.frame.number).toBe(2);
    expect(flight.second({}, 1300)?.frame.number).toBe(3);
    expect(flight.second({}, 1400)?.frame.number).toBe(1);
  });

  it('has nothing copied of what was on its way before and has arrived', () => {
    const flight = new Flight(link, 1000);
    let released = 0;
    const kept = flight.before(
      frame(1, kibibyte, () => {
        released++;
      }),
      {},
      900,
    );
    kept.release();
    expect(released).toBe(1);
    expect(flight.second({}, 5000)).toBeUndefined();
  });

  it('is not copied where there is no distance, unless it is late', () => {
    const flight = new Flight({ ...link, roundTripMs: 0.01 }, 0);
    flight.first(frame(1, 64 * kibibyte), {}, 0);
    expect(flight.second({}, 11)).toBeUndefined();
    expect(flight.second({}, 12)?.frame.number).toBe(1);
  });

  it('is not copied once the peer has the first', () => {
    const flight = new Flight(link, 0);
    flight.first(frame(1, kibibyte), {}, 0).release();
    expect(flight.second({}, later())).toBeUndefined();
  });

  it('has control messages copied over any lane', () => {
    const flight = new Flight({ ...link, roundTripMs: 0.01 }, 0);
    flight.control({ ...frame(7, kibibyte), type: 'control' });
    expect(flight.second({}, later())?.frame).toMatchObject({ type: 'control', number: 7 });
  });

  it('lets go of each content once, and not before all its holders have', () => {
    const step = fc.record({
      frame: fc.nat(9),
      what: fc.constantFrom('copy', 'freed', 'copy freed', 'copy lost', 'end'),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
        const flight = new Flight(link, 0);
        const released = new Array<number>(10).fill(0);
        const lanes = released.map(() => ({}));
        const firsts = released.map((_, number) => {
          const own = frame(number, kibibyte, () => {
            released[number] = (released[number] ?? 0) + 1;
          });
          return flight.first(own, lanes[number] ?? {}, 0);
        });
        const freed = new Set<number>();
        const copies = released.map((): Copy[] => []);
        const free = (number: number): void => {
          if (freed.has(number)) return;
          freed.add(number);
          firsts[number]?.release();
        };
        for (const { frame: number, what } of steps) {
          if (what === 'freed') free(number);
          if (what === 'end') flight.end();
          if (what === 'copy') {
            const copy = flight.second({}, later());
            if (copy !== undefined) copies[copy.frame.number]?.push(copy);
          }
          if (what === 'copy freed') {
            copies[number]?.shift()?.release();
          }
          if (what === 'copy lost') copies[number]?.shift()?.drop();
          for (const [index, count] of released.entries()) {
            expect(count).toBe(freed.has(index) && copies[index]?.length === 0 ? 1 : 0);
          }
        }
        for (const number of released.keys()) free(number);
        for (const { release } of copies.flat()) release();
        expect(released).toEqual(released.map(() => 1));
      }),
    );
  });
});
