/**
 * The examples as users run them: bundled, importing the built package by its name, each in a process of its
 * own.
 */
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'tsup';
import libraryBuild from '../../../tsup.config.ts';
import { CliProcess, type CliResult } from '../../cli/support/built-cli.ts';

const repository = fileURLToPath(new URL('../../../', import.meta.url));

export interface BuiltExamples extends Disposable {
  /** What can be run: every file that no other one imports. */
  readonly names: readonly string[];
  start(name: string, args?: readonly string[]): CliProcess;
  run(name: string, args?: readonly string[]): Promise<CliResult>;
}

/**
 * Bundles the library as the project's build does, and the examples beside it, into a package of its own:
 * what they import is found by the `exports` of package.json. What was started is killed when it is disposed
 * of.
 */
export async function buildExamples(): Promise<BuiltExamples> {
  const cache = join(repository, '.cache');
  mkdirSync(cache, { recursive: true });
  const directory = mkdtempSync(join(cache, 'examples-'));
  copyFileSync(join(repository, 'package.json'), join(directory, 'package.json'));
  const common = { config: false, dts: false, sourcemap: false, clean: false, silent: true } as const;
  await build({ ...(libraryBuild as object), ...common, outDir: join(directory, 'dist') });
  const names = readdirSync(join(repository, 'examples'))
    .filter((name) => name.endsWith('.ts') && !name.startsWith('toy-'))
    .map((name) => name.slice(0, -'.ts'.length));
  await build({
    ...common,
    entry: names.map((name) => join(repository, 'examples', `${name}.ts`)),
    outDir: join(directory, 'examples'),
    format: 'esm',
    target: 'node20',
    external: [/^longhaul/],
  });
  const started: CliProcess[] = [];
  const start: BuiltExamples['start'] = (name, args = []) => {
    const process = new CliProcess(join(directory, 'examples', `${name}.js`), args, {});
    started.push(process);
    return process;
  };
  return {
    names,
    start,
    run: (name, args) => start(name, args).ended,
    [Symbol.dispose]() {
      for (const { child } of started) child.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
