/**
 * What the backend makes of what QEMU says of itself, before it changes anything. Goal: QEMUs and guests that cannot be migrated
 * safely are refused with the code that says so; two VMs that differ are told apart in every way that matters, and
 * no other.
 *
 * Method: QEMU's answers from a table, as those that must be refused are not here; two inventories, changed in one thing at a time.
 */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { differences, findDisk } from '../../src/backends/qemu/differences.ts';
import { openQemuSource } from '../../src/backends/qemu/index.ts';
import { QmpClient } from '../../src/backends/qemu/qmp.ts';
import { parseRamBlocks, readInventory, type VmInventory } from '../../src/backends/qemu/vm-inventory.ts';
import type { VmDescription } from '../../src/interfaces/hypervisor.ts';
import { guestDirectory } from './support/guest.ts';
import { ANSWERS, type QmpScript, ScriptedQmp } from './support/scripted-qmp.ts';

const MIB = 1024 * 1024;

/** A drive as `query-block` lists it. */
const block = (fields: object, image: object = {}): object => ({
  device: '',
  qdev: '/machine/peripheral/vd0/virtio-backend',
  inserted: { 'node-name': 'node0', ro: false, image: { 'virtual-size': MIB, ...image } },
  ...fields,
});

describe('opening a QEMU', () => {
  let directory: ReturnType<typeof guestDirectory>;
  let path: string;

  beforeEach(() => {
    directory = guestDirectory();
    path = join(directory.path, 'qmp');
    return () => directory[Symbol.asyncDispose]();
  });

  let qmp: ScriptedQmp | undefined;
  afterEach(async () => {
    await qmp?.[Symbol.asyncDispose]();
    qmp = undefined;
  });

  async function open(
    version: readonly [number, number],
    answers: QmpScript = {},
    vmId?: string,
  ): ReturnType<typeof openQemuSource> {
    qmp = await ScriptedQmp.listen(path, { version, answers: { ...ANSWERS, ...answers } });
    return openQemuSource({ qmp: path, runtimeDir: directory.path, ...(vmId === undefined ? {} : { vmId }) });
  }

  const kvm = { 'query-kvm': { enabled: true, present: true } };
  const without = (missing: string): QmpScript => ({
    'query-migrate-capabilities': (ANSWERS['query-migrate-capabilities'] as { capability: string }[]).filter(
      ({ capability }) => capability !== missing,
    ),
  });

  it('takes one that is new enough', async () => {
    for (const [version, answers] of [
      [[9, 0], {}],
      [[10, 1], {}],
      [[8, 1], kvm],
    ] as const) {
      const vm = await open(version, answers);
      expect(vm.description).toEqual({
        vmId: 'guest',
        name: 'guest',
        machine: 'pc-i440fx-10.0',
        cpus: 1,
        memory: [{ name: 'pc.ram', sizeBytes: 4096, pageBytes: 4096 }],
        disks: [],
        deviceStateFormat: 'qemu-stream-3/x86_64',
      });
      await qmp?.[Symbol.asyncDispose]();
    }
  });

  it.each([
    ['emulates on 8.2', 'hypervisor-unsafe', [8, 2], {}],
    ['emulates on 7.2', 'hypervisor-unsafe', [7, 2], {}],
    ['cannot be told to wait', 'unsupported', [8, 0], { ...kvm, ...without('switchover-ack') }],
    ['takes no answers', 'unsupported', [9, 0], without('return-path')],
    ['runs another architecture', 'unsupported', [10, 0], { 'query-target': { arch: 'aarch64' } }],
    ['waits for a migration', 'invalid-state', [10, 0], { 'query-status': { status: 'inmigrate' } }],
    ['has powered off', 'guest-stopped', [10, 0], { 'query-status': { status: 'shutdown' } }],
    ['is suspended to RAM', 'unsupported', [10, 0], { 'query-status': { status: 'suspended' } }],
    ['has given its guest away', 'invalid-state', [10, 0], { 'query-status': { status: 'postmigrate' } }],
    [
      'cannot migrate',
      'unsupported',
      [10, 0],
      { 'query-migrate': { 'blocked-reasons': ['an nvme', 'ivshmem'] } },
    ],
    ['has a disk twice', 'invalid-argument', [10, 0], { 'query-block': [block({}), block({ qdev: 'vd1' })] }],
    ['migrates already', 'invalid-state', [10, 0], { 'query-migrate': { status: 'device' } }],
    [
      'waits to be told to go on',
      'invalid-state',
      [10, 0],
      { 'query-migrate': { status: 'pre-switchover' } },
    ],
    ['has no identity', 'invalid-argument', [10, 0], { 'query-name': {} }],
    ['says what it should not', 'protocol', [10, 0], { 'query-block': {} }],
    ['fails', 'hypervisor', [10, 0], { 'query-migrate-parameters': undefined }],
  ] as const)('refuses one that %s (%s), and changes nothing', async (_, code, version, answers) => {
    const failing: QmpScript = Object.fromEntries(
      Object.entries({ ...ANSWERS, ...answers }).filter(([, answer]) => answer !== undefined),
    );
    qmp = await ScriptedQmp.listen(path, { version, answers: failing });
    await expect(openQemuSource({ qmp: path, runtimeDir: directory.path })).rejects.toMatchObject({ code });
    for (const command of qmp.commands) expect(command).toMatch(/^(query-|x-query-|qom-get|qmp_cap)/);
  });

  it.each(['postmigrate', 'suspended', 'running'])('takes one that is %s to be recovered', async (status) => {
    const answers = {
      ...ANSWERS,
      'query-status': { status },
      'query-migrate': { 'blocked-reasons': ['an nvme'] },
      'query-block': [block({})],
    };
    qmp = await ScriptedQmp.listen(path, { version: [10, 0], answers });
    const vm = await openQemuSource({ qmp: path, runtimeDir: directory.path, recovery: true });
    expect(vm.disks).toEqual([]);
    // Nothing that could be in somebody's way.
    expect(qmp.commands).not.toContain('nbd-server-start');
  });

  it.each([
    [
      'the one that is given',
      'mine',
      { 'query-uuid': { UUID: 'c0ffee00-0000-0000-0000-000000000001' } },
      'mine',
    ],
    [
      'the UUID',
      undefined,
      { 'query-uuid': { UUID: 'c0ffee00-0000-0000-0000-000000000001' } },
      'c0ffee00-0000-0000-0000-000000000001',
    ],
    ['the name', undefined, {}, 'guest'],
  ] as const)('knows the VM by %s', async (_, vmId, answers, expected) => {
    const { description } = await open([10, 0], answers, vmId);
    expect(description.vmId).toBe(expected);
  });
});

describe('disks', () => {
  it('are found by what they are attached to, and only if they have a medium and a guest', async () => {
    await using directory = guestDirectory();
    const path = join(directory.path, 'qmp');
    const anonymous = '/machine/peripheral-anon/device[1]/virtio-backend';
    const answers = {
      ...ANSWERS,
      'query-block': [
        block({}),
        block({
          device: 'virtio1',
          qdev: anonymous,
          inserted: { 'node-name': '#block7', ro: true, image: { 'virtual-size': 7 * 512 } },
        }),
        block({ qdev: anonymous, inserted: { 'node-name': 'n', ro: false, image: { 'virtual-size': MIB } } }),
        block({ qdev: 'scsi-id' }),
        { device: 'cd0', qdev: 'cd' },
        block({ qdev: undefined }),
      ],
    };
    await using _ = await ScriptedQmp.listen(path, { version: [10, 0], answers });
    await using client = await QmpClient.connect(path);
    const { disks } = await readInventory(client);
    expect(disks.map(({ nodeName: _, names: __, ...disk }) => disk)).toEqual([
      { id: 'vd0', sizeBytes: MIB, blockBytes: 512, readOnly: false },
      { id: 'virtio1', sizeBytes: 7 * 512, blockBytes: 512, readOnly: true },
      { id: 'n', sizeBytes: MIB, blockBytes: 512, readOnly: false },
      { id: 'scsi-id', sizeBytes: MIB, blockBytes: 512, readOnly: false },
    ]);
  });

  it.each([
    ['a file', { filename: '/a', 'actual-size': 4096 }, 4096, { path: '/a', allocatedBytes: 4096 }],
    // As much as all of it, and what qcow2 needs for itself.
    ['a full file', { filename: '/a', 'actual-size': 2 * MIB }, MIB, { path: '/a', allocatedBytes: 2 * MIB }],
    [
      'a device',
      { filename: '/dev/sdx', 'actual-size': 0 },
      undefined,
      { path: '/dev/sdx', allocatedBytes: 0 },
    ],
    ['a server', { filename: 'nbd://host:10809' }, undefined, undefined],
    ['a file of another host', { filename: 'ssh://host/a', 'actual-size': 4096 }, 4096, undefined],
    [
      'a file with another one below, which it may hide or not',
      { filename: '/a', 'actual-size': 512, 'backing-image': { 'actual-size': 8192 } },
      8192,
      { path: '/a', allocatedBytes: 512 },
    ],
    [
      'a file with snapshots in it, which stay behind',
      { filename: '/a', 'actual-size': 8192, snapshots: [{ id: '1' }] },
      undefined,
      { path: '/a', allocatedBytes: 8192 },
    ],
    [
      'a file with such a one below',
      { 'actual-size': 512, 'backing-image': { 'actual-size': 8192, snapshots: [{}] } },
      undefined,
      undefined,
    ],
  ] as const)('that are %s take up what is sure', async (_, image, allocatedBytes, own) => {
    await using directory = guestDirectory();
    const path = join(directory.path, 'qmp');
    const answers = { ...ANSWERS, 'query-block': [block({}, image)] };
    await using qmp = await ScriptedQmp.listen(path, { version: [10, 0], answers });
    await using client = await QmpClient.connect(path);
    const [disk] = (await readInventory(client)).disks;
    expect([disk?.allocatedBytes, disk?.image]).toEqual([allocatedBytes, own]);
    expect(qmp.commands).not.toContain('block-export-add');
  });
});

describe('RAM blocks', () => {
  it('are read out of the table that QEMU prints', () => {
    const table = [
      '              Block Name    PSize              Offset               Used              Total                HVA  RO',
      '                  pc.ram    4 KiB  0x0000000000000000 0x0000000180000000 0x0000000180000000 0x00007f2a2be00000  rw',
      '    /rom@etc/acpi/tables    4 KiB  0x0000000180060000 0x0000000000020000 0x0000000000200000 0x00007f2a2ba00000  ro',
      '   0000:00:02.0/vga.vram    2 MiB  0x0000000180080000 0x0000000001000000 0x0000000001000000 0x00007f2a29c00000  rw',
      '            a name of words  4 KiB  0x0 0x1000 0x1000 0x0  rw',
      '                   empty    4 KiB  0x0000000181080000 0x0000000000000000 0x0000000000010000 0x00007f2a2bc00000  ro',
      '',
    ].join('\n');
    expect(parseRamBlocks(table)).toEqual([
      { name: 'pc.ram', usedBytes: 6 * 1024 * MIB, totalBytes: 6 * 1024 * MIB },
      { name: '/rom@etc/acpi/tables', usedBytes: 128 * 1024, totalBytes: 2 * MIB },
      { name: '0000:00:02.0/vga.vram', usedBytes: 16 * MIB, totalBytes: 16 * MIB },
      { name: 'a name of words', usedBytes: 4096, totalBytes: 4096 },
    ]);
    expect(() => parseRamBlocks('head\nsomething else\n')).toThrow(/something else/);
  });
});

describe('differences', () => {
  const disk = { id: 'vd0', sizeBytes: MIB, blockBytes: 512, readOnly: false };
  const description: VmDescription = {
    vmId: 'vm',
    name: 'vm',
    machine: 'pc-i440fx-10.0',
    cpus: 2,
    memory: [
      { name: 'pc.ram', sizeBytes: 256 * MIB, pageBytes: 4096 },
      { name: 'tables', sizeBytes: 128 * 1024, pageBytes: 4096 },
    ],
    disks: [disk],
    deviceStateFormat: 'qemu-stream-3/x86_64',
  };
  const ram = { name: 'pc.ram', usedBytes: 256 * MIB, totalBytes: 256 * MIB };
  const tables = { name: 'tables', usedBytes: 128 * 1024, totalBytes: 2 * MIB };
  const node = { ...disk, nodeName: 'node0', names: ['vd0', 'node0'] };
  const inventory: VmInventory = {
    machine: 'pc-i440fx-10.0',
    cpus: 2,
    ramBlocks: [ram, tables],
    disks: [node],
    deviceStateFormat: 'qemu-stream-3/x86_64',
  };

  it.each<readonly [string, Partial<VmInventory>]>([
    ['nothing', {}],
    ['the order of RAM blocks', { ramBlocks: [tables, ram] }],
    ['how large a block is that can grow', { ramBlocks: [ram, { ...tables, usedBytes: 64 * 1024 }] }],
    ['another disk, which nobody asked for', { disks: [{ ...node, id: 'vd1', names: ['vd1'] }, node] }],
    [
      'under which of its names a disk is known',
      { disks: [{ ...node, id: 'other', names: ['other', 'vd0'] }] },
    ],
  ])('are none in %s', (_, changed) => {
    expect(differences(description, { ...inventory, ...changed })).toEqual([]);
  });

  it.each<readonly [Partial<VmInventory>, RegExp]>([
    [{ machine: 'pc-i440fx-9.2' }, /machine is pc-i440fx-10.0 at the source, pc-i440fx-9.2 here/],
    [{ cpus: 3 }, /CPUs is 2 at the source, 3 here/],
    [{ deviceStateFormat: 'qemu-stream-3/i386' }, /device state format/],
    [{ ramBlocks: [tables] }, /memory pc.ram is missing here/],
    [{ ramBlocks: [ram, tables, { ...ram, name: 'vga' }] }, /memory vga is here, but not at the source/],
    [{ ramBlocks: [{ ...ram, usedBytes: 512 * MIB, totalBytes: 512 * MIB }, tables] }, /memory pc.ram has/],
    [
      { ramBlocks: [ram, { ...tables, usedBytes: 4096, totalBytes: 8192 }] },
      /memory tables has 131072 bytes/,
    ],
    [{ disks: [] }, /disk vd0 is missing here/],
    [{ disks: [{ ...node, sizeBytes: 2 * MIB }] }, /size of disk vd0/],
    [
      { disks: [{ ...node, blockBytes: 4096 }] },
      /logical block size of disk vd0 is 512 at the source, 4096 here/,
    ],
    [{ disks: [{ ...node, readOnly: true }] }, /read-only is false at the source, true here/],
  ])('are told one by one: %j', (changed, message) => {
    const found = differences(description, { ...inventory, ...changed });
    expect(found).toEqual([expect.stringMatching(message)]);
  });

  it('are smaller blocks, too: a partition table counts in them', () => {
    const large = { ...description, disks: [{ ...disk, blockBytes: 4096 }] };
    expect(differences(large, inventory)).toEqual([
      'the logical block size of disk vd0 is 4096 at the source, 512 here',
    ]);
    expect(differences(large, { ...inventory, disks: [{ ...node, blockBytes: 4096 }] })).toEqual([]);
  });

  it('are two disks that would be one here', () => {
    const two = { ...description, disks: [disk, { ...disk, id: 'vd1' }] };
    const one = { ...node, names: ['vd0', 'node0', 'vd1'] };
    expect(differences(two, { ...inventory, disks: [one] })).toEqual([
      'disks vd0 and vd1 are one and the same here (node0)',
    ]);
  });

  it('come all at once', () => {
    const other = { machine: 'q35', cpus: 1, ramBlocks: [], disks: [], deviceStateFormat: 'x' };
    expect(differences(description, other).length).toBe(6);
  });

  it('prefer a disk whose id it is to one of which it is another name', () => {
    const first = { ...node, id: 'x', names: ['x', 'vd0'] };
    expect(findDisk([first, node], 'vd0')).toBe(node);
    expect(findDisk([first], 'vd0')).toBe(first);
    expect(findDisk([first], 'vd9')).toBeUndefined();
  });
});
