import { type ErrorCode, MigrationError } from '../../errors.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { MemoryRegion, MemorySource, PageBatch, PageRange } from '../../interfaces/memory.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import { delay, throwIfAborted } from '../../util/promises.ts';
import type { Balloon } from './balloon.ts';
import type { GuestMemoryReader } from './guest-memory-reader.ts';
import { MigrationFeed } from './migration-feed.ts';
import type { MigrationSettings } from './migration-settings.ts';
import { explain, queryMigration, queryPasses, settledMigration } from './migration-status.ts';
import { OutgoingMigration } from './outgoing-migration.ts';
import type { QmpClient } from './qmp.ts';

/** What {@link QemuSourceMemory} works with. */
export interface SourceMemoryOptions {
  readonly qmp: QmpClient;
  readonly settings: MigrationSettings;
  /** Where QEMU is to connect to. */
  readonly socketPath: string;
  readonly machine: string;
  readonly regions: readonly MemoryRegion[];
  /** Reads the guest's memory as it is. */
  readonly reader: GuestMemoryReader;
  /** Undefined: QEMU does not tell of it, and no memory is audited. */
  readonly balloon: Balloon | undefined;
}

/**
 * A pass over a few pages takes QEMU less than a millisecond; asking costs it about as much, of the time in which it serves the guest's disks. So a
 * round that lasts is asked about less and less often.
 */
const passPollMs = { first: 10, most: 160 };

interface Running {
  readonly feed: MigrationFeed;
  readonly migration: OutgoingMigration;
}

/**
 * Guest memory out of QEMU's own outgoing migration, which is the only dirty log that it shows: while a round is read,
 * QEMU is; between rounds it waits, and what the guest dirties meanwhile is in the next round.
 *
 * QEMU clears a page's dirty mark when it sends it, and pages cannot be handed back. So after a round that was not read to its end the
 * next one begins a new migration, with every page.
 *
 *     idle ──round()──► live ──beginSwitchover()──► switching ──seal()──► sealed
 *      ▲                  │                             │
 *      └─────cancel()─────┴─────────────────────────────┘
 */
export class QemuSourceMemory implements MemorySource {
  readonly regions: readonly MemoryRegion[];
  readonly keepsUnsentPages = false;
  readonly #options: SourceMemoryOptions;
  #state: 'idle' | 'live' | 'switching' | 'sealed' = 'idle';
  #running: Running | undefined;
  #roundOpen = false;
  #pagesLost = false;
  /** Whether the balloon of the guest that stands still now has not moved; undefined: not asked yet. */
  #balloonStill: Promise<boolean> | undefined;

  constructor(options: SourceMemoryOptions) {
    this.#options = options;
    this.regions = options.regions;
  }

  /** Whether QEMU's migration has completed, so that nothing but a command runs the guest. */
  get sealed(): boolean {
    return this.#state === 'sealed';
  }

  /** QEMU counts them, but not in a way that could be asked for at once. */
  dirtyBytes(): undefined {
    return undefined;
  }

  async *round(options: CallOptions = {}): AsyncGenerator<PageBatch, void, undefined> {
    if (this.#roundOpen) throw new MigrationError('invalid-state', 'a memory round is being read already');
    this.#roundOpen = true;
    let finished = false;
    const over = new AbortController();
    try {
      const running = await this.#begin(options.signal);
      running.feed.beginRound();
      if (this.#state === 'live') void this.#endAfterPasses(running, over.signal).catch(() => {});
      for (let item = await nextItem(running, options.signal); item !== undefined; ) {
        yield item;
        item = await nextItem(running, options.signal);
      }
      finished = true;
    } catch (error) {
      throw await this.#explain(error, 'memory');
    } finally {
      over.abort();
      this.#roundOpen = false;
      this.#pagesLost = !finished;
    }
  }

  async read(
    ranges: readonly PageRange[],
    options: CallOptions = {},
  ): Promise<readonly (Chunks | undefined)[]> {
    const { reader, balloon } = this.#options;
    this.#balloonStill ??= balloon?.isStill(options.signal) ?? Promise.resolve(false);
    // Beside the reading, for the guest waits.
    const [contents, still] = await Promise.all([reader.read(ranges, options), this.#balloonStill]);
    return still ? contents : ranges.map(() => undefined);
  }

  /** After a stun every page comes again. */
  async offer(_ranges: readonly PageRange[], options: CallOptions = {}): Promise<void> {
    throwIfAborted(options.signal);
  }

  /** As the contract says; but once the switchover has begun it is `resume()` or `release()` of the VM that ends it. */
  async stop(): Promise<void> {
    if (this.#state === 'live') await this.cancel();
  }

  /**
   * Lets QEMU stop the guest, and resolves once `stopped` has, which is QEMU's word for it: the end of RAM comes over another socket and
   * says nothing of what was heard on that one. From here on pages and device state are read as they come, and kept until they are asked
   * for: every page once at most. Rejects with `hypervisor`; then `cancel()` is due.
   *
   * A guest that is paused (`stopped` is undefined) QEMU does not wait with: it comes to the end of RAM by itself, maybe within a round
   * before this.
   */
  async beginSwitchover(stopped: Promise<void> | undefined, signal?: AbortSignal): Promise<void> {
    try {
      const { feed, migration } = await this.#begin(signal);
      if (stopped !== undefined) await this.#allowSwitchover(signal);
      this.#state = 'switching';
      this.#options.reader.forget();
      this.#balloonStill = undefined;
      feed.beginSwitchover();
      migration.acknowledgeSwitchover();
      if (stopped === undefined) while (!feed.ramEnded) await migration.read(signal);
      else await migration.until(stopped, signal);
    } catch (error) {
      throw await this.#explain(error, 'hypervisor');
    }
  }

  /** The device state, as it comes. Rejects with `device-state`. */
  async *deviceState(signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const running = this.#running;
    if (this.#state !== 'switching' || running === undefined) {
      throw new MigrationError('invalid-state', 'there is device state only of a stunned guest');
    }
    const { feed, migration } = running;
    try {
      for (;;) {
        throwIfAborted(signal);
        const piece = feed.takeState();
        if (piece !== undefined) yield piece;
        else if (feed.stateComplete) return;
        else await migration.read(signal);
      }
    } catch (error) {
      throw await this.#explain(error, 'device-state');
    }
  }

  /** Ends QEMU's migration well: after this it does not resume the guest by itself. Rejects with `hypervisor`. */
  async seal(): Promise<void> {
    const running = this.#running;
    if (this.#state !== 'switching' || running === undefined || !running.feed.stateComplete) {
      throw new MigrationError(
        'invalid-state',
        'only a stunned guest whose state has been read can be sealed',
      );
    }
    running.migration.shut();
    const { qmp } = this.#options;
    const { status, error } = await settledMigration(qmp);
    if (status !== 'completed') {
      throw new MigrationError('hypervisor', `QEMU's migration is ${status}: ${error ?? 'no reason given'}`);
    }
    // It may have been cancelled meanwhile: then the guest runs, and nothing is sealed.
    if (this.#running !== running)
      throw new MigrationError('invalid-state', 'it was resumed while it was being sealed');
    this.#state = 'sealed';
    running.migration.close();
  }

  /** Ends QEMU's migration, whatever its state; unless it had completed, QEMU runs the guest on. Rejects with `hypervisor`. */
  async cancel(): Promise<void> {
    const { qmp } = this.#options;
    // In its last pass QEMU is deaf while we do not read. With the socket closed it is not.
    this.#running?.migration.close();
    // Answered in order, so what follows is bound to see its effect, and has a limit.
    qmp.execute('migrate_cancel').catch(() => undefined);
    await settledMigration(qmp);
    this.#running = undefined;
    this.#state = 'idle';
    this.#pagesLost = false;
  }

  async #allowSwitchover(signal?: AbortSignal): Promise<void> {
    const { qmp, settings } = this.#options;
    const [{ status, error }] = await Promise.all([
      queryMigration(qmp, signal),
      settings.allowSwitchover(signal),
    ]);
    // With an error it may still be active, but takes no acknowledgement any more.
    if (error === undefined && (status === 'active' || status === 'setup')) return;
    throw new MigrationError('hypervisor', `QEMU's migration is ${status}`);
  }

  /**
   * Ends the round that is read when QEMU has begun its second pass since: what was dirty when the round began is in the first one at the latest. Some
   * pages of it may still be in the socket then; they are the next round's.
   */
  async #endAfterPasses({ feed }: Running, over: AbortSignal): Promise<void> {
    const { qmp } = this.#options;
    let atFirst: number | undefined;
    for (let pollMs = passPollMs.first; ; pollMs = Math.min(2 * pollMs, passPollMs.most)) {
      await delay(nodeEnvironment, pollMs, over);
      const passes = await queryPasses(qmp, over);
      atFirst ??= passes;
      if (passes < atFirst + 2) continue;
      if (this.#state === 'live' && !over.aborted && !feed.rounds.ends) feed.endRound();
      return;
    }
  }

  /** The migration that runs, or a new one if there is none, or if some pages of it went astray. */
  async #begin(signal?: AbortSignal): Promise<Running> {
    if (this.#running !== undefined && !this.#pagesLost) {
      if (this.#state !== 'live' || this.#running.migration.failure === undefined) return this.#running;
    }
    if (this.#state === 'switching' || this.#state === 'sealed') {
      throw new MigrationError(
        'memory',
        'pages of a stunned guest were lost: only a new start can bring them again',
      );
    }
    if (this.#running !== undefined) await this.cancel();
    const { qmp, settings, socketPath, machine, regions } = this.#options;
    await settings.apply(signal);
    const feed = new MigrationFeed(machine, regions);
    const migration = await OutgoingMigration.begin(qmp, socketPath, feed, signal);
    this.#running = { feed, migration };
    this.#state = 'live';
    this.#pagesLost = false;
    return this.#running;
  }

  #explain(error: unknown, code: ErrorCode): Promise<MigrationError> {
    return explain(this.#options.qmp, error, code);
  }
}

/** The next batch of the round, or nothing at its end. */
async function nextItem({ feed, migration }: Running, signal?: AbortSignal): Promise<PageBatch | undefined> {
  for (;;) {
    throwIfAborted(signal);
    const item = feed.rounds.take();
    if (item !== undefined) return item === 'roundEnd' ? undefined : item;
    if (feed.ramEnded) return undefined;
    await migration.read(signal);
  }
}
