/**
 * Goal: the lanes fill the link: as many as it takes, each as much as it carries, and none that only costs. Method: the pure rules, and
 * channels over simulated networks, with sockets as small as Linux's own.
 */
import { describe, expect, it } from 'vitest';
import { ChannelAcceptor, type ConnectOptions, connectChannel } from '../../src/channel/connect.ts';
import { CreditPool } from '../../src/channel/credit-pool.ts';
import { Lane } from '../../src/channel/lane.ts';
import { LaneCount } from '../../src/channel/lane-count.ts';
import { LaneSet } from '../../src/channel/lane-set.ts';
import { LaneWindow } from '../../src/channel/lane-window.ts';
import { MigrationError } from '../../src/errors.ts';
import type { Connection, Transport } from '../../src/index.ts';
import { createNetwork } from '../../src/testing/sim/network.ts';
import type { PathOptions } from '../../src/testing/sim/network-path.ts';
import { createVirtualEnvironment } from '../../src/testing/virtual-time.ts';
import { fixedCredit, item } from './pair.ts';

const mebibyte = 1 << 20;

/** What becomes of a connection that the source opens, 0 being control; `undefined`: nothing. */
type Wrap = (count: number, connection: Connection) => Connection | undefined;

async function world(paths: readonly PathOptions[], more: Partial<ConnectOptions> = {}, wrap?: Wrap) {
  const environment = createVirtualEnvironment();
  const network = createNetwork({ environment, paths, copy: false });
  const common = { environment, windowBytesMax: 256 * mebibyte };
  const acceptor = new ChannelAcceptor({
    ...common,
    transport: network.transport({ host: 'destination', listen: 'vm' }),
    greetingMsMax: 10_000,
    sessions: true,
    onQuestion: async () => {},
  });
  const dialler = network.transport({ host: 'source', connect: { host: 'destination', name: 'vm' } });
  let opened = 0;
  const transport: Transport = {
    capabilities: dialler.capabilities,
    paths: dialler.paths,
    open: async (options) => {
      const count = opened++;
      const connection = await dialler.open(options);
      return wrap?.(count, connection) ?? connection;
    },
    accept: (options) => dialler.accept(options),
    close: () => dialler.close(),
  };
  const connecting = connectChannel({
    ...common,
    transport,
    vmId: 'vm',
    connections: undefined,
    limitMs: 10_000,
    signal: undefined,
    ...more,
  });
  const [near, far] = await environment.run(Promise.all([connecting, acceptor.channel(undefined)]));
  const stream = far.openReceive(1, 0, fixedCredit(256 * mebibyte), (received) => stream.applied(received));
  const sender = near.openSend(1, 0);
  await environment.run(environment.now() + 500);
  const content = new Map<number, ReturnType<typeof item>>();
  let arrived = 0;
  return {
    environment,
    network,
    near,
    far,
    /** Sends for so long, and resolves to the bytes per second that arrived. */
    async send(ms: number): Promise<number> {
      const startMs = environment.now();
      const before = arrived;
      while (environment.now() - startMs < ms) {
        await environment.run(sender.room());
        const bytes = sender.itemBytesMax;
        const ranges = content.get(bytes) ?? item(0, bytes);
        content.set(bytes, ranges);
        sender.push('bulk', ranges, () => {
          arrived += bytes;
        });
        // Who never waits lets nothing happen.
        await environment.run(Promise.resolve());
      }
      return ((arrived - before) / (environment.now() - startMs)) * 1000;
    },
    sender,
    /** Waits so long. */
    wait: (ms: number) => environment.run(environment.now() + ms),
    opened: () => opened,
    lanes: () => network.statistics().openEnds / 2 - 1,
    async end(): Promise<void> {
      await environment.run(Promise.all([near.close(), far.close()]));
      await environment.run();
      expect(network.statistics().openEnds).toBe(0);
    },
  };
}

const gigabit = 125e6;

describe('a channel', { timeout: 120_000 }, () => {
  it.each([
    [0.5, 4],
    [25, 4],
    [100, 9],
  ])('opens as many lanes as 1 Gbit/s takes with small sockets, %d ms away', async (delayMs, lanesMin) => {
    const far = await world([
      { name: 'wan', rateMbit: 1000, delayMs, windowBytes: 3 * mebibyte, queueMs: 50 },
    ]);
    await far.send(6000);
    expect(await far.send(6000)).toBeGreaterThan(0.9 * gigabit);
    expect(far.lanes()).toBeGreaterThanOrEqual(lanesMin);
    // More may be on trial, for a moment.
    for (let looks = 0; looks < 5 && far.lanes() > 48; looks++) await far.send(1000);
    expect(far.lanes()).toBeLessThanOrEqual(48);
    await far.end();
  });

  it('closes the lanes again that brought nothing, and loses nothing', async () => {
    // Its queue is too short to be noticed.
    const near = await world([{ name: 'lan', rateMbit: 400, delayMs: 1, queueMs: 2 }]);
    let most = 0;
    for (let second = 0; second < 20; second++) {
      await near.send(250);
      most = Math.max(most, near.lanes());
    }
    expect(most).toBe(16);
    expect(near.lanes()).toBe(4);
    expect(await near.send(2000)).toBeGreaterThan(0.9 * 50e6);
    await near.end();
  });

  it('opens none beyond the number that it was told', async () => {
    const far = await world([{ name: 'wan', rateMbit: 1000, delayMs: 100, windowBytes: 3 * mebibyte }], {
      connections: 2,
    });
    await far.send(8000);
    expect(far.lanes()).toBe(2);
    await far.end();
  });

  it('adds up two paths of unequal speed and length', async () => {
    const fast: PathOptions = { name: 'fast', rateMbit: 600, delayMs: 10, queueMs: 50 };
    const slow: PathOptions = { name: 'slow', rateMbit: 200, delayMs: 60, queueMs: 50 };
    const both = await world([fast, slow]);
    await both.send(5000);
    expect(await both.send(8000)).toBeGreaterThan(0.9 * 0.8 * gigabit);
    await both.end();
  });
});

describe('an item', () => {
  it.each([
    [10, 128],
    [100, 256],
    [1000, 1024],
  ])(
    'is what a lane of four carries in a tenth of a second, and 128 KiB where nothing waits: at %d Mbit/s at most %d KiB',
    async (rateMbit, kibibytes) => {
      const near = await world([{ name: 'lan', rateMbit, delayMs: 4 }], { connections: 4 });
      await near.send(3000);
      expect(near.sender.itemBytesMax).toBe(kibibytes << 10);
      await near.wait(10_000);
      expect(near.sender.itemBytesMax).toBe(128 << 10);
      await near.end();
    },
  );
});

it.each([
  { lossProbability: 0, kibibytes: 128 },
  { lossProbability: 0.001, kibibytes: 32 },
])(
  'makes an item of $kibibytes KiB where nothing waits for slow connections and $lossProbability of the packets are lost',
  async ({ lossProbability, kibibytes }) => {
    const path = { name: 'wan', rateMbit: 400, delayMs: 50, queueMs: 50, lossProbability } as const;
    const far = await world([{ ...path, congestion: 'cubic' }], { connections: 16 });
    await far.send(5000);
    await far.wait(10_000);
    expect(far.sender.itemBytesMax).toBe(kibibytes << 10);
    await far.end();
  },
);

it('makes an item no larger than what a long link carries in two milliseconds and a half: it goes out in one burst', async () => {
  const far = await world([{ name: 'wan', rateMbit: 1000, delayMs: 50 }], { connections: 16 });
  await far.send(5000);
  expect(far.sender.itemBytesMax).toBe(256 << 10);
  await far.end();
});

describe('a channel with a rate', { timeout: 60_000 }, () => {
  it.each([1, 20, 80])(
    'keeps to %d MB/s, to within a twentieth, of a link that carries 125',
    async (megabytes) => {
      const rateBytesPerSecondMax = megabytes * 1e6;
      const paced = await world([{ name: 'lan', rateMbit: 1000, delayMs: 10 }], { rateBytesPerSecondMax });
      await paced.send(4000);
      const seconds = Math.max(10, 200 / megabytes);
      const rate = await paced.send(1000 * seconds);
      expect(rate).toBeGreaterThan(0.95 * rateBytesPerSecondMax);
      expect(rate).toBeLessThan(1.05 * rateBytesPerSecondMax);
      expect(paced.lanes()).toBe(4);
      await paced.end();
    },
  );
});

describe('a slow disk at the destination', { timeout: 60_000 }, () => {
  it('takes what it can, and neither the link nor the memory of the others', async () => {
    const { environment, near, far, end } = await world([{ name: 'wan', rateMbit: 800, delayMs: 25 }]);
    const pool = new CreditPool({
      totalBytes: 256 * mebibyte,
      streams: 2,
      now: () => environment.now(),
      roundTripMs: () => far.statistics.roundTripMs,
    });
    const held = { disk: 0, memory: 0 };
    let most = 0;
    const applied = { disk: 0, memory: 0 };
    const receive = (id: number, name: 'disk' | 'memory', msPerItem: number) => {
      let freeMs = 0;
      const stream = far.openReceive(id, 0, pool.open(), (received) => {
        held[name] += received.payloadBytes;
        most = Math.max(most, held.disk + held.memory);
        freeMs = Math.max(freeMs, environment.now()) + msPerItem;
        environment.setTimer(freeMs - environment.now(), () => {
          held[name] -= received.payloadBytes;
          applied[name] += received.payloadBytes;
          stream.applied(received);
        });
      });
    };
    receive(2, 'disk', 200);
    receive(3, 'memory', 1);
    const content = item(0, 1e6);
    const feed = async (id: number, frameClass: 'bulk' | 'memory', untilMs: number) => {
      const sender = near.openSend(id, 0);
      while (environment.now() < untilMs) {
        await sender.room();
        sender.push(frameClass, content, () => {});
        await Promise.resolve();
      }
    };
    const startMs = environment.now();
    const untilMs = startMs + 20_000;
    await environment.run(Promise.all([feed(2, 'bulk', untilMs), feed(3, 'memory', untilMs)]));
    // 5 MB/s and the rest of 100 MB/s, over 20 s, less the start.
    expect(applied.disk).toBeGreaterThan(0.9 * 5e6 * 20);
    expect(applied.memory).toBeGreaterThan(0.85 * 95e6 * 20);
    expect(held.disk).toBeLessThan(33 * mebibyte);
    expect(most).toBeLessThan(256 * mebibyte);
    await environment.run(environment.now() + 30_000);
    expect(held).toEqual({ disk: 0, memory: 0 });
    await end();
  });
});

describe('what a channel tells of itself', () => {
  it('is how each lane does, and how long each kind waits', async () => {
    const { environment, near, send, end } = await world([
      { name: 'fast', rateMbit: 400, delayMs: 5 },
      { name: 'slow', rateMbit: 100, delayMs: 40 },
    ]);
    await send(3000);
    const { lanes, classes } = near.statistics.link;
    expect(lanes.map(({ lane, path }) => [lane, path])).toEqual([
      [1, 1],
      [2, 0],
      [3, 1],
      [4, 0],
    ]);
    const of = (wanted: number) => lanes.filter(({ path }) => path === wanted);
    const rate = (path: number) => of(path).reduce((sum, { bytesPerSecond }) => sum + bytesPerSecond, 0);
    expect(rate(0)).toBeGreaterThan(2 * rate(1));
    for (const { roundTripMs } of of(0)) expect(roundTripMs).toBeCloseTo(10, 0);
    for (const { roundTripMs } of of(1)) expect(roundTripMs).toBeCloseTo(80, 0);
    expect(lanes.every(({ inFlightBytes, wireBytes }) => inFlightBytes > 0 && wireBytes > 0)).toBe(true);
    // Four megabytes wait, at about 60 MB/s.
    expect(classes.bulk.queueMsMedian).toBeGreaterThan(20);
    expect(classes.bulk.queueMsMedian).toBeLessThan(200);
    expect(classes.bulk.queueMsP99).toBeGreaterThanOrEqual(classes.bulk.queueMsMedian);
    expect(classes.mirror).toEqual({ bytes: 0, queueMsMedian: 0, queueMsP99: 0 });
    await environment.run(environment.now() + 5000);
    expect(near.statistics.link.lanes.every(({ inFlightBytes }) => inFlightBytes === 0)).toBe(true);
    await end();
  });
});

describe('a lane that is not what it should be', { timeout: 60_000 }, () => {
  const changed = (connection: Connection, changes: Partial<Connection>): Connection => ({
    label: connection.label,
    send: (chunks) => connection.send(chunks),
    receive: () => connection.receive(),
    close: () => connection.close(),
    abort: (reason) => connection.abort(reason),
    ...changes,
  });
  const wan = { name: 'wan', rateMbit: 400, delayMs: 20 };

  it('and ends with frames on their way, in good order, leaves them to the others', async () => {
    let hole = false;
    let end = () => {};
    const ended = new Promise<IteratorResult<Uint8Array, undefined>>((resolve) => {
      end = () => resolve({ done: true, value: undefined });
    });
    const swallows = (connection: Connection) => {
      const received = connection.receive()[Symbol.asyncIterator]();
      return changed(connection, {
        send: (chunks) => (hole ? Promise.resolve() : connection.send(chunks)),
        receive: () => ({
          [Symbol.asyncIterator]: () => ({ next: () => Promise.race([ended, received.next()]) }),
        }),
      });
    };
    const { near, sender, wait } = await world([wan], {}, (count, connection) =>
      count === 4 ? swallows(connection) : undefined,
    );
    hole = true;
    for (let index = 0; index < 8; index++) sender.push('bulk', item(0, 256 << 10), () => {});
    await wait(100);
    end();
    await wait(3000);
    expect(sender.applied).toBe(8);
    expect(near.signal.aborted).toBe(false);
  });

  it('and cannot be had is asked for again only after a pause, and done without', async () => {
    const lossy: PathOptions = { ...wan, delayMs: 100, queueMs: 2, windowBytes: 256 << 10 };
    const { near, send, opened, lanes, end } = await world([lossy], {}, (count, connection) => {
      if (count <= 16) return undefined;
      connection.abort();
      throw new MigrationError('connect-failed', 'no more');
    });
    const first = opened();
    await send(60_000);
    // After 10, 20 and 40 s, as many each time.
    expect(opened()).toBeGreaterThan(first);
    expect(opened()).toBeLessThanOrEqual(first + 3 * 48);
    expect(lanes()).toBe(near.statistics.link.lanes.length);
    expect(near.signal.aborted).toBe(false);
    await end();
  });

  it('and whose welcome comes too late costs nothing but itself', async () => {
    const lossy: PathOptions = { ...wan, delayMs: 100, queueMs: 2, windowBytes: 256 << 10 };
    const made: { wait?: (ms: number) => Promise<void> } = {};
    const late = (connection: Connection) => {
      const received = connection.receive()[Symbol.asyncIterator]();
      const next = async () => {
        await made.wait?.(2000);
        return received.next();
      };
      return changed(connection, { receive: () => ({ [Symbol.asyncIterator]: () => ({ next }) }) });
    };
    const { near, far, environment, send } = await world([lossy], { limitMs: 1000 }, (count, connection) =>
      count <= 16 ? undefined : late(connection),
    );
    made.wait = (ms) => new Promise((resolve) => environment.setTimer(ms, () => resolve()));
    await send(20_000);
    expect([near.signal.aborted, far.signal.aborted]).toEqual([false, false]);
  });

  it('brings a small control message where the control connection is late', async () => {
    let late = false;
    const { environment, near, far } = await world([wan], { connections: 2 }, (count, connection) =>
      count === 0
        ? changed(connection, { send: (chunks) => (late ? Promise.resolve() : connection.send(chunks)) })
        : undefined,
    );
    late = true;
    near.send({ type: 'flush', token: 7 });
    expect(await environment.run(far.mailbox.take('flush'))).toMatchObject({ token: 7 });
  });

  it('and goes silent gets no more than is on it already', async () => {
    let hole = false;
    const { near, sender, wait } = await world([wan], { connections: 4 }, (count, connection) =>
      count === 4
        ? changed(connection, { send: (chunks) => (hole ? Promise.resolve() : connection.send(chunks)) })
        : undefined,
    );
    const trickle = async (count: number, bytes: number) => {
      for (let index = 0; index < count; index++) {
        sender.push('bulk', item(0, bytes), () => {});
        await wait(10);
      }
    };
    await trickle(100, 100_000);
    await wait(500);
    hole = true;
    await trickle(100, 16_384);
    const stuck = near.statistics.link.lanes.find(({ lane }) => lane === 4)?.inFlightBytes ?? 0;
    await trickle(200, 16_384);
    expect(near.statistics.link.lanes.find(({ lane }) => lane === 4)?.inFlightBytes).toBe(stuck);
    expect(stuck).toBeLessThan(1e6);
  });
});

describe('a lane\u2019s window', () => {
  /** A link of so many bytes per second, over which what may be on its way is. */
  function follow(window: LaneWindow, bytesPerSecond: number, rounds: number): void {
    let nowMs = 0;
    window.begin(nowMs);
    for (let round = 0; round < rounds; round++) {
      nowMs += window.roundTripMs;
      const carried = (bytesPerSecond * window.roundTripMs) / 1000;
      window.acknowledged(Math.min(window.bytes, carried), nowMs);
    }
  }

  it.each([1, 20, 100, 200])(
    'grows to twice what is on its way, %d ms away, and no further',
    (roundTripMs) => {
      const window = new LaneWindow(roundTripMs);
      follow(window, gigabit, Math.ceil(2000 / roundTripMs));
      const product = (gigabit * roundTripMs) / 1000;
      expect(window.bytes).toBeGreaterThan(1.9 * product);
      expect(window.bytes).toBeLessThan(2 * product + 2 * mebibyte);
    },
  );

  it('is what was acknowledged and as much again as long as the lane becomes faster', () => {
    const window = new LaneWindow(100);
    window.begin(0);
    let sentBytes = 0;
    // A slow start: in each round trip twice as much as in the one before.
    for (let round = 1; round <= 8; round++) {
      const bytes = 14_480 * 2 ** round;
      expect(window.bytes).toBeGreaterThan(bytes);
      window.acknowledged(bytes, round * 100);
      sentBytes += bytes;
    }
    expect(window.bytes).toBeGreaterThan(sentBytes);
    // It stays as fast as it is.
    for (let round = 9; round < 30; round++) window.acknowledged(1e6, round * 100);
    expect(window.bytes).toBeLessThan(3 * 1.1e6);
  });

  it('tells when what is sent will have arrived, unless nothing was heard for long', () => {
    const window = new LaneWindow(100);
    expect(window.deliveryMs(mebibyte, 0)).toBeUndefined();
    window.begin(0);
    window.acknowledged(10e6, 100);
    expect(window.deliveryMs(0, 100)).toBe(50);
    expect(window.deliveryMs(1e6, 100)).toBeCloseTo(60);
    expect(window.deliveryMs(1e6, 10_000)).toBeUndefined();
  });
});

describe('lanes that are late', () => {
  /** A lane of which so many bytes were acknowledged in the last turns of 100 ms, and that has one more frame on its way, since 1000 ms. */
  function lane(index: number, acknowledgedBytes: number, frameBytes = 64 << 10, turns = 10): Lane {
    const nothing = { send: async () => {}, recycle: () => {} };
    const lane = new Lane(index, { connection: nothing, reader: nothing, roundTripMs: 100 } as never);
    const frame = (payloadBytes: number) => ({
      type: 'data',
      stream: 1,
      number: 1n,
      class: 'bulk',
      payload: [],
      payloadBytes,
      payloadCrc: 0,
      itemBytes: payloadBytes,
      queuedMs: 0,
      release: () => {},
    });
    for (let turn = 1; turn <= turns; turn++) {
      const nowMs = 1000 - (turns - turn) * 100;
      void lane.sendKept(frame(acknowledgedBytes / turns) as never, nowMs - 100);
      lane.received(turn, nowMs);
    }
    void lane.sendKept(frame(frameBytes) as never, 1000);
    return lane;
  }

  function share(beforeMs: number, ...lanes: readonly Lane[]): number {
    const set = new LaneSet(256 * mebibyte, 1);
    for (const each of lanes) set.add(each);
    return set.lateShare(beforeMs);
  }

  it('hold up a frame for longer than it takes', () => {
    // 10 MB/s: a mebibyte takes a tenth of a second.
    expect(share(1050, lane(1, 10e6), lane(2, 10e6, mebibyte))).toBe(0.5);
    expect(share(1150, lane(1, 10e6), lane(2, 10e6, mebibyte))).toBe(1);
    expect(share(990, lane(1, 10e6), lane(2, 10e6, mebibyte))).toBe(0);
  });

  it('are none of those in the slow start of their connections, which do not count', () => {
    const starting = (index: number) => lane(index, 100e3, 64 << 10, 2);
    expect(share(2000, starting(1), starting(2))).toBe(0);
    expect(share(2000, starting(1), lane(2, 10e6))).toBe(1);
    expect(share(2000)).toBe(0);
  });
});

describe('the number of lanes', () => {
  const carrying = (bytesPerSecond: number, queueMs = 0) => ({
    bytesPerSecond,
    latestBytesPerSecond: bytesPerSecond,
    queueMs,
    full: false,
    loses: false,
  });

  /** The numbers of lanes that there are, one after the other, over a link that carries so much with so many. */
  function follow(bytesPerSecond: (lanes: number, nowMs: number) => number, ms: number, queueMs = 0) {
    const count = new LaneCount();
    const seen = [4];
    for (let nowMs = 0; nowMs < ms; nowMs += 250) {
      const lanes = seen.at(-1) ?? 0;
      const carried = carrying(bytesPerSecond(lanes, nowMs), queueMs);
      const next = count.look({ nowMs, lanes, opening: 0, ...carried, roundTripMs: 50, busy: true });
      if (next !== lanes) seen.push(next);
    }
    return seen;
  }

  it('is left alone where a queue shows that the link is full', () => {
    expect(follow(() => 1e6, 60_000, 20)).toEqual([4]);
  });

  it('is left alone where as much is on its way as the link takes', () => {
    const count = new LaneCount();
    for (let nowMs = 0; nowMs < 60_000; nowMs += 250) {
      const figures = { nowMs, lanes: 4, opening: 0, ...carrying(1e6), roundTripMs: 50, busy: true };
      expect(count.look({ ...figures, full: true })).toBe(4);
    }
  });

  it('is left alone while the rate is rising by itself', () => {
    expect(follow((_, nowMs) => 1e3 * 1.5 ** (nowMs / 250), 5000)).toEqual([4]);
  });

  it('is as many as the bandwidth-delay product needs, soon', () => {
    const count = new LaneCount();
    const figures = { lanes: 4, opening: 0, ...carrying(gigabit), roundTripMs: 200, busy: true };
    expect(count.look({ ...figures, nowMs: 0 })).toBe(8);
    expect(count.look({ ...figures, lanes: 8, nowMs: 250 })).toBe(8);
    expect(count.look({ ...figures, lanes: 8, nowMs: 750 })).toBe(16);
    expect(count.look({ ...figures, lanes: 16, nowMs: 1500 })).toBe(16);
  });

  it('becomes as many as there may be where each carries little, within seconds', () => {
    expect(follow((lanes) => 5e5 * lanes, 7000)).toEqual([4, 16, 64, 112, 160, 208, 256]);
  });

  it('grows while that brings more, and goes back when it does not', () => {
    // Each lane carries a megabyte a second, up to 20 of them: 64 carry no more than 16 should.
    expect(follow((lanes) => 1e6 * Math.min(20, lanes), 4000).slice(0, 4)).toEqual([4, 16, 64, 16]);
  });

  describe('where the network loses packets', () => {
    const settledMs = 1000;

    /** What it is, one after the other, over a link that carries so much with so many, and is full with so many. */
    function losing(bytesPerSecond: (lanes: number) => number, fullFrom = Number.POSITIVE_INFINITY) {
      const count = new LaneCount();
      const seen = [9];
      for (let nowMs = 0; nowMs < 4 * settledMs; nowMs += 250) {
        const lanes = seen.at(-1) ?? 0;
        const carried = carrying(bytesPerSecond(lanes), lanes >= fullFrom ? 20 : 0);
        const figures = { nowMs, lanes, opening: 0, ...carried, roundTripMs: 100, busy: true, loses: true };
        const next = count.look(figures);
        if (next !== lanes) seen.push(next);
      }
      return seen;
    }

    it('is at once many more, however the rate was rising', () => {
      expect(losing((lanes) => 7e5 * lanes).slice(0, 3)).toEqual([9, 57, 105]);
    });

    it('tries out no more before it is known what those bring that there are, however often there is nothing to send', () => {
      const count = new LaneCount();
      const figures = { opening: 0, ...carrying(5e6), roundTripMs: 100, loses: true };
      let lanes = 9;
      for (let nowMs = 0; nowMs < 20_000; nowMs += 250)
        lanes = count.look({ ...figures, nowMs, lanes, busy: nowMs % 500 === 0 });
      expect(lanes).toBe(57);
      for (let nowMs = 20_000; nowMs < 21_500; nowMs += 250)
        lanes = count.look({ ...figures, nowMs, lanes, busy: true });
      expect(lanes).toBe(9);
    });

    it('stays what it was tried out for where they have filled the link, though that has no room for what as many should carry', () => {
      expect(losing((lanes) => Math.min(50e6, 3e6 * lanes), 57)).toEqual([9, 57]);
      expect(losing((lanes) => Math.min(30e6, 3e6 * lanes), 57)[2]).toBe(9);
    });
  });

  it('is tried out again after pauses that become longer', () => {
    const tried = (ms: number) => (follow(() => 1e6, ms).length - 1) / 2;
    expect(tried(10_000)).toBeGreaterThan(2);
    expect(tried(600_000)).toBeLessThan(12);
  });

  it('is not judged before all that are tried out are open', () => {
    const count = new LaneCount();
    let lanes = 4;
    for (let nowMs = 0; nowMs < 20_000; nowMs += 250) {
      const opening = lanes > 4 ? 1 : 0;
      lanes = count.look({ nowMs, lanes, opening, ...carrying(1e6), roundTripMs: 50, busy: true });
    }
    expect(lanes).toBe(16);
  });

  it('stays as it is while there is not enough to send', () => {
    const count = new LaneCount();
    for (let nowMs = 0; nowMs < 60_000; nowMs += 250) {
      const figures = { nowMs, lanes: 4, opening: 0, ...carrying(gigabit), roundTripMs: 200 };
      expect(count.look({ ...figures, busy: false })).toBe(4);
    }
  });
});
