/** A guest that goes on and on, from host to host, without a test framework. */
import { guestDirectory } from '../../qemu/support/guest.ts';
import { buildCli } from './built-cli.ts';
import { type ChainShape, chainLoad } from './chain-shapes.ts';
import { type Host, QemuHosts } from './qemu-hosts.ts';
import { moveWhole, type WholeMove } from './whole-move.ts';

export class GuestChain implements AsyncDisposable {
  readonly #hosts: QemuHosts;
  readonly #release: () => Promise<void>;
  #at: Host | undefined;

  private constructor(hosts: QemuHosts, release: () => Promise<void>) {
    this.#hosts = hosts;
    this.#release = release;
  }

  /**
   * Boots a guest with such disks, and builds the program, unless a built one is given. What was started
   * until then has ended if it rejects.
   */
  static async start({ disks }: ChainShape, seed: number, program?: string): Promise<GuestChain> {
    const directory = guestDirectory();
    // Who is killed leaves sockets behind.
    const cli = await buildCli({ TMPDIR: directory.path }, program);
    const hosts = new QemuHosts({ cli, directory: directory.path, disks, load: { ...chainLoad, seed } });
    const chain = new GuestChain(hosts, async () => {
      cli[Symbol.dispose]();
      await hosts.endAllBut();
      await directory[Symbol.asyncDispose]();
    });
    try {
      chain.#at = await hosts.boot(false);
      return chain;
    } catch (error) {
      await chain[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * To a new host, over a link of so many Mbit/s, 0 being none. Once it has rejected, the chain is of no more
   * use.
   */
  async move(mbit: number): Promise<WholeMove> {
    if (this.#at === undefined) throw new Error('the guest is nowhere');
    const source = this.#at;
    this.#at = undefined;
    const move = await moveWhole(this.#hosts, source, mbit);
    this.#at = move.destination;
    return move;
  }

  /** Ends all that runs, and removes all that was made. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#release();
  }
}
