/** The package as it is published, and beside it an embedder that imports it by its name. */
import { type ChildProcess, fork } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'tsup';
import libraryBuild from '../../../tsup.config.ts';
import type { Config, Said, Told } from './protocol.ts';

const repository = fileURLToPath(new URL('../../../', import.meta.url));

type SaidOf<T extends Said['type']> = Extract<Said, { readonly type: T }>;

/** An embedder that runs. */
export class Embedder {
  readonly child: ChildProcess;
  /** Resolves to its exit code. */
  readonly ended: Promise<number | null>;
  readonly #said: Said[] = [];
  readonly #waiting = new Set<() => void>();
  #stderr = '';
  #over = false;

  constructor(script: string, config: Config) {
    this.child = fork(script, [JSON.stringify(config)], { stdio: ['ignore', 'inherit', 'pipe', 'ipc'] });
    this.child.stderr?.setEncoding('utf8').on('data', (text) => {
      this.#stderr += text;
    });
    this.child.on('message', (said: Said) => {
      this.#said.push(said);
      this.#wake();
    });
    this.ended = new Promise((resolve) => {
      this.child.on('close', (code) => {
        this.#over = true;
        this.#wake();
        resolve(code);
      });
    });
  }

  tell(told: Told): void {
    this.child.send(told);
  }

  /** What it has said so far of one kind. */
  said<T extends Said['type']>(type: T): readonly SaidOf<T>[] {
    return this.#said.filter((said): said is SaidOf<T> => said.type === type);
  }

  /** Resolves to the first of one kind that fits; rejects if it ends without. */
  async says<T extends Said['type']>(
    type: T,
    fits: (said: SaidOf<T>) => boolean = () => true,
  ): Promise<SaidOf<T>> {
    for (;;) {
      const found = this.said(type).find(fits);
      if (found !== undefined) return found;
      if (this.#over) throw new Error(`the embedder ended without saying ${type}: ${this.#stderr}`);
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }
}

export interface BuiltEmbedder extends Disposable {
  /** Where the library was built to. */
  readonly dist: string;
  start(config: Config): Embedder;
}

/** What was started is killed when it is disposed of. */
export async function buildEmbedder(): Promise<BuiltEmbedder> {
  const cache = join(repository, '.cache');
  mkdirSync(cache, { recursive: true });
  const directory = mkdtempSync(join(cache, 'embedder-'));
  copyFileSync(join(repository, 'package.json'), join(directory, 'package.json'));
  const common = { config: false, dts: false, sourcemap: false, clean: false, silent: true } as const;
  const dist = join(directory, 'dist');
  await build({ ...(libraryBuild as object), ...common, outDir: dist });
  await build({
    ...common,
    entry: ['embedder', 'plug-points'].map((name) => join(repository, `test/worker/support/${name}.ts`)),
    outDir: directory,
    format: 'esm',
    target: 'node20',
    external: [/^longhaul/],
  });
  const started: Embedder[] = [];
  return {
    dist,
    start(config) {
      const embedder = new Embedder(join(directory, 'embedder.js'), config);
      started.push(embedder);
      return embedder;
    },
    [Symbol.dispose]() {
      for (const { child } of started) child.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
