import { MigrationError } from '../../errors.ts';
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
    const deviceId = qdev.startsWith('/') ? /^\/machine\/peripheral\/([^/]+)/.exec(qdev)?.[1] : qdev;
    const device = optionalString(block.device);
    const path = qdev.startsWith('/') ? qdev : `/machine/peripheral/${qdev}`;
    disks.push({
      id: deviceId ?? device ?? nodeName,
      sizeBytes: numberOf(objectOf(inserted.image, 'image')['virtual-size'], 'virtual size'),
      blockBytes: await readBlockBytes(ask, path),
      readOnly: inserted.ro === true,
      nodeName,
      names: [deviceId, device, nodeName].filter((name) => name !== undefined),
    });
  }
  return disks;
}

/** Firmware flash has no block size, and takes any: what it holds is written in sectors. */
async function readBlockBytes(
  ask: (command: string, args: QmpObject) => Promise<unknown>,
  path: string,
): Promise<number> {
  const value = await ask('qom-get', { path, property: 'logical_block_size' }).catch(() => undefined);
  return typeof value === 'number' && value >= 512 ? value : 512;
}
