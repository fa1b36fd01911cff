import { createDestination } from '../../core/destination.ts';
import { unsettledAttempt } from '../../core/handover/ownership.ts';
import { answerQuestions, askDecision } from '../../core/handover/questions.ts';
import { recover } from '../../core/handover/recover.ts';
import type { Migration } from '../../core/migration.ts';
import { createSource, type SourceMigration } from '../../core/source.ts';
import type { MigrationError } from '../../errors.ts';
import type { DestinationVm, SourceVm } from '../../interfaces/hypervisor.ts';
import type { MigrationPolicy, MigrationReport } from '../../interfaces/migration.ts';
import type { Claim, OwnershipRegister } from '../../interfaces/register.ts';
import type { Role } from './end.ts';
import { type HookName, hooksOf, type ScenarioHooks } from './hooks.ts';
import type { SimulatedBackend } from './hypervisor.ts';
import type { SimulatedProcess } from './process.ts';
import type { EndName } from './scenario.ts';
import {
  steppingBackend,
  steppingDestinationVm,
  steppingRegister,
  steppingSourceVm,
  steppingTransport,
} from './steps.ts';
import type { SimulatedVm } from './vm.ts';

/** What both roles are made of. */
export interface RoleOptions {
  readonly vmId: string;
  /** A new process, with a transport that leads to the other end. */
  readonly start: (end: EndName) => SimulatedProcess;
  readonly register: (end: EndName, process: SimulatedProcess) => OwnershipRegister;
  /** Whether the guest is to run where it goes. */
  readonly run: () => boolean;
  /** What stands in an end's register. */
  readonly claims: (end: EndName) => readonly Claim[];
  /** The attempt that an end recovers; undefined where its own register tells. */
  readonly namedEpoch: (end: EndName) => number | undefined;
  /** What the caller at the destination does around the start of the guest. */
  readonly hooks?: ScenarioHooks | undefined;
  /** Told of each call of a hook. */
  readonly hookCalled?: (name: HookName) => void;
}

/** Time for a question, and for its answer. */
const askMsMax = 2000;

function common(options: RoleOptions, end: EndName, process: SimulatedProcess) {
  return {
    transport: steppingTransport(process.transport, process.step),
    register: steppingRegister(options.register(end, process), process.step),
    environment: process.environment,
  };
}

/** One whose `run()` rehearses. */
function rehearsing(source: SourceMigration): Migration {
  const migration: Migration = {
    run: (call) => source.rehearse(call),
    on: (event, listener) => {
      source.on(event, listener);
      return migration;
    },
    off: (event, listener) => {
      source.off(event, listener);
      return migration;
    },
  };
  return migration;
}

/** The end that a VM leaves. */
export function sourceRole(
  options: RoleOptions,
  vm: SimulatedVm,
  policy: MigrationPolicy,
  rehearses = false,
): Role {
  const { vmId } = options;
  /** By the process that has it. */
  const handles = new WeakMap<SimulatedProcess, SourceVm>();
  const attach = (process: SimulatedProcess): SourceVm => {
    const handle = steppingSourceVm(vm.attachSource(), process.step);
    handles.set(process, handle);
    return handle;
  };
  const isLost = () => vm.state === 'off' || vm.state === 'gone';
  return {
    name: 'source',
    start: () => options.start('source'),
    migration: (process) => {
      const handle = attach(process);
      try {
        const source = createSource({ ...common(options, 'source', process), vm: handle, policy });
        return rehearses ? rehearsing(source) : source;
      } catch (error) {
        // It has touched nothing, and does not know the VM: whoever opened it lets go of it.
        handles.delete(process);
        void handle.detach();
        throw error;
      }
    },
    needsRecovery: (process, { outcome }: MigrationReport) => {
      if (outcome === 'undecided') return true;
      // Its engine is done with the VM. Whoever brings what it left undone to its end takes hold of it anew.
      if (outcome === 'failed' || outcome === 'rehearsed') handles.delete(process);
      const stuck = vm.state === 'stunning' || vm.state === 'stunned' || vm.state === 'sealed';
      return stuck || (outcome === 'failed' && unsettledAttempt(options.claims('source')) > 0);
    },
    recover: (process) => {
      const { transport, register, environment } = common(options, 'source', process);
      const handle =
        isLost() || vm.state === 'released' ? undefined : (handles.get(process) ?? attach(process));
      return recover({
        role: 'source',
        vmId,
        register,
        ...(handle === undefined ? {} : { vm: handle }),
        epoch: options.namedEpoch('source'),
        ask: askDecision({ transport, vmId, limitMs: askMsMax, environment }),
      });
    },
    nothingToRecover: () => false,
    answer: async () => {},
    cut: () => vm.detachProcess(),
    loseVms: () => vm.die('the host lost power'),
  };
}

/** The end that a VM goes to. */
export function destinationRole(options: RoleOptions, backend: SimulatedBackend, connectMsMax: number): Role {
  const { vmId } = options;
  const handles = new WeakMap<SimulatedProcess, DestinationVm>();
  /** The attempt by the report of the process, if it made one. */
  const epochs = new WeakMap<SimulatedProcess, number>();
  /** The VM that waits here, if one does: taken hold of no sooner than something is to be done with it. */
  const waiting = (process: SimulatedProcess): Pick<DestinationVm, 'start' | 'discard'> | undefined => {
    if (!backend.vms.some(({ state }) => state === 'prepared' || state === 'loaded')) return undefined;
    const attach = () => {
      const handle =
        handles.get(process) ?? steppingDestinationVm(backend.attachDestination(vmId), process.step);
      handles.set(process, handle);
      return handle;
    };
    return { start: (how) => attach().start(how), discard: () => attach().discard() };
  };
  return {
    name: 'destination',
    start: () => options.start('destination'),
    migration: (process) =>
      createDestination({
        ...common(options, 'destination', process),
        backend: steppingBackend(backend.attachProcess(), process.step, (vm) => handles.set(process, vm)),
        connectMsMax,
        ...(options.hooks && hooksOf(options.hooks, process, options.hookCalled ?? (() => {}))),
      }),
    needsRecovery: (process, { outcome, owner, epoch }: MigrationReport) => {
      epochs.set(process, epoch);
      return outcome === 'undecided' || (outcome === 'failed' && owner === 'destination');
    },
    recover: (process) => {
      const vm = waiting(process);
      const { register } = common(options, 'destination', process);
      const epoch = epochs.get(process) ?? options.namedEpoch('destination');
      return recover({
        role: 'destination',
        vmId,
        register,
        epoch,
        run: options.run(),
        ...(vm === undefined ? {} : { vm }),
      });
    },
    // Which attempt it is to decline its register does not say. Whoever asks about it says it.
    nothingToRecover: (error: MigrationError) => error.code === 'invalid-argument',
    answer: (process) => {
      const { transport, register, environment } = common(options, 'destination', process);
      return answerQuestions({ transport, register, environment, signal: process.closing.signal });
    },
    cut: () => backend.detachProcess(),
    loseVms: () => {
      for (const vm of backend.vms) vm.die('the host lost power');
    },
  };
}
