import { MigrationError } from '../../errors.ts';
import type { WriteTimes } from '../../interfaces/block-device.ts';
import type { DiskDescription } from '../../interfaces/hypervisor.ts';
import type { MemoryRegion } from '../../interfaces/memory.ts';
import { PAGE_BYTES } from './migration-stream.ts';
import { isQmpObject, type QmpClient, type QmpObject } from './qmp.ts';
import { numberOf, objectOf, objectsOf, optionalString, stringOf } from './qmp-values.ts';

/**
 * What a QEMU consists of, as its monitor tells. Both ends are asked in the same way, so that what is compared is alike.
 */

/** A block of RAM. */
export interface RamBlock {
  readonly name: string;
  /** Its size now, which is what migrates. */
  readonly usedBytes: number;
  /** What it may grow to; larger than `usedBytes` only for the few blocks that firmware tables live in. */
  readonly totalBytes: number;
}

/** A disk, and where QEMU has it. */
export interface DiskNode extends DiskDescription {
  /** The root of its block graph at the time. */
  readonly nodeName: string;
  /** Everything that it may be asked for by: its id, its block device, its node. */
  readonly names: readonly string[];
  /** The file that takes what is written to it, if it is one by its name, and what that takes up on its file system, in bytes. */
  readonly image?: { readonly path: string; readonly allocatedBytes: number };
}

/** The parts of a VM that both ends must have alike. */
export interface VmInventory {
  /** With its version: `pc` is a name that means another machine on each QEMU. */
  readonly machine: string;
  readonly cpus: number;
  readonly ramBlocks: readonly RamBlock[];
  readonly disks: readonly DiskNode[];
  /** Names the encoding of the device state. */
  readonly deviceStateFormat: string;
}

/** Asks for everything. Rejects with `hypervisor`, or `unsupported` for a guest architecture whose stream is not known. */
export async function readInventory(qmp: QmpClient, signal?: AbortSignal): Promise<VmInventory> {
  const ask = (command: string, args?: QmpObject): Promise<unknown> => qmp.execute(command, args, { signal });
  const [target, machine, cpus, ramBlocks, disks] = await Promise.all([
    ask('query-target'),
    ask('qom-get', { path: '/machine', property: 'type' }),
    ask('query-cpus-fast'),
    ask('x-query-ramblock'),
    readDisks(ask),
  ]);
  const arch = stringOf(objectOf(target, 'target').arch, 'target.arch');
  // Others put more into the configuration section (the size of a page, say), or have state of their own that migrates in rounds.
  if (arch !== 'x86_64' && arch !== 'i386') {
    throw new MigrationError(
      'unsupported',
      `guests of architecture ${arch} cannot be migrated, only x86 ones`,
    );
  }
  return {
    machine: stringOf(machine, 'machine type').replace(/-machine$/, ''),
    cpus: objectsOf(cpus, 'cpus').length,
    ramBlocks: parseRamBlocks(
      stringOf(objectOf(ramBlocks, 'RAM blocks')['human-readable-text'], 'RAM blocks'),
    ),
    disks,
    deviceStateFormat: `qemu-stream-3/${arch}`,
  };
}

/**
 * The table that `x-query-ramblock` returns, which is for people:
 * a name, the size of the pages behind it, and offset, used and total size in hexadecimal. Exported for its test.
 */
export function parseRamBlocks(table: string): readonly RamBlock[] {
  const blocks: RamBlock[] = [];
  for (const line of table.split('\n').slice(1)) {
    if (line.trim() === '') continue;
    const match = /^\s*(\S.*?)\s+\d+ [KMGT]?i?B\s+0x[0-9a-f]+\s+(0x[0-9a-f]+)\s+(0x[0-9a-f]+)/.exec(line);
    const [, name, used, total] = match ?? [];
    if (name === undefined) throw new MigrationError('protocol', `QMP: unknown line of RAM blocks: ${line}`);
    const block = { name, usedBytes: Number(used), totalBytes: Number(total) };
    if (block.usedBytes > 0) blocks.push(block);
  }
  return blocks;
}

/** The blocks as regions, as they are now. */
export function regionsOf(blocks: readonly RamBlock[]): readonly MemoryRegion[] {
  return blocks.map(({ name, usedBytes }) => ({ name, sizeBytes: usedBytes, pageBytes: PAGE_BYTES }));
}

/**
 * Whether the guest may say of pages that it does not use them: QEMU then does not send them (`free-page-hint`), or discards them here without marking them
 * dirty (`free-page-reporting`). They differ, and nobody minds. True where QEMU does not tell.
 */
export async function hintsFreePages(qmp: QmpClient, signal?: AbortSignal): Promise<boolean> {
  try {
    const tree = await qmp.execute('human-monitor-command', { 'command-line': 'info qtree' }, { signal });
    return /free-page-(?:hint|reporting) = (?:true|on)\b/.test(stringOf(tree, 'device tree'));
  } catch {
    return true;
  }
}

async function readDisks(
  ask: (command: string, args?: QmpObject) => Promise<unknown>,
): Promise<readonly DiskNode[]> {
  const disks: DiskNode[] = [];
  for (const block of objectsOf(await ask('query-block'), 'block devices')) {
    // A drive without a medium has nothing to move, and one without a guest device nobody who uses it.
    const { inserted } = block;
    const qdev = optionalString(block.qdev);
    if (qdev === undefined || !isQmpObject(inserted)) continue;
    const nodeName = stringOf(inserted['node-name'], 'node name');
    const names = namesOf(block, nodeName);
    const path = qdev.startsWith('/') ? qdev : `/machine/peripheral/${qdev}`;
    const image = objectOf(inserted.image, 'image');
    const sizeBytes = numberOf(image['virtual-size'], 'virtual size');
    disks.push({
      id: names[0] ?? nodeName,
      sizeBytes,
      ...roomOf(image, sizeBytes),
      blockBytes: await readBlockBytes(ask, path),
      readOnly: inserted.ro === true,
      nodeName,
      names,
    });
  }
  return disks;
}

/**
 * What an image takes up, and where. A copy of it needs at least what the largest file of its backing chain takes up; of one with snapshots in it nobody can
 * tell, and a device says nothing, or 0.
 */
function roomOf(image: QmpObject, sizeBytes: number): Pick<DiskNode, 'allocatedBytes' | 'image'> {
  const { filename, 'actual-size': own } = image;
  let largest = 0;
  for (let file: unknown = image; isQmpObject(file); file = file['backing-image']) {
    const { 'actual-size': bytes, snapshots } = file;
    if (typeof bytes !== 'number' || (Array.isArray(snapshots) && snapshots.length > 0)) largest = Number.NaN;
    else largest = Math.max(largest, bytes);
  }
  return {
    ...(largest > 0 ? { allocatedBytes: Math.min(largest, sizeBytes) } : {}),
    ...(typeof filename === 'string' && filename.startsWith('/') && typeof own === 'number'
      ? { image: { path: filename, allocatedBytes: own } }
      : {}),
  };
}

/** Its guest device's id, its block device, its node: as far as it has them; the first is what it is called here. */
function namesOf({ qdev, device }: QmpObject, nodeName: string): readonly string[] {
  const path = optionalString(qdev);
  const deviceId = path?.startsWith('/') ? /^\/machine\/peripheral\/([^/]+)/.exec(path)?.[1] : path;
  return [deviceId, optionalString(device), nodeName].filter((name) => name !== undefined);
}

/**
 * What the guest's writes to the disk took so far, as QEMU counts it: from when the guest's device took a write until the guest was told, what a
 * mirror job held included. Undefined if it counts nothing for this disk. Rejects with `hypervisor`.
 */
export async function readWriteTimes(
  qmp: QmpClient,
  disk: DiskNode,
  signal?: AbortSignal,
): Promise<WriteTimes | undefined> {
  const all = objectsOf(await qmp.execute('query-blockstats', {}, { signal }), 'block statistics');
  const own = all.find(
    (entry) => namesOf(entry, stringOf(entry['node-name'] ?? '', 'node name'))[0] === disk.id,
  );
  if (own === undefined) return undefined;
  const { wr_operations: writes, wr_total_time_ns: totalNs } = objectOf(own.stats, 'block statistics');
  // Nanoseconds of years of writes are no exact number any more, and need not be.
  if (typeof writes !== 'number' || typeof totalNs !== 'number') return undefined;
  return { writes, totalMs: totalNs / 1e6 };
}

/** What the guest has written to each of the disks so far, in bytes, by its id, as QEMU counts it. Rejects with `hypervisor`. */
export async function readWrittenBytes(
  qmp: QmpClient,
  ids: readonly string[],
  signal?: AbortSignal,
): Promise<ReadonlyMap<string, number>> {
  const written = new Map<string, number>();
  for (const entry of objectsOf(await qmp.execute('query-blockstats', {}, { signal }), 'block statistics')) {
    const [id = ''] = namesOf(entry, stringOf(entry['node-name'] ?? '', 'node name'));
    const bytes = objectOf(entry.stats, 'block statistics').wr_bytes;
    if (ids.includes(id) && typeof bytes === 'number') written.set(id, bytes);
  }
  return written;
}

/** Firmware flash has no block size, and takes any: what it holds is written in sectors. */
async function readBlockBytes(
  ask: (command: string, args: QmpObject) => Promise<unknown>,
  path: string,
): Promise<number> {
  const value = await ask('qom-get', { path, property: 'logical_block_size' }).catch(() => undefined);
  return typeof value === 'number' && value >= 512 ? value : 512;
}
