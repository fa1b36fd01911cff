// Goal: a simulated network breaks as it is told to, and as networks break: what each end sees, and when; and
// what it holds stays bounded.
// Method: one or two connections in virtual time, in which every time is known.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Connection } from '../../src/index.ts';
import { createNetwork, type NetworkEvent } from '../../src/testing/sim/network.ts';
import { createVirtualEnvironment } from '../../src/testing/virtual-time.ts';
import { collect, randomBytes } from '../transports/transport-pair.ts';
import { connect, type NetworkPair, networkPair, stateOf } from './network-pair.ts';

const mebibyte = 1 << 20;
/** A round trip of 40 ms. */
const wan = { rateMbit: 800, delayMs: 20 };

/** Sends until nobody takes any more; how much was taken, and the send that waits. */
async function fill(connection: Connection, { environment }: NetworkPair) {
  const chunk = new Uint8Array(64 << 10);
  for (let bytes = 0; ; ) {
    const sending = connection.send([chunk]);
    const state = stateOf(sending);
    bytes += chunk.byteLength;
    await environment.run(environment.now() + 10);
    if (state() === 'pending') return { state, bytes };
    expect(bytes).toBeLessThan(64 * mebibyte);
  }
}

/** What arrives, as it arrives, and how it ended. */
function received(connection: Connection, { environment }: NetworkPair) {
  const log = { bytes: [] as number[], lastAt: 0, end: '' };
  void (async () => {
    try {
      for await (const chunk of connection.receive()) {
        log.bytes.push(...chunk);
        log.lastAt = environment.now();
      }
      log.end = 'ended';
    } catch (error) {
      log.end = (error as { code: string }).code;
    }
    log.lastAt = environment.now();
  })();
  return log;
}

describe('a cut', () => {
  test('resets what is open at once, dials fail after three seconds, and it can be mended', async () => {
    const pair = networkPair(wan);
    const { environment, network, source, destination } = pair;
    const { near, far } = await connect(pair);
    const [atNear, atFar] = [received(near, pair), received(far, pair)];
    network.cut();
    await environment.run(environment.now());
    expect([atNear.end, atFar.end]).toEqual(['connection-lost', 'connection-lost']);
    expect(network.statistics().openEnds).toBe(0);
    const start = environment.now();
    await expect(environment.run(source.open())).rejects.toMatchObject({ code: 'connect-failed' });
    expect(environment.now() - start).toBe(3000);
    network.mend();
    await environment.run(Promise.all([source.open(), destination.accept()]));
  });

  test('strikes only the path that it names', async () => {
    const environment = createVirtualEnvironment();
    const network = createNetwork({ environment, paths: [{ name: 'one' }, { name: 'two' }] });
    const source = network.transport({ host: 'source', connect: { host: 'destination', name: 'vm' } });
    const destination = network.transport({ host: 'destination', listen: 'vm' });
    expect(source.paths).toBe(2);
    for (const path of [0, 1]) {
      await environment.run(Promise.all([source.open({ path }), destination.accept()]));
    }
    network.cut({ path: 'two' });
    expect(network.connections().map(({ path, openAt }) => [path, openAt])).toEqual([
      ['one', ['source', 'destination']],
    ]);
    network.connections()[0]?.reset();
    expect(network.connections()).toEqual([]);
    const back = network.transport({
      host: 'destination',
      connect: { host: 'source', name: 'x' },
      paths: ['two'],
    });
    expect(back.paths).toBe(1);
    await expect(environment.run(back.open())).rejects.toMatchObject({ code: 'connect-failed' });
  });
});

describe('a reset in mid-frame', () => {
  test('lets exactly so many bytes through, and breaks both ends', async () => {
    const pair = networkPair(wan);
    const { near, far } = await connect(pair);
    const [atNear, atFar] = [received(near, pair), received(far, pair)];
    const bytes = randomBytes(100_000, 1);
    pair.network.resetAfter(54_321, { from: 'source' });
    await near.send([bytes.subarray(0, 300), bytes.subarray(300)]);
    await pair.environment.run(1000);
    expect(atFar.bytes).toEqual([...bytes.subarray(0, 54_321)]);
    expect([atNear.end, atFar.end]).toEqual(['connection-lost', 'connection-lost']);
    expect(pair.network.statistics()).toMatchObject({ openEnds: 0, heldBytes: 0 });
    // Once only.
    const again = await connect(pair);
    await again.near.send([bytes]);
    const [all] = await pair.environment.run(Promise.all([collect(again.far), again.near.close()]));
    expect(Buffer.from(bytes).equals(all)).toBe(true);
  });
});

describe('a black hole', () => {
  test('takes what fits, tells nobody, and what it held arrives when it is over', async () => {
    const pair = networkPair(wan);
    const { environment, network } = pair;
    const { near, far } = await connect(pair);
    const [atNear, atFar] = [received(near, pair), received(far, pair)];
    network.blackHole(true);
    const { state, bytes } = await fill(near, pair);
    expect(bytes).toBeGreaterThan(200_000);
    expect(bytes).toBeLessThan(6 * mebibyte);
    await environment.run(environment.now() + 3_600_000);
    expect([state(), atNear.end, atFar.end, atFar.bytes.length]).toEqual(['pending', '', '', 0]);
    expect(environment.pendingTimers).toBe(0);
    network.blackHole(false);
    // The timer has backed off to two minutes.
    await environment.run(environment.now() + 121_000);
    expect([state(), atFar.bytes.length]).toEqual(['resolved', bytes]);
  });

  test('goes on at the next repetition of a timer that doubles', async () => {
    const pair = networkPair(wan);
    const { environment, network } = pair;
    const { near, far } = await connect(pair);
    const atFar = received(far, pair);
    await near.send([Uint8Array.of(1)]);
    await environment.run(environment.now() + 1000);
    const start = environment.now();
    network.blackHole(true);
    await near.send([Uint8Array.of(2)]);
    // Lost at 20 ms; tried again 200, 600 and 1400 ms after that.
    await environment.run(start + 700);
    network.blackHole(false);
    await environment.run(start + 5000);
    expect(atFar.bytes).toEqual([1, 2]);
    expect(atFar.lastAt - start).toBeCloseTo(20 + 1400 + 20, 1);
  });

  test('one way only: the other way still carries data, but not for ever', async () => {
    const pair = networkPair(wan);
    const { environment, network } = pair;
    const { near, far } = await connect(pair);
    const atFar = received(far, pair);
    const atNear = received(near, pair);
    network.blackHole(true, { from: 'destination' });
    await near.send([Uint8Array.of(1, 2, 3)]);
    await far.send([Uint8Array.of(4)]);
    await environment.run(environment.now() + 5000);
    expect([atFar.bytes, atNear.bytes]).toEqual([[1, 2, 3], []]);
    // Nothing is acknowledged.
    const { state } = await fill(near, pair);
    network.blackHole(false);
    await environment.run(environment.now() + 60_000);
    expect([state(), atNear.bytes]).toEqual(['resolved', [4]]);
  });

  test('swallows dials until somebody gives up, and word of an end until it is over', async () => {
    const pair = networkPair(wan);
    const { environment, network, source } = pair;
    const { near, far } = await connect(pair);
    const atFar = received(far, pair);
    network.blackHole(true);
    near.abort();
    await environment.run(environment.now() + 10_000);
    expect(network.connections().map(({ openAt }) => openAt)).toEqual([['destination']]);
    expect(network.statistics().openEnds).toBe(1);
    const start = environment.now();
    await expect(environment.run(source.open())).rejects.toMatchObject({ code: 'connect-failed' });
    expect(environment.now() - start).toBe(127_000);
    network.blackHole(false);
    await environment.run(environment.now() + 100);
    expect(atFar.end).toBe('connection-lost');
    expect(network.statistics().openEnds).toBe(0);
  });

  test('a dial is answered after the darkness', async () => {
    const pair = networkPair(wan);
    const { environment, network, source, destination } = pair;
    network.blackHole(true);
    environment.setTimer(1500, () => network.blackHole(false));
    await environment.run(Promise.all([source.open(), destination.accept()]));
    expect(environment.now()).toBeCloseTo(3000 + 40, 3);
  });
});

describe('a process', () => {
  test('that is killed loses its connections after a delay, and its calls never settle', async () => {
    const pair = networkPair(wan);
    const { environment, network, source, destination } = pair;
    const { near, far } = await connect(pair);
    const waiting = [destination.accept()];
    const reading = far.receive()[Symbol.asyncIterator]();
    const filled = await fill(near, pair);
    const atNear = received(near, pair);
    const start = environment.now();
    destination.kill('reset');
    destination.kill('silent');
    const later = [
      destination.accept(),
      destination.open(),
      destination.close(),
      far.send([Uint8Array.of(1)]),
      far.close(),
      // What had arrived is lost with the process.
      reading.next(),
    ];
    const states = [...waiting, ...later].map(stateOf);
    await environment.run(environment.now() + 60_000);
    expect(states.map((state) => state())).toEqual(states.map(() => 'pending'));
    expect([atNear.end, atNear.lastAt - start, filled.state()]).toEqual([
      'connection-lost',
      20,
      'connection-lost',
    ]);
    expect(network.statistics()).toMatchObject({ openEnds: 0, heldBytes: 0 });
    // Its host lives, and says at once that nobody listens.
    const dialled = environment.now();
    await expect(environment.run(source.open())).rejects.toMatchObject({ code: 'connect-failed' });
    expect(environment.now() - dialled).toBe(40);
    // The name is free.
    const next = network.transport({ host: 'destination', listen: 'vm' });
    await environment.run(Promise.all([source.open(), next.accept()]));
  });

  test('whose host loses power leaves its peers half-open for ever', async () => {
    const pair = networkPair(wan);
    const { environment, network, source, destination } = pair;
    const { near, far } = await connect(pair);
    const atNear = received(near, pair);
    await far.send([Uint8Array.of(1, 2)]);
    destination.kill('silent');
    const filled = await fill(near, pair);
    await environment.run(environment.now() + 24 * 3_600_000);
    // What had left arrives; then nothing.
    expect([atNear.bytes, atNear.end, filled.state()]).toEqual([[1, 2], '', 'pending']);
    expect(network.statistics().openEnds).toBe(1);
    expect(network.connections()[0]?.openAt).toEqual(['source']);
    near.abort();
    await environment.run();
    expect(network.statistics()).toMatchObject({ openEnds: 0, heldBytes: 0 });
    const start = environment.now();
    await expect(environment.run(source.open())).rejects.toMatchObject({ code: 'connect-failed' });
    expect(environment.now() - start).toBe(127_000);
    network.transport({ host: 'destination', listen: 'other' });
    await expect(environment.run(source.open())).rejects.toMatchObject({ code: 'connect-failed' });
    expect(environment.now() - start).toBe(127_040);
  });

  test('that dials when it is killed is never told, and leaves nothing', async () => {
    for (const at of [10, 30, 50]) {
      for (const how of ['reset', 'silent'] as const) {
        const pair = networkPair({ ...wan, lossProbability: 0 });
        const { environment, network, source, destination } = pair;
        const accepted = destination.accept().then((connection) => received(connection, pair));
        const opening = stateOf(source.open());
        await environment.run(at);
        source.kill(how);
        await environment.run();
        expect(opening()).toBe(at > 40 ? 'resolved' : 'pending');
        expect(source.connections).toBe(0);
        const halfOpen = how === 'silent' && at > 20;
        expect(network.statistics().openEnds).toBe(halfOpen ? 1 : 0);
        if (at > 20) expect((await accepted).end).toBe(halfOpen ? '' : 'connection-lost');
      }
    }
  });
});

test('a flipped bit is one bit, in flight, and the sender keeps its own', async () => {
  const pair = networkPair(wan, { copy: false });
  const { near, far } = await connect(pair);
  const bytes = randomBytes(50_000, 3);
  const kept = bytes.slice();
  pair.network.flipNextByte({ from: 'source', chunkBytesMin: 1000 });
  await near.send([bytes.subarray(0, 999), bytes.subarray(999)]);
  const [all] = await pair.environment.run(Promise.all([collect(far), near.close()]));
  expect(Buffer.from(kept).equals(bytes)).toBe(true);
  const different = [...all].flatMap((byte, index) => (byte === kept[index] ? [] : [{ byte, index }]));
  expect(different).toHaveLength(1);
  const [{ byte, index } = { byte: 0, index: 0 }] = different;
  expect(index).toBeGreaterThanOrEqual(999);
  const flipped = byte ^ (kept[index] ?? 0);
  expect(flipped & (flipped - 1)).toBe(0);
});

test('chunks pass by reference if that is wanted', async () => {
  for (const copy of [true, false]) {
    const pair = networkPair({}, { copy });
    const { near, far } = await connect(pair);
    const chunk = new Uint8Array(1000).fill(1);
    await near.send([chunk]);
    const [all] = await pair.environment.run(Promise.all([collect(far), near.close()]));
    expect(all.buffer === chunk.buffer).toBe(!copy);
  }
});

test('what is held is bounded by the window, whatever a receiver leaves unread, and counted', async () => {
  const pair = networkPair({ ...wan, windowBytes: 256 << 10 });
  const { near, far } = await connect(pair);
  const { bytes } = await fill(near, pair);
  const { heldBytes, heldBytesPeak } = pair.network.statistics();
  expect(heldBytes).toBe(bytes);
  expect(heldBytesPeak).toBe(bytes);
  expect(bytes).toBeLessThanOrEqual((256 << 10) + (256 << 10) + (64 << 10));
  near.abort();
  far.abort();
  await pair.environment.run();
  expect(pair.network.statistics()).toMatchObject({ openEnds: 0, heldBytes: 0, heldBytesPeak: bytes });
});

test("a name is one transport's, a host has to be on a path, and wrong ways are refused", async () => {
  const { network } = networkPair();
  const invalid = expect.objectContaining({ code: 'invalid-argument' });
  const to = (host: string) => ({ host, name: 'vm' });
  expect(() => network.transport({ host: 'destination', listen: 'vm' })).toThrow(invalid);
  expect(() => network.transport({ host: 'moon', listen: 'vm' })).toThrow(invalid);
  expect(() => network.transport({ host: 'source', connect: to('moon') })).toThrow(invalid);
  expect(() => network.transport({ host: 'source', connect: to('destination'), paths: ['x'] })).toThrow(
    invalid,
  );
});

test('equal seeds give equal runs, event for event; another seed gives another', async () => {
  const run = async (seed: number) => {
    const events: NetworkEvent[] = [];
    const path = { ...wan, jitterMs: 3, lossProbability: 0.002 };
    const pair = networkPair(path, { seed, observe: (event) => events.push(event) });
    const connections = [await connect(pair), await connect(pair)];
    const bytes = randomBytes(2_000_000, 7);
    await pair.environment.run(
      Promise.all(
        connections.flatMap(({ near, far }) => [
          near.send([bytes]).then(
            () => near.close(),
            () => near.close(),
          ),
          collect(far),
        ]),
      ),
    );
    return { events, digest: pair.network.digest() };
  };
  const [one, same, other] = [await run(1), await run(1), await run(2)];
  expect(same.events).toEqual(one.events);
  expect(same.digest).toBe(one.digest);
  expect(other.digest).not.toBe(one.digest);
  expect(one.digest).toMatch(/^[0-9a-f]{16}$/);
  const kinds = new Set(one.events.map(({ kind }) => kind));
  for (const kind of ['open', 'deliver', 'loss', 'closed'] as const) expect(kinds).toContain(kind);
});

test('whatever the conditions and however they change, every byte comes once and in order', async () => {
  const conditions = fc.record({
    rateMbit: fc.constantFrom(1, 30, 1000, 40_000),
    delayMs: fc.constantFrom(0, 0.1, 15, 150),
    jitterMs: fc.constantFrom(0, 5),
    queueMs: fc.constantFrom(0, 1, 25),
    lossProbability: fc.constantFrom(0, 0.001, 0.05),
  });
  const path = fc.record({ first: conditions, congestion: fc.constantFrom('reno', 'cubic', 'bbr') });
  const change = fc.record({
    afterMs: fc.integer({ min: 1, max: 400 }),
    what: fc.oneof(conditions, fc.constant('dark' as const)),
    from: fc.constantFrom('source', 'destination', undefined),
  });
  await fc.assert(
    fc.asyncProperty(
      path,
      fc.array(change, { maxLength: 4 }),
      fc.array(fc.integer({ min: 1, max: 60_000 }), { minLength: 1, maxLength: 12 }),
      fc.integer({ min: 1, max: 1000 }),
      async ({ first, congestion }, changes, sizes, seed) => {
        const pair = networkPair({ ...first, congestion, windowBytes: 64 << 10 }, { seed });
        const { environment, network } = pair;
        const { near, far } = await connect(pair);
        for (const { afterMs, what, from } of changes) {
          const place = from === undefined ? {} : { from };
          environment.setTimer(afterMs, () => {
            if (what !== 'dark') return network.change(what, place);
            network.blackHole(true, place);
            environment.setTimer(500, () => network.blackHole(false, place));
          });
        }
        const total = sizes.reduce((sum, size) => sum + size, 0);
        const bytes = randomBytes(total, seed);
        const send = async (connection: Connection) => {
          let at = 0;
          for (const size of sizes) {
            await connection.send([bytes.subarray(at, at + size)]);
            at += size;
          }
        };
        const receive = async (connection: Connection) => {
          let at = 0;
          for await (const chunk of connection.receive()) {
            expect(Buffer.from(bytes.buffer, bytes.byteOffset + at, chunk.byteLength).equals(chunk)).toBe(
              true,
            );
            at += chunk.byteLength;
            if (at === total) return;
          }
        };
        await environment.run(Promise.all([send(near), send(far), receive(near), receive(far)]));
        await environment.run(Promise.all([near.close(), far.close()]));
        await environment.run();
        expect(network.statistics()).toMatchObject({ openEnds: 0, heldBytes: 0 });
      },
    ),
    { seed: 5, numRuns: 60 },
  );
});
