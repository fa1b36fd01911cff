import type { ImageBackend, ImageBackendOptions, ImageExportAddress } from '../../backends/images/index.ts';
import {
  createDestination,
  type DestinationHooks,
  fileRegister,
  type HypervisorBackend,
} from '../../index.ts';
import type { QemuBackendOptions } from '../../qemu.ts';
import type { Command, Context } from '../command.ts';
import { jsonOption, registerOption, ticketOption, tlsOptions } from '../common-options.ts';
import { conclude } from '../conclude.ts';
import { formatEndpoint, isLoopback, parseEndpoint } from '../endpoint.ts';
import { hookProgram } from '../hook-program.ts';
import { idleWhileCopying } from '../idle-class.ts';
import type { Options } from '../options.ts';
import { runShown } from '../run-shown.ts';
import { serveExport } from '../serve-export.ts';
import { interruptible } from '../signals.ts';
import { readTicketFile } from '../ticket-file.ts';
import { makeTransport } from '../transport.ts';
import { UsageError } from '../usage-error.ts';

/** `longhaul receive`: waits for one VM and takes it over. */
export const receive: Command = {
  name: 'receive',
  summary: 'wait for a VM and take it over, or for its disks',
  usage: '(--qmp SOCKET | --image ID=FILE ...) --listen HOST:PORT',
  description: [
    'Waits for one `longhaul send` and takes its VM over into a QEMU that was started with `-incoming ' +
      'defer` and otherwise with the same devices. The address that is bound is printed on stderr as ' +
      '`listening on HOST:PORT`.',
    'With --image instead of --qmp it takes the disks alone that a `longhaul send --disks-only` copies: each ' +
      'becomes a raw image file, sparse where it is zero, which gets its name when all of them are whole and durable. With --export they ' +
      'are then served over NBD until a signal ends that; the images stay.',
    'SIGINT, SIGTERM or SIGHUP gives up, and the guest stays on the source, unless the VM is handed over ' +
      'already.',
    'While it waits it also answers `longhaul recover --ask` for migrations whose `receive` has died, ' +
      'from the register; with a ticket, to those who have it.',
  ],
  options: {
    qmp: { value: 'SOCKET', help: 'QMP socket of the QEMU that takes the VM' },
    image: {
      value: 'ID=FILE',
      repeatable: true,
      help: 'disks alone: the image that a disk becomes, once for each disk that is copied',
    },
    existing: {
      value: 'HOW',
      help:
        'what becomes of an image that is there already: refuse, replace (it stays until the new one is whole) or use (it is ' +
        'written in place, and stays half written if that fails; `send --seed compare` sends only what differs) (default refuse)',
    },
    export: {
      value: 'ADDRESS',
      help:
        "where to serve the finished images over NBD: a unix socket's path, with a slash in it, or HOST:PORT, which " +
        'is neither encrypted nor authenticated: beyond loopback only with --no-tls, so never with --cert (default: not)',
    },
    'no-space-check': {
      help: 'take a VM or disks also if the file systems here seem to have no room for what the disks hold',
    },
    'before-start': {
      value: 'PROGRAM',
      help:
        "run when the VM is this host's, before its guest is started, which waits for it; without a shell, with LONGHAUL_VM_ID " +
        'and LONGHAUL_EPOCH in its environment, its output on stderr. Whatever becomes of it, the guest runs (default: none)',
    },
    'after-start': { value: 'PROGRAM', help: 'the same, as soon as the guest runs (default: none)' },
    'hook-ms': {
      value: 'N',
      help: 'how long each of them may take before it is killed, 1 to 60000 (default 5000)',
    },
    listen: { value: 'HOST:PORT', help: 'where to listen; port 0 takes any that is free' },
    register: registerOption,
    'ticket-file': ticketOption,
    ...tlsOptions,
    json: jsonOption,
  },

  async run(options, context) {
    const chosen = readBackend(options);
    const hooks = readHooks(options, context);
    const listen = options.requiredEndpoint('listen', 0);
    const register = fileRegister(options.registerDirectory(context.env));
    const ticket = readTicketFile(options);
    const { screen } = context;
    const transport = makeTransport(options, { listen }, screen);

    let served: ImageBackend | undefined;
    const code = await conclude(context, { role: 'destination', json: options.flag('json') }, async () => {
      const interruption = interruptible(context.signals, 'the guest stays on the source', (line) =>
        screen.log(line),
      );
      try {
        const backend = await makeBackend(chosen);
        screen.log(`listening on ${formatEndpoint(await transport.listening())}`);
        const destination = createDestination({ backend, transport, register, ticket, ...hooks });
        const { yieldToGuests } = await import('../../qemu.ts');
        yieldToGuests(destination, 'all');
        idleWhileCopying(destination);
        const report = await runShown(destination, 'destination', screen, interruption);
        if ('exported' in backend) served = backend;
        return report;
      } finally {
        await transport.close();
        interruption.close();
      }
    });
    if (served?.exported !== undefined)
      await serveExport(served.exported, [...served.images.keys()], context);
    return code;
  },
};

/** What takes the VM, or its disks. */
type Chosen =
  | (QemuBackendOptions & { readonly images?: never })
  | (ImageBackendOptions & { readonly images: Readonly<Record<string, string>> });

function readBackend(options: Options): Chosen {
  const qmp = options.text('qmp');
  const images = options.pairs('image', 'FILE');
  const freeSpace = options.flag('no-space-check') ? 'ignore' : 'check';
  if (Object.keys(images).length > 0) {
    for (const name of ['qmp', 'before-start', 'after-start', 'hook-ms']) {
      if (options.text(name) !== undefined) throw new UsageError(`--${name} does not go with --image`);
    }
    const address = readExport(options);
    return {
      images,
      freeSpace,
      ...(options.text('existing') === undefined
        ? {}
        : { existing: options.choice('existing', ['refuse', 'replace', 'use']) }),
      ...(address === undefined ? {} : { export: address }),
    };
  }
  if (qmp === undefined) throw new UsageError('--qmp or --image is missing');
  for (const name of ['existing', 'export']) {
    if (options.text(name) !== undefined) throw new UsageError(`--${name} goes with --image`);
  }
  return { qmp, freeSpace };
}

/** Programs around the start of the guest. */
function readHooks(
  options: Options,
  { env, screen }: Context,
): { readonly hooks?: DestinationHooks; readonly hookMsMax?: number } {
  const hookMsMax = options.number('hook-ms', { min: 1, max: 60_000 });
  const program = (name: string) => {
    const path = options.text(name);
    return path === undefined ? undefined : hookProgram(`--${name}`, path, env, (line) => screen.log(line));
  };
  const [beforeStart, afterStart] = [program('before-start'), program('after-start')];
  if (hookMsMax !== undefined && beforeStart === undefined && afterStart === undefined)
    throw new UsageError('--hook-ms goes with --before-start or --after-start');
  return { hooks: { beforeStart, afterStart }, ...(hookMsMax === undefined ? {} : { hookMsMax }) };
}

/**
 * TLS is the migration's, and not the export's: with it an export stays on this machine, and without it, too,
 * unless that was said not to matter.
 */
function readExport(options: Options): ImageExportAddress | undefined {
  const text = options.text('export');
  if (text === undefined) return undefined;
  if (text.includes('/')) return { path: text };
  const endpoint = parseEndpoint('--export', text, 0);
  if (!options.flag('no-tls') && !isLoopback(endpoint)) {
    const tls = options.text('cert') !== undefined;
    throw new UsageError(
      `--export ${formatEndpoint(endpoint)} is not loopback, and NBD here neither encrypts nor authenticates: ` +
        "give a unix socket's path, as in --export ./disks.nbd" +
        (tls ? '; --cert is for the migration alone' : ', or --no-tls if the network is your own and secure'),
    );
  }
  return endpoint;
}

async function makeBackend(chosen: Chosen): Promise<HypervisorBackend | ImageBackend> {
  if (chosen.images === undefined) {
    const { createQemuBackend } = await import('../../qemu.ts');
    return createQemuBackend(chosen);
  }
  const { createImageBackend } = await import('../../backends/images/index.ts');
  return createImageBackend(chosen);
}
