import { MigrationError } from '../../errors.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import type { MemoryDisk } from './memory-disk.ts';
import type { MemoryVm } from './memory-vm.ts';
import { CHUNK_BYTES } from './sparse-bytes.ts';

/** Ranges that are listed for memory, and for the disks, at most; all are counted. */
const LISTED_MAX = 100;

/** Adjoining pages of one region that differ. */
export interface MemoryDifference extends ByteRange {
  /** The region's name. */
  readonly region: string;
}

/** Adjoining blocks of one disk that differ. */
export interface DiskDifference extends ByteRange {
  /** The disk's id. */
  readonly disk: string;
}

/** How two VMs differ. What only one of them has differs from end to end. */
export interface VmComparison {
  /** Whether there is no difference. */
  readonly equal: boolean;
  /** The first 100 ranges. */
  readonly memory: readonly MemoryDifference[];
  /** The first 100 ranges. */
  readonly disks: readonly DiskDifference[];
  /** All differing memory, whole pages, in bytes. */
  readonly memoryBytes: number;
  /** All differing disk content, whole blocks, in bytes. */
  readonly diskBytes: number;
}

/**
 * Compares the memory, page by page, and the disks, block by block, of two VMs as they are at this moment.
 * Running guests should be paused first. Throws `invalid-state` if either was destroyed.
 */
export function compareVms(a: MemoryVm, b: MemoryVm): VmComparison {
  if (a.memory.freed || b.memory.freed)
    throw new MigrationError('invalid-state', 'nothing is left of a destroyed VM');
  const memory: MemoryDifference[] = [];
  const disks: DiskDifference[] = [];
  const memoryBytes = compareMemory(a, b, memory);
  let diskBytes = 0;
  for (const id of new Set([...a.disks, ...b.disks].map((disk) => disk.id))) {
    const [one, other] = [a, b].map((vm) => vm.disks.find((disk) => disk.id === id));
    diskBytes += compareDisk(id, one, other, disks);
  }
  return { equal: memoryBytes === 0 && diskBytes === 0, memory, disks, memoryBytes, diskBytes };
}

function compareMemory(a: MemoryVm, b: MemoryVm, differences: MemoryDifference[]): number {
  let total = 0;
  const regions = new Set([...a.memory.regions, ...b.memory.regions].map((region) => region.name));
  for (const region of regions) {
    const [one, other] = [a, b].map((vm) => regionOf(vm, region));
    const add = (offset: number, length: number) => {
      total += length;
      list(differences, { region, offset, length }, (last) => last.region === region);
    };
    if (one === undefined || other === undefined || one.sizeBytes !== other.sizeBytes) {
      add(0, Math.max(one?.sizeBytes ?? 0, other?.sizeBytes ?? 0));
      continue;
    }
    for (let at = 0; at < one.sizeBytes; at += CHUNK_BYTES) {
      const length = Math.min(CHUNK_BYTES, one.sizeBytes - at);
      compareUnits(one.read(at, length), other.read(at, length), at, one.pageBytes, add);
    }
  }
  return total;
}

function compareDisk(
  id: string,
  a: MemoryDisk | undefined,
  b: MemoryDisk | undefined,
  differences: DiskDifference[],
): number {
  let total = 0;
  const add = (offset: number, length: number) => {
    total += length;
    list(differences, { disk: id, offset, length }, (last) => last.disk === id);
  };
  if (a === undefined || b === undefined || a.sizeBytes !== b.sizeBytes) {
    add(0, Math.max(a?.sizeBytes ?? 0, b?.sizeBytes ?? 0));
    return total;
  }
  for (const { offset, length } of a.medium.unequalChunks(b.medium)) {
    compareUnits(a.medium.read(offset, length), b.medium.read(offset, length), offset, a.blockBytes, add);
  }
  return total;
}

/** Calls `add` for each unit of two equally long stretches that differs. `base`: where they lie. */
function compareUnits(
  a: Buffer,
  b: Buffer,
  base: number,
  unitBytes: number,
  add: (offset: number, length: number) => void,
): void {
  if (a.equals(b)) return;
  for (let at = 0; at < a.length; at += unitBytes) {
    const end = Math.min(a.length, at + unitBytes);
    if (a.compare(b, at, end, at, end) !== 0) add(base + at, end - at);
  }
}

/** Adds a range to the list, or to its last range if that ends where this one begins. */
function list<T extends ByteRange>(ranges: T[], range: T, sameThing: (last: T) => boolean): void {
  const last = ranges.at(-1);
  if (last !== undefined && sameThing(last) && last.offset + last.length === range.offset) {
    ranges[ranges.length - 1] = { ...last, length: last.length + range.length };
  } else if (ranges.length < LISTED_MAX) {
    ranges.push(range);
  }
}

function regionOf(vm: MemoryVm, name: string) {
  const index = vm.memory.regions.findIndex((region) => region.name === name);
  const region = vm.memory.regions[index];
  return (
    region && { ...region, read: (offset: number, length: number) => vm.memory.read(index, offset, length) }
  );
}
