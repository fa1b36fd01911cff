import { asMigrationError, MigrationError } from '../../errors.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { DestinationVm, DestinationVmCapabilities, VmDescription } from '../../interfaces/hypervisor.ts';
import { joinChunks } from '../../util/chunks.ts';
import type { QemuDestinationDisk } from './destination-disk.ts';
import { QemuDestinationMemory } from './destination-memory.ts';
import { GuestMemoryReader } from './guest-memory-reader.ts';
import type { IncomingMigration } from './incoming-migration.ts';
import { explain, pollUntil, queryRunState, within } from './migration-status.ts';
import { encodeRamEnd } from './migration-stream.ts';
import { isCompleteDeviceState } from './migration-stream-parser.ts';
import { type NbdExports, ownExports } from './nbd-exports.ts';
import type { PrivateDirectory } from './private-directory.ts';
import type { QmpClient } from './qmp.ts';
import { takeDown } from './take-down.ts';

/** What a {@link QemuDestinationVm} is made of. */
export interface DestinationVmParts {
  readonly qmp: QmpClient;
  readonly directory: PrivateDirectory;
  readonly exports: NbdExports;
  readonly incoming: IncomingMigration;
  readonly description: VmDescription;
  readonly disks: readonly QemuDestinationDisk[];
}

/** QEMU says it before it answers `cont`, which takes it a few milliseconds. */
const START_MS_MAX = 15_000;

/** How the guest's network cards make themselves known, in ms: what QEMU does by default after a migration. */
const ANNOUNCEMENTS = { initial: 50, max: 550, rounds: 5, step: 100 };

/**
 * A VM in a QEMU that takes a migration; see `createQemuBackend`.
 *
 *     prepared ──loadDeviceState()──► loaded (paused) ──start()──► started
 */
export class QemuDestinationVm implements DestinationVm {
  /** QEMU ends its incoming migration with the device state, and takes no second one in the same process, whatever became of the first. */
  readonly capabilities: DestinationVmCapabilities = { refill: false, disksAlone: false, auditMemory: true };
  readonly memory: QemuDestinationMemory;
  readonly disks: readonly QemuDestinationDisk[];
  readonly #parts: DestinationVmParts;
  readonly #reader: GuestMemoryReader;
  #state: 'prepared' | 'loading' | 'loaded' | 'started' = 'prepared';
  #discarded: Promise<void> | undefined;

  constructor(parts: DestinationVmParts) {
    this.#parts = parts;
    const { qmp, directory, incoming } = parts;
    const regions = parts.description.memory;
    this.#reader = new GuestMemoryReader({ qmp, directory, regions });
    // Now, and not while the guest stands still.
    void this.#reader.way();
    this.memory = new QemuDestinationMemory(incoming, regions, this.#reader);
    this.disks = parts.disks;
  }

  async loadDeviceState(state: Chunks, options: CallOptions = {}): Promise<void> {
    if (this.#state !== 'prepared') throw new MigrationError('invalid-state', 'device state is loaded once');
    this.#state = 'loading';
    const { qmp, incoming, exports } = this.#parts;
    try {
      // QEMU would wait for the rest for ever.
      if (!isCompleteDeviceState(Buffer.from(joinChunks(state)))) {
        throw new MigrationError('device-state', 'the device state is not complete');
      }
      await incoming.write(encodeRamEnd(), options);
      // QEMU would start the guest with an export left, and go on taking writes over it.
      await Promise.all([incoming.applied(options), exports.close()]);
      for (const chunk of state) await incoming.write(chunk, options);
      await incoming.loaded(options);
      await pollUntil(
        (signal) => queryRunState(qmp, signal),
        (runState) => runState === 'paused',
        (runState) => `the guest was loaded, and is ${runState}`,
      );
      this.#state = 'loaded';
    } catch (error) {
      throw await explain(qmp, error, 'device-state');
    }
  }

  async refill(): Promise<void> {
    throw new MigrationError('unsupported', 'a QEMU that has loaded device state takes no more content');
  }

  async handOver(): Promise<void> {
    throw new MigrationError('unsupported', 'a QEMU that waits for a migration takes no disks alone');
  }

  async start(options: { readonly run: boolean }): Promise<void> {
    if (this.#state !== 'loaded')
      throw new MigrationError('invalid-state', 'only a loaded VM can be started');
    const { qmp } = this.#parts;
    const late = (): string => 'QEMU does not answer: whether the guest runs is not known';
    try {
      await within(START_MS_MAX, late, async (signal) => {
        const exports = await ownExports(qmp, signal);
        if (exports.length > 0)
          throw new MigrationError('hypervisor', `exports are left: ${exports.join(', ')}`);
        this.#state = 'started';
        if (!options.run) return;
        const resumed = qmp.waitFor('RESUME', undefined, { signal });
        await qmp.execute('cont', undefined, { signal });
        await resumed;
      });
    } catch (error) {
      throw asMigrationError(error, 'hypervisor');
    }
    if (!options.run) return;
    // It runs. That a switch learns late where it is now would be no reason to call it failed.
    qmp.execute('announce-self', ANNOUNCEMENTS).catch(() => undefined);
  }

  /** QEMU itself stays, and cannot take another migration: a retry needs a new process. */
  async discard(): Promise<void> {
    this.#discarded ??= this.#discard();
    await this.#discarded;
  }

  async #discard(): Promise<void> {
    const { qmp, incoming, exports, directory } = this.#parts;
    incoming.close();
    this.#reader.close();
    try {
      await takeDown(qmp, [() => exports.close(), () => qmp.close()]);
    } catch (error) {
      throw asMigrationError(error, 'hypervisor');
    } finally {
      await directory.remove();
    }
  }
}
