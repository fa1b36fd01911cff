import type { DiskDescription, VmDescription } from '../../interfaces/hypervisor.ts';
import type { MemoryRegion } from '../../interfaces/memory.ts';

/**
 * What a destination offers; what is left out may be anything. A VM's name is for people and never compared.
 */
export type Offer = Partial<VmDescription>;

/** Every difference between what is offered and what is asked for, in words; empty if there is none. */
export function descriptionDifferences(offer: Offer, asked: VmDescription): readonly string[] {
  const differences: string[] = [];
  for (const key of ['vmId', 'machine', 'cpus', 'deviceStateFormat'] as const) {
    const offered = offer[key];
    if (offered !== undefined && offered !== asked[key])
      differences.push(`${key} is ${asked[key]}, here ${offered}`);
  }
  if (offer.memory !== undefined) differences.push(...memoryDifferences(offer.memory, asked.memory));
  if (offer.disks !== undefined) differences.push(...diskDifferences(offer.disks, asked.disks));
  return differences;
}

/** Regions go by their index, so their order matters. */
function memoryDifferences(
  offered: readonly MemoryRegion[],
  asked: readonly MemoryRegion[],
): readonly string[] {
  const differences: string[] = [];
  for (let index = 0; index < Math.max(offered.length, asked.length); index += 1) {
    const [here, there] = [offered[index], asked[index]].map(regionInWords);
    if (here !== there) differences.push(`memory region ${index} is ${there}, here ${here}`);
  }
  return differences;
}

/**
 * As {@link descriptionDifferences}, of disks alone. They go by their id. Logical blocks have to be as large as they are at the source, not smaller and not
 * larger: a guest's partition table counts in them, and a write of 512 bytes is none to a disk whose blocks have 4096.
 */
export function diskDifferences(
  offered: readonly DiskDescription[],
  asked: readonly DiskDescription[],
): readonly string[] {
  const differences: string[] = [];
  for (const id of new Set([...asked, ...offered].map((disk) => disk.id))) {
    const [here, there] = [offered, asked].map((disks) => diskInWords(disks.find((disk) => disk.id === id)));
    if (here !== there) differences.push(`disk ${id} is ${there}, here ${here}`);
  }
  return differences;
}

function regionInWords(region: MemoryRegion | undefined): string {
  if (region === undefined) return 'absent';
  return `${region.name} of ${region.sizeBytes} bytes in pages of ${region.pageBytes}`;
}

function diskInWords(disk: DiskDescription | undefined): string {
  if (disk === undefined) return 'absent';
  return `${disk.sizeBytes} bytes in blocks of ${disk.blockBytes}, ${disk.readOnly ? 'read-only' : 'writable'}`;
}
