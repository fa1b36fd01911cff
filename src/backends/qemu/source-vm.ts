import { asMigrationError, MigrationError } from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type {
  GuestMeasurement,
  MeasureOptions,
  RunState,
  SourceVm,
  SourceVmCapabilities,
  StunOptions,
  UnexpectedStop,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import { deferred } from '../../util/promises.ts';
import type { GuestMemoryReader } from './guest-memory-reader.ts';
import { continueGuest, markToRunOn, runOn } from './leftovers.ts';
import { measureGuest } from './measure-guest.ts';
import type { MigrationSettings } from './migration-settings.ts';
import { pollUntil, queryRunState } from './migration-status.ts';
import type { NbdExports } from './nbd-exports.ts';
import type { PrivateDirectory } from './private-directory.ts';
import type { QmpClient, QmpEvent } from './qmp.ts';
import type { QemuSourceDisk } from './source-disk.ts';
import type { QemuSourceMemory } from './source-memory.ts';
import { everyStep, everyStepAtOnce, type Step, takeDown } from './take-down.ts';

/** What a {@link QemuSourceVm} is made of. */
export interface SourceVmParts {
  readonly qmp: QmpClient;
  readonly settings: MigrationSettings;
  readonly directory: PrivateDirectory;
  readonly exports: NbdExports;
  readonly disks: readonly QemuSourceDisk[];
  readonly memory: QemuSourceMemory;
  /** Closed with the VM. */
  readonly reader: GuestMemoryReader;
  /** Whether its memory is all to be the same at the destination. */
  readonly auditMemory: boolean;
  readonly description: VmDescription;
  /** QEMU's, when it was opened. */
  readonly runState: string;
  readonly quitOnRelease: boolean;
}

/** Between a stop and the end of a migration; left alone they become another one within milliseconds. */
const PASSING_RUN_STATES: ReadonlySet<string> = new Set(['finish-migrate', 'save-vm', 'restore-vm']);

/** A VM in a running QEMU; see `openQemuSource`. */
export class QemuSourceVm implements SourceVm {
  readonly description: VmDescription;
  /** QEMU's throttle acts while its migration is read, and there is none where disks move alone. */
  readonly capabilities: SourceVmCapabilities;
  readonly memory: QemuSourceMemory;
  readonly disks: readonly QemuSourceDisk[];
  readonly #parts: SourceVmParts;
  readonly #listeners = new Set<(stop: UnexpectedStop) => void>();
  readonly #off: (() => void)[];
  /** Whether the guest is to run when no migration stops it. */
  #runs: boolean;
  #running: boolean;
  /** A stop that comes now is ours. */
  #stunning = false;
  #stopTold = false;
  #released: Promise<void> | undefined;
  #detached: Promise<void> | undefined;

  constructor(parts: SourceVmParts) {
    const { qmp, runState } = parts;
    this.#parts = parts;
    const { auditMemory } = parts;
    this.capabilities = { throttle: true, throttleAlone: false, measure: true, auditMemory };
    this.description = parts.description;
    this.memory = parts.memory;
    this.disks = parts.disks;
    this.#running = runState === 'running';
    // `postmigrate` is where a migration leaves a guest that ran.
    this.#runs = this.#running || runState === 'postmigrate';
    this.#off = [
      qmp.on('STOP', () => this.#onStop()),
      qmp.on('RESUME', () => {
        this.#running = true;
        this.#runs = true;
      }),
      qmp.on('SHUTDOWN', (event) => this.#onShutdown(event)),
      qmp.on('GUEST_PANICKED', () => this.#tell({ kind: 'shutdown', reason: 'the guest panicked' })),
    ];
    void qmp.closed.then((error) => {
      // One that only does not answer any more may well run its guest.
      if (error !== undefined && error.code !== 'timeout')
        this.#tell({ kind: 'gone', reason: error.message });
    });
  }

  runState(): RunState {
    return this.#running ? 'running' : 'paused';
  }

  onUnexpectedStop(listener: (stop: UnexpectedStop) => void): () => void {
    // One entry a call, so that the same function may listen twice.
    const entry = (stop: UnexpectedStop): void => listener(stop);
    this.#listeners.add(entry);
    return () => {
      this.#listeners.delete(entry);
    };
  }

  measure(options: MeasureOptions): Promise<GuestMeasurement> {
    const memoryBytes = this.memory.regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const disks = this.disks.map(({ id }) => id);
    return measureGuest({ qmp: this.#parts.qmp, memoryBytes, disks }, options);
  }

  /** The 1 % that QEMU's throttle cannot be below while a migration is under way counts as off. */
  async setThrottle(fraction: number): Promise<void> {
    if (!(fraction >= 0 && fraction <= 0.99)) {
      throw new MigrationError('invalid-argument', `a throttle of ${fraction} is not from 0 to 0.99`);
    }
    // One that stands still needs none.
    if (this.#running) await this.#parts.settings.setThrottle(fraction);
  }

  async stun(options: StunOptions = {}): Promise<void> {
    const guestRuns = this.#running;
    const stopped = deferred<void>();
    const off = this.#parts.qmp.on('STOP', () => stopped.resolve());
    try {
      // Stopping flushes every disk. What is flushed now need not be while the guest stands still.
      const clients = guestRuns ? await this.#parts.exports.clients() : [];
      await Promise.all(clients.map((client) => client.flush(options)));
      for (const disk of this.disks) disk.expectDrain(guestRuns);
      options.onStopping?.();
      this.#stunning = true;
      if (options.memory === 'none') await this.#stop(guestRuns, options);
      else await this.memory.beginSwitchover(guestRuns ? stopped.promise : undefined, options.signal);
    } catch (error) {
      await this.resume().catch(() => undefined);
      throw asMigrationError(error, 'hypervisor');
    } finally {
      off();
    }
  }

  saveDeviceState(options: CallOptions = {}): AsyncIterable<Uint8Array> {
    return this.memory.deviceState(options.signal);
  }

  /** Should QEMU fail its migration at that moment, the guest is not only not sealed: QEMU has run it on by itself. */
  async seal(): Promise<void> {
    await this.memory.seal();
  }

  /**
   * As the contract says. A guest that was paused from the start and whose migration had completed cannot be told from one that is to
   * run by QEMU, and cannot be migrated again before it has run.
   */
  async resume(): Promise<void> {
    if (this.#released !== undefined) {
      throw new MigrationError('invalid-state', 'a VM that was released does not run here again');
    }
    if (this.#running && !this.#stunning) return;
    const { qmp } = this.#parts;
    try {
      await this.memory.cancel();
      const state = await pollUntil(
        (signal) => queryRunState(qmp, signal),
        (runState) => !PASSING_RUN_STATES.has(runState),
        (runState) => `the guest stays in ${runState}`,
      );
      await runOn(qmp);
      if (this.#runs && state !== 'running') await continueGuest(qmp);
      this.#running = this.#runs;
      this.#stunning = false;
    } catch (error) {
      throw asMigrationError(error, 'hypervisor');
    }
  }

  async release(): Promise<void> {
    this.#released ??= this.#release();
    await this.#released;
  }

  /** Also closes the monitor: a new `openQemuSource` is what may follow. An unfinished stun ends with the guest running. */
  async detach(): Promise<void> {
    this.#detached ??= this.#detach();
    await this.#detached;
  }

  /** QEMU answers when the guest's I/O is finished and flushed, the mirrors' too. One that stood still before is left to whoever stopped it. */
  async #stop(guestRuns: boolean, { signal }: CallOptions): Promise<void> {
    const { qmp } = this.#parts;
    if (guestRuns) await markToRunOn(qmp, { signal });
    await qmp.execute('stop', undefined, { signal });
  }

  async #release(): Promise<void> {
    const { qmp, quitOnRelease } = this.#parts;
    if (!quitOnRelease) return await this.detach();
    this.#stopTold = true;
    // Ours of its process would keep the guest's memory from being freed.
    this.#parts.reader.close();
    const quit = async (): Promise<void> => {
      // Its answer may come or not; that it hangs up is what shows that it has ended.
      await qmp.execute('quit').catch(() => undefined);
      await qmp.closed;
    };
    await everyStep([() => takeDown(qmp, [...this.#takeAway(), quit]), () => this.detach()]);
  }

  async #detach(): Promise<void> {
    const { qmp, settings, directory } = this.#parts;
    const { sealed } = this.memory;
    const steps: Step[] = [
      ...this.#takeAway(),
      async () => (sealed ? undefined : await this.memory.cancel()),
      () => runOn(qmp),
      () => settings.restore(),
      () => qmp.close(),
    ];
    try {
      await takeDown(qmp, steps);
    } catch (error) {
      throw asMigrationError(error, 'hypervisor');
    } finally {
      for (const off of this.#off) off();
      this.#listeners.clear();
      this.#parts.reader.close();
      await directory.remove();
    }
  }

  #takeAway(): readonly Step[] {
    return [
      // All at once: a write that one tap holds would keep QEMU from taking away another.
      () => everyStepAtOnce(this.disks.map((disk) => () => disk.removeTap())),
      () => this.#parts.exports.close(),
    ];
  }

  #onStop(): void {
    this.#running = false;
    if (this.#stunning) return;
    this.#runs = false;
    this.#tell({ kind: 'paused', reason: 'the guest was stopped by somebody else' });
  }

  #onShutdown({ data }: QmpEvent): void {
    this.#tell({
      kind: 'shutdown',
      reason: `the guest shut down: ${String(data.reason ?? 'no reason given')}`,
    });
  }

  /** Once: what follows from a stop (a stop, then the end of QEMU, say) is no further news. */
  #tell(stop: UnexpectedStop): void {
    if (stop.kind !== 'paused') this.#running = false;
    if (this.#stopTold) return;
    this.#stopTold = stop.kind !== 'paused';
    for (const listener of [...this.#listeners]) listener(stop);
  }
}
