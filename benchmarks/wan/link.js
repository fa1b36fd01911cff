/** The emulated link's process, link.c, as the laboratory drives it. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const source = fileURLToPath(new URL('./link.c', import.meta.url));
const cache = fileURLToPath(new URL('../../.cache/', import.meta.url));

/** Compiles link.c if that is newer than what there is. @returns {Promise<string>} The program. */
export async function compileLink() {
  const program = join(cache, 'wan-link');
  const [made, written] = await Promise.all([stat(program).catch(() => undefined), stat(source)]);
  if (made !== undefined && made.mtimeMs > written.mtimeMs) return program;
  await mkdir(cache, { recursive: true });
  // Another process may do the same.
  const draft = `${program}-${process.pid}`;
  await promisify(execFile)('cc', ['-O2', '-Wall', '-o', draft, source]);
  await rename(draft, program);
  return program;
}

/** The process of link.c. Commands are answered in their order. */
export class Link {
  #child;
  /** @type {{ resolve: (line: string) => void, reject: (error: Error) => void }[]} */
  #waiting = [];
  #errors = '';
  #isOver = false;

  /** @param {string} program @param {readonly string[]} args */
  constructor(program, args) {
    this.#child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#waiting.shift()?.resolve(line));
    this.#child.stderr.setEncoding('utf8').on('data', (text) => {
      this.#errors += text;
    });
    // What is not written any more is told by the end of the process.
    this.#child.stdin.on('error', () => {});
    this.#child.on('error', (error) => this.#fail(error.message));
    this.#child.on('close', (code, signal) =>
      this.#fail(this.#errors.trim() || `link ended with ${code ?? signal}`),
    );
  }

  /** @returns {Promise<string>} */
  ready() {
    return this.#answer();
  }

  /** @param {string} command */
  ask(command) {
    const answer = this.#answer();
    this.#child.stdin.write(`${command}\n`);
    return answer;
  }

  async end() {
    this.#child.stdin.end();
    await ended(this.#child);
  }

  kill() {
    this.#child.kill('SIGKILL');
  }

  /** @returns {Promise<string>} */
  #answer() {
    if (this.#isOver) return Promise.reject(new Error(this.#errors.trim() || 'the link has ended'));
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** @param {string} message */
  #fail(message) {
    this.#isOver = true;
    for (const each of this.#waiting.splice(0)) each.reject(new Error(message));
  }
}

/**
 * Resolves when a process has ended, or if it never began.
 *
 * @param {import('node:child_process').ChildProcess} child
 */
export async function ended(child) {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null)
    await once(child, 'exit');
}
