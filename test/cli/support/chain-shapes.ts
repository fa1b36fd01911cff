/** What the guests that are moved from host to host have to do with. */
import type { DiskSpec, GuestLoad } from '../../qemu/support/guest.ts';

const mebibyte = 1024 * 1024;

/** A multiple of 512, as QEMU wants it, but neither of a page nor of a cluster. */
function odd(sectors: number): number {
  return 64 * mebibyte + 512 * sectors;
}

export interface ChainShape {
  readonly name: string;
  readonly disks: readonly Omit<DiskSpec, 'file'>[];
}

/** Disks of a guest, by their name. */
export const chainShapes: Readonly<Record<'raw' | 'qcow2' | 'two' | 'odd', ChainShape>> = {
  raw: { name: 'one raw disk', disks: [{ format: 'raw', sizeBytes: 128 * mebibyte }] },
  qcow2: { name: 'one qcow2 disk', disks: [{ format: 'qcow2', sizeBytes: 128 * mebibyte }] },
  two: {
    name: 'a raw and a qcow2 disk',
    disks: [
      { format: 'raw', sizeBytes: 128 * mebibyte },
      { format: 'qcow2', sizeBytes: 96 * mebibyte },
    ],
  },
  odd: {
    name: 'a raw and a qcow2 disk of odd sizes',
    disks: [
      { format: 'raw', sizeBytes: odd(7) },
      { format: 'qcow2', sizeBytes: odd(129) },
    ],
  },
};

/** Small and large writes and zeroes, at any block, in parallel and over each other. */
export const chainLoad: GuestLoad = {
  writesPerSecond: 400,
  writers: 8,
  dirtyMiBPerSecond: 16,
  fillMiB: 32,
  shared: true,
};
