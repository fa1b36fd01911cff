/**
 * Goal: with a ticket, only the two ends that have it migrate a VM or speak of it; everybody else is turned away with a code of its own, the
 * guest untouched, and the right one still gets in. Method: whole migrations over a simulated link in virtual time and over TCP, one end of
 * which has another ticket or none; then connections of a session that go astray, and questions.
 */
import { inspect } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import { createMemoryBackend, createMemoryVm, type MemoryVm } from '../../src/backends/memory/index.ts';
import { controlFrame, Lane } from '../../src/channel/lane.ts';
import { secretOf } from '../../src/channel/ticket.ts';
import {
  answerQuestions,
  askDecision,
  createDestination,
  createSource,
  createTicket,
  type Environment,
  listen,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type Ticket,
  type Transport,
} from '../../src/index.ts';
import { tcp } from '../../src/transports/tcp.ts';
import { crc32c } from '../../src/util/checksum.ts';
import { nodeEnvironment } from '../../src/util/node-environment.ts';
import { encodeMessage } from '../../src/wire/messages.ts';
import { dialBy } from '../channel/pair.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { busyVm, withChanges } from '../support/worlds.ts';

const ticket = createTicket();
const wrong = createTicket();

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

function smallVm(environment: Environment): MemoryVm {
  const disks = [{ id: 'd', sizeBytes: 1 << 20 }];
  const vm = createMemoryVm({ vmId: 'vm-1', memoryBytes: 1 << 20, disks, environment });
  vms.push(vm);
  return vm;
}

interface Ends {
  readonly environment: Environment;
  readonly near: Transport;
  readonly far: Transport;
}

function sending({ environment, near }: Ends, vm: MemoryVm, has: Ticket | string | undefined) {
  const register = memoryRegister();
  return createSource({ vm: vm.source(), transport: near, register, environment, ticket: has });
}

function receiving({ environment, far }: Ends, has: Ticket | string | undefined) {
  const backend = createMemoryBackend({ environment });
  const register = memoryRegister();
  const destination = createDestination({ backend, transport: far, register, environment, ticket: has });
  return { backend, run: destination.run() };
}

/** Sources with these tickets, one after the other, of which the last has the destination's. */
async function oneAfterTheOther(
  ends: Ends,
  destination: Ticket | string | undefined,
  sources: readonly (Ticket | string | undefined)[],
): Promise<void> {
  const vm = smallVm(ends.environment);
  const { backend, run } = receiving(ends, destination);
  const reports: MigrationReport[] = [];
  for (const [index, has] of sources.entries()) {
    const report = await sending(ends, vm, has).run();
    reports.push(report);
    if (index === sources.length - 1) break;
    expect(report).toMatchObject({ outcome: 'failed', owner: 'source' });
    expect(report.error).toMatchObject({ code: 'ticket-mismatch', owner: 'source' });
    expect(vm.state).toBe('running');
  }
  expect(reports.at(-1)?.error?.message).toBeUndefined();
  const received = await run;
  expect(received.outcome).toBe('completed');
  expect(backend.vm?.state).toBe('running');
  if (backend.vm !== undefined) vms.push(backend.vm);
  const shown = inspect([reports, received], { depth: 12, showHidden: true }) + JSON.stringify(reports);
  for (const secret of [ticket, wrong]) expect(shown).not.toContain(secret.reveal().slice(18, 40));
}

const cases: readonly (readonly [string, Ticket | undefined, readonly (Ticket | string | undefined)[]])[] = [
  ['has one: another, none, then the same as text', ticket, [wrong, undefined, ticket.reveal()]],
  ['has none: one, then none', undefined, [ticket, undefined]],
];

describe('a source at a destination that', () => {
  it.each(cases)('%s, over a simulated link', async (_, destination, sources) => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ rttMs: 20, environment });
    const ends = { environment, near: link.source, far: link.destination };
    await environment.run(oneAfterTheOther(ends, destination, sources));
  });

  it.each(cases)('%s, over TCP', async (_, destination, sources) => {
    const host = '127.0.0.1';
    const far = tcp({ listen: { host, port: 0 } });
    const near = tcp({ connect: { host, port: (await far.listening()).port } });
    await oneAfterTheOther({ environment: nodeEnvironment, near, far }, destination, sources);
    await Promise.all([near.close(), far.close()]);
  });

  it('listens with others on one address is known by its VM, and its ticket', async () => {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ environment });
    const listener = listen(link.destination, { environment });
    const ends = { environment, near: link.source, far: listener.expect('vm-1') };
    await environment.run(oneAfterTheOther(ends, ticket, [wrong, undefined, ticket]));
    await environment.run(listener.close());
  });
});

it('a text that is no ticket is refused before anything is touched', async () => {
  const environment = createVirtualEnvironment();
  const link = memoryLink({ environment });
  const ends = { environment, near: link.source, far: link.destination };
  const mistyped = ticket.reveal().slice(0, -1);
  const bad = expect.objectContaining({ code: 'invalid-argument' });
  const register = memoryRegister();
  expect(() => sending(ends, smallVm(environment), mistyped)).toThrow(bad);
  expect(() => receiving(ends, mistyped)).toThrow(bad);
  expect(() => askDecision({ transport: link.source, vmId: 'v', ticket: mistyped })).toThrow(bad);
  await expect(
    answerQuestions({ transport: link.destination, register, ticket: mistyped, environment }),
  ).rejects.toEqual(bad);
  expect(link.statistics().connections).toBe(0);
});

describe('with the right ticket', () => {
  it('a lane that goes astray to a second destination is refused there, and the guest runs on', async () => {
    const environment = createVirtualEnvironment();
    const [link, other] = [memoryLink({ environment }), memoryLink({ environment })];
    const vm = busyVm(environment, { idle: true });
    vms.push(vm);
    const first = receiving({ environment, near: link.source, far: link.destination }, ticket);
    const stop = new AbortController();
    const second = createDestination({
      backend: createMemoryBackend({ environment }),
      transport: other.destination,
      register: memoryRegister(),
      environment,
      ticket,
    }).run({ signal: stop.signal });
    let opened = 0;
    const astray = withChanges<Transport>(link.source, {
      open: (options) => (++opened === 1 ? link : other).source.open(options),
    });
    const report = await environment.run(
      sending({ environment, near: astray, far: link.destination }, vm, ticket).run(),
    );
    expect(report).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'refused' } });
    expect(vm.state).toBe('running');
    expect((await environment.run(first.run)).outcome).not.toBe('completed');
    stop.abort();
    expect((await environment.run(second)).error?.code).toBe('aborted');
  });

  it('no connection joins a session that is not its own', async () => {
    const environment = createVirtualEnvironment();
    // Slow enough that it is under way all the while.
    const link = memoryLink({ rateMbit: 200, environment });
    const ends = { environment, near: link.source, far: link.destination };
    const { backend, run } = receiving(ends, ticket);
    const vm = busyVm(environment);
    vms.push(vm);
    const report = sending(ends, vm, ticket).run();
    const secret = secretOf(ticket);
    await environment.run(environment.now() + 20);
    for (const purpose of ['data', 'control', 'resume'] as const) {
      const refused = dialBy({ environment, link }, purpose, 3, { secret, vmId: 'vm-1' });
      await expect(environment.run(refused)).rejects.toMatchObject({ code: 'refused' });
    }
    expect((await environment.run(report)).outcome).toBe('completed');
    expect((await environment.run(run)).outcome).toBe('completed');
    if (backend.vm !== undefined) vms.push(backend.vm);
  });
});

describe('a question', () => {
  function answering() {
    const environment = createVirtualEnvironment();
    const link = memoryLink({ environment });
    const register = memoryRegister();
    const stop = new AbortController();
    const { signal } = stop;
    const done = answerQuestions({ transport: link.destination, register, ticket, environment, signal });
    const asked = (has: Ticket | undefined) =>
      environment.run(askDecision({ transport: link.source, vmId: 'v', ticket: has, environment })(1, {}));
    const end = async () => {
      stop.abort();
      await environment.run(done);
    };
    return { environment, link, register, asked, end };
  }

  it('is answered to who has the ticket, and nobody else moves the register', async () => {
    const { register, asked, end } = answering();
    for (const has of [wrong, undefined]) {
      await expect(asked(has)).rejects.toMatchObject({ code: 'ticket-mismatch' });
    }
    expect(await register.read('v')).toEqual([]);
    expect(await asked(ticket)).toBe('declined');
    await end();
  });

  it('about another VM than was greeted for is not answered', async () => {
    const { environment, link, register, end } = answering();
    const world = { environment, link };
    const greeted = await environment.run(dialBy(world, 'question', 1, { secret: secretOf(ticket) }));
    const lane = new Lane(0, greeted);
    const payload = encodeMessage({ type: 'ask', vmId: 'other', epoch: 1 });
    await lane.send(controlFrame('control', 1, payload, crc32c(payload)));
    await expect(environment.run(lane.frames().next())).rejects.toMatchObject({ code: 'connection-lost' });
    expect(await register.read('other')).toEqual([]);
    await end();
  });
});
