/** Goal: an address is where QEMU says that the page is, or none. Method: what QEMU 10.0 said of a `pc` with 6 GiB and a q35 with TSEG, and what it may say. */
import { describe, expect, it } from 'vitest';
import type { QmpClient } from '../../src/backends/qemu/qmp.ts';
import { addressOf, isMapped, parseHostBlocks, parseRamWindows } from '../../src/backends/qemu/ram-map.ts';
import { hintsFreePages } from '../../src/backends/qemu/vm-inventory.ts';

const tree = `FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000c3fff (prio 0, rom): pc.ram @00000000000c0000 KVM
  00000000000e8000-00000000000effff (prio 0, ram): pc.ram @00000000000e8000 KVM
  00000000000f0000-00000000bf7fffff (prio 0, ram): pc.ram @00000000000f0000 KVM
  00000000bf800000-00000000bfffffff (prio 1, i/o): tseg-blackhole
  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-00000001bfffffff (prio 0, ram): pc.ram @00000000c0000000 KVM
  fffffffffffff000-ffffffffffffffff (prio 0, ram): beyond

FlatView #2
 AS "piix3-ide", root: bus master container
 Root memory region: (none)
`;

const table = `              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f7f67e00000  rw
    /rom@etc/acpi/tables    4 KiB  0x0000000010080000 0x0000000000020000 0x0000000000200000 0x00007f7f7de00000  ro
                   spare    4 KiB  0x0000000010280000 0x0000000000000000 0x0000000000010000 0x00007f7fc4200000  ro
`;

describe('where the guest finds its RAM', () => {
  const windows = parseRamWindows(tree);
  const at = (offset: number, length = 4096, block = 'pc.ram') =>
    addressOf(windows, block, { offset, length });

  it('is plain RAM from 1 MiB on, below and above the hole', () => {
    expect(windows).toEqual([
      { block: 'pc.ram', offset: 0x100000, address: 0x100000, length: 0xbf700000 },
      { block: 'vga.vram', offset: 0, address: 0xfd000000, length: 0x1000000 },
      { block: 'pc.ram', offset: 0xc0000000, address: 0x100000000, length: 0xc0000000 },
    ]);
    expect(at(0x100000)).toBe(0x100000);
    expect(at(0xc0001000)).toBe(0x100001000);
  });

  it('is nowhere for what is not, or not as a whole', () => {
    expect(at(0)).toBeUndefined();
    expect(at(0xff000)).toBeUndefined();
    expect(at(0xff000, 8192)).toBeUndefined();
    expect(at(0xbf7ff000, 8192)).toBeUndefined();
    expect(at(0xbf800000)).toBeUndefined();
    expect(at(0x100000, 4096, 'pc.bios')).toBeUndefined();
    expect(parseRamWindows('')).toEqual([]);
  });
});

describe('pages that QEMU need not send', () => {
  const qtree = (answer: unknown) => hintsFreePages({ execute: async () => answer } as unknown as QmpClient);

  it('are there where the guest may hint at or report them, and where QEMU does not tell', async () => {
    expect(await qtree('  dev: virtio-balloon-device, id ""\r\n    free-page-hint = true\r\n')).toBe(true);
    expect(await qtree('    free-page-hint = false\r\n    free-page-reporting = true\r\n')).toBe(true);
    expect(await qtree('    free-page-hint = off\r\n    free-page-reporting = on\r\n')).toBe(true);
    expect(await qtree('    free-page-hint = false\r\n    free-page-reporting = false\r\n')).toBe(false);
    expect(await qtree('bus: main-system-bus')).toBe(false);
    expect(await qtree(7)).toBe(true);
  });
});

describe("where QEMU's blocks are", () => {
  it('is in the table of some versions', () => {
    expect(parseHostBlocks(table)).toEqual([
      { name: 'pc.ram', address: 0x7f7f67e00000, length: 0x10000000 },
      { name: '/rom@etc/acpi/tables', address: 0x7f7f7de00000, length: 0x20000 },
    ]);
    const before = table.replaceAll(/ +0x\w+ +r[ow]$/gm, '').replace(/ +HVA +RO/, '');
    expect(parseHostBlocks(before)).toEqual([]);
  });

  it('counts only where it is mapped, without a gap', () => {
    const block = { name: 'x', address: 0x7000, length: 0x3000 };
    const maps = (...lines: string[]) => lines.map((line) => `${line} 00000000 00:00 0 [anon]`).join('\n');
    expect(isMapped(maps('00001000-00002000 r-xp', '00007000-0000a000 rw-p'), block)).toBe(true);
    expect(isMapped(maps('00006000-00008000 rw-p', '00008000-0000b000 r--s'), block)).toBe(true);
    expect(isMapped(maps('00007000-00008000 rw-p', '00009000-0000a000 rw-p'), block)).toBe(false);
    expect(isMapped(maps('00007000-00009000 rw-p'), block)).toBe(false);
    expect(isMapped(maps('00007000-0000a000 ---p'), block)).toBe(false);
    expect(isMapped('', block)).toBe(false);
  });
});
