/**
 * Hosts in a suite of tests, and a guest that goes from one to the next: it is booted once, and each test
 * takes it from where the test before has left it.
 */
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { type DiskSpec, type GuestLoad, guestDirectory } from '../../qemu/support/guest.ts';
import { type BuiltCli, buildCli, type CliProcess } from './built-cli.ts';
import { type Host, type JsonReport, QemuHosts, type Receiving, vmId } from './qemu-hosts.ts';

export {
  expectSameContent,
  expectSound,
  type Host,
  type JsonReport,
  type Receiving,
  vmId,
} from './qemu-hosts.ts';

const diskBytes = 128 * 1024 * 1024;

export interface StageOptions {
  /** A disk each. Default: one raw disk. */
  readonly formats?: readonly DiskSpec['format'][];
  /** Instead of them. */
  readonly disks?: readonly Omit<DiskSpec, 'file'>[];
  readonly load?: GuestLoad;
}

/** For a whole suite: made where the suite is described. */
export class QemuStage {
  #hosts: QemuHosts | undefined;
  #cli: BuiltCli | undefined;
  #directory: ReturnType<typeof guestDirectory> | undefined;
  #home: Host | undefined;

  constructor(options: StageOptions = {}) {
    const { formats = ['raw'], load } = options;
    const { disks = formats.map((format) => ({ format, sizeBytes: diskBytes })) } = options;
    beforeAll(async () => {
      this.#directory = guestDirectory();
      const directory = this.#directory.path;
      // Who is killed leaves sockets behind.
      this.#cli = await buildCli({ TMPDIR: directory });
      this.#hosts = new QemuHosts({
        cli: this.#cli,
        directory,
        disks,
        ...(load === undefined ? {} : { load }),
      });
    });
    afterEach(() => this.#hosts?.endAllBut(this.#home));
    afterAll(async () => {
      this.#cli?.[Symbol.dispose]();
      await this.#hosts?.endAllBut();
      await this.#directory?.[Symbol.asyncDispose]();
    });
  }

  get hosts(): QemuHosts {
    if (this.#hosts === undefined) throw new Error('there are no hosts yet');
    return this.#hosts;
  }

  get cli(): BuiltCli {
    if (this.#cli === undefined) throw new Error('the program is not built yet');
    return this.#cli;
  }

  path(name: string): string {
    return this.hosts.path(name);
  }

  /** The host where the guest is. Unless the test leaves it somewhere, the next test gets a new one. */
  async takeGuest(): Promise<Host> {
    const host = this.#home ?? (await this.hosts.boot(false));
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
    return this.hosts.boot(true, register);
  }

  /** Ends a host, and removes its disks. */
  end(host: Host): Promise<void> {
    return this.hosts.end(host);
  }

  /** Starts `receive`, and resolves when it listens. */
  receive(...args: Parameters<QemuHosts['receive']>): Promise<Receiving> {
    return this.hosts.receive(...args);
  }

  /** Starts a `receive` that dies, or kills, at a moment: see mortal.ts. */
  async receiveMortal(host: Host, at: string, kill?: number): Promise<Receiving> {
    return this.listening(this.cli.startSupport('mortal', ['receive', ...mortalOptions(host, at, kill)]));
  }

  listening(process: CliProcess): Promise<Receiving> {
    return this.hosts.listening(process);
  }

  /** A link of so many Mbit/s to where a `receive` listens: resolves to where it begins. */
  async slowLink(to: string, mbit: number): Promise<string> {
    return (await this.hosts.slowLink(to, mbit)).to;
  }

  send(...args: Parameters<QemuHosts['send']>): CliProcess {
    return this.hosts.send(...args);
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
  moveTo(...args: Parameters<QemuHosts['moveTo']>): Promise<JsonReport> {
    return this.hosts.moveTo(...args);
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
