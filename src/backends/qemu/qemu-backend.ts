import { MigrationError } from '../../errors.ts';
import type {
  DestinationVm,
  HypervisorBackend,
  PrepareOptions,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import { checkRoom, type DiskDemand, type FreeSpaceCheck } from '../disk-room.ts';
import { QemuDestinationDisk } from './destination-disk.ts';
import { QemuDestinationVm } from './destination-vm.ts';
import { differences, findDisk } from './differences.ts';
import { IncomingMigration } from './incoming-migration.ts';
import { expectPlainStream } from './migration-settings.ts';
import { explain, queryMigration, queryRunState } from './migration-status.ts';
import { encodeStreamStart } from './migration-stream.ts';
import { NbdExports } from './nbd-exports.ts';
import { PrivateDirectory } from './private-directory.ts';
import { QmpClient } from './qmp.ts';
import { takeDown } from './take-down.ts';
import { type DiskNode, readInventory } from './vm-inventory.ts';

/** How to find the QEMU that is to take a VM. */
export interface QemuBackendOptions {
  /**
   * Path of a QMP socket of a QEMU that was started with `-incoming defer` and otherwise with the same devices as the
   * source's, each disk under the same id. It takes one migration: after a failed one a new process is needed.
   */
  readonly qmp: string;
  /** Where to make the private directory (mode 0700) for sockets, which QEMU must be able to enter: run as QEMU's user. Default: the system's. */
  readonly runtimeDir?: string;
  /**
   * Whether a migration is refused (`disk-full`) whose disks' data does not fit on what the file systems of their images here have free. Default `check`; `ignore` suits file
   * systems that compress, and images at the source that were allocated in advance.
   */
  readonly freeSpace?: FreeSpaceCheck;
}

/**
 * A QEMU as the destination of one migration. `prepare()` rejects with `connect-failed` if nobody listens, `incompatible`
 * with every difference, `disk-full`, and `hypervisor`. Migration capabilities that are on in it (multifd, say) and TLS are switched off.
 * Its VM's `discard()` leaves QEMU as it is, and `start()` needs nobody to have run the guest before.
 */
export function createQemuBackend(options: QemuBackendOptions): HypervisorBackend {
  return {
    name: 'qemu',
    prepare: (description, call) => prepare(options, description, call),
  };
}

async function prepare(
  options: QemuBackendOptions,
  description: VmDescription,
  { signal, shared, memory }: PrepareOptions = {},
): Promise<DestinationVm> {
  if (memory === 'none') {
    throw new MigrationError('unsupported', 'a QEMU that waits for a migration takes no disks alone');
  }
  const qmp = await QmpClient.connect(options.qmp, { signal });
  let directory: PrivateDirectory | undefined;
  let exports: NbdExports | undefined;
  let incoming: IncomingMigration | undefined;
  try {
    const nodes = await compare(qmp, description, shared ?? new Set(), signal);
    if (options.freeSpace !== 'ignore') await checkRoom(demandsOf(description, nodes, shared ?? new Set()));
    directory = await PrivateDirectory.create(options.runtimeDir);
    exports = new NbdExports(qmp, directory.socket('nbd'));
    // That QEMU's only NBD server is in use is better known now than at the first write.
    await exports.start();
    const path = directory.socket('migrate');
    // Not exit-on-error, from 9.1 on: a QEMU that stays can be asked why. `stop`, or it would run the guest once it is loaded.
    await expectPlainStream(qmp, signal);
    const { major, minor } = qmp.version;
    const stays = major > 9 || (major === 9 && minor >= 1) ? { 'exit-on-error': false } : {};
    await qmp.execute('migrate-incoming', { uri: `unix:${path}`, ...stays }, { signal });
    await qmp.execute('stop', undefined, { signal });
    incoming = await IncomingMigration.connect(path);
    await incoming.write(encodeStreamStart(description.machine, description.memory), { signal });
    await incoming.applied({ signal });
    const disksExports = exports;
    const disks = nodes.map((disk, index) => new QemuDestinationDisk(disksExports, disk, index));
    return new QemuDestinationVm({ qmp, directory, exports, incoming, description, disks });
  } catch (error) {
    const reason = await explain(qmp, error, 'hypervisor');
    incoming?.close();
    await takeDown(qmp, [async () => exports?.close()]).catch(() => undefined);
    await directory?.remove();
    qmp.abort(reason);
    throw reason;
  }
}

/** What the disks that are copied will take up here, as far as they are files. */
function demandsOf(
  description: VmDescription,
  nodes: readonly DiskNode[],
  shared: ReadonlySet<string>,
): readonly DiskDemand[] {
  return nodes.flatMap(({ id, image }) => {
    const neededBytes = description.disks.find((disk) => disk.id === id)?.allocatedBytes;
    return image === undefined || shared.has(id) ? [] : { id, neededBytes, ...image };
  });
}

/** The disks of the description, as they are here. Rejects with `incompatible`, and has changed nothing. */
async function compare(
  qmp: QmpClient,
  description: VmDescription,
  shared: ReadonlySet<string>,
  signal?: AbortSignal,
): Promise<readonly DiskNode[]> {
  const found: string[] = [];
  const runState = await queryRunState(qmp, signal);
  const { status } = await queryMigration(qmp, signal);
  if (runState !== 'inmigrate') found.push(`QEMU is ${runState}: it was not started with -incoming defer`);
  else if (status !== 'none') {
    found.push(`QEMU has begun a migration already (${status}), and takes only one: start a new one`);
  }
  const inventory = await readInventory(qmp, signal);
  found.push(...differences(description, inventory));
  for (const { id, readOnly } of description.disks) {
    if (readOnly && !shared.has(id))
      found.push(`disk ${id} is read-only and cannot be filled here: share it, or leave it`);
  }
  if (found.length > 0) {
    throw new MigrationError('incompatible', `the destination cannot take the VM: ${found.join('; ')}`);
  }
  return description.disks.flatMap(({ id }) => {
    const disk = findDisk(inventory.disks, id);
    return disk === undefined ? [] : { ...disk, id };
  });
}
