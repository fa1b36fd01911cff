import type { OptionSpecs, Options } from './options.ts';
import type { Screen } from './screen.ts';
import type { SignalSource } from './signals.ts';

/** What a command has of the process that it runs in. */
export interface Context {
  /** Writes a line of the result to stdout. */
  print(line: string): void;
  /** Everything else, to stderr. */
  readonly screen: Screen;
  readonly env: NodeJS.ProcessEnv;
  readonly signals: SignalSource;
}

/** One command of the program. */
export interface Command {
  readonly name: string;
  /** One line, for the program's help. */
  readonly summary: string;
  /** What its help says beside the options, a paragraph each. */
  readonly description: readonly string[];
  /** The options that it cannot do without, as in the help's first line. */
  readonly usage: string;
  readonly options: OptionSpecs;
  /** Resolves to the exit code. Rejects with `UsageError`, before anything was opened. */
  run(options: Options, context: Context): Promise<number>;
}
