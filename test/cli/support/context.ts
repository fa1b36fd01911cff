/**
 * The program's surroundings for tests in this process: what it prints is kept, and signals come from the
 * test.
 */
import { EventEmitter } from 'node:events';
import type { Context } from '../../../src/cli/command.ts';
import { runProgram } from '../../../src/cli/program.ts';
import { Screen, type TextSink } from '../../../src/cli/screen.ts';

/** Keeps what is written; a terminal of that size, if one is given. */
export class KeptText implements TextSink {
  readonly isTTY: boolean;
  readonly columns: number | undefined;
  readonly rows: number | undefined;
  text = '';

  constructor(size?: { readonly columns: number; readonly rows: number }) {
    this.isTTY = size !== undefined;
    this.columns = size?.columns;
    this.rows = size?.rows;
  }

  write(text: string): void {
    this.text += text;
  }
}

export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program in this process. */
export async function program(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const stderr = new KeptText();
  let stdout = '';
  const context: Context = {
    print: (line) => {
      stdout += `${line}\n`;
    },
    screen: new Screen(stderr, env),
    env,
    signals: new EventEmitter(),
  };
  const code = await runProgram(args, context, '1.2.3');
  return { code, stdout, stderr: stderr.text };
}
