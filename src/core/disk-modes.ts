import { MigrationError } from '../errors.ts';
import type { SourceVm } from '../interfaces/hypervisor.ts';
import type { DiskMode } from '../interfaces/migration.ts';
import { diskBytesMax } from '../wire/limits.ts';
import type { ResolvedPolicy } from './policy.ts';

/** What happens to each of the VM's disks. Throws `invalid-argument` for one that it does not have, `unsupported` for one that cannot be copied. */
export function diskModes(vm: SourceVm, policy: ResolvedPolicy): ReadonlyMap<string, DiskMode> {
  const wanted = new Map(Object.entries(policy.disks));
  for (const id of wanted.keys()) {
    if (!vm.disks.some((disk) => disk.id === id)) {
      throw new MigrationError('invalid-argument', `policy.disks names ${id}, which the VM does not have`);
    }
  }
  const modes = new Map<string, DiskMode>();
  for (const disk of vm.disks) {
    const mode = wanted.get(disk.id) ?? (disk.readOnly ? 'shared' : 'copy');
    if (mode === 'copy' && !disk.readOnly && disk.tapCapability === 'none' && !policy.copyWhileStunned) {
      throw new MigrationError(
        'unsupported',
        `the writes of disk ${disk.id} cannot be seen, so it can only be copied with the guest stunned, which policy.copyWhileStunned does not allow`,
      );
    }
    if (mode === 'copy' && disk.sizeBytes > diskBytesMax) {
      throw new MigrationError('unsupported', `disk ${disk.id} is larger than ${diskBytesMax} bytes`);
    }
    modes.set(disk.id, mode);
  }
  return modes;
}
