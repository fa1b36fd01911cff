import type { PageRange } from '../../interfaces/memory.ts';

/** Where a part of a block of RAM is in the guest's physical address space. */
export interface RamWindow {
  /** The block's name. */
  readonly block: string;
  /** Where it begins in the block, in bytes ... */
  readonly offset: number;
  /** ... and for the guest. */
  readonly address: number;
  readonly length: number;
}

/** Below this the chipset shows RAM or ROM as it is told to, and that is a part of the device state. */
const fixedFrom = 1 << 20;

const view = /^FlatView #\d+$/m;
const range = /^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ram\): (.+?)(?: @([0-9a-f]{16}))?(?: [A-Z]+)*$/;

/**
 * Where the guest finds its RAM, and nothing else, from 1 MiB on: out of what `info mtree -f` says, which is for people. A window is a stretch in which
 * addresses follow one another in the block as they do for the guest. Exported for its test.
 */
export function parseRamWindows(text: string): readonly RamWindow[] {
  const memory = text.split(view).find((part) => /^ AS "memory", root: /m.test(part)) ?? '';
  const windows: RamWindow[] = [];
  for (const line of memory.split('\n')) {
    const [, first, last, block, at] = range.exec(line.trimEnd()) ?? [];
    if (first === undefined || last === undefined || block === undefined) continue;
    const start = Number.parseInt(first, 16);
    const end = Number.parseInt(last, 16) + 1;
    const address = Math.max(start, fixedFrom);
    if (address >= end || !Number.isSafeInteger(end)) continue;
    const offset = Number.parseInt(at ?? '0', 16) + (address - start);
    windows.push({ block, offset, address, length: end - address });
  }
  return windows;
}

/** The guest's address of a range of a block that one window holds as a whole; undefined if none does. */
export function addressOf(
  windows: readonly RamWindow[],
  block: string,
  { offset, length }: Pick<PageRange, 'offset' | 'length'>,
): number | undefined {
  const window = windows.find(
    (candidate) =>
      candidate.block === block &&
      offset >= candidate.offset &&
      offset + length <= candidate.offset + candidate.length,
  );
  return window === undefined ? undefined : window.address + (offset - window.offset);
}

/** Where a block of RAM lies in QEMU's own address space. */
export interface HostBlock {
  readonly name: string;
  readonly address: number;
  readonly length: number;
}

const hostBlock =
  /^\s*(\S.*?)\s+\d+ [KMGT]?i?B\s+0x[0-9a-f]+\s+(0x[0-9a-f]+)\s+0x[0-9a-f]+\s+(0x[0-9a-f]+)\s+r[ow]$/;

/** The blocks out of the table that `x-query-ramblock` returns; empty if this QEMU does not say where they are. Exported for its test. */
export function parseHostBlocks(table: string): readonly HostBlock[] {
  return table.split('\n').flatMap((line) => {
    const [, name, used, at] = hostBlock.exec(line.trimEnd()) ?? [];
    if (name === undefined || used === undefined || at === undefined) return [];
    const block = { name, address: Number(at), length: Number(used) };
    return block.length > 0 && Number.isSafeInteger(block.address + block.length) ? [block] : [];
  });
}

/** Whether a line of `/proc/PID/maps` or several that adjoin cover the block, readable. Exported for its test. */
export function isMapped(maps: string, { address, length }: HostBlock): boolean {
  let at = address;
  for (const line of maps.split('\n')) {
    const [, first, last] = /^([0-9a-f]+)-([0-9a-f]+) r/.exec(line) ?? [];
    if (first === undefined || last === undefined) continue;
    const [start, end] = [Number.parseInt(first, 16), Number.parseInt(last, 16)];
    if (start <= at && at < end) at = end;
    if (at >= address + length) return true;
  }
  return false;
}
