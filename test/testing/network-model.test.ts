// Goal: a simulated path carries what the models that it names predict: rate, delay, windows, loss, several
// connections.
// Method: connections that always have something to send, for minutes of virtual time, against the published
// formulas; and single messages, whose times are exact.
import { describe, expect, test } from 'vitest';
import { createNetwork, type Network } from '../../src/testing/sim/network.ts';
import { type CongestionName, packetBytes } from '../../src/testing/sim/network-congestion.ts';
import type { PathOptions } from '../../src/testing/sim/network-path.ts';
import { createVirtualEnvironment } from '../../src/testing/virtual-time.ts';
import { connect, type NetworkPair, networkPair } from './network-pair.ts';

const mebibyte = 1 << 20;

/**
 * What `connections` that never pause carry from the source to the destination in Mbit/s, once they are up to
 * speed.
 */
async function goodput(options: Partial<PathOptions>, connections = 1, seconds = 100): Promise<number> {
  const pair = networkPair({ windowBytes: 1 << 30, ...options }, { copy: false, seed: 11 });
  const { environment, network } = pair;
  const chunk = new Uint8Array(mebibyte);
  for (let count = 0; count < connections; count++) {
    const { near, far } = await connect(pair);
    void (async () => {
      for (;;) await near.send([chunk]);
    })().catch(() => {});
    void (async () => {
      for await (const _ of far.receive());
    })().catch(() => {});
  }
  const delivered = () => network.statistics().paths.wan?.[0].deliveredBytes ?? 0;
  await environment.run(environment.now() + 20_000);
  const before = delivered();
  await environment.run(environment.now() + seconds * 1000);
  const mbit = ((delivered() - before) * 8) / 1e6 / seconds;
  network.resetAll();
  return mbit;
}

/** Mathis and others, 1997. */
function mathisMbit(rttMs: number, lossProbability: number): number {
  return (packetBytes * 8 * 1.22) / (rttMs * 1000 * Math.sqrt(lossProbability));
}

describe('without loss', () => {
  test.each([
    ['cubic', 10, 100, 0.9],
    ['cubic', 500, 100, 0.85],
    ['cubic', 500, 2, 0.97],
    ['reno', 100, 20, 0.9],
    ['bbr', 500, 200, 0.9],
  ] as const)('%s fills most of %d Mbit/s over %d ms', async (congestion, rateMbit, rttMs, least) => {
    const mbit = await goodput({ congestion, rateMbit, delayMs: rttMs / 2 });
    expect(mbit / rateMbit).toBeGreaterThan(least);
    expect(mbit / rateMbit).toBeLessThan(1.001);
  });

  test('a window of 4 MiB over 200 ms is 168 Mbit/s, and four connections carry four times as much', async () => {
    const path = { rateMbit: 10_000, delayMs: 100, windowBytes: 4 * mebibyte };
    for (const connections of [1, 4]) {
      const mbit = await goodput(path, connections, 20);
      expect(mbit / ((connections * 4 * mebibyte * 8) / 0.2 / 1e6)).toBeGreaterThan(0.9);
      expect(mbit / ((connections * 4 * mebibyte * 8) / 0.2 / 1e6)).toBeLessThan(1.01);
    }
  });

  test('a path has its own rate each way', async () => {
    const pair = networkPair({ rateMbit: 80, delayMs: 5, back: { rateMbit: 8, delayMs: 45 } });
    const { near, far } = await connect(pair);
    const timeOf = async (from: typeof near, to: typeof near, bytes: number) => {
      const start = pair.environment.now();
      await from.send([new Uint8Array(bytes)]);
      let received = 0;
      for await (const chunk of to.receive()) {
        received += chunk.byteLength;
        if (received === bytes) break;
      }
      return pair.environment.now() - start;
    };
    // Less than the first window: nothing but the bytes' own time and the delay.
    expect(await pair.environment.run(timeOf(near, far, 10_000))).toBeCloseTo(1 + 5, 3);
    expect(await pair.environment.run(timeOf(far, near, 10_000))).toBeCloseTo(10 + 45, 3);
  });
});

describe('with loss', () => {
  for (const rttMs of [10, 100, 200]) {
    for (const lossProbability of [0.0005, 0.001, 0.005]) {
      test(`reno over ${rttMs} ms with ${lossProbability} lost goes as Mathis and others say`, async () => {
        const path = { congestion: 'reno', rateMbit: 10_000, delayMs: rttMs / 2, lossProbability } as const;
        const expected = mathisMbit(rttMs, lossProbability);
        const one = await goodput(path, 1, 400);
        expect(one / expected).toBeGreaterThan(0.75);
        expect(one / expected).toBeLessThan(1.35);
        const eight = await goodput(path, 8);
        expect(eight / expected).toBeGreaterThan(8 * 0.75);
        expect(eight / expected).toBeLessThan(8 * 1.35);
      });
    }
  }

  test('cubic does better than reno over long distances, by as much as RFC 9438 says, and alike over short ones', async () => {
    const far = { rateMbit: 10_000, delayMs: 100, lossProbability: 0.0001 } as const;
    const rfc9438 = ((packetBytes * 8) / 0.2 / 1e6) * 1.054 * Math.sqrt(Math.sqrt((0.2 / 0.0001) ** 3));
    const cubic = await goodput({ ...far, congestion: 'cubic' }, 1, 600);
    expect(cubic / rfc9438).toBeGreaterThan(0.6);
    expect(cubic / rfc9438).toBeLessThan(1.7);
    expect(cubic).toBeGreaterThan(2 * (await goodput({ ...far, congestion: 'reno' }, 1, 600)));
    const close = { rateMbit: 10_000, delayMs: 5, lossProbability: 0.001, congestion: 'cubic' } as const;
    const ratio = (await goodput(close)) / mathisMbit(10, 0.001);
    expect(ratio).toBeGreaterThan(0.75);
    expect(ratio).toBeLessThan(1.35);
  });

  test.each([0.0001, 0.001, 0.005])('bbr hardly minds %d lost', async (lossProbability) => {
    const mbit = await goodput({ congestion: 'bbr', rateMbit: 500, delayMs: 50, lossProbability }, 1, 60);
    expect(mbit).toBeGreaterThan(400);
  });

  test('a lost message comes after a timeout, and what follows it does not overtake it', async () => {
    const pair = networkPair({ rateMbit: 1000, delayMs: 20, lossProbability: 0.3 }, { seed: 4 });
    const { environment } = pair;
    const { near, far } = await connect(pair);
    const times: number[] = [];
    const order: number[] = [];
    void (async () => {
      for await (const chunk of far.receive()) {
        for (const byte of chunk) order.push(byte);
        times.push(environment.now());
      }
    })().catch(() => {});
    const delays: number[] = [];
    for (let message = 0; message < 40; message++) {
      const sent = environment.now();
      await near.send([Uint8Array.of(message)]);
      await environment.run(sent + 4000);
      delays.push((times.at(-1) ?? 0) - sent);
    }
    expect(order).toEqual(Array.from({ length: 40 }, (_, index) => index));
    const late = delays.filter((ms) => ms > 21);
    expect(late.length).toBeGreaterThan(5);
    expect(late.length).toBeLessThan(22);
    for (const ms of late) expect(ms).toBeGreaterThan(200);
  });
});

describe('conditions that change', () => {
  async function during(
    change: (network: Network) => void,
    congestion: CongestionName = 'bbr',
  ): Promise<readonly [number, number]> {
    const pair: NetworkPair = networkPair({ congestion, rateMbit: 400, delayMs: 10 }, { copy: false });
    const { environment, network } = pair;
    const { near, far } = await connect(pair);
    void (async () => {
      for (;;) await near.send([new Uint8Array(mebibyte)]);
    })().catch(() => {});
    void (async () => {
      for await (const _ of far.receive());
    })().catch(() => {});
    const delivered = () => network.statistics().paths.wan?.[0].deliveredBytes ?? 0;
    const rate = async () => {
      await environment.run(environment.now() + 15_000);
      const before = delivered();
      await environment.run(environment.now() + 10_000);
      return ((delivered() - before) * 8) / 1e6 / 10;
    };
    const first = await rate();
    change(network);
    const second = await rate();
    network.resetAll();
    return [first, second];
  }

  test('a lower rate, and a higher one', async () => {
    const [before, lower] = await during((network) => network.change({ rateMbit: 40 }));
    expect(before).toBeGreaterThan(350);
    expect(lower).toBeGreaterThan(35);
    expect(lower).toBeLessThan(41);
    const [, higher] = await during((network) => network.change({ rateMbit: 800 }, { from: 'source' }));
    expect(higher).toBeGreaterThan(650);
  });

  test('a longer way, where the window is what limits', async () => {
    const [, far] = await during((network) => network.change({ delayMs: 400 }), 'cubic');
    expect(far).toBeGreaterThan(25);
    expect(far).toBeLessThan((4 * mebibyte * 8) / 0.8 / 1e6 + 1);
  });

  test('loss', async () => {
    const pair = networkPair({ rateMbit: 1000, delayMs: 50 });
    const losses = () => pair.network.statistics().paths.wan?.[0].losses ?? 0;
    const { near, far } = await connect(pair);
    void (async () => {
      for (;;) await near.send([new Uint8Array(mebibyte)]);
    })().catch(() => {});
    void (async () => {
      for await (const _ of far.receive());
    })().catch(() => {});
    await pair.environment.run(10_000);
    expect(losses()).toBe(0);
    pair.network.change({ lossProbability: 0.01 }, { from: 'destination' });
    await pair.environment.run(20_000);
    expect(losses()).toBe(0);
    pair.network.change({ lossProbability: 0.01 });
    await pair.environment.run(30_000);
    expect(losses()).toBeGreaterThan(5);
    pair.network.resetAll();
  });
});

test('refuses conditions that no path has, and then changes nothing', () => {
  const environment = createVirtualEnvironment();
  for (const path of [
    { rateMbit: 0 },
    { delayMs: -1 },
    { jitterMs: Number.NaN },
    { queueMs: 70_000 },
    { lossProbability: 0.5 },
    { windowBytes: 1 },
    { ends: ['a', 'a'] as const },
    { back: { rateMbit: -1 } },
  ]) {
    expect(() => createNetwork({ environment, paths: [{ name: 'wan', ...path }] })).toThrow(
      expect.objectContaining({ code: 'invalid-argument' }),
    );
  }
  const network = createNetwork({ environment, paths: [{ name: 'wan' }] });
  expect(() => network.change({ rateMbit: -1 })).toThrow(
    expect.objectContaining({ code: 'invalid-argument' }),
  );
  expect(() => network.cut({ path: 'nowhere' })).toThrow(
    expect.objectContaining({ code: 'invalid-argument' }),
  );
  expect(() => createNetwork({ environment, paths: [] })).toThrow(/paths/);
  expect(() => createNetwork({ environment, paths: [{ name: 'a' }, { name: 'a' }] })).toThrow(/name/);
});
