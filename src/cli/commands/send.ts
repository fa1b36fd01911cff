import type { MigrationPolicy, VmDescription } from '../../index.ts';
import type { QemuMigrationOptions } from '../../qemu.ts';
import type { Command, Context } from '../command.ts';
import { jsonOption, registerOption, ticketOption, tlsOptions } from '../common-options.ts';
import { conclude, foreseen } from '../conclude.ts';
import { formatEndpoint } from '../endpoint.ts';
import { renderEstimate } from '../estimate-view.ts';
import { exitCodeOfFailure, exitCodes } from '../exit-code.ts';
import { idleWhileCopying } from '../idle-class.ts';
import type { Options } from '../options.ts';
import { errorJson } from '../report-json.ts';
import { renderError } from '../report-view.ts';
import { runShown } from '../run-shown.ts';
import { interruptible } from '../signals.ts';
import { readTicketFile } from '../ticket-file.ts';
import { readTransport } from '../transport.ts';
import { printable } from '../units.ts';
import { UsageError } from '../usage-error.ts';

/** `longhaul send`: moves a running VM to a host where `longhaul receive` waits. */
export const send: Command = {
  name: 'send',
  summary: 'move a running VM to another host',
  usage: '--qmp SOCKET --to HOST:PORT',
  description: [
    'Moves the VM of a running QEMU, memory and disks, to the QEMU of a `longhaul receive`. The guest ' +
      'runs on meanwhile; at the end it stands still for the downtime and 1.5 round trips. QEMU here is ' +
      'ended once the VM runs there. With --rehearse it stays, and the guest in it; the QEMU at the destination ' +
      'has to be started anew.',
    'SIGINT, SIGTERM or SIGHUP ends the migration, and the guest stays here, unless the VM is handed over ' +
      'already.',
  ],
  options: {
    qmp: { value: 'SOCKET', help: 'QMP socket of the QEMU that runs the VM' },
    to: { value: 'HOST:PORT', help: 'where `longhaul receive` listens' },
    connections: { value: 'N', help: 'connections for data, 1 to 256 (default: as many as carry more)' },
    'rate-mbit': { value: 'N', help: 'data to send at most, in Mbit/s, 1 to 1000000 (default: no limit)' },
    'downtime-ms': { value: 'N', help: 'downtime to aim for, 30 to 60000 (default 300)' },
    'stun-ms': {
      value: 'N',
      help: 'longest pause before the guest runs on here, 100 to 600000 (default 10000)',
    },
    timeout: {
      value: 'SECONDS',
      help: 'how long it may take until the guest is stunned, 1 to 604800 (default: as long as it takes)',
    },
    'on-timeout': {
      value: 'WHAT',
      help:
        'when that is over: cancel (the guest stays here) or force (it is stunned all the same, if what is left fits --stun-ms) ' +
        '(default cancel)',
    },
    'outage-ms': {
      value: 'N',
      help: 'how long the link may be gone before the migration fails, 0 to 86400000 (default 600000)',
    },
    handover: {
      value: 'HOW',
      help:
        'confirmed: the VM is given once the destination has all of it and could run it. one-flight: a round trip sooner, ' +
        'but what fails then ends the migration, and a link cut in that moment leaves the owner undecided (default confirmed)',
    },
    disk: {
      value: 'ID=MODE',
      repeatable: true,
      help:
        'what becomes of a disk, once for each: copy, shared (both hosts have it open, and nothing is copied) or ' +
        'leave (it does not go along) (default copy; shared where the guest cannot write it)',
    },
    audit: {
      value: 'HOW',
      help:
        'what of both ends is compared while the guest stands still: sample (1,024 pages and blocks, half of them written last), ' +
        'full (everything; see --stun-ms) or off (default sample)',
    },
    seed: {
      value: 'SEED',
      help:
        "none: all of each disk is sent. compare: the destination's disks are read, and what they hold already, as " +
        'after an attempt that failed, is not sent (default none)',
    },
    compress: {
      value: 'HOW',
      help:
        'auto: what waits for the link is compressed, where that pays and the other end can take it (with Node 22.15, or where lz4-napi ' +
        'is installed). off: nothing is (default off)',
    },
    'disks-only': {
      help:
        'copy the disks alone, as they are at one moment, to a `longhaul receive --image`; the guest stays, and stands still ' +
        'only for that moment',
    },
    'vm-id': { value: 'ID', help: "the VM's identity in registers (default: QEMU's -uuid, else its -name)" },
    register: registerOption,
    'ticket-file': ticketOption,
    ...tlsOptions,
    rehearse: {
      help:
        'do all but hand over: the guest is stunned, the destination loads it, and then the guest runs on here; the ' +
        'downtime that is told is what a move would take',
    },
    estimate: {
      help:
        'say what a move would take, and end: guest, link and disks are looked at for some seconds, nothing is changed, and ' +
        '`longhaul receive` waits on; ends with 1 if it would not converge',
    },
    json: jsonOption,
  },

  async run(options, context) {
    const qmp = options.required('qmp');
    const to = options.requiredEndpoint('to', 1);
    const policy = readPolicy(options);
    const vmId = options.text('vm-id');
    const directory = options.registerDirectory(context.env);
    const ticket = readTicketFile(options);
    const { screen } = context;
    const transport = readTransport(options, { connect: to });

    if (options.flag('estimate')) {
      const where = { qmp, transport, register: { directory }, policy, ticket };
      return estimate(vmId === undefined ? where : { ...where, vmId }, options.flag('json'), context);
    }
    return conclude(context, { role: 'source', json: options.flag('json'), vmId }, async () => {
      const interruption = interruptible(context.signals, 'the guest stays here', (line) => screen.log(line));
      try {
        const { createQemuSource } = await import('../../qemu.ts');
        const how = options.flag('rehearse') ? 'rehearsing to send' : 'sending';
        // In a thread of its own, register and all: a terminal that is stopped keeps this one waiting.
        const source = createQemuSource({
          qmp,
          transport,
          register: { directory },
          policy,
          ticket,
          yielding: 'all',
          onOpened: ({ name }) => screen.log(`${how} ${name} to ${formatEndpoint(to)}`),
          ...(vmId === undefined ? {} : { vmId }),
        });
        const run = options.flag('rehearse') ? source.rehearse : source.run;
        idleWhileCopying(source);
        return await runShown(source, 'source', screen, interruption, (call) => run.call(source, call));
      } finally {
        interruption.close();
      }
    });
  },
};

/** Says what a move would take. */
async function estimate(where: QemuMigrationOptions, json: boolean, context: Context): Promise<number> {
  const { screen, signals } = context;
  const interruption = interruptible(signals, 'nothing was changed', (line) => screen.log(line));
  try {
    const { createQemuSource } = await import('../../qemu.ts');
    const onOpened = ({ name }: VmDescription) =>
      screen.log(`looking at ${printable(name)}, the link and the disks`);
    const found = await createQemuSource({ ...where, onOpened }).estimate({ signal: interruption.signal });
    if (json) context.print(JSON.stringify({ ...found, error: null }));
    else for (const line of renderEstimate(found)) context.print(line);
    return found.converges === 'no' ? exitCodes.failed : exitCodes.completed;
  } catch (thrown) {
    const error = foreseen(thrown);
    if (json) context.print(JSON.stringify({ error: errorJson(error) }));
    else for (const line of renderError(error, 'source')) context.print(line);
    return exitCodeOfFailure(error.owner);
  } finally {
    interruption.close();
  }
}

function readPolicy(options: Options): MigrationPolicy {
  const connections = options.number('connections', { min: 1, max: 256, whole: true });
  const rateMbit = options.number('rate-mbit', { min: 1, max: 1_000_000 });
  const downtimeMsMax = options.number('downtime-ms', { min: 30, max: 60_000 });
  const stunMsMax = options.number('stun-ms', { min: 100, max: 600_000 });
  const outageMsMax = options.number('outage-ms', { min: 0, max: 86_400_000, whole: true });
  const timeout = options.number('timeout', { min: 1, max: 604_800 });
  if (options.flag('disks-only') && options.flag('rehearse')) {
    throw new UsageError('--rehearse does not go with --disks-only: the guest stays anyway');
  }
  if (options.flag('estimate') && options.flag('rehearse')) {
    throw new UsageError('--estimate does not go with --rehearse: one looks, the other does it');
  }
  return {
    ...(connections === undefined ? {} : { connections }),
    ...(rateMbit === undefined ? {} : { rateBytesPerSecondMax: rateMbit * 125_000 }),
    ...(downtimeMsMax === undefined ? {} : { downtimeMsMax }),
    ...(stunMsMax === undefined ? {} : { stunMsMax }),
    ...(outageMsMax === undefined ? {} : { outageMsMax }),
    ...(timeout === undefined ? {} : { timeoutMs: timeout * 1000 }),
    ...(options.text('on-timeout') === undefined
      ? {}
      : { onTimeout: options.choice('on-timeout', ['cancel', 'force']) }),
    ...(options.text('handover') === undefined
      ? {}
      : { handover: options.choice('handover', ['confirmed', 'one-flight']) }),
    ...(options.text('audit') === undefined
      ? {}
      : { audit: options.choice('audit', ['off', 'sample', 'full']) }),
    ...(options.text('seed') === undefined ? {} : { seed: options.choice('seed', ['none', 'compare']) }),
    ...(options.text('compress') === undefined
      ? {}
      : { compression: options.choice('compress', ['off', 'auto']) }),
    ...(options.flag('disks-only') ? { memory: 'none' as const } : {}),
    disks: options.choices('disk', ['copy', 'shared', 'leave']),
  };
}
