import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DestinationVm, DiskDescription, HypervisorBackend, VmDescription } from '../../../src/index.ts';

export const MIB = 1024 * 1024;

/** A directory of the test's own. */
export function temporaryDirectory(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'lh-images-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** A disk of a description. */
export function diskOf(id: string, fields: Partial<DiskDescription> = {}): DiskDescription {
  return { id, sizeBytes: 4 * MIB, blockBytes: 512, readOnly: false, ...fields };
}

/** What a source sends that moves these disks alone. */
export function descriptionOf(...disks: readonly DiskDescription[]): VmDescription {
  return {
    vmId: 'vm-1',
    name: 'vm-1',
    machine: 'any',
    cpus: 1,
    memory: [],
    disks,
    deviceStateFormat: 'any',
  };
}

/** Prepares for these disks alone. */
export function prepareFor(
  backend: HypervisorBackend,
  ...disks: readonly DiskDescription[]
): Promise<DestinationVm> {
  return backend.prepare(descriptionOf(...disks), { memory: 'none' });
}

/** The only disk that was prepared. */
export function soleDisk({ disks }: DestinationVm): DestinationVm['disks'][number] {
  const [disk] = disks;
  if (disk === undefined || disks.length !== 1) throw new Error(`${disks.length} disks were prepared`);
  return disk;
}
