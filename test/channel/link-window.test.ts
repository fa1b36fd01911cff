/**
 * Goal: a full link is kept full, with a short queue in front of it and nothing lost there, over any distance and after whatever it becomes; and where a smaller window is no help, there is none.
 * Method: the pure window, over a model of a link with a queue that loses what it has no room for, a millisecond at a time.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LinkWindow } from '../../src/channel/link-window.ts';

interface Link {
  roundTripMs: number;
  bytesPerMs: number;
  /** The depth of its queue, in ms. */
  queueMs: number;
  /** What a round trip on it takes longer than it should, at that time. */
  noiseMs?: (nowMs: number) => number;
  /** Packets are lost all the time, whatever is sent: half of what is carried waits for them. */
  lossy?: boolean;
  /** What part of the lanes is late at that time, whatever is sent. */
  lateShare?: (nowMs: number) => number;
  /** The processor at one of the ends looks only so often. */
  turnMs?: number;
}

const itemBytes = 128 << 10;
const probeMs = (roundTripMs: number) => Math.max(10, Math.round(roundTripMs / 8));

/** A sender that always has more to send, over the link; it can be changed between two runs. */
class Model {
  readonly window = new LinkWindow();
  readonly link: Link;
  nowMs = 100_000;
  #offeredBytesPerMs = Number.POSITIVE_INFINITY;
  #offered = 0;
  /** What the connections hold, and what of theirs may be on its way: twice as much each round trip until something is lost, and then what the window lets. */
  #held = 0;
  #opened = 300_000;
  #queued = 0;
  #inFlight = 0;
  #arrived = 0;
  #again = 0;
  readonly #due = new Map<number, (() => void)[]>();
  #nextProbeMs = this.nowMs;
  #lostOut = 0;

  constructor(link: Link) {
    this.link = link;
    this.window.greeted(link.roundTripMs);
  }

  /** So much is there to send from now on, in bytes per ms. */
  offer(bytesPerMs: number): void {
    this.#offeredBytesPerMs = bytesPerMs;
    this.#offered = 0;
  }

  /** What arrived, what was lost in front of the link, and how long its queue was at the most, and on average, in ms. */
  run(ms: number) {
    const arrivedBefore = this.#arrived;
    let lost = 0;
    let queueMs = 0;
    let longestMs = 0;
    const { window, link } = this;
    for (const endMs = this.nowMs + ms; this.nowMs < endMs; this.nowMs++) {
      for (const happen of this.#due.get(this.nowMs) ?? []) happen();
      this.#due.delete(this.nowMs);
      this.#offered = Math.min(1 << 30, this.#offered + this.#offeredBytesPerMs);
      while (this.#offered >= itemBytes) {
        if (this.#inFlight >= window.bytes) {
          window.limited();
          break;
        }
        if (window.spreadMs(this.nowMs) > 0 || this.#inFlight > 1 << 30) break;
        window.sent(itemBytes, this.nowMs);
        this.#inFlight += itemBytes;
        this.#offered -= itemBytes;
        this.#held += itemBytes;
      }
      const lets = Math.max(0, Math.min(this.#held, this.#opened - (this.#inFlight - this.#held)));
      this.#held -= lets;
      this.#queued += lets;
      if (this.#offered < itemBytes) window.starved();
      const over = this.#queued - link.queueMs * link.bytesPerMs;
      if (over > 0) {
        this.#queued -= over;
        lost += over;
        this.#opened = Number.POSITIVE_INFINITY;
        this.#lostOut++;
        this.#in(2.3 * link.roundTripMs, () => this.#lostOut--);
        this.#in(1.3 * link.roundTripMs, () => {
          this.#again += over;
        });
      }
      const again = this.#queued < link.bytesPerMs ? Math.min(this.#again, link.bytesPerMs) : 0;
      this.#again -= again;
      this.#queued += again;
      const carried = Math.min(this.#queued, link.bytesPerMs);
      this.#queued -= carried;
      const heldUp = link.lossy && chance(this.nowMs) < 0.5;
      this.#in(heldUp ? 2.3 * link.roundTripMs : link.roundTripMs, () => {
        this.#arrived += carried;
        this.#opened += carried;
        this.#inFlight -= carried;
        if (carried > 0) window.acknowledged(carried, this.#inFlight + carried);
      });
      // Less than a frame and nothing would ever be sent again.
      expect(window.bytes).toBeGreaterThanOrEqual(256 << 10);
      const delayMs = this.#queued / link.bytesPerMs;
      queueMs += delayMs / ms;
      longestMs = Math.max(longestMs, delayMs);
      if (this.nowMs < this.#nextProbeMs) continue;
      this.#nextProbeMs = this.nowMs + probeMs(link.roundTripMs);
      const due = this.nowMs + link.roundTripMs + delayMs + (link.noiseMs?.(this.nowMs) ?? 0);
      const { turnMs = 1 } = link;
      const trip = Math.ceil(due / turnMs) * turnMs - this.nowMs;
      this.#in(trip, () => {
        const late = link.lossy || this.#lostOut > 0 ? 1 : (link.lateShare?.(this.nowMs) ?? 0);
        window.roundTrip(trip, this.nowMs, late, this.#inFlight);
      });
    }
    return { share: (this.#arrived - arrivedBefore) / (ms * link.bytesPerMs), lost, queueMs, longestMs };
  }

  #in(ms: number, happen: () => void): void {
    const at = this.nowMs + Math.max(1, Math.round(ms));
    this.#due.set(at, [...(this.#due.get(at) ?? []), happen]);
  }
}

/** From 0 to 1, the same for the same number. */
const chance = (seed: number) => ((Math.imul(seed + 1, 2_654_435_761) >>> 0) % 1000) / 1000;
const gigabit = 125_000;

describe('the window of a link', () => {
  it('fills it with a short queue, in which nothing is lost', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 20 });
    model.run(3000);
    const { share, lost, longestMs } = model.run(10_000);
    expect(share).toBeGreaterThan(0.97);
    expect(lost).toBe(0);
    expect(longestMs).toBeLessThan(15);
  });

  it('does so over any distance, at any rate, and while round trips tremble', () => {
    const links = fc.record({
      roundTripMs: fc.constantFrom(15, 30, 50, 100, 200, 400),
      bytesPerMs: fc.constantFrom(2_500, 5_000, gigabit / 10, 50_000, gigabit, 10 * gigabit),
      queueMs: fc.integer({ min: 60, max: 400 }),
      seed: fc.nat(1000),
    });
    fc.assert(
      fc.property(links, ({ seed, ...link }) => {
        // So much may be on its way over any link: the least window, and an item.
        const leastMs = (384 << 10) / link.bytesPerMs;
        fc.pre(leastMs < link.roundTripMs + link.queueMs - 20);
        // An item goes out as a whole, and has to find room in front of the link.
        fc.pre(leastMs / 3 + 6 + 0.06 * link.roundTripMs < 0.8 * link.queueMs);
        const model = new Model({ ...link, noiseMs: (nowMs) => 3 * chance(seed + nowMs) });
        model.run(10_000 + 60 * link.roundTripMs);
        const { share, lost, queueMs } = model.run(5000);
        expect(share).toBeGreaterThan(0.93);
        expect(lost).toBe(0);
        expect(queueMs).toBeLessThan(2 * leastMs + 8 + 0.1 * link.roundTripMs);
      }),
      { numRuns: 40, seed: 4 },
    );
  });

  it('begins without overflowing a queue of 50 ms by much, however long the round trip', () => {
    for (const [roundTripMs, bytesPerMs] of [
      [200, 50_000],
      [200, gigabit],
      [100, gigabit],
    ] as const) {
      const model = new Model({ roundTripMs, bytesPerMs, queueMs: 50 });
      const { share, lost } = model.run(6000);
      expect(share).toBeGreaterThan(0.6);
      expect(lost / (roundTripMs * bytesPerMs)).toBeLessThan(0.25);
    }
  });

  it('does not end its start for a processor that was busy for half a round trip', () => {
    const model = new Model({
      roundTripMs: 100,
      bytesPerMs: gigabit,
      queueMs: 50,
      noiseMs: (nowMs) => (nowMs >= 100_400 && nowMs < 100_450 ? 50 : 0),
    });
    model.run(1500);
    expect(model.run(1000).share).toBeGreaterThan(0.9);
  });

  it('does so where answers come in bunches', () => {
    const model = new Model({ roundTripMs: 50, bytesPerMs: gigabit / 5, queueMs: 200, turnMs: 25 });
    model.run(5000);
    model.link.bytesPerMs = gigabit;
    model.run(10_000);
    expect(model.run(5000).share).toBeGreaterThan(0.8);
    model.link.bytesPerMs = gigabit / 5;
    model.run(30_000);
    const { share, queueMs } = model.run(5000);
    expect(share).toBeGreaterThan(0.8);
    expect(queueMs).toBeLessThan(60);
  });

  it('lets out at once what waited for a rate that is too low', () => {
    const window = new LinkWindow();
    window.roundTrip(100, 0, 0, 0);
    for (let sent = 0; sent < 100; sent++) window.sent(1 << 20, 0);
    const beforeMs = window.spreadMs(0);
    window.acknowledged(1, 8 << 20);
    window.limited();
    window.acknowledged(64 << 20, 8 << 20);
    window.roundTrip(100, 10, 0, 0);
    expect(window.spreadMs(10)).toBeLessThan(beforeMs / 3);
  });

  it('does not become smaller while nothing arrives', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    const { bytes } = model.window;
    for (let nowMs = 200_000; nowMs < 202_000; nowMs += 20) model.window.roundTrip(300, nowMs, 0, 0);
    expect(model.window.bytes).toBeGreaterThan(0.6 * bytes);
  });

  it('does not count where round trips are short', () => {
    const model = new Model({ roundTripMs: 5, bytesPerMs: gigabit, queueMs: 20 });
    model.run(3000);
    expect(model.window.bytes).toBe(Number.POSITIVE_INFINITY);
    expect(model.window.bytesPerSecond).toBe(Number.POSITIVE_INFINITY);
  });

  it('follows a link that becomes slower, and faster', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    model.link.bytesPerMs = gigabit / 5;
    model.run(20_000);
    const slow = model.run(3000);
    expect(slow.share).toBeGreaterThan(0.95);
    expect(slow.lost).toBeLessThan(itemBytes);
    expect(slow.queueMs).toBeLessThan(20);
    model.link.bytesPerMs = gigabit;
    model.run(6000);
    expect(model.run(3000).share).toBeGreaterThan(0.95);
  });

  it('finds out of losing all the time what a queue has no room for, and finding it empty in between', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    const { window } = model;
    const { bytes } = window;
    for (let nowMs = 200_000; nowMs < 205_000; nowMs += 20) {
      window.sent(itemBytes, nowMs);
      window.limited();
      window.acknowledged(20 * gigabit, window.bytes);
      const full = (nowMs / 100) % 4 < 1;
      window.roundTrip(full ? 120 : 101, nowMs, full ? 0.5 : 0.1, 0);
    }
    expect(window.bytes).toBeLessThan(0.75 * bytes);
  });

  it('grows soon again after an overflow in its start has made it smaller than the link is', () => {
    const window = new LinkWindow();
    window.greeted(100);
    let nowMs = 100_000;
    const look = (ms: number, lateShare: number) => {
      for (let turn = 0; turn < 5; turn++) {
        nowMs += 21;
        window.sent(itemBytes, nowMs);
        window.limited();
        window.acknowledged(window.bytes / 5, window.bytes);
        window.roundTrip(ms, nowMs, lateShare, 0);
      }
    };
    look(101, 0);
    for (let looks = 0; looks < 3; looks++) look(160, 0.5);
    const { bytes } = window;
    for (let looks = 0; looks < 9; looks++) look(101, 0);
    expect(window.bytes).toBeGreaterThan(1.2 * bytes);
  });

  it('stays near what it was where a processor is busy for a moment', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    const { window } = model;
    const { bytes } = window;
    for (let nowMs = 200_000; nowMs < 200_200; nowMs += 20) {
      window.sent(itemBytes, nowMs);
      window.limited();
      window.acknowledged(20 * gigabit, window.bytes);
      window.roundTrip(400, nowMs, 0.5, 0);
    }
    expect(window.bytes).toBeGreaterThan(0.75 * bytes);
    expect(window.bytes).toBeLessThan(bytes);
  });

  it('stays what it was over a pause, however long a queue that finds', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    const { bytes } = model.window;
    model.offer(0.7 * gigabit);
    model.link.noiseMs = () => 40;
    model.run(5000);
    expect(model.window.bytes).toBeGreaterThan(0.9 * bytes);
  });

  it.each([
    [3, 100],
    [5, 30],
    [5, 100],
    [10, 100],
  ])(
    'leaves no queue in front of a link that becomes %d times slower, however deep that may be, with round trips of %d ms',
    (times, roundTripMs) => {
      const queues: number[] = [];
      for (let phaseMs = 0; phaseMs < 100; phaseMs += 20) {
        const model = new Model({ roundTripMs, bytesPerMs: gigabit, queueMs: 2000 });
        model.run(3000 + phaseMs);
        model.link.bytesPerMs = gigabit / times;
        model.run(20_000);
        queues.push(model.run(3000).queueMs);
      }
      const [, , middle] = queues.toSorted((a, b) => a - b);
      expect(middle).toBeLessThan(30);
    },
  );

  it('becomes smaller for bursts that overflow a link which became slower', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    model.link.bytesPerMs = gigabit / 10;
    let lost = 0;
    for (let burst = 0; burst < 30; burst++) {
      model.offer(10e6 / 100);
      lost = model.run(100).lost;
      model.offer(0);
      lost += model.run(1900).lost;
    }
    expect(lost).toBeLessThan(1e6);
  });

  it('finds a route that became longer while it was as small as it gets', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: 600, queueMs: 200 });
    model.run(30_000);
    model.link.bytesPerMs = gigabit;
    model.link.roundTripMs = 220;
    model.run(60_000);
    expect(model.run(3000).share).toBeGreaterThan(0.9);
  });

  it('follows a route that becomes longer', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    model.link.roundTripMs = 220;
    model.run(15_000);
    const { share, lost } = model.run(5000);
    expect(share).toBeGreaterThan(0.9);
    expect(lost).toBe(0);
  });

  it('does not starve a route that becomes longer and loses packets', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    model.link.roundTripMs = 220;
    model.link.lossy = true;
    model.run(10_000);
    expect(model.run(30_000).share).toBeGreaterThan(0.7);
  });

  it('does not starve a link for a processor that answers late', () => {
    const noiseMs = (nowMs: number) => 40 * chance(nowMs);
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 1000, noiseMs });
    model.run(3000);
    expect(model.run(30_000).share).toBeGreaterThan(0.8);
  });

  it('does not starve one either where lanes are late now and then', () => {
    for (const seed of [0, 111, 222, 333]) {
      const noiseMs = (nowMs: number) => 40 * chance(nowMs + seed);
      const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 1000, noiseMs });
      model.run(3000 + seed);
      model.link.lateShare = (nowMs) => (nowMs % 1000 < 300 ? 0.5 : 0);
      expect(model.run(60_000).share).toBeGreaterThan(0.7);
    }
  });

  it('is given up where lanes are late whatever it is, for longer each time, and is there again when that is over', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60, lossy: true });
    model.run(2300);
    expect(model.window.bytes).toBe(Number.POSITIVE_INFINITY);
    let without = 0;
    for (let look = 0; look < 600; look++) {
      model.run(100);
      if (model.window.bytes === Number.POSITIVE_INFINITY) without++;
    }
    expect(without).toBeGreaterThan(450);
    expect(without).toBeLessThan(600);
    model.link.lossy = false;
    model.run(200_000);
    const { share, lost } = model.run(5000);
    expect(share).toBeGreaterThan(0.95);
    expect(lost).toBe(0);
  });

  it('is given up in its start where lanes are late with nothing queued: it would keep them from growing', () => {
    const window = new LinkWindow();
    window.greeted(100);
    for (let nowMs = 100_000; nowMs < 100_800; nowMs += 20) {
      window.sent(itemBytes, nowMs);
      window.limited();
      window.acknowledged(window.bytes / 15, window.bytes);
      window.roundTrip(101, nowMs, 0.7, 0);
    }
    expect(window.bytes).toBe(Number.POSITIVE_INFINITY);
  });

  it.each([
    { onWay: 0.9, given: 'given up', loses: true },
    { onWay: 0.2, given: 'not given up', loses: false },
  ])(
    'is $given when it is there again and $onWay of it are on their way, of which a fifth arrives in a round trip and few lanes are late',
    ({ onWay, loses }) => {
      const window = new LinkWindow();
      window.greeted(100);
      let bytes = window.bytes;
      let backMs: number | undefined;
      for (let nowMs = 100_000; nowMs < (backMs ?? 200_000) + 2000; nowMs += 20) {
        window.sent(itemBytes, nowMs);
        window.limited();
        window.acknowledged(bytes / 25, onWay * bytes);
        window.roundTrip(101, nowMs, nowMs < 100_800 ? 0.7 : 0.05, onWay * bytes);
        if (window.bytes === Number.POSITIVE_INFINITY) {
          if (backMs !== undefined) break;
          continue;
        }
        bytes = window.bytes;
        if (nowMs > 101_000) backMs ??= nowMs;
      }
      expect(backMs).toBeGreaterThan(130_000);
      expect(window.bytes === Number.POSITIVE_INFINITY).toBe(loses);
      expect(window.loses).toBe(loses);
    },
  );

  it('is not given up for what is late in its first two looks, while connections become faster', () => {
    for (const faster of [1.3, 1.5, 2]) {
      const window = new LinkWindow();
      window.greeted(100);
      let bytesPerMs = 2000;
      for (let nowMs = 100_000; bytesPerMs < gigabit; nowMs += 20) {
        window.sent(itemBytes, nowMs);
        window.limited();
        window.acknowledged(20 * bytesPerMs, window.bytes);
        window.roundTrip(101, nowMs, nowMs < 100_200 ? 0.7 : 0.1, 0);
        expect(window.bytes).toBeLessThan(Number.POSITIVE_INFINITY);
        bytesPerMs *= faster ** (20 / 100);
      }
    }
  });

  it('is there again after an outage: the way may be another one', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60, lossy: true });
    model.run(10_000);
    expect(model.window.bytes).toBe(Number.POSITIVE_INFINITY);
    model.window.interrupted();
    model.link.lossy = false;
    expect(model.window.bytes).toBeLessThan(Number.POSITIVE_INFINITY);
    model.run(5000);
    const { share, lost } = model.run(5000);
    expect(share).toBeGreaterThan(0.95);
    expect(lost).toBe(0);
  });

  it('is given up for twice as long each time, also where a look now and then finds no lane late', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.link.lateShare = (nowMs) => (nowMs % 1000 < 800 ? 1 : 0);
    const rests: number[] = [];
    for (let sinceMs: number | undefined; model.nowMs < 400_000; model.run(100)) {
      const resting = model.window.bytes === Number.POSITIVE_INFINITY;
      if (resting) sinceMs ??= model.nowMs;
      else if (sinceMs !== undefined) {
        rests.push(model.nowMs - sinceMs);
        sinceMs = undefined;
      }
    }
    expect(rests.length).toBeGreaterThan(1);
    for (const [index, rest] of rests.slice(1).entries())
      expect(rest).toBeGreaterThan(1.8 * (rests[index] ?? 0));
  });

  it('is not given up over a short way where lanes are late for a moment each second', () => {
    for (const roundTripMs of [15, 25, 40]) {
      const model = new Model({ roundTripMs, bytesPerMs: gigabit, queueMs: 60 });
      model.run(3000);
      model.link.lateShare = (nowMs) => (nowMs % 1000 < 250 ? 0.5 : 0);
      for (let turn = 0; turn < 200; turn++) {
        model.run(100);
        expect(model.window.bytes).toBeLessThan(Number.POSITIVE_INFINITY);
      }
    }
  });

  /** One whose link carries `share` of a gigabit, with so many lanes late, over the time; calls `each` after every round trip. Both are of the time since it began. */
  function steadily(
    roundTripMs: number,
    at: (ms: number) => { readonly share: number; readonly late: number },
    untilMs: number,
    each: (window: LinkWindow, ms: number) => void,
  ): void {
    const window = new LinkWindow();
    window.greeted(roundTripMs);
    const stepMs = roundTripMs / 10;
    for (let ms = 0; ms < untilMs; ms += stepMs) {
      const { share, late } = at(ms);
      window.sent(share * gigabit * stepMs, ms);
      window.limited();
      window.acknowledged(share * gigabit * stepMs, window.bytes);
      window.roundTrip(roundTripMs + 2, ms, late, 0);
      each(window, ms);
    }
  }

  it('does not become larger while lanes hold up what is sent: all of that arrives at once', () => {
    let held = 0;
    const at = (ms: number) => (ms > 3000 && ms < 3600 ? { share: 0.1, late: 0.8 } : { share: 1, late: 0 });
    steadily(100, at, 4000, ({ bytes }, ms) => {
      if (ms === 3000) held = bytes;
      if (ms > 3000 && ms < 3600) expect(bytes).toBeLessThanOrEqual(held);
    });
    expect(held).toBeGreaterThan(0);
  });

  it('is not given up where connections look for the smallest round trip: much less arrives for a moment, and late', () => {
    for (const roundTripMs of [50, 100, 200]) {
      const dipMs = 200 + 2 * roundTripMs;
      const dips = (ms: number) => ms > 5000 && ms % 5000 < dipMs;
      // There may be less to send for a moment before.
      const pauses = (ms: number) => ms % 5000 > 3500 && ms % 5000 < 3800;
      const at = (ms: number) => {
        if (dips(ms)) return { share: 0.4, late: 0.6 };
        return { share: pauses(ms) ? 0.3 : 1, late: 0 };
      };
      steadily(roundTripMs, at, 120_000, ({ bytes }) => expect(bytes).toBeLessThan(Number.POSITIVE_INFINITY));
    }
  });

  it('is given up where much less arrives, and late, for longer than that, or again and again', () => {
    const longer = (ms: number) => ms > 5000;
    const often = (ms: number) => ms % 500 < 375;
    for (const dips of [longer, often]) {
      let given = 0;
      const at = (ms: number) => (dips(ms) ? { share: 0.5, late: 0.55 } : { share: 1, late: 0 });
      steadily(100, at, 20_000, ({ bytes }) => {
        if (bytes === Number.POSITIVE_INFINITY) given++;
      });
      expect(given).toBeGreaterThan(100);
    }
  });

  it('is given up as soon where packets are lost from the beginning on, and what arrives trembles for that', () => {
    let restMs = Number.POSITIVE_INFINITY;
    const at = (ms: number) => ({ share: ms % 300 < 150 ? 0.4 : 1, late: 0.6 });
    steadily(100, at, 5000, ({ bytes }, ms) => {
      if (bytes === Number.POSITIVE_INFINITY) restMs = Math.min(restMs, ms);
    });
    expect(restMs).toBeLessThan(1000);
  });

  it('does not end its start for a packet of control that was lost: the answers behind it come together', () => {
    const window = new LinkWindow();
    window.greeted(100);
    let nowMs = 100_000;
    const answer = (ms: number, apartMs: number) => {
      nowMs += apartMs;
      window.sent(itemBytes, nowMs);
      window.limited();
      window.acknowledged(window.bytes / 5, window.bytes);
      window.roundTrip(ms, nowMs, 0, 0);
    };
    for (let turn = 0; turn < 20; turn++) answer(100, 20);
    for (let turn = 0; turn < 8; turn++) answer(300 - 16 * turn, 4);
    const { bytes } = window;
    for (let turn = 0; turn < 4; turn++) answer(100, 20);
    expect(window.bytes).toBeGreaterThan(bytes);
  });

  it('stays what it was while there is little to send, however long round trips are then', () => {
    const model = new Model({ roundTripMs: 100, bytesPerMs: gigabit, queueMs: 60 });
    model.run(5000);
    model.offer(gigabit / 20);
    model.link.noiseMs = (nowMs) => 60 * chance(nowMs);
    model.run(20_000);
    model.link.noiseMs = () => 0;
    model.run(300);
    model.offer(Number.POSITIVE_INFINITY);
    model.run(300);
    expect(model.run(1000).share).toBeGreaterThan(0.95);
  });

  it('starts over any length of a slow start, however long round trips are meanwhile', () => {
    const noiseMs = (nowMs: number) => (nowMs < 100_800 ? 20 : 0);
    const model = new Model({ roundTripMs: 100, bytesPerMs: 100, queueMs: 60, noiseMs });
    model.run(800);
    model.link.bytesPerMs = gigabit;
    model.run(3000);
    expect(model.run(1000).share).toBeGreaterThan(0.9);
  });
});
