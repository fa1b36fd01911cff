import { MigrationError } from '../../errors.ts';
import type { Tap, TapHandler } from '../../interfaces/block-device.ts';
import type { ByteRange, CallOptions, Content } from '../../interfaces/content.ts';
import { type Deferred, deferred, raceAbort } from '../../util/promises.ts';
import { cancelMirror, removeNode } from './leftovers.ts';
import { OWN_PREFIX } from './own-prefix.ts';
import type { QmpClient, QmpEvent } from './qmp.ts';
import { objectsOf } from './qmp-values.ts';
import { everyStep } from './take-down.ts';
import type { TapServer, TapServerHandler, TapServerOptions } from './tap-server.ts';
import type { DiskNode } from './vm-inventory.ts';

/** What a {@link DiskTap} works with. */
export interface DiskTapOptions {
  readonly qmp: QmpClient;
  readonly disk: DiskNode;
  /** Makes its names unique within the VM. */
  readonly index: number;
  /** Where it listens for QEMU. */
  readonly socketPath: string;
  readonly handler: TapHandler;
  /** Where it is served: in this thread, or in one of its own. */
  readonly serve: (options: TapServerOptions, handler: TapServerHandler) => Promise<TapServer>;
}

/** Guest writes within one such unit wait for each other, so it is as small as what guests write. */
const GRANULARITY_BYTES = 4096;

/**
 * A tap as QEMU's mirror job: with nothing to copy (`sync: none`) and in write-blocking mode it sends every guest write, after the source's
 * disk has it and before the guest is told, to an NBD server, which is ours.
 *
 * Should we die, or fail to answer, the job ends with an error and the guest does not notice (`on-target-error: report`).
 * When the guest is stopped, QEMU drains the mirror and then flushes it: that FLUSH is the sign that nothing is under way any more.
 *
 * While a handler holds a write, QEMU waits with every change of its disks' graphs: setting and removing a tap of another disk takes
 * at least as long as the longest hold.
 */
export class DiskTap implements Tap {
  readonly #options: DiskTapOptions;
  readonly #name: string;
  /** The node that the job puts above the disk's: a failed write of the guest is told under its name. */
  readonly #filterName: string;
  readonly #held = new Set<Deferred<void>>();
  readonly #off: (() => void)[] = [];
  #server: TapServer | undefined;
  #drained: Deferred<void> | undefined;
  #flushed = false;
  #gap: MigrationError | undefined;
  readonly #broken = deferred<void>();
  #set = false;
  #letGo = false;
  #gone = false;
  #removed: Promise<void> | undefined;

  private constructor(options: DiskTapOptions) {
    this.#options = options;
    this.#name = `${OWN_PREFIX}tap-${options.index}`;
    this.#filterName = `${this.#name}-filter`;
  }

  /** Sets it. Rejects with `hypervisor` or `aborted`; then nothing of it is left. */
  static async set(options: DiskTapOptions, signal?: AbortSignal): Promise<DiskTap> {
    const tap = new DiskTap(options);
    try {
      await tap.#start(signal);
      return tap;
    } catch (error) {
      await tap.remove().catch(() => undefined);
      throw error;
    }
  }

  /** The guest is about to be stopped: the next FLUSH says that the last write has come. One that is paused writes nothing. */
  expectDrain(guestRuns: boolean): void {
    this.#drained?.reject(new MigrationError('tap-gap', 'the guest runs on'));
    this.#drained = deferred();
    this.#flushed = false;
    if (!guestRuns) this.#onFlush();
    if (this.#gap !== undefined) this.#drained.reject(this.#gap);
  }

  async finish(options: CallOptions = {}): Promise<void> {
    if (this.#drained === undefined || this.#letGo) {
      throw new MigrationError('invalid-state', 'a tap is finished while it is set and the guest is stunned');
    }
    await raceAbort(this.#drained.promise, options.signal);
    const { qmp } = this.#options;
    const jobs = objectsOf(await qmp.execute('query-block-jobs', undefined, options), 'block jobs');
    const job = jobs.find(({ device }) => device === this.#name);
    if (this.#gap === undefined && (job?.status !== 'ready' || job['actively-synced'] === false)) {
      this.#break(`its mirror job is ${String(job?.status ?? 'gone')}`);
    }
    if (!this.#flushed) this.#break('the guest writes although it is stunned');
    if (this.#gap !== undefined) throw this.#gap;
  }

  remove(): Promise<void> {
    this.#removed ??= this.#remove().catch((error) => {
      // Whoever tries again may have more luck.
      this.#removed = undefined;
      throw error;
    });
    return this.#removed;
  }

  async #start(signal?: AbortSignal): Promise<void> {
    const { qmp, disk, socketPath, serve } = this.#options;
    this.#server = await serve(
      { path: socketPath, sizeBytes: disk.sizeBytes },
      {
        write: (range, content) => this.#write(range, content),
        lost: (range) => this.#lost(range),
        flush: () => this.#onFlush(),
        disconnected: (reason) => this.#onHangUp(reason),
      },
    );
    for (const event of ['BLOCK_JOB_ERROR', 'BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED']) {
      this.#off.push(qmp.on(event, (received) => this.#onJobEvent(received)));
    }
    this.#off.push(qmp.on('BLOCK_IO_ERROR', (event) => this.#onIoError(event)));
    void qmp.closed.then(() => {
      this.#gone = true;
      this.#break('QEMU is gone');
    });

    await qmp.execute(
      'blockdev-add',
      { driver: 'nbd', 'node-name': this.#name, server: { type: 'unix', path: socketPath } },
      { signal },
    );
    const ready = qmp.waitFor('BLOCK_JOB_READY', ({ data }) => data.device === this.#name, { signal });
    await qmp.execute(
      'blockdev-mirror',
      {
        'job-id': this.#name,
        device: disk.nodeName,
        target: this.#name,
        'filter-node-name': this.#filterName,
        sync: 'none',
        'copy-mode': 'write-blocking',
        granularity: GRANULARITY_BYTES,
        'on-target-error': 'report',
      },
      { signal },
    );
    // A job that ends instead says nothing of being ready.
    await Promise.race([ready, this.#broken.promise]);
    if (this.#gap !== undefined) throw new MigrationError('hypervisor', this.#gap.message);
    this.#set = true;
  }

  #onFlush(): void {
    if (this.#drained === undefined) return;
    this.#flushed = true;
    this.#drained.resolve();
  }

  /** The promise delays QEMU's answer, and so the guest's; the call is what fixes the order. */
  #write(range: ByteRange, content: Content): Promise<void> | undefined {
    if (this.#letGo) return undefined;
    this.#notDrained();
    const waiting = this.#options.handler.write({ ...range, content, release: () => {} });
    // While it is being set none is held: QEMU drains the disk for that, and would wait for the handler with all else standing still.
    return waiting !== undefined && this.#set ? this.#hold(waiting) : undefined;
  }

  #lost(range: ByteRange): void {
    if (this.#letGo) return;
    this.#notDrained();
    this.#options.handler.invalidate(range);
  }

  /** The guest writes: whatever was drained is not any more. */
  #notDrained(): void {
    if (this.#flushed) this.expectDrain(true);
  }

  async #hold(waiting: Promise<void>): Promise<void> {
    const held = deferred<void>();
    this.#held.add(held);
    waiting.then(held.resolve, held.resolve);
    await held.promise;
    this.#held.delete(held);
  }

  #onJobEvent({ name, data }: QmpEvent): void {
    if (data.device !== this.#name) return;
    this.#break(`its mirror job ended: ${name} ${String(data.error ?? '')}`.trimEnd());
  }

  /**
   * The guest's own disk failed it. A write that failed the mirror drops, and nobody says where it was. After a read that failed as well: QEMU
   * tells of one error a second, so that of a write right behind it may come late, or never.
   */
  #onIoError({ data }: QmpEvent): void {
    const said = [data.device, data['node-name'], ...String(data['qom-path'] ?? '').split('/')];
    const concerned = [this.#filterName, ...this.#options.disk.names].some((name) => said.includes(name));
    if (concerned) this.#break(`a ${String(data.operation)} of the guest failed`);
  }

  /** From now on nobody can finish with it; the handler is told `after` that has settled. */
  #break(reason: string, after?: Promise<unknown>): void {
    if (this.#gap !== undefined || this.#letGo) return;
    const message = `the tap of disk ${this.#options.disk.id} lost track of writes: ${reason}`;
    const gap = new MigrationError('tap-gap', message);
    this.#gap = gap;
    this.#drained?.reject(gap);
    // Before it was set, whoever sets it gets the error.
    this.#broken.resolve();
    if (!this.#set) return;
    const tell = (): void => {
      if (!this.#letGo) this.#options.handler.broken(gap);
    };
    if (after === undefined) tell();
    else void after.then(tell, tell);
  }

  /** A QEMU that dies may close this connection before its monitor. That QEMU is gone is what counts then, so it is to be told first. */
  #onHangUp(reason: MigrationError | undefined): void {
    const answered = this.#options.qmp.execute('query-status').catch(() => undefined);
    this.#break(`its mirror hung up: ${reason?.message ?? 'without a reason'}`, answered);
  }

  async #remove(): Promise<void> {
    const { qmp } = this.#options;
    // QEMU would stop altogether if the job was cancelled while a write of it waits for our answer.
    this.#letGo = true;
    for (const held of this.#held) held.resolve();
    for (const off of this.#off) off();
    const server = this.#server;
    if (server === undefined) return;
    try {
      await everyStep([() => cancelMirror(qmp, this.#name), () => removeNode(qmp, this.#name)]);
    } catch (error) {
      if (!this.#gone) throw error;
    } finally {
      await server.close();
    }
  }
}
