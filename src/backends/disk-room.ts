import { stat, statfs } from 'node:fs/promises';
import { geteuid } from 'node:process';
import { MigrationError } from '../errors.ts';

/** What a disk will take up at the destination. */
export interface DiskDemand {
  /** The disk. */
  readonly id: string;
  /** Something that is on the file system which it takes room on: its image, or the directory for it. */
  readonly path: string;
  /** What its data needs. Undefined: not known, and then nothing is sure. */
  readonly neededBytes: number | undefined;
  /** What it takes up there already. */
  readonly allocatedBytes: number;
}

/** Whether a backend looks at what its file systems have free, before a byte is copied. */
export type FreeSpaceCheck = 'check' | 'ignore';

/**
 * Rejects with `disk-full`, and the figures, if there is a file system that has not the room for what is to
 * come on it. It is a look, and nothing is kept free by it; what is not known, or cannot be looked at, is
 * taken to fit.
 */
export async function checkRoom(demands: readonly DiskDemand[]): Promise<void> {
  const fileSystems = new Map<number, DiskDemand[]>();
  for (const demand of demands) {
    const found = await stat(demand.path).catch(() => undefined);
    // A device's own room is its size, and that was compared.
    if (found === undefined || !(found.isFile() || found.isDirectory())) continue;
    fileSystems.set(found.dev, [...(fileSystems.get(found.dev) ?? []), demand]);
  }
  for (const together of fileSystems.values()) await checkFileSystem(together);
}

async function checkFileSystem(demands: readonly DiskDemand[]): Promise<void> {
  const missing = demands
    .map(({ id, neededBytes = 0, allocatedBytes }) => ({ id, bytes: neededBytes - allocatedBytes }))
    .filter(({ bytes }) => bytes > 0);
  const bytes = missing.reduce((sum, disk) => sum + disk.bytes, 0);
  const path = demands[0]?.path;
  if (bytes === 0 || path === undefined) return;
  const free = await freeBytes(path);
  if (free === undefined || bytes <= free) return;
  const whose = missing.map((disk) => `disk ${disk.id} ${disk.bytes} bytes`).join(', ');
  throw new MigrationError(
    'disk-full',
    `there is no room at ${path}: ${free} bytes are free, and ${bytes} are needed (${whose})`,
  );
}

/** Undefined where there is no telling. */
async function freeBytes(path: string): Promise<number | undefined> {
  try {
    const { blocks, bsize, bfree, bavail } = await statfs(path);
    // Some file systems over a network, and those without a size, say nothing.
    if (blocks === 0) return undefined;
    // What is kept back is for root.
    return bsize * (geteuid?.() === 0 ? bfree : bavail);
  } catch {
    return undefined;
  }
}
