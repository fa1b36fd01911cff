import {
  askDecision,
  fileRegister,
  MigrationError,
  type OwnershipRegister,
  type RecoveryReport,
  type RunState,
  recover,
  type SourceVm,
  type Ticket,
  type Transport,
} from '../../index.ts';
import type { Command, Context } from '../command.ts';
import { jsonOption, registerOption, ticketOption, tlsOptions } from '../common-options.ts';
import { foreseen, notBegun } from '../conclude.ts';
import { exitCodeOfFailure, exitCodes } from '../exit-code.ts';
import type { Options } from '../options.ts';
import { reportJson } from '../report-json.ts';
import { recoveryRows, renderError, renderRecovery, renderRows } from '../report-view.ts';
import { interruptible } from '../signals.ts';
import { readTicketFile } from '../ticket-file.ts';
import { makeTransport } from '../transport.ts';
import { UsageError } from '../usage-error.ts';

/** Whom `--ask` asks, and with which ticket. */
interface Asking {
  readonly transport: Transport;
  readonly ticket: Ticket | undefined;
}

function readAsking(options: Options, { screen }: Context): Asking | undefined {
  const connect = options.endpoint('ask', 1);
  const ticket = readTicketFile(options);
  if (connect !== undefined) return { ticket, transport: makeTransport(options, { connect }, screen) };
  if (ticket !== undefined) throw new UsageError('--ticket-file goes with --ask only');
  return undefined;
}

interface Common {
  readonly vmId: string | undefined;
  readonly epoch: number | undefined;
  readonly register: string;
}

/** `longhaul recover`: settles who has the VM after an end or the link has died. */
export const recoverCommand: Command = {
  name: 'recover',
  summary: 'settle who has the VM after a failure',
  usage: '--role source|destination [--qmp SOCKET] [--vm-id ID]',
  description: [
    'Settles who has the VM after `send` or `receive` has died, or has ended with an undecided owner. ' +
      'It never runs a guest that this end may not run, and may be called again at any time.',
    'What counts is what the register says: it has to be the one that `send` or `receive` used on this host, ' +
      'and the VM has to be called what it was called there (--register, --vm-id). In another one nothing is ' +
      'found of the attempt, and what is not found looks as if it had never been.',
    'At the source, with --qmp: runs the guest on, or ends QEMU where the destination owns the VM. ' +
      'Where the VM was given and the answer never came, --ask puts the question to the destination, ' +
      'where a `longhaul receive` with the register of that attempt has to listen.',
    'At the destination, with --vm-id: says whether the VM is this end\u2019s. If nothing was decided, the ' +
      'VM is declined, and the source may have it back. A guest that was taken over and not started is ' +
      'run with `cont` in its QEMU.',
  ],
  options: {
    role: { value: 'ROLE', help: 'which end of the migration this was: source or destination' },
    qmp: {
      value: 'SOCKET',
      help: 'source: QMP socket of the QEMU that still has the VM; without it only claims are made',
    },
    'vm-id': {
      value: 'ID',
      help: "the VM's identity in registers (default at the source: QEMU's -uuid, else its -name)",
    },
    epoch: { value: 'N', help: 'which attempt, as reports number them (default: what the register tells)' },
    ask: { value: 'HOST:PORT', help: 'source: where to ask for the destination\u2019s decision' },
    register: registerOption,
    'ticket-file': { ...ticketOption, help: "source: the migration's ticket, for --ask, if it had one" },
    ...tlsOptions,
    json: jsonOption,
  },

  async run(options, context) {
    const role = options.choice('role', ['source', 'destination']);
    const common: Common = {
      vmId: options.text('vm-id'),
      epoch: options.number('epoch', { min: 1, max: Number.MAX_SAFE_INTEGER, whole: true }),
      register: options.registerDirectory(context.env),
    };
    const qmp = options.text('qmp');
    const ask = readAsking(options, context);
    const work = role === 'source' ? prepareSource(common, qmp, ask) : prepareDestination(common, qmp, ask);
    return settle(role, options, context, work);
  },
};

type Work = (signal: AbortSignal) => Promise<Settled>;

interface Settled {
  readonly report: RecoveryReport;
  /** How the guest is now, where there is one. */
  readonly guest: RunState | undefined;
}

function prepareSource(common: Common, qmp: string | undefined, ask: Asking | undefined): Work {
  if (qmp === undefined && common.vmId === undefined) {
    throw new UsageError('--qmp is missing; without it --vm-id must say which VM');
  }
  return async (signal) => {
    const vm = qmp === undefined ? undefined : await openSource(qmp, common.vmId, signal);
    try {
      const report = await recoverSource(common, vm, ask, signal);
      return { report, guest: vm?.runState() };
    } finally {
      // What it did stands, whether or not QEMU lets go of us.
      await vm?.detach().catch(() => {});
    }
  };
}

async function openSource(qmp: string, vmId: string | undefined, signal: AbortSignal): Promise<SourceVm> {
  const { openQemuSource } = await import('../../qemu.ts');
  try {
    return await openQemuSource({ qmp, signal, recovery: true, ...(vmId === undefined ? {} : { vmId }) });
  } catch (error) {
    // The register was not read, and whose the VM is stands there alone.
    throw foreseen(error).with({ owner: 'undecided' });
  }
}

async function recoverSource(
  { vmId: named, epoch, register: directory }: Common,
  vm: SourceVm | undefined,
  asking: Asking | undefined,
  signal: AbortSignal,
): Promise<RecoveryReport> {
  const vmId = named ?? vm?.description.vmId ?? '';
  const register = fileRegister(directory);
  const ask = asking === undefined ? undefined : askDecision({ ...asking, vmId });
  try {
    if (vm?.runState() === 'paused' && epoch === undefined) await requireClaims(register, vmId, directory);
    return await recover({ role: 'source', vmId, register, epoch, vm, ask, signal });
  } finally {
    await asking?.transport.close();
  }
}

/**
 * A guest that stands still may have been given away under another name, or by the word of another register: with no claim at all, the
 * operator has to say that this is the right one.
 */
async function requireClaims(register: OwnershipRegister, vmId: string, directory: string): Promise<void> {
  if ((await register.read(vmId)).length > 0) return;
  throw new MigrationError(
    'invalid-argument',
    `the register ${directory} knows nothing of ${vmId}, and its guest stands still: it may run elsewhere. If these are the register and ` +
      'the name of the migration that died, nothing was given away: say so with --epoch 1',
    { owner: 'undecided', guest: 'paused' },
  );
}

function prepareDestination(common: Common, qmp: string | undefined, ask: Asking | undefined): Work {
  const { vmId, epoch, register } = common;
  if (vmId === undefined)
    throw new UsageError('--vm-id is missing: --role destination cannot tell the VM otherwise');
  if (qmp !== undefined) throw new UsageError('--qmp goes with --role source only');
  if (ask !== undefined) throw new UsageError('--ask goes with --role source only');
  return async (signal) => {
    const report = await recover({
      role: 'destination',
      vmId,
      register: fileRegister(register),
      epoch,
      signal,
    });
    return { report, guest: undefined };
  };
}

async function settle(
  role: 'source' | 'destination',
  options: Options,
  context: Context,
  work: Work,
): Promise<number> {
  const json = options.flag('json');
  const register = options.registerDirectory(context.env);
  const interruption = interruptible(context.signals, 'what was begun is finished', (line) =>
    context.screen.log(line),
  );
  try {
    const { report, guest } = await work(interruption.signal);
    if (json) context.print(reportJson(report, undefined, { register }));
    else for (const line of renderRecovery(report, { register, guest })) context.print(line);
    return report.owner === 'undecided' ? exitCodes.undecided : exitCodes.completed;
  } catch (thrown) {
    const error = foreseen(thrown);
    const { vmId, epoch, owner } = notBegun(error, role, options.text('vm-id'));
    if (json) {
      context.print(reportJson({ vmId, epoch, owner, action: 'none' }, error, { register }));
    } else {
      const rows = renderRows(recoveryRows(vmId, register));
      for (const line of [...renderError(error, role), '', ...rows]) context.print(line);
    }
    return exitCodeOfFailure(error.owner);
  } finally {
    interruption.close();
  }
}
