import { createDestination, fileRegister } from '../../index.ts';
import type { Command } from '../command.ts';
import { jsonOption, registerOption, ticketOption, tlsOptions } from '../common-options.ts';
import { conclude } from '../conclude.ts';
import { formatEndpoint } from '../endpoint.ts';
import { runShown } from '../run-shown.ts';
import { interruptible } from '../signals.ts';
import { readTicketFile } from '../ticket-file.ts';
import { makeTransport } from '../transport.ts';

/** `longhaul receive`: waits for one VM and takes it over. */
export const receive: Command = {
  name: 'receive',
  summary: 'wait for a VM and take it over',
  usage: '--qmp SOCKET --listen HOST:PORT',
  description: [
    'Waits for one `longhaul send` and takes its VM over into a QEMU that was started with `-incoming ' +
      'defer` and otherwise with the same devices. The address that is bound is printed on stderr as ' +
      '`listening on HOST:PORT`.',
    'SIGINT, SIGTERM or SIGHUP gives up, and the guest stays on the source, unless the VM is handed over ' +
      'already.',
    'While it waits it also answers `longhaul recover --ask` for migrations whose `receive` has died, ' +
      'from the register; with a ticket, to those who have it.',
  ],
  options: {
    qmp: { value: 'SOCKET', help: 'QMP socket of the QEMU that takes the VM' },
    listen: { value: 'HOST:PORT', help: 'where to listen; port 0 takes any that is free' },
    register: registerOption,
    'ticket-file': ticketOption,
    ...tlsOptions,
    json: jsonOption,
  },

  async run(options, context) {
    const qmp = options.required('qmp');
    const listen = options.requiredEndpoint('listen', 0);
    const register = fileRegister(options.registerDirectory(context.env));
    const ticket = readTicketFile(options);
    const { screen } = context;
    const transport = makeTransport(options, { listen }, screen);

    return conclude(context, { role: 'destination', json: options.flag('json') }, async () => {
      const interruption = interruptible(context.signals, 'the guest stays on the source', (line) =>
        screen.log(line),
      );
      try {
        const { createQemuBackend } = await import('../../backends/qemu/index.ts');
        const backend = createQemuBackend({ qmp });
        screen.log(`listening on ${formatEndpoint(await transport.listening())}`);
        const destination = createDestination({ backend, transport, register, ticket });
        return await runShown(destination, 'destination', screen, interruption);
      } finally {
        await transport.close();
        interruption.close();
      }
    });
  },
};
