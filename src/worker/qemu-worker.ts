/**
 * The engine's thread, whole: a running QEMU's VM, the engine and the transport. The main thread starts it
 * and ends it, see `engine-thread.ts`; here one migration is done, its events are told as they come, and the
 * report at its end.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { openQemuSource } from '../backends/qemu/index.ts';
import { makeReady } from '../core/handover/claim-time.ts';
import { resolvePolicy } from '../core/policy.ts';
import { measuringMsDefault } from '../core/prediction/estimate.ts';
import { createMeasuringSource } from '../core/source.ts';
import { asMigrationError, MigrationError, messageOf } from '../errors.ts';
import type { SourceVm } from '../interfaces/hypervisor.ts';
import type { MigrationEvents, MigrationReport } from '../interfaces/migration.ts';
import type { OwnershipRegister } from '../interfaces/register.ts';
import type { Transport } from '../interfaces/transport.ts';
import { takeUsualNiceness } from '../util/thread-priority.ts';
import { EventOutlet } from './event-outlet.ts';
import type { Assignment, FromEngine, ToEngine } from './messages.ts';
import { ownReport } from './own-report.ts';
import { pack, unpack } from './pack.ts';
import { makeRegister, makeTransport } from './plug-points.ts';
import { AskedRegister } from './register-calls.ts';
import { yieldToGuests } from './yield-to-guests.ts';

const { task, events, vm: where, ...order }: Assignment = workerData;
takeUsualNiceness(order.usualNiceness);
/** Where writes may be held it is the engine that answers them. */
const tapThreads = where.tapThreads ?? resolvePolicy(order.policy).guestWriteHoldMsMax === 0;
const post = (message: FromEngine): void => parentPort?.postMessage(message);
const outlet = new EventOutlet((event, args) => post({ type: 'event', event, args: pack(args) }));
const asked = new AskedRegister(post);
const stop = new AbortController();
const { signal } = stop;
/** Of the events somebody listens to, those that are not told yet; later: how to tell one. */
const wanted = new Set(events);
let listen = (event: string): unknown => wanted.add(event);

parentPort?.on('message', (message: ToEngine) => {
  switch (message.type) {
    case 'abort':
      stop.abort(unpack(message.reason));
      break;
    case 'listen':
      listen(message.event);
      break;
    case 'seen':
      outlet.seen();
      break;
    case 'answer':
    case 'refusal':
      asked.answered(message);
  }
});

if (task === 'estimate') {
  post(
    await estimate().catch(
      (error): FromEngine => ({ type: 'refused', error: pack(asMigrationError(error, 'internal')) }),
    ),
  );
} else {
  const report = await migrate(task).catch((error) =>
    ownReport(asMigrationError(error, 'internal'), { vmId: where.vmId ?? '' }),
  );
  outlet.flush();
  post({ type: 'report', report: pack(report) });
}

function migrate(how: 'run' | 'rehearse'): Promise<MigrationReport> {
  return withVm((vm, transport, register) => lettingGo(vm, () => moveAway(how, vm, transport, register)));
}

function estimate(): Promise<FromEngine> {
  return withVm(async (vm, transport, register) => {
    const { ticket, policy = {} } = order;
    try {
      const source = createMeasuringSource({ vm, transport, register, ticket, policy });
      const found = await source.estimate({ durationMs: order.durationMs ?? measuringMsDefault, signal });
      return { type: 'estimated', estimate: found, measured: source.measured };
    } finally {
      await vm.detach().catch(() => undefined);
    }
  });
}

async function withVm<T>(
  work: (vm: SourceVm, transport: Transport, register: OwnershipRegister) => Promise<T>,
): Promise<T> {
  const register = telling(order.register === 'asked' ? asked : await makeRegister(order.register));
  const transport = await makeTransport(order.transport);
  try {
    const vm = await openQemuSource({ ...where, tapThreads, signal });
    post({ type: 'opened', description: vm.description });
    return await work(vm, transport, register);
  } finally {
    // What a transport of the embedder's does wrong here changes nothing any more.
    await transport.close().catch(() => undefined);
  }
}

async function moveAway(
  how: 'run' | 'rehearse',
  vm: SourceVm,
  transport: Transport,
  register: OwnershipRegister,
): Promise<MigrationReport> {
  const { ticket, policy = {} } = order;
  const source = createMeasuringSource({ vm, transport, register, ticket, policy }, order.measured);
  listen = (event) =>
    source.on(event as keyof MigrationEvents, (...args: unknown[]) => outlet.emit(event, args));
  for (const event of wanted) listen(event);
  // An engine that answers the guest's writes itself is in its path.
  if (tapThreads) yieldToGuests(source, order.yielding);
  return source[how]({ signal });
}

/** The engine lets go of QEMU by itself, unless it never took the VM, or the owner is undecided. */
async function lettingGo(vm: SourceVm, move: () => Promise<MigrationReport>): Promise<MigrationReport> {
  const moving = move();
  await moving.catch(() => undefined);
  const problem = await vm.detach().then(
    () => undefined,
    (error: unknown) => messageOf(error),
  );
  const report = await moving;
  if (problem === undefined || report.owner !== 'undecided' || report.error === undefined) return report;
  const { code, message } = report.error;
  const both = `${message}; letting go of QEMU failed: ${problem}`;
  return { ...report, error: new MigrationError(code, both, report.error) };
}

/** The main thread has to know from when on the VM may be given away, also should this one die. */
function telling(register: OwnershipRegister): OwnershipRegister {
  return {
    async claim(vmId, epoch, role, value) {
      if (value === 'given') post({ type: 'giving', epoch });
      const stands = await register.claim(vmId, epoch, role, value);
      if (stands === 'reclaimed') post({ type: 'reclaimed' });
      return stands;
    },
    prepare: (vmId) => makeReady(register, vmId),
    read: (vmId) => register.read(vmId),
  };
}
