/**
 * Goal: whatever strangers send, and however many, a listener stays up, holds a bounded amount of it, lets nobody past the greeting, and goes on
 * serving the others. Method: silence, garbage, floods and half-right greetings around a migration with a ticket, over a simulated link in
 * virtual time and over TCP; then seeded mutants of what is right, thrown at a listener and at every parser. LONGHAUL_HOSTILE says how
 * many of those (default 10,000).
 */
import { afterEach, describe, expect, it, test } from 'vitest';
import { createMemoryBackend, createMemoryVm, type MemoryVm } from '../../src/backends/memory/index.ts';
import {
  type Connection,
  createDestination,
  createSource,
  createTicket,
  type Environment,
  type Listener,
  listen,
  MigrationError,
  memoryLink,
  memoryRegister,
  type Transport,
} from '../../src/index.ts';
import { tcp } from '../../src/transports/tcp.ts';
import { crc32c } from '../../src/util/checksum.ts';
import { joinChunks } from '../../src/util/chunks.ts';
import { nodeEnvironment } from '../../src/util/node-environment.ts';
import { createPrng } from '../../src/util/prng.ts';
import { delay } from '../../src/util/promises.ts';
import { encodeFrameHeader, FrameParser } from '../../src/wire/frame.ts';
import {
  decodeAnswer,
  decodeChallenge,
  decodeGreetingHead,
  decodeGreetingTail,
  encodeAnswer,
  encodeChallenge,
  greetingHeadBytes,
} from '../../src/wire/greeting.ts';
import { decodeItem, encodeItem } from '../../src/wire/item.ts';
import { decodeMessage, encodeMessage } from '../../src/wire/messages.ts';
import { decodePositions, encodePositions } from '../../src/wire/positions.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createAcceptor, dialBy, fixedCredit, greeting, item, stateAfter } from './pair.ts';

const ticket = createTicket();
const vmId = 'vm-1';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

interface Ends {
  readonly environment: Environment;
  readonly near: Transport;
  readonly far: Transport;
}

/** One migration with the ticket, through a listener that others are at too. Resolves when the guest runs at the destination. */
async function migrate({ environment, near }: Ends, listener: Listener): Promise<void> {
  const vm = createMemoryVm({
    vmId,
    memoryBytes: 2 << 20,
    disks: [{ id: 'd', sizeBytes: 4 << 20, allocatedFraction: 0.5 }],
    environment,
  });
  const backend = createMemoryBackend({ environment });
  const common = { environment, ticket };
  const transport = listener.expect(vmId);
  const receiving = createDestination({ ...common, backend, transport, register: memoryRegister() }).run();
  const sending = createSource({ ...common, vm: vm.source(), transport: near, register: memoryRegister() });
  const [sent, received] = await Promise.all([sending.run(), receiving]);
  expect(sent.error?.message).toBeUndefined();
  expect([sent.outcome, received.outcome]).toEqual(['completed', 'completed']);
  await transport.close();
  vms.push(vm, ...(backend.vm === undefined ? [] : [backend.vm]));
}

/** What a stranger says once it is connected; then it waits, as it was never told to go. */
type Stranger = (connection: Connection, index: number) => Promise<unknown>;

const silent: Stranger = async () => {};
/** One byte every now and then, all of them right. */
const slow =
  (environment: Environment): Stranger =>
  async (connection) => {
    for (const byte of greeting('control', 1, { vmId })) {
      await connection.send([Uint8Array.of(byte)]);
      await delay(environment, 300);
    }
  };
const garbage: Stranger = (connection, index) => connection.send([new Uint8Array(200).fill(index)]);
const endless: Stranger = async (connection) => {
  for (let count = 0; count < 100; count++) await connection.send([new Uint8Array(64 << 10)]);
};
/** Greets as it should, for the VM that is expected or for another, and never proves itself. */
const greeter: Stranger = (connection, index) =>
  connection.send([greeting('control', index & 0xff, { vmId: index % 2 === 0 ? vmId : `vm-${index}` })]);
const liar: Stranger = async (connection, index) => {
  await greeter(connection, index * 2);
  for await (const _ of connection.receive()) await connection.send([new Uint8Array(32)]);
};

/** Opens connections, `atOnce` at a time, until it is over. Returns what ends it. */
function flood({ environment, near }: Ends, strangers: readonly Stranger[], atOnce: number, everyMs: number) {
  const over = new AbortController();
  const open = new Set<Connection>();
  let count = 0;
  const one = async (): Promise<void> => {
    const index = count++;
    const connection = await near.open();
    open.add(connection);
    await strangers[index % strangers.length]?.(connection, index);
  };
  const opening = (async () => {
    while (!over.signal.aborted) {
      for (let many = 0; many < atOnce; many++) one().catch(() => {});
      await delay(environment, everyMs, over.signal).catch(() => {});
    }
  })();
  return async () => {
    over.abort();
    await opening;
    for (const connection of open) connection.abort();
    return count;
  };
}

async function overTcp(work: (ends: Ends) => Promise<void>): Promise<void> {
  const host = '127.0.0.1';
  const far = tcp({ listen: { host, port: 0 } });
  const near = tcp({ connect: { host, port: (await far.listening()).port } });
  await work({ environment: nodeEnvironment, near, far });
  await Promise.all([near.close(), far.close()]);
}

function overALink(work: (ends: Ends) => Promise<void>): Promise<void> {
  const environment = createVirtualEnvironment();
  const link = memoryLink({ rttMs: 20, rateMbit: 1000, environment });
  return environment.run(work({ environment, near: link.source, far: link.destination }));
}

const networks = [
  ['a simulated link', overALink],
  ['TCP', overTcp],
] as const;

describe.each(networks)('a migration through a listener, over %s', (_, over) => {
  it('goes on among 64 that say nothing, or one byte now and then', () =>
    over(async (ends) => {
      const listener = listen(ends.far, ends);
      const strangers: Connection[] = [];
      for (let index = 0; index < 64; index++) {
        const connection = await ends.near.open();
        strangers.push(connection);
        const say = index % 2 === 0 ? silent : slow(ends.environment);
        say(connection, index).catch(() => {});
      }
      await migrate(ends, listener);
      await listener.close();
      for (const connection of strangers) connection.abort();
    }));

  it('goes on in a flood of strangers of every kind', () =>
    over(async (ends) => {
      const listener = listen(ends.far, ends);
      const kinds = [silent, slow(ends.environment), garbage, endless, greeter, liar];
      const stop = flood(ends, kinds, 6, 50);
      await delay(ends.environment, 500);
      await migrate(ends, listener);
      expect(await stop()).toBeGreaterThan(60);
      await listener.close();
    }));
});

test('a flood that fills every place is let go again, and the next one is served', () =>
  overALink(async (ends) => {
    const { environment } = ends;
    const listener = listen(ends.far, { environment });
    // Of the VM's own places too: these greet for it, and say no more.
    const stop = flood(ends, [silent, (connection) => greeter(connection, 0)], 100, 100);
    const expected = listener.expect(vmId);
    await delay(environment, 3000);
    await stop();
    await expected.close();
    await delay(environment, 1000);
    await migrate(ends, listener);
    await listener.close();
  }));

describe('mutants', () => {
  const mutants = Number(process.env.LONGHAUL_HOSTILE ?? 10_000);
  const prng = createPrng(20_260_101);
  const random = (limit: number): number => prng.below(limit);

  /** Where a checksum stands, and what it is of; negative: from the end. */
  type Sums = readonly { readonly at: number; readonly from: number; readonly to: number }[];

  /** Some bytes of it changed, cut off or doubled; as often as not with the checksums made right again. */
  function mutate(bytes: Uint8Array, sums: Sums): Uint8Array<ArrayBuffer> {
    let mutant: Uint8Array<ArrayBuffer> = Uint8Array.from(bytes);
    for (let count = 1 + random(3); count > 0; count--) {
      const at = random(mutant.byteLength);
      switch (random(5)) {
        case 0:
          mutant = mutant.slice(0, at);
          break;
        case 1:
          mutant = Uint8Array.from(
            joinChunks([mutant.subarray(0, at), mutant.subarray(random(mutant.byteLength))]),
          );
          break;
        case 2:
          mutant = mutant.slice();
          mutant.fill(random(2) * 255, at, at + 1 + random(8));
          break;
        default:
          mutant = mutant.slice();
          if (at < mutant.byteLength) mutant[at] = random(256);
      }
      if (mutant.byteLength === 0) return new Uint8Array(random(4));
    }
    if (random(2) === 0) return mutant;
    const place = (index: number) => (index < 0 ? mutant.byteLength + index : index);
    for (const { at, from, to } of sums) {
      if (place(at) < 0 || place(at) + 4 > mutant.byteLength) continue;
      new DataView(mutant.buffer).setUint32(place(at), crc32c(mutant.subarray(from, place(to))));
    }
    return mutant;
  }

  const session = new Uint8Array(16).fill(7);
  const greetings = (['control', 'data', 'question', 'resume'] as const).map((purpose) =>
    greeting(purpose, 7, { vmId }),
  );
  const greetingSums: Sums = [
    { at: greetingHeadBytes - 4, from: 0, to: greetingHeadBytes - 4 },
    { at: -4, from: greetingHeadBytes, to: -4 },
  ];

  it('of greetings, to a listener: nobody is let in, and nothing is left of them', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ rttMs: 2, rateMbit: 10_000, environment });
    const listener = listen(link.destination, { environment });
    const transport = listener.expect(vmId);
    let prepared = 0;
    const backend = createMemoryBackend({ environment });
    const counting = Object.assign(Object.create(backend) as typeof backend, {
      prepare: (...args: Parameters<typeof backend.prepare>) => {
        prepared++;
        return backend.prepare(...args);
      },
    });
    const stop = new AbortController();
    const common = { environment, ticket, register: memoryRegister() };
    const destination = createDestination({ ...common, backend: counting, transport });
    const receiving = destination.run({ signal: stop.signal });
    const welcomes: number[] = [];
    const throwOne = async (): Promise<void> => {
      const connection = await link.source.open();
      const good = greetings[random(greetings.length)] ?? new Uint8Array(0);
      await connection.send([mutate(good, greetingSums)]);
      const reply: Uint8Array[] = [];
      const listening = (async () => {
        for await (const chunk of connection.receive()) {
          reply.push(chunk.slice());
          // An answer to the challenge, of the right length or not.
          if (reply.length === 1) await connection.send([new Uint8Array(28 + random(8)).fill(random(256))]);
        }
      })().catch(() => {});
      await delay(environment, 20);
      connection.abort();
      await listening;
      const said = joinChunks(reply);
      for (let at = 0; at + 32 <= said.byteLength; at += said[at + 10] === 3 ? 104 : 32) {
        if (said[at + 10] === 0) welcomes.push(at);
      }
    };
    const count = Math.ceil(mutants / 10);
    for (let done = 0; done < count; done += 50) {
      await environment.run(Promise.all(Array.from({ length: 50 }, throwOne)));
    }
    await environment.run(environment.now() + 15_000);
    expect(welcomes).toEqual([]);
    expect(prepared).toBe(0);
    expect(link.statistics().connections).toBe(0);
    stop.abort();
    expect((await environment.run(receiving)).error?.code).toBe('aborted');
    await environment.run(listener.close());
  }, 600_000);

  const frameSums: Sums = [
    { at: 20, from: 28, to: Number.MAX_SAFE_INTEGER },
    { at: 24, from: 0, to: 24 },
  ];
  const frame = (() => {
    const payload = encodeItem(item(0, 3000));
    const payloadBytes = payload.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const payloadCrc = crc32c(joinChunks(payload));
    const header = {
      type: 'data',
      class: 'bulk',
      stream: 1,
      number: 1,
      payload,
      payloadBytes,
      payloadCrc,
    } as const;
    return joinChunks([encodeFrameHeader(header, 1), ...payload]);
  })();

  it('of frames, to a channel: it drops them, or ends with an error of its own, and nothing worse', async () => {
    for (let count = 0; count < Math.ceil(mutants / 50); count++) {
      const world = createAcceptor();
      const { environment, acceptor } = world;
      const control = await environment.run(dialBy(world, 'control', 7));
      const far = await environment.run(acceptor.channel(undefined));
      const data = await environment.run(dialBy(world, 'data', 7));
      const stream = far.openReceive(1, 0, fixedCredit(1 << 20), (received) => stream.applied(received));
      const { connection } = random(2) === 0 ? control : data;
      await connection.send([mutate(frame, frameSums)]).catch(() => {});
      await environment.run(environment.now() + 10);
      if (far.signal.aborted) expect(far.signal.reason).toBeInstanceOf(MigrationError);
      far.abort(new MigrationError('aborted', 'enough'));
      for (const greeted of [control, data]) greeted.connection.abort();
      expect(await stateAfter(environment, 3000, acceptor.close())).toBeUndefined();
      expect(world.link.statistics().connections).toBe(0);
    }
  }, 600_000);

  const nonce = new Uint8Array(32);
  const parsers: readonly (readonly [string, Uint8Array, Sums, (bytes: Uint8Array) => unknown])[] = [
    [
      'greetings',
      greetings[1] ?? nonce,
      greetingSums,
      (bytes) => {
        const { tailBytes } = decodeGreetingHead(bytes.subarray(0, greetingHeadBytes));
        decodeGreetingTail(bytes.subarray(greetingHeadBytes, greetingHeadBytes + tailBytes));
      },
    ],
    [
      'answers',
      encodeAnswer({ version: 1, status: 'challenge', session }),
      [{ at: 28, from: 0, to: 28 }],
      decodeAnswer,
    ],
    [
      'challenges',
      encodeChallenge({ versionMin: 1, versionMax: 1, nonce }, () => nonce),
      [{ at: 68, from: 0, to: 68 }],
      decodeChallenge,
    ],
    ['frames', frame, frameSums, (bytes) => [...new FrameParser().push(bytes)]],
    ['items', frame.slice(28), [], (bytes) => decodeItem([bytes], bytes.byteLength)],
    ['messages', encodeMessage({ type: 'decided', value: 'owner', reason: 'r' }), [], decodeMessage],
    [
      'positions',
      encodePositions({ control: 1, lanes: [{ lane: 1, sequence: 1 }], streams: [], returned: [] }),
      [],
      decodePositions,
    ],
  ];

  it.each(parsers)(
    'of %s are taken or refused as what they are, and nothing worse',
    (_, good, sums, parse) => {
      for (let count = 0; count < mutants; count++) {
        const mutant = mutate(good, sums);
        try {
          parse(mutant);
        } catch (error) {
          const taken =
            error instanceof MigrationError && ['protocol', 'connection-lost'].includes(error.code);
          if (!taken) throw error;
        }
      }
    },
    600_000,
  );
});
