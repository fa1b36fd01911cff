import type { VmDescription } from '../../interfaces/hypervisor.ts';
import type { DiskNode, VmInventory } from './vm-inventory.ts';

/** A disk of the description at the destination: by its id, else by another of its names. */
export function findDisk(disks: readonly DiskNode[], id: string): DiskNode | undefined {
  return disks.find((disk) => disk.id === id) ?? disks.find((disk) => disk.names.includes(id));
}

/** Everything in which a destination differs from what a VM needs, as sentences for people; none if it can take it. */
export function differences(description: VmDescription, inventory: VmInventory): readonly string[] {
  const found: string[] = [];
  const compare = (what: string, source: unknown, destination: unknown): void => {
    if (source !== destination)
      found.push(`${what} is ${String(source)} at the source, ${String(destination)} here`);
  };
  compare('the device state format', description.deviceStateFormat, inventory.deviceStateFormat);
  compare('the machine', description.machine, inventory.machine);
  compare('the number of CPUs', description.cpus, inventory.cpus);
  found.push(...memoryDifferences(description, inventory));
  const taken = new Map<string, string>();
  for (const disk of description.disks) {
    const here = findDisk(inventory.disks, disk.id);
    if (here === undefined) {
      found.push(`disk ${disk.id} is missing here`);
      continue;
    }
    const other = taken.get(here.nodeName);
    if (other !== undefined)
      found.push(`disks ${other} and ${disk.id} are one and the same here (${here.nodeName})`);
    taken.set(here.nodeName, disk.id);
    compare(`the size of disk ${disk.id}`, disk.sizeBytes, here.sizeBytes);
    // Neither smaller nor larger: a guest's partition table counts in blocks, and a write of 512 bytes is none to a disk whose blocks have 4096.
    compare(`the logical block size of disk ${disk.id}`, disk.blockBytes, here.blockBytes);
    compare(`whether disk ${disk.id} is read-only`, disk.readOnly, here.readOnly);
  }
  return found;
}

function memoryDifferences(description: VmDescription, inventory: VmInventory): readonly string[] {
  const found: string[] = [];
  const blocks = new Map(inventory.ramBlocks.map((block) => [block.name, block]));
  for (const { name, sizeBytes } of description.memory) {
    const block = blocks.get(name);
    blocks.delete(name);
    if (block === undefined) found.push(`memory ${name} is missing here`);
    // The few blocks that may grow are resized by QEMU when it reads the list of blocks.
    else if (
      sizeBytes !== block.usedBytes &&
      !(block.usedBytes < block.totalBytes && sizeBytes <= block.totalBytes)
    ) {
      found.push(`memory ${name} has ${sizeBytes} bytes at the source, ${block.usedBytes} here`);
    }
  }
  for (const name of blocks.keys()) found.push(`memory ${name} is here, but not at the source`);
  return found;
}
