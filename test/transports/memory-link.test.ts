// Goal: the memory link is the network that its options describe: rate, delay, queue, fairness. What it owes
// as a transport is tested in test/testing/compliance. Method: the network is measured in virtual time, where
// figures are exact, with timers that fire late as a process's do, with random traffic against what any such
// network must obey, and once for real.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Environment } from '../../src/interfaces/environment.ts';
import type { Connection } from '../../src/interfaces/transport.ts';
import { type MemoryLinkOptions, memoryLink } from '../../src/transports/memory-link.ts';
import { nodeEnvironment } from '../../src/util/node-environment.ts';
import { delay } from '../../src/util/promises.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../support/virtual-environment.ts';
import { collect, randomBytes, rejectsWith } from './transport-pair.ts';

const mebibyte = 1024 * 1024;

/** A link in virtual time with one connection. */
async function connected(options: MemoryLinkOptions, environment: VirtualEnvironment | Environment) {
  const link = memoryLink({ ...options, environment });
  const both = Promise.all([link.source.open(), link.destination.accept()]);
  const [near, far] = await ('run' in environment ? environment.run(both) : both);
  return { link, near, far };
}

/** Sends `bytes` in chunks of 256 KiB and closes; the time until the last one arrived. */
async function transferMs(
  near: Connection,
  far: Connection,
  bytes: number,
  now: () => number,
): Promise<number> {
  const start = now();
  const chunk = new Uint8Array(256 * 1024);
  const send = async () => {
    for (let sent = 0; sent < bytes; sent += chunk.byteLength) {
      await near.send([chunk.subarray(0, Math.min(chunk.byteLength, bytes - sent))]);
    }
    await near.close();
  };
  let arrived = start;
  const receive = async () => {
    for await (const _ of far.receive()) arrived = now();
  };
  await Promise.all([send(), receive()]);
  return arrived - start;
}

/**
 * As a process's timers are: whole milliseconds, and later than that by up to `lateMsMax`, while the process
 * is busy.
 */
function coarse(environment: VirtualEnvironment, lateMsMax: number): VirtualEnvironment {
  return {
    ...environment,
    setTimer: (delayMs, callback) => {
      const late = ((environment.randomBytes(1)[0] ?? 0) / 255) * lateMsMax;
      return environment.setTimer(Math.max(1, Math.trunc(delayMs)) + late, callback);
    },
  };
}

describe('rate and delay', () => {
  for (const rateMbit of [2, 400, 10_000]) {
    for (const rttMs of [0, 10, 200]) {
      test(`${rateMbit} Mbit/s over ${rttMs} ms: the bytes' own time and half a round trip`, async () => {
        const environment = createVirtualEnvironment();
        const { near, far } = await connected({ rttMs, rateMbit }, environment);
        const bytes = rateMbit * 12_500 + 12_345;
        const took = await environment.run(transferMs(near, far, bytes, environment.now));
        expect(took).toBeCloseTo(bytes / (rateMbit * 125) + rttMs / 2, 3);
      });
    }
  }

  for (const rateMbit of [400, 10_000]) {
    for (const [rttMs, queueBytes] of [
      [0, undefined],
      [40, undefined],
      [40, 10_000],
    ] as const) {
      const queue = queueBytes === undefined ? 'the usual queue' : `a queue of ${queueBytes} bytes`;
      test(`${rateMbit} Mbit/s, ${rttMs} ms, ${queue}: within 2 % with late timers`, async () => {
        const environment = coarse(createVirtualEnvironment(), 10);
        const options = queueBytes === undefined ? {} : { queueBytes };
        const { near, far } = await connected({ ...options, rttMs, rateMbit }, environment);
        const took = await environment.run(transferMs(near, far, rateMbit * 125 * 600, environment.now));
        expect(took - rttMs / 2).toBeGreaterThan(599);
        // The last timer is late, too.
        expect(took - rttMs / 2).toBeLessThan(612 + 10);
      });
    }
  }

  test('opening takes a round trip, the peer has the connection after half of it', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ rttMs: 100, environment });
    const accepting = link.destination.accept().then((far) => ({ far, at: environment.now() }));
    const near = await environment.run(link.source.open());
    expect(environment.now()).toBe(100);
    const { far, at } = await accepting;
    expect(at).toBe(50);
    const echo = async () => {
      for await (const chunk of far.receive()) await far.send([chunk]);
    };
    void echo();
    await near.send([Uint8Array.of(1)]);
    await environment.run(near.receive()[Symbol.asyncIterator]().next());
    expect(environment.now()).toBeCloseTo(200, 5);
  });

  test('without limits everything is there at once', async () => {
    const environment = createVirtualEnvironment();
    const { near, far } = await connected({}, environment);
    expect(await environment.run(transferMs(near, far, 100 * mebibyte, environment.now))).toBe(0);
  });

  test('the two directions do not share', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ rateMbit: 80, environment });
    const [a, b] = await Promise.all([link.source.open(), link.destination.accept()]);
    const [c, d] = await Promise.all([link.destination.open(), link.source.accept()]);
    const both = [
      transferMs(a, b, 10_000_000, environment.now),
      transferMs(c, d, 10_000_000, environment.now),
    ];
    for (const took of await environment.run(Promise.all(both))) expect(took).toBeCloseTo(1000, 3);
  });

  test('in real time, roughly', async () => {
    const { near, far } = await connected({ rttMs: 20, rateMbit: 400 }, nodeEnvironment);
    const took = await transferMs(near, far, 20_000_000, nodeEnvironment.now);
    expect(took).toBeGreaterThan(409);
    expect(took).toBeLessThan(1000);
  });
});

describe('sharing', () => {
  test('connections share the rate evenly, whatever their chunks', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ rateMbit: 100, environment });
    const counts = [0, 0, 0];
    for (const [index, size] of [500, 20_000, 3_000_000].entries()) {
      const [near, far] = await Promise.all([link.source.open(), link.destination.accept()]);
      const chunk = new Uint8Array(size);
      const send = async () => {
        for (;;) await near.send([chunk]);
      };
      const receive = async () => {
        for await (const part of far.receive()) counts[index] = (counts[index] ?? 0) + part.byteLength;
      };
      void send().catch(() => {});
      void receive().catch(() => {});
    }
    await environment.run(1000);
    for (const count of counts) expect(count / (12_500_000 / 3)).toBeCloseTo(1, 1);
    link.cut();
  });

  test('a small message waits for the queue and one turn of each other connection', async () => {
    for (const [queueBytes, queueMs] of [
      [undefined, 20],
      [50_000, 4],
    ] as const) {
      const environment = createVirtualEnvironment();
      const options = queueBytes === undefined ? {} : { queueBytes };
      const { link, near, far } = await connected({ ...options, rateMbit: 100, rttMs: 30 }, environment);
      const others = [];
      for (let index = 0; index < 4; index++) {
        const both = Promise.all([link.source.open(), link.destination.accept()]);
        others.push(await environment.run(both));
      }
      for (const [sender, receiver] of others) {
        void sender.send([new Uint8Array(20 * mebibyte)]).catch(() => {});
        void collect(receiver).catch(() => {});
      }
      await environment.run(environment.now() + 500);
      const start = environment.now();
      await near.send([Uint8Array.of(1)]);
      await environment.run(far.receive()[Symbol.asyncIterator]().next());
      const took = environment.now() - start - 15;
      expect(took).toBeGreaterThan(queueMs - 1.1);
      expect(took).toBeLessThan(queueMs + 5.1);
      link.cut();
      await environment.run();
    }
  });

  test('a receiver that does not read holds back its own sender and nobody else', async () => {
    const environment = createVirtualEnvironment();
    const { link, near, far } = await connected({ rateMbit: 80, rttMs: 10 }, environment);
    const [other, otherFar] = await environment.run(
      Promise.all([link.source.open(), link.destination.accept()]),
    );
    void near.send([new Uint8Array(30 * mebibyte)]).catch(() => {});
    await environment.run(environment.now() + 5000);
    const delivered = link.statistics().toDestination.deliveredBytes;
    // A mebibyte, and what queue, flight and late timers make, in turns of a millisecond.
    const window = mebibyte + (20 + 5 + 20) * 10_000;
    expect(delivered).toBeLessThanOrEqual(window);
    expect(delivered).toBeGreaterThan(window - 10_000);
    const took = await environment.run(transferMs(other, otherFar, 10_000_000, environment.now));
    expect(took).toBeCloseTo(1005, 0);
    const received = collect(far);
    await environment.run(near.close());
    expect((await received).byteLength).toBe(30 * mebibyte);
  });
});

describe('the rest', () => {
  test('a connection is received from once', async () => {
    const { near } = await connected({}, createVirtualEnvironment());
    near.receive();
    expect(() => near.receive()).toThrow(expect.objectContaining({ code: 'invalid-state' }));
  });

  test('64 connections wait, more are refused', async () => {
    const link = memoryLink();
    for (let index = 0; index < 64; index++) await link.source.open();
    await rejectsWith(link.source.open(), 'connect-failed');
    await link.destination.accept();
    await link.source.open();
    expect(link.statistics().connections).toBe(65);
  });

  test('cut() fails what is just being opened, whichever half of the round trip it is in', async () => {
    for (const at of [10, 40]) {
      const environment = createVirtualEnvironment();
      const link = memoryLink({ rttMs: 60, environment });
      const refused = rejectsWith(link.source.open(), 'connect-failed');
      await environment.run(at);
      link.cut();
      await environment.run(refused);
      await environment.run();
      expect(link.statistics().connections).toBe(0);
      await environment.run(Promise.all([link.source.open(), link.destination.accept()]));
    }
  });

  test('counts what is pending, delivered and open, and is idle when nothing is', async () => {
    const environment = createVirtualEnvironment();
    const { link, near, far } = await connected({ rateMbit: 8, rttMs: 20 }, environment);
    const received = collect(far);
    void near.send([new Uint8Array(100_000)]);
    const start = environment.now();
    await environment.run(start + 60);
    const { toDestination, toSource, connections } = link.statistics();
    expect(toDestination.deliveredBytes + toDestination.pendingBytes).toBe(100_000);
    expect(toDestination.deliveredBytes).toBeCloseTo(50_000, -4);
    expect(toSource).toEqual({ deliveredBytes: 0, pendingBytes: 0 });
    expect(connections).toBe(1);
    await environment.run(near.close());
    await received;
    await environment.run();
    expect(link.statistics()).toEqual({
      toDestination: { deliveredBytes: 100_000, pendingBytes: 0 },
      toSource: { deliveredBytes: 0, pendingBytes: 0 },
      connections: 0,
    });
  });

  test('refuses options that make no sense', () => {
    const invalid = expect.objectContaining({ code: 'invalid-argument' });
    for (const options of [
      { rttMs: -1 },
      { rttMs: Number.NaN },
      { rttMs: Number.POSITIVE_INFINITY },
      { rateMbit: 0 },
      { rateMbit: Number.NaN },
      { queueBytes: 0 },
      { queueBytes: 2 ** 31 },
    ]) {
      expect(() => memoryLink(options)).toThrow(invalid);
    }
  });
});

const traffic = fc.record({
  rateMbit: fc.constantFrom(3, 77, 950),
  rttMs: fc.constantFrom(0, 7, 90),
  queueBytes: fc.constantFrom(undefined, 1, 9_999),
  lateMsMax: fc.constantFrom(0, 3),
  connections: fc.array(
    fc.array(
      fc.record({ size: fc.integer({ min: 0, max: 150_000 }), pauseMs: fc.integer({ min: 0, max: 40 }) }),
      { minLength: 1, maxLength: 8 },
    ),
    { minLength: 1, maxLength: 5 },
  ),
});

test('any traffic: every byte once, in order, and no sooner than rate and delay allow', async () => {
  await fc.assert(
    fc.asyncProperty(traffic, async ({ rateMbit, rttMs, queueBytes, lateMsMax, connections }) => {
      const environment = coarse(createVirtualEnvironment(), lateMsMax);
      const link = memoryLink({
        rateMbit,
        rttMs,
        environment,
        ...(queueBytes === undefined ? {} : { queueBytes }),
      });
      let delivered = 0;
      const ends: { near: Connection; far: Connection }[] = [];
      for (let index = 0; index < connections.length; index++) {
        const both = Promise.all([link.source.open(), link.destination.accept()]);
        const [near, far] = await environment.run(both);
        ends.push({ near, far });
      }
      const begin = environment.now();
      const converse = async ({ near, far }: (typeof ends)[number], index: number) => {
        const sends = connections[index] ?? [];
        const total = sends.reduce((sum, { size }) => sum + size, 0);
        const bytes = randomBytes(total, index + 1);
        const sent: { readonly end: number; readonly at: number }[] = [];
        const receive = async () => {
          let at = 0;
          for await (const chunk of far.receive()) {
            const expected = bytes.subarray(at, at + chunk.byteLength);
            if (Buffer.compare(expected, chunk) !== 0) throw new Error(`other bytes at ${at}`);
            at += chunk.byteLength;
            while ((sent[0]?.end ?? total) < at) sent.shift();
            const tookMs = environment.now() - (sent[0]?.at ?? 0);
            if (tookMs < rttMs / 2 - 1e-5) throw new Error(`only ${tookMs} ms under way`);
            delivered += chunk.byteLength;
            const possible = (environment.now() - begin - rttMs / 2) * rateMbit * 125;
            if (delivered > possible + 1)
              throw new Error(`${delivered} bytes where ${possible} are possible`);
          }
          expect(at).toBe(total);
        };
        const send = async () => {
          let at = 0;
          for (const { size, pauseMs } of sends) {
            const sending = near.send([bytes.subarray(at, at + size)]);
            at += size;
            sent.push({ end: at, at: environment.now() });
            await sending;
            if (pauseMs > 0) await delay(environment, pauseMs);
          }
          await near.close();
        };
        await Promise.all([send(), receive()]);
      };
      await environment.run(Promise.all(ends.map(converse)));
    }),
    { numRuns: 200 },
  );
});
