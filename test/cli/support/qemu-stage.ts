/**
 * Hosts, and a guest that goes from one to the next. A host is a QEMU, with its disks and the register of its
 * own; the guest is booted once, and each test takes it from where the test before has left it.
 */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { expectClean } from '../../qemu/support/clean.ts';
import {
  bootGuest,
  createDisk,
  type DiskSpec,
  type Guest,
  type GuestLoad,
  guestDirectory,
} from '../../qemu/support/guest.ts';
import { type BuiltCli, buildCli, type CliProcess } from './built-cli.ts';

const diskBytes = 128 * 1024 * 1024;
export const vmId = 'web-1';

export interface Host {
  readonly name: string;
  readonly guest: Guest;
  readonly disks: readonly DiskSpec[];
  readonly register: string;
}

/** A `receive` that listens. */
export interface Receiving {
  readonly process: CliProcess;
  /** For `send --to`. */
  readonly to: string;
}

/** The part of `--json` that tests look at. */
export interface JsonReport {
  readonly role: string;
  readonly epoch: number;
  readonly outcome: string;
  readonly owner: string;
  readonly totalMs: number;
  readonly downtimeMs: number;
  readonly rounds: number;
  readonly throttleMax: number;
  readonly guestWrites: { readonly mirrored: number; readonly setBack: number };
  readonly bytes: {
    readonly memory: number;
    readonly disk: number;
    readonly unchanged: number;
    readonly mirror: number;
  };
}

export interface StageOptions {
  /** A disk each. Default: one raw disk. */
  readonly formats?: readonly DiskSpec['format'][];
  readonly load?: GuestLoad;
}

/** For a whole suite: made where the suite is described. */
export class QemuStage {
  readonly #options: StageOptions;
  readonly #hosts = new Set<Host>();
  #cli: BuiltCli | undefined;
  #directory: ReturnType<typeof guestDirectory> | undefined;
  #made = 0;
  #home: Host | undefined;

  constructor(options: StageOptions = {}) {
    this.#options = options;
    beforeAll(async () => {
      this.#directory = guestDirectory();
      // Who is killed leaves sockets behind.
      this.#cli = await buildCli({ TMPDIR: this.#directory.path });
    });
    afterEach(() => this.#endAllBut(this.#home));
    afterAll(async () => {
      this.#cli?.[Symbol.dispose]();
      await this.#endAllBut(undefined);
      await this.#directory?.[Symbol.asyncDispose]();
    });
  }

  get cli(): BuiltCli {
    if (this.#cli === undefined) throw new Error('the program is not built yet');
    return this.#cli;
  }

  path(name: string): string {
    return join(this.#directory?.path ?? '', name);
  }

  /** The host where the guest is. Unless the test leaves it somewhere, the next test gets a new one. */
  async takeGuest(): Promise<Host> {
    const host = this.#home ?? (await this.#host(false));
    this.#home = undefined;
    return host;
  }

  leaveGuest(host: Host): void {
    this.#home = host;
  }

  /**
   * A new host that waits for the guest; with a register, in the place of the one whose register that was.
   */
  waiting(register?: string): Promise<Host> {
    return this.#host(true, register);
  }

  async #host(incoming: boolean, register?: string): Promise<Host> {
    const { formats = ['raw'], load } = this.#options;
    this.#made += 1;
    const name = `h${this.#made}`;
    const disks = await Promise.all(
      formats.map((format, index) =>
        createDisk({ file: this.path(`${name}-${index}.${format}`), format, sizeBytes: diskBytes }),
      ),
    );
    const guest = await bootGuest({
      name,
      dir: this.path(''),
      disks,
      incoming,
      ...(load === undefined ? {} : { load }),
    });
    const host = { name, guest, disks, register: register ?? this.path(`${name}-register`) };
    this.#hosts.add(host);
    return host;
  }

  /** Ends a host, and removes its disks. */
  async end(host: Host): Promise<void> {
    this.#hosts.delete(host);
    await host.guest.kill();
    await Promise.all(host.disks.map(({ file }) => rm(file, { force: true })));
  }

  async #endAllBut(spared: Host | undefined): Promise<void> {
    await Promise.all([...this.#hosts].filter((host) => host !== spared).map((host) => this.end(host)));
  }

  /** Starts `receive`, and resolves when it listens. */
  async receive(
    host: Host,
    options: { readonly qmp?: string; readonly listen?: string } = {},
    ...more: readonly string[]
  ): Promise<Receiving> {
    const { qmp = host.guest.qmpPath, listen = '127.0.0.1:0' } = options;
    const args = ['--qmp', qmp, '--listen', listen, '--register', host.register, '--json'];
    return this.listening(this.cli.start(['receive', ...args, ...more]));
  }

  /** Starts a `receive` that dies, or kills, at a moment: see mortal.ts. */
  async receiveMortal(host: Host, at: string, kill?: number): Promise<Receiving> {
    return this.listening(this.cli.startSupport('mortal', ['receive', ...mortalOptions(host, at, kill)]));
  }

  async listening(process: CliProcess): Promise<Receiving> {
    const [, to = ''] = await process.line(/^listening on (\S+)$/);
    return { process, to };
  }

  /** A link of so many Mbit/s to where a `receive` listens: resolves to where it begins. */
  async slowLink(to: string, mbit: number): Promise<string> {
    const link = this.cli.startSupport('slow-link', ['--to', to, '--mbit', String(mbit)]);
    return (await this.listening(link)).to;
  }

  send(host: Host, to: string, ...more: readonly string[]): CliProcess {
    const { guest, register } = host;
    const options = ['--qmp', guest.qmpPath, '--register', register, '--vm-id', vmId, '--to', to, '--json'];
    // Who dies in these tests does not come back.
    const patience = ['--outage-ms', '500'];
    return this.cli.start(['send', ...options, ...patience, ...more]);
  }

  /** Starts a `send` that dies at a moment: see mortal.ts. */
  sendMortal(host: Host, to: string, at: string): CliProcess {
    const options = [...mortalOptions(host, at), '--to', to, '--vm-id', vmId];
    return this.cli.startSupport('mortal', ['send', ...options]);
  }

  recoverSource(host: Host, ...more: readonly string[]): CliProcess {
    const { guest, register } = host;
    const options = ['--qmp', guest.qmpPath, '--register', register, '--vm-id', vmId, '--json'];
    return this.cli.start(['recover', '--role', 'source', ...options, ...more]);
  }

  recoverDestination({ register }: Host): CliProcess {
    const options = ['--register', register, '--vm-id', vmId, '--json'];
    return this.cli.start(['recover', '--role', 'destination', ...options]);
  }

  /** Moves the guest to a new host, where it has to be sound; the old one has ended then. */
  async move(source: Host): Promise<Host> {
    const destination = await this.waiting();
    await this.moveTo(source, destination, await this.receive(destination));
    return destination;
  }

  /** Moves the guest to where `receive` waits already. */
  async moveTo(
    source: Host,
    destination: Host,
    receiving: Receiving,
    ...more: readonly string[]
  ): Promise<JsonReport> {
    const sent = await this.send(source, receiving.to, ...more).ended;
    expect(sent.code, sent.stdout + sent.stderr).toBe(0);
    const received = await receiving.process.ended;
    expect(received.code, received.stdout + received.stderr).toBe(0);
    expect(await source.guest.exited).toEqual({ code: 0, signal: null });
    await expectSound(destination);
    return JSON.parse(sent.stdout) as JsonReport;
  }
}

/** The process has killed itself, and not just failed. */
export async function expectKilled(process: CliProcess): Promise<void> {
  const { signal, stdout, stderr } = await process.ended;
  expect(signal, stdout + stderr).toBe('SIGKILL');
}

function mortalOptions(host: Host, at: string, kill?: number): string[] {
  const options = ['--qmp', host.guest.qmpPath, '--register', host.register, '--at', at];
  return kill === undefined ? options : [...options, '--kill', String(kill)];
}

/** The guest runs here, has lost nothing, and nothing of ours is left in its QEMU. */
export async function expectSound({ guest }: Host): Promise<void> {
  expect(await guest.runState()).toBe('running');
  await guest.nextTick();
  expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0, firstBad: '' });
  expect(await guest.stats()).toMatchObject({ writeErrors: 0 });
  await expectClean(guest);
}

/** Two images hold the same content. Neither may be open. */
export async function expectSameContent(one: DiskSpec, other: DiskSpec): Promise<void> {
  const formats = ['-f', one.format, '-F', other.format];
  const { stdout } = await promisify(execFile)('qemu-img', ['compare', ...formats, one.file, other.file]);
  expect(stdout).toMatch(/Images are identical/);
}
