/**
 * Hosts for a guest that goes from one to the next: a host is a QEMU, with its disks and the register of its
 * own. What ends here throws; no test framework is needed.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expectClean } from '../../qemu/support/clean.ts';
import {
  bootGuest,
  createDisk,
  type DiskSpec,
  type Guest,
  type GuestLoad,
} from '../../qemu/support/guest.ts';
import type { BuiltCli, CliProcess } from './built-cli.ts';

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

export interface HostsOptions {
  readonly cli: BuiltCli;
  /** For sockets, images and registers. */
  readonly directory: string;
  readonly disks: readonly Omit<DiskSpec, 'file'>[];
  readonly load?: GuestLoad;
}

export class QemuHosts {
  readonly #options: HostsOptions;
  readonly #hosts = new Set<Host>();
  #made = 0;

  constructor(options: HostsOptions) {
    this.#options = options;
  }

  path(name: string): string {
    return join(this.#options.directory, name);
  }

  /**
   * A new host that boots the guest, or waits for it; with a register, in the place of the one whose register
   * that was.
   */
  async boot(incoming: boolean, register?: string): Promise<Host> {
    const { directory, load } = this.#options;
    this.#made += 1;
    const name = `h${this.#made}`;
    const disks = await Promise.all(
      this.#options.disks.map((disk, index) =>
        createDisk({ ...disk, file: this.path(`${name}-${index}.${disk.format}`) }),
      ),
    );
    const guest = await bootGuest({
      name,
      dir: directory,
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

  async endAllBut(spared?: Host): Promise<void> {
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
    return this.listening(this.#options.cli.start(['receive', ...args, ...more]));
  }

  async listening(process: CliProcess): Promise<Receiving> {
    const [, to = ''] = await process.line(/^listening on (\S+)$/);
    return { process, to };
  }

  /**
   * A link of so many Mbit/s to where a `receive` listens, until it is stopped or the program is disposed of.
   */
  slowLink(to: string, mbit: number): Promise<Receiving> {
    return this.listening(this.#options.cli.startSupport('slow-link', ['--to', to, '--mbit', String(mbit)]));
  }

  send(host: Host, to: string, ...more: readonly string[]): CliProcess {
    const { guest, register } = host;
    const options = ['--qmp', guest.qmpPath, '--register', register, '--vm-id', vmId, '--to', to, '--json'];
    // Who dies in these tests does not come back.
    const patience = ['--outage-ms', '500'];
    return this.#options.cli.start(['send', ...options, ...patience, ...more]);
  }

  /**
   * Moves the guest to where `receive` waits already: it has to be sound there, and the old host has ended
   * then.
   */
  async moveTo(
    source: Host,
    destination: Host,
    receiving: Receiving,
    ...more: readonly string[]
  ): Promise<JsonReport> {
    const sent = await this.send(source, receiving.to, ...more).ended;
    assert.equal(sent.code, 0, sent.stdout + sent.stderr);
    const received = await receiving.process.ended;
    assert.equal(received.code, 0, received.stdout + received.stderr);
    assert.deepEqual(await source.guest.exited, { code: 0, signal: null });
    await expectSound(destination);
    return JSON.parse(sent.stdout) as JsonReport;
  }
}

/** The guest runs here, has lost nothing, and nothing of ours is left in its QEMU. */
export async function expectSound({ guest }: Host): Promise<void> {
  assert.equal(await guest.runState(), 'running');
  await guest.nextTick();
  const { badPages, badBlocks, firstBad } = await guest.verify();
  assert.deepEqual({ badPages, badBlocks, firstBad }, { badPages: 0, badBlocks: 0, firstBad: '' });
  assert.equal((await guest.stats()).writeErrors, 0);
  await expectClean(guest);
}

/** Two images hold the same content. Neither may be open. */
export async function expectSameContent(one: DiskSpec, other: DiskSpec): Promise<void> {
  const formats = ['-f', one.format, '-F', other.format];
  const { stdout } = await promisify(execFile)('qemu-img', ['compare', ...formats, one.file, other.file]);
  assert.match(stdout, /Images are identical/);
}
