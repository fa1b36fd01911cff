import type { Command, Context } from './command.ts';
import { demo } from './commands/demo.ts';
import { receive } from './commands/receive.ts';
import { recoverCommand } from './commands/recover.ts';
import { send } from './commands/send.ts';
import { ticketCommand } from './commands/ticket.ts';
import { exitCodes } from './exit-code.ts';
import { commandHelp, programHelp } from './help.ts';
import { parseOptions } from './options.ts';
import { UsageError } from './usage-error.ts';

const commands: readonly Command[] = [send, receive, recoverCommand, ticketCommand, demo];

/**
 * Runs the program with its arguments, without the names of the interpreter and the script, and resolves to
 * its exit code. `version` is what `--version` prints. Wrong usage is told on stderr; nothing was opened or
 * changed then.
 */
export async function runProgram(
  args: readonly string[],
  context: Context,
  version: string,
): Promise<number> {
  const [first, ...rest] = args;
  const command = commands.find(({ name }) => name === first);
  const print = (lines: readonly string[]) => {
    for (const line of lines) context.print(line);
    return exitCodes.completed;
  };
  try {
    if (command !== undefined) {
      if (rest.some(isHelp)) return print(commandHelp(command));
      return await command.run(parseOptions(command.options, rest), context);
    }
    if (first === undefined) throw new UsageError('no command is given');
    if (isHelp(first)) return print(programHelp(commands));
    if (first === '--version') return print([version]);
    const kind = first.startsWith('-') ? 'option' : 'command';
    throw new UsageError(`there is no ${kind} '${first}'`);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    const name = command === undefined ? 'longhaul' : `longhaul ${command.name}`;
    context.screen.log(`${name}: ${error.message}`);
    context.screen.log(`Try '${name} --help'.`);
    return exitCodes.usage;
  }
}

function isHelp(arg: string): boolean {
  return arg === '--help' || arg === '-h';
}
