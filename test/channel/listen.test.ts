/**
 * Goal: one address serves many migrations, and nobody who connects to it disturbs another: each connection reaches the destination that
 * waits for its VM, all others are told no. Method: whole migrations over a simulated link in virtual time and over sockets, with outsiders
 * of every kind among them; then each rule alone.
 */
import { describe, expect, test } from 'vitest';
import { createMemoryBackend, createMemoryVm } from '../../src/backends/memory/index.ts';
import { dial } from '../../src/channel/handshake.ts';
import {
  answerQuestions,
  askDecision,
  type Connection,
  createDestination,
  createSource,
  type Environment,
  listen,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type Transport,
} from '../../src/index.ts';
import { tcp } from '../../src/transports/tcp.ts';
import { nodeEnvironment } from '../../src/util/node-environment.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { withChanges } from '../support/worlds.ts';
import { greeting } from './pair.ts';

const vms = Array.from({ length: 8 }, (_, index) => `vm-${index + 1}`);
const session = new Uint8Array(16).fill(9);
const control = (vmId: string) => greeting('control', 9, { vmId });

function source(vmId: string, transport: Transport, environment: Environment) {
  const disks = [{ id: 'd', sizeBytes: 4 << 20, allocatedFraction: 0.5 }];
  const vm = createMemoryVm({ vmId, memoryBytes: 2 << 20, disks, environment });
  return createSource({ vm: vm.source(), transport, register: memoryRegister(), environment });
}

/** The status byte of the answer to what is sent; nothing, if the connection ends without one. */
async function answerTo(transport: Transport, bytes: Uint8Array): Promise<number | undefined> {
  const connection = await transport.open();
  await connection.send([bytes]);
  const answer: Uint8Array[] = [];
  try {
    for await (const chunk of connection.receive()) answer.push(chunk);
  } catch {
    // Dropped.
  }
  await connection.close();
  return answer[0]?.[10];
}

/** Eight migrations at once, and in the midst of them whoever should not be there. */
async function crowd(near: Transport, far: Transport, environment: Environment): Promise<void> {
  const listener = listen(far, { environment });
  const migrations = vms.map(async (vmId) => {
    const transport = listener.expect(vmId);
    const backend = createMemoryBackend({ environment });
    const register = memoryRegister();
    const destination = createDestination({ backend, transport, register, environment });
    const receiving = destination.run();
    const sent = await source(vmId, near, environment).run();
    const received = await receiving;
    await transport.close();
    expect(backend.vm?.state).toBe('running');
    return [sent, received] as const;
  });
  const refusedIn = (report: MigrationReport) => expect(report.error?.code).toBe('refused');
  const silent: Connection[] = [];
  const outsiders = [
    ...Array.from({ length: 10 }, async () => {
      const connection = await near.open();
      silent.push(connection);
      await connection.send([control('vm-1').subarray(0, 17)]);
    }),
    answerTo(near, new Uint8Array(100).fill(65)).then((status) => expect(status).toBeUndefined()),
    answerTo(near, control('nobody')).then((status) => expect(status).toBe(2)),
    answerTo(near, greeting('control', 9, { versionMin: 7, versionMax: 9, vmId: 'vm-1' })).then((status) =>
      expect(status).toBe(1),
    ),
    expect(
      dial(near, {
        purpose: 'data',
        lane: 1,
        vmId: 'vm-2',
        session,
        environment,
        limitMs: 5000,
        signal: undefined,
      }),
    ).rejects.toMatchObject({ code: 'refused' }),
    source('unknown', near, environment).run().then(refusedIn),
    source('vm-3', near, environment).run().then(refusedIn),
  ];
  const reports = (await Promise.all(migrations)).flat();
  expect(reports.map(({ outcome, owner, error }) => [outcome, owner, error])).toEqual(
    reports.map(() => ['completed', 'destination', undefined]),
  );
  await Promise.all(outsiders);
  for (const vmId of vms) expect(await answerTo(near, control(vmId))).toBe(2);
  await listener.close();
  for (const connection of silent) connection.abort();
}

describe('listen()', () => {
  test('eight migrations at once, and outsiders, over a simulated link', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ rttMs: 20, rateMbit: 1000, environment });
    await environment.run(crowd(link.source, link.destination, environment));
    await environment.run(environment.now() + 5000);
    expect(link.statistics().connections).toBe(0);
  });

  test('eight migrations at once, and outsiders, over TCP', async () => {
    const host = '127.0.0.1';
    const far = tcp({ listen: { host, port: 0 } });
    const near = tcp({ connect: { host, port: (await far.listening()).port } });
    await crowd(near, far, nodeEnvironment);
    await Promise.all([near.close(), far.close()]);
  });

  function world() {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ rttMs: 2, environment });
    const listener = listen(link.destination, { environment });
    return { environment, link, listener };
  }

  test.each(['\ufeffvm', 'v\ud800'])('a VM is found by whatever name it has: %j', async (vmId) => {
    const { environment, link, listener } = world();
    const accepting = listener.expect(vmId).accept();
    const connection = await environment.run(link.source.open());
    await connection.send([control(vmId)]);
    const accepted = await environment.run(accepting);
    accepted.abort();
    connection.abort();
    await listener.close();
  });

  test('a VM is expected once, and again when that is over', async () => {
    const { listener } = world();
    const first = listener.expect('v');
    expect(() => listener.expect('v')).toThrow(expect.objectContaining({ code: 'invalid-state' }));
    await first.close();
    const second = listener.expect('v');
    await first.close();
    expect(() => listener.expect('v')).toThrow(expect.objectContaining({ code: 'invalid-state' }));
    await second.close();
    for (const vmId of ['', 'x'.repeat(766)]) {
      expect(() => listener.expect(vmId)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
    }
    await listener.close();
    expect(() => listener.expect('v')).toThrow(expect.objectContaining({ code: 'invalid-state' }));
  });

  test('what it gives accepts and does not open, and ends with it', async () => {
    const { listener, link } = world();
    const expected = listener.expect('v');
    expect(expected.capabilities).toEqual({ open: false, accept: true });
    await expect(expected.open()).rejects.toMatchObject({ code: 'unsupported' });
    const accepting = expected.accept();
    await listener.close();
    await expect(accepting).rejects.toMatchObject({ code: 'connect-failed' });
    await listener.close();
    const dialler = withChanges(link.source, { capabilities: { open: true, accept: false } });
    expect(() => listen(dialler)).toThrow(expect.objectContaining({ code: 'unsupported' }));
  });

  test('a connection begins with its greeting, however it came', async () => {
    const { environment, link, listener } = world();
    const expected = listener.expect('v');
    const near = await environment.run(link.source.open());
    const bytes = control('v');
    await near.send([bytes.subarray(0, 7)]);
    await near.send([bytes.subarray(7)]);
    const far = await environment.run(expected.accept());
    const received: number[] = [];
    const collecting = (async () => {
      for await (const chunk of far.receive()) received.push(...chunk);
    })();
    await near.send([Uint8Array.from([1, 2, 3])]);
    await environment.run(Promise.all([collecting, near.close()]));
    expect(received).toEqual([...bytes, 1, 2, 3]);
    await listener.close();
  });

  test.each<[string, (connection: Connection) => unknown]>([
    ['breaks', (connection) => connection.abort()],
    ['ends', (connection) => connection.close()],
    ['says more than its greeting', (connection) => connection.send([new Uint8Array(1)])],
  ])('one that %s before it is challenged is dropped, and nobody accepts it', async (_, act) => {
    const { environment, link, listener } = world();
    const expected = listener.expect('v');
    const near = await environment.run(link.source.open());
    await near.send([control('v')]);
    await environment.run(environment.now() + 10);
    act(near);
    await environment.run(environment.now() + 10);
    expect(link.statistics().connections).toBe(0);
    const next = await environment.run(link.source.open());
    await next.send([greeting('control', 3)]);
    const far = await environment.run(expected.accept());
    const { value } = await environment.run(far.receive()[Symbol.asyncIterator]().next());
    expect(value).toEqual(greeting('control', 3));
    await environment.run(listener.close());
  });

  test('who does not accept holds up nobody else: 64 wait for it, and then it is refused alone', async () => {
    const { environment, link, listener } = world();
    listener.expect('busy');
    const free = listener.expect('free');
    const waiting: Connection[] = [];
    for (let index = 0; index < 64; index++) {
      const connection = await environment.run(link.source.open());
      await connection.send([control('busy')]);
      waiting.push(connection);
    }
    expect(await environment.run(answerTo(link.source, control('busy')))).toBe(2);
    const near = await environment.run(link.source.open());
    await near.send([control('free')]);
    await environment.run(free.accept());
    // One that is lost while it waits makes room.
    waiting[0]?.abort();
    await environment.run(environment.now() + 100);
    const late = await environment.run(link.source.open());
    await late.send([control('busy')]);
    const answered = late.receive()[Symbol.asyncIterator]().next();
    let settled = false;
    answered
      .catch(() => {})
      .finally(() => {
        settled = true;
      });
    await environment.run(environment.now() + 100);
    expect(settled).toBe(false);
    await environment.run(listener.close());
    await environment.run(expect(answered).rejects.toMatchObject({ code: 'connection-lost' }));
  });

  test('256 that are slow to greet keep others out for a second, and not for ever', async () => {
    const { environment, link, listener } = world();
    const expected = listener.expect('v');
    const startMs = environment.now();
    for (let index = 0; index < 256; index++) await environment.run(link.source.open());
    const near = await environment.run(link.source.open());
    await near.send([control('v')]);
    await environment.run(expected.accept());
    expect(environment.now() - startMs).toBeGreaterThan(900);
    expect(environment.now() - startMs).toBeLessThan(1500);
    await environment.run(environment.now() + 11_000);
    expect(link.statistics().connections).toBe(1);
    await environment.run(listener.close());
  });

  test('a transport that cannot accept tells who waits, and is asked again by the next', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ environment });
    let failures = 0;
    const failing = withChanges(link.destination, {
      accept: (options) =>
        failures++ < 2 ? Promise.reject(new Error('no port')) : link.destination.accept(options),
    });
    const listener = listen(failing, { environment });
    const expected = listener.expect('v');
    // The first failure found nobody waiting.
    await environment.run(environment.now() + 1);
    await expect(expected.accept()).rejects.toThrow('no port');
    const accepting = expected.accept();
    const near = await environment.run(link.source.open());
    await near.send([control('v')]);
    await environment.run(accepting);
    await environment.run(listener.close());
  });

  test('questions reach who answers for the VM', async () => {
    const { environment, link, listener } = world();
    const transport = listener.expect('v');
    const stop = new AbortController();
    const register = memoryRegister();
    const answering = answerQuestions({ transport, register, environment, signal: stop.signal });
    const ask = (vmId: string) => askDecision({ transport: link.source, vmId, environment })(1, {});
    expect(await environment.run(ask('v'))).toBe('declined');
    await expect(environment.run(ask('w'))).rejects.toMatchObject({ code: 'refused' });
    stop.abort();
    await environment.run(answering);
    await listener.close();
  });
});
