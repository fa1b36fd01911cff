/**
 * A file system whose host can die: at any operation, before or after it took effect, or half-way through a
 * write. What was not synced may then be there or not, each name and each content by itself. Syncs only note
 * what is durable; they do not wait for a disk.
 */
import { rmSync, truncateSync } from 'node:fs';
import type * as Fs from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

/** What dying does to the operation under way. `half` differs from `before` only for writes. */
export type Dying = 'before' | 'half' | 'after';

class Power {
  #left = Number.POSITIVE_INFINITY;
  #dying: Dying = 'before';
  /** Names that are in no synced directory yet. */
  readonly #names = new Set<string>();
  /** Files whose content is not synced. */
  readonly #contents = new Set<string>();
  /** Open files, which die with the host. */
  readonly #handles = new Set<Fs.FileHandle>();
  on = true;
  /** So many were begun. */
  operations = 0;

  /** The host dies at the `operation`-th operation from now, counted from 0. */
  dieAt(operation: number, dying: Dying): void {
    this.#left = operation;
    this.#dying = dying;
  }

  /** How many things are not durable: `cut()` takes that many bits. */
  get undecided(): number {
    return this.#names.size + this.#contents.size;
  }

  /** The host is back. Bit by bit `lost` says which of the things that were not durable are gone. */
  async cut(lost: number): Promise<void> {
    for (const handle of this.#handles) await handle.close();
    this.#handles.clear();
    const names = [...this.#names];
    const contents = [...this.#contents];
    contents.forEach((path, index) => {
      if ((lost >> (names.length + index)) & 1) truncateSync(path, 0);
    });
    names.forEach((path, index) => {
      if ((lost >> index) & 1) rmSync(path, { recursive: true, force: true });
    });
    this.#names.clear();
    this.#contents.clear();
    this.#left = Number.POSITIVE_INFINITY;
    this.on = true;
  }

  async operation<T>(act: () => Promise<T>, half?: () => Promise<unknown>): Promise<T> {
    if (!this.on) throw new Error('the host is down');
    this.operations += 1;
    this.#left -= 1;
    if (this.#left !== -1) return act();
    if (this.#dying === 'after') await act();
    if (this.#dying === 'half') await half?.();
    this.on = false;
    throw new Error('the host went down');
  }

  opened(handle: Fs.FileHandle): void {
    this.#handles.add(handle);
  }

  async closed(handle: Fs.FileHandle): Promise<void> {
    if (this.#handles.delete(handle)) await handle.close();
  }

  named(path: string): void {
    this.#names.add(resolve(path));
  }

  written(path: string): void {
    this.#contents.add(resolve(path));
  }

  synced(path: string): void {
    this.#contents.delete(resolve(path));
    for (const name of this.#names) if (dirname(name) === resolve(path)) this.#names.delete(name);
  }

  removed(path: string): void {
    this.#contents.delete(resolve(path));
    this.#names.delete(resolve(path));
  }
}

/** The host's power. One for all that goes through {@link withPower}. */
export const power = new Power();

/** `node:fs/promises` on a host that can die: the functions that a register uses. */
export function withPower(fs: typeof Fs): Partial<typeof Fs> {
  const { mkdir, open, link, readFile, readdir, rm } = fs;
  return {
    ...fs,
    mkdir: (async (path: string, options: { recursive: true }) =>
      power.operation(async () => {
        const first = await mkdir(path, options);
        for (let made = path; first !== undefined && made.length >= first.length; made = dirname(made)) {
          power.named(made);
        }
        return first;
      })) as typeof mkdir,
    open: (async (path: string, flags: string, mode?: number) =>
      power.operation(async () => {
        const handle = await open(path, flags, mode);
        power.opened(handle);
        if (flags === 'wx') power.named(path);
        return handleWithPower(handle, path);
      })) as typeof open,
    link: (async (from: string, to: string) =>
      power.operation(async () => {
        await link(from, to);
        power.named(to);
      })) as typeof link,
    rm: (async (path: string, options: object) =>
      power.operation(async () => {
        await rm(path, options);
        power.removed(path);
      })) as typeof rm,
    readdir: ((path: string) => power.operation(() => readdir(path))) as unknown as typeof readdir,
    readFile: ((path: string) => power.operation(() => readFile(path))) as typeof readFile,
  };
}

function handleWithPower(handle: Fs.FileHandle, path: string) {
  return {
    writeFile: (bytes: Uint8Array) => {
      const write = async (content: Uint8Array) => {
        await handle.writeFile(content);
        power.written(path);
      };
      const half = () => write(bytes.subarray(0, bytes.length >> 1));
      return power.operation(() => write(bytes), half);
    },
    sync: () => power.operation(async () => power.synced(path)),
    close: () => power.closed(handle),
  };
}
