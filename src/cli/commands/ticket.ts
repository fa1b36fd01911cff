import { createTicket } from '../../index.ts';
import type { Command } from '../command.ts';
import { exitCodes } from '../exit-code.ts';
import { writeTicketFile } from '../ticket-file.ts';

/** `longhaul ticket`: makes the secret by which the two ends of a migration know each other. */
export const ticketCommand: Command = {
  name: 'ticket',
  summary: 'make a ticket, by which the two ends of a migration know each other',
  usage: '',
  description: [
    'Prints a new ticket: a secret for one migration. Bring it to both hosts by a way that nobody else can read, and give it to `send` and ' +
      '`receive` with --ticket-file; and to `recover --ask`, should it come to that. Then nobody without it can be either end, or ask for ' +
      'the decision. It does not encrypt: that is what TLS is for.',
  ],
  options: {
    out: { value: 'FILE', help: 'write it to a new file that only this user can read, and print nothing' },
  },

  async run(options, context) {
    const out = options.text('out');
    const ticket = createTicket();
    if (out === undefined) context.print(ticket.reveal());
    else writeTicketFile(out, ticket);
    return exitCodes.completed;
  },
};
