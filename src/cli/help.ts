import type { Command } from './command.ts';
import { exitCodeHelp } from './exit-code.ts';
import type { OptionSpecs } from './options.ts';

/** Help is text for any terminal: it does not look at the width. */
const columns = 100;

/** `longhaul --help`. */
export function programHelp(commands: readonly Command[]): readonly string[] {
  return [
    'longhaul: live migration of running virtual machines, memory and disks together',
    '',
    'Usage: longhaul COMMAND [OPTIONS]',
    '',
    ...table(commands.map(({ name, summary }) => [name, summary])),
    '',
    'Options:',
    ...table([
      ['--help', 'this text; after a command, its options'],
      ['--version', 'the version'],
    ]),
    '',
    ...exitCodeLines(),
  ];
}

/** `longhaul COMMAND --help`. */
export function commandHelp(command: Command): readonly string[] {
  const usage = ['Usage: longhaul', command.name, command.usage, '[OPTIONS]'].filter((part) => part !== '');
  return [
    usage.join(' '),
    '',
    ...command.description.flatMap((paragraph) => [...wrap(paragraph, columns), '']),
    'Options:',
    ...table(optionRows(command.options)),
    '',
    ...exitCodeLines(),
  ];
}

function optionRows(options: OptionSpecs): readonly (readonly [string, string])[] {
  const rows = Object.entries(options).map(([name, { value, help }]): readonly [string, string] => [
    value === undefined ? `--${name}` : `--${name} ${value}`,
    help,
  ]);
  return [...rows, ['--help', 'this text']];
}

function exitCodeLines(): readonly string[] {
  return ['Exit codes:', ...exitCodeHelp.map((line) => `  ${line}`)];
}

function table(rows: readonly (readonly [string, string])[]): readonly string[] {
  const width = Math.max(...rows.map(([left]) => left.length));
  const indent = ' '.repeat(width + 4);
  return rows.flatMap(([left, right]) =>
    wrap(right, columns - indent.length).map((line, index) =>
      index === 0 ? `  ${left.padEnd(width)}  ${line}` : indent + line,
    ),
  );
}

function wrap(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}
