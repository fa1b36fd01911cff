import { asMigrationError, MigrationError } from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type { SourceVm } from '../../interfaces/hypervisor.ts';
import { Balloon } from './balloon.ts';
import { GuestMemoryReader } from './guest-memory-reader.ts';
import { cleanLeftovers } from './leftovers.ts';
import { MigrationSettings } from './migration-settings.ts';
import { queryRunState } from './migration-status.ts';
import { NbdExports } from './nbd-exports.ts';
import { PrivateDirectory } from './private-directory.ts';
import { QmpClient } from './qmp.ts';
import { objectOf, optionalString } from './qmp-values.ts';
import { QemuSourceDisk } from './source-disk.ts';
import { QemuSourceMemory } from './source-memory.ts';
import { QemuSourceVm } from './source-vm.ts';
import { takeDown } from './take-down.ts';
import { serveTap } from './tap-server.ts';
import { serveTapInThread } from './tap-thread.ts';
import { type DiskNode, hintsFreePages, readInventory, regionsOf } from './vm-inventory.ts';

/** How to find a running QEMU, and what of it to offer. */
export interface QemuSourceOptions extends CallOptions {
  /**
   * Path of a QMP socket of the running QEMU. It serves one client at a time, so this one is the library's as long as
   * the VM is open. QEMU needs no other options than it was started with.
   */
  readonly qmp: string;
  /** The VM's identity for the ownership registers. Default: QEMU's `-uuid`, else its `-name`. */
  readonly vmId?: string;
  /**
   * Which disks to offer, in this order: each the id of its guest device (`-device …,id=`), or its block device or node name. Default:
   * every drive of the guest that has a medium. A disk's `id` is the id of its device, if that has one, else its block device,
   * else its node name; it must be the same at the destination.
   */
  readonly disks?: readonly string[];
  /** Where to make the private directory (mode 0700) for sockets, which QEMU must be able to enter: run as QEMU's user. Default: the system's. */
  readonly runtimeDir?: string;
  /**
   * Whether `release()` ends the source's QEMU, as is usual once the VM runs elsewhere. Default true; false leaves it
   * stopped (`postmigrate`), with all of ours taken away.
   */
  readonly quitOnRelease?: boolean;
  /**
   * Whether each tap answers QEMU in a thread of its own, so that the guest's writes wait for nothing that keeps this one busy. The handler of a tap then
   * sees a write a moment after the guest was told, and cannot hold it. Default false; {@link createQemuSource} does so unless writes may be held.
   */
  readonly tapThreads?: boolean;
  /**
   * For `recover()`: the VM is opened to be resumed or released, not moved. What only a migration needs is not asked for then, it has no disks, and
   * a guest that a migration has stopped is taken as it is. Default false.
   */
  readonly recovery?: boolean;
}

/** The first version that migrates a guest under emulation without losing writes. */
const TCG_SAFE_MAJOR = 9;

/**
 * Opens the VM that a QEMU runs, or has stopped, as the source of a migration. What an engine that died has left in it is taken away, and a guest that
 * it had stopped for a copy of its disks is run on.
 *
 * Rejects with `connect-failed` if nobody listens, or another client holds the socket; `hypervisor-unsafe` for a guest under emulation (TCG) on a
 * QEMU before 9.0, which loses writes; `unsupported` for a QEMU before 8.1, a guest that is not x86, one that is suspended to RAM, or one with a
 * device that QEMU does not migrate; `invalid-argument` if a disk is not there or no identity is known; `invalid-state` if a migration is under way,
 * QEMU itself waits for one, the guest was migrated away already, or QEMU's only NBD server is in use; `guest-stopped` if the guest has
 * powered off. The guest was not touched then, and nothing of ours is left in QEMU.
 *
 * With `recovery` a guest that was stopped by a migration that completed is opened too, and stays so until `resume()`.
 */
export async function openQemuSource(options: QemuSourceOptions): Promise<SourceVm> {
  const { recovery = false, signal } = options;
  const qmp = await QmpClient.connect(options.qmp, { signal });
  let directory: PrivateDirectory | undefined;
  let exports: NbdExports | undefined;
  let reader: GuestMemoryReader | undefined;
  let balloon: Balloon | undefined;
  try {
    await refuseUnsafe(qmp, signal);
    const settings = await MigrationSettings.read(qmp, signal);
    refuseRunState(await queryRunState(qmp, signal), recovery);
    if (!recovery) await refuseBlocked(qmp, signal);
    await cleanLeftovers(qmp, { signal });
    const inventory = await readInventory(qmp, signal);
    const { vmId, name } = await identify(qmp, options.vmId);
    const nodes = recovery ? [] : choose(inventory.disks, options.disks);
    directory = await PrivateDirectory.create(options.runtimeDir);
    const sockets = directory;
    exports = new NbdExports(qmp, sockets.socket('nbd'));
    const shared = exports;
    const { machine, cpus, deviceStateFormat } = inventory;
    const regions = regionsOf(inventory.ramBlocks);
    reader = new GuestMemoryReader({ qmp, directory, regions });
    // Now, and not while the guest stands still.
    if (!recovery) await reader.way();
    balloon = recovery ? undefined : await Balloon.watch(qmp, signal);
    const serve = options.tapThreads === true ? serveTapInThread : serveTap;
    const disks = nodes.map((disk, index) => {
      const tapSocketPath = (attempt: number): string => sockets.socket(`tap-${index}-${attempt}`);
      return new QemuSourceDisk({ qmp, exports: shared, disk, index, tapSocketPath, serveTap: serve });
    });
    // That QEMU's only NBD server is in use is better known before a destination has been used up. And a server with an export of ours on it
    // is known as ours, should we die.
    if (!recovery) await disks[0]?.export(signal);
    return new QemuSourceVm({
      qmp,
      settings,
      directory,
      exports,
      disks,
      reader,
      auditMemory: balloon !== undefined && !(await hintsFreePages(qmp, signal)),
      memory: new QemuSourceMemory({
        qmp,
        settings,
        machine,
        regions,
        reader,
        balloon,
        socketPath: sockets.socket('migrate'),
      }),
      description: {
        vmId,
        name,
        machine,
        cpus,
        memory: regions,
        disks: nodes.map(({ id, sizeBytes, blockBytes, readOnly, allocatedBytes }) => ({
          id,
          sizeBytes,
          blockBytes,
          readOnly,
          ...(allocatedBytes === undefined ? {} : { allocatedBytes }),
        })),
        deviceStateFormat,
      },
      // Cleaning up may have set it free.
      runState: await queryRunState(qmp, signal),
      quitOnRelease: options.quitOnRelease ?? true,
    });
  } catch (error) {
    reader?.close();
    await takeDown(qmp, [async () => exports?.close()]).catch(() => undefined);
    await directory?.remove();
    qmp.abort(error);
    throw asMigrationError(error, 'hypervisor');
  }
}

async function refuseUnsafe(qmp: QmpClient, signal?: AbortSignal): Promise<void> {
  const { major, minor } = qmp.version;
  if (major >= TCG_SAFE_MAJOR) return;
  const kvm = objectOf(await qmp.execute('query-kvm', undefined, { signal }), 'KVM');
  if (kvm.enabled === true) return;
  const message = `QEMU ${major}.${minor} loses writes when it migrates a guest without KVM; QEMU 9.0 does not`;
  throw new MigrationError('hypervisor-unsafe', message);
}

function refuseRunState(runState: string, recovery: boolean): void {
  if (runState === 'inmigrate') {
    throw new MigrationError('invalid-state', 'this QEMU waits for a migration itself');
  }
  if (runState === 'shutdown') throw new MigrationError('guest-stopped', 'the guest has powered off');
  if (recovery) return;
  if (runState === 'postmigrate') {
    const message =
      'the guest of this QEMU was migrated away, and may run elsewhere: recover() settles whether it is to run here';
    throw new MigrationError('invalid-state', message);
  }
  // It would arrive as one that is paused, and nothing would wake it.
  if (runState === 'suspended') {
    throw new MigrationError('unsupported', 'the guest is suspended to RAM: wake it first');
  }
}

/** What QEMU itself would say only once its migration begins, when a destination was prepared for it. */
async function refuseBlocked(qmp: QmpClient, signal?: AbortSignal): Promise<void> {
  const answer = objectOf(await qmp.execute('query-migrate', undefined, { signal }), 'migration');
  const reasons: unknown = answer['blocked-reasons'];
  if (!Array.isArray(reasons) || reasons.length === 0) return;
  throw new MigrationError('unsupported', `QEMU cannot migrate this guest: ${reasons.join('; ')}`);
}

async function identify(qmp: QmpClient, given?: string): Promise<{ vmId: string; name: string }> {
  const uuid = optionalString(objectOf(await qmp.execute('query-uuid'), 'UUID').UUID);
  const name = optionalString(objectOf(await qmp.execute('query-name'), 'name').name);
  // Without -uuid it is all zeros.
  const vmId = given ?? (uuid !== undefined && /[1-9a-f]/.test(uuid) ? uuid : name);
  if (vmId === undefined || vmId.length < 1 || vmId.length > 255) {
    throw new MigrationError(
      'invalid-argument',
      'QEMU has neither a UUID nor a name: give a vmId of 1 to 255 characters',
    );
  }
  return { vmId, name: name ?? vmId };
}

function choose(disks: readonly DiskNode[], wanted: readonly string[] | undefined): readonly DiskNode[] {
  const chosen = wanted?.map((name) => {
    const disk = disks.find(({ names }) => names.includes(name));
    if (disk !== undefined) return disk;
    const known = disks.map(({ id }) => id).join(', ') || 'none';
    throw new MigrationError('invalid-argument', `the guest has no disk ${name}; it has ${known}`);
  });
  const result = chosen ?? disks;
  const twice = result.find(({ id }, index) => result.findIndex((other) => other.id === id) !== index);
  if (twice !== undefined) throw new MigrationError('invalid-argument', `two disks are called ${twice.id}`);
  for (const [index, { id, nodeName }] of result.entries()) {
    const same = result.slice(0, index).find((other) => other.nodeName === nodeName);
    if (same === undefined) continue;
    throw new MigrationError(
      'invalid-argument',
      `disks ${same.id} and ${id} are one and the same (${nodeName})`,
    );
  }
  return result;
}
