/** The program as users get it: bundled, and run as a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { build } from 'tsup';

const repository = fileURLToPath(new URL('../../../', import.meta.url));

export interface CliResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A program that runs. */
export class CliProcess {
  readonly child: ChildProcess;
  readonly ended: Promise<CliResult>;
  #stdout = '';
  #stderr = '';
  readonly #lines: string[] = [];
  readonly #waiting = new Set<() => void>();

  constructor(script: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    const child = spawn(process.execPath, [script, ...args], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child = child;
    child.stdout.setEncoding('utf8').on('data', (text) => {
      this.#stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      this.#stderr += text;
    });
    createInterface(child.stderr).on('line', (line) => this.#saw(line));
    this.ended = new Promise((resolve) => {
      child.on('close', (code, signal) => {
        resolve({ code, signal, stdout: this.#stdout, stderr: this.#stderr });
      });
    });
  }

  /**
   * Resolves to the match of the first line on stderr that has one, or rejects when the program ends without
   * it.
   */
  async line(pattern: RegExp): Promise<RegExpExecArray> {
    let over: CliResult | undefined;
    void this.ended.then((result) => {
      over = result;
      for (const wake of this.#waiting) wake();
    });
    for (let next = 0; ; ) {
      for (; next < this.#lines.length; next += 1) {
        const match = pattern.exec(this.#lines[next] ?? '');
        if (match !== null) return match;
      }
      if (over !== undefined) throw new Error(`no line was like ${pattern}:\n${over.stderr}${over.stdout}`);
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
      this.#waiting.clear();
    }
  }

  #saw(line: string): void {
    this.#lines.push(line);
    for (const wake of this.#waiting) wake();
  }
}

export interface BuiltCli extends Disposable {
  /** The file that `bin` in package.json names. */
  readonly script: string;
  start(args: readonly string[], env?: NodeJS.ProcessEnv): CliProcess;
  run(args: readonly string[], env?: NodeJS.ProcessEnv): Promise<CliResult>;
  /** Starts one of the programs beside this file, by its name. */
  startSupport(name: 'mortal' | 'slow-link', args: readonly string[]): CliProcess;
}

/**
 * Bundles the program as it is now, as the project's build does, into a package of its own. What was started
 * is killed when it is disposed of. `environment` is for all of it. With `program`, that file is run instead.
 */
export async function buildCli(environment: NodeJS.ProcessEnv = {}, program?: string): Promise<BuiltCli> {
  const cache = join(repository, '.cache');
  mkdirSync(cache, { recursive: true });
  const directory = mkdtempSync(join(cache, 'cli-'));
  copyFileSync(join(repository, 'package.json'), join(directory, 'package.json'));
  const entry = {
    'cli/main': join(repository, 'src/cli/main.ts'),
    // Beside the program's shared parts, as in the project's build: they start it by its place.
    'qemu-worker': join(repository, 'src/worker/qemu-worker.ts'),
    'qemu-tap': join(repository, 'src/backends/qemu/qemu-tap.ts'),
    'cli/mortal': join(repository, 'test/cli/support/mortal.ts'),
    'cli/slow-link': join(repository, 'test/cli/support/slow-link.ts'),
  };
  const outDir = join(directory, 'dist');
  await build({ entry, outDir, dts: false, sourcemap: false, clean: false, silent: true });
  const script = program ?? join(outDir, 'cli/main.js');
  const started: CliProcess[] = [];
  const startScript = (path: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): CliProcess => {
    const process = new CliProcess(path, args, { ...environment, ...env });
    started.push(process);
    return process;
  };
  const start: BuiltCli['start'] = (args, env) => startScript(script, args, env);
  return {
    script,
    start,
    run: (args, env) => start(args, env).ended,
    startSupport: (name, args) => startScript(join(outDir, `cli/${name}.js`), args),
    [Symbol.dispose]() {
      for (const { child } of started) child.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
