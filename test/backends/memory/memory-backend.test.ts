/**
 * Goal: a destination in memory refuses what it cannot take and names every difference, takes a whole VM,
 * refuses what the engine must never do, and gives back a VM that can migrate again. Method: migrations by
 * hand, without an engine; single cases for each refusal.
 */
import { describe, expect, test } from 'vitest';
import {
  compareVms,
  createMemoryBackend,
  createMemoryDisk,
  createMemoryVm,
  type MemoryVm,
  type MemoryVmOptions,
  memoryDirtier,
} from '../../../src/backends/memory/index.ts';
import type { DestinationVm } from '../../../src/interfaces/hypervisor.ts';
import type { PageRun } from '../../../src/interfaces/memory.ts';
import { failureCode } from './support/failure-code.ts';
import { createVirtualEnvironment } from './support/virtual-environment.ts';

const MIB = 1024 * 1024;

function makeVm(options: Partial<MemoryVmOptions> = {}): MemoryVm {
  return createMemoryVm({
    vmId: 'vm',
    memoryBytes: 2 * MIB,
    fill: 0.5,
    disks: [
      { id: 'root', sizeBytes: 3 * MIB + 512, allocatedFraction: 0.7 },
      { id: 'cd', sizeBytes: MIB, blockBytes: 2048, readOnly: true, allocatedFraction: 1 },
    ],
    ...options,
  });
}

async function stateOf(vm: MemoryVm): Promise<Uint8Array[]> {
  const state: Uint8Array[] = [];
  for await (const chunk of vm.source().saveDeviceState()) state.push(chunk);
  return state;
}

/** All content of a stunned VM, into one that was prepared. */
async function copyAll(vm: MemoryVm, destination: DestinationVm): Promise<void> {
  for (const disk of vm.source().disks) {
    const there = destination.disks.find(({ id }) => id === disk.id);
    await there?.write(0, await disk.read(0, disk.sizeBytes));
    await there?.flush();
  }
  for await (const batch of vm.source().memory.round()) {
    await destination.memory.write(batch.runs);
    batch.release();
  }
}

describe('prepare', () => {
  test('makes a VM that suits, equal to the source once everything was copied, and able to migrate again', async () => {
    const environment = createVirtualEnvironment();
    let vm = makeVm({ environment });
    vm.startWorkload(memoryDirtier({ bytesPerSecond: MIB }));
    for (const name of ['first', 'second', 'third']) {
      const backend = createMemoryBackend({ name, environment, startPaused: true });
      await environment.advance(500);
      await vm.source().stun();
      const destination = await backend.prepare(vm.source().description);
      await copyAll(vm, destination);
      await destination.loadDeviceState(await stateOf(vm));
      await vm.source().seal();
      expect(backend.vm).toBeUndefined();
      await destination.start({ run: true });
      await vm.source().release();
      const { vm: moved } = backend;
      if (moved === undefined) throw new Error('nothing was started');
      expect(moved.state).toBe('paused');
      // How much of a disk is allocated is no part of what it is: here all of it was written.
      const disks = vm.description.disks.map((disk) => ({ ...disk, allocatedBytes: disk.sizeBytes }));
      expect(moved.description).toEqual({ ...vm.description, disks });
      expect(compareVms(vm, moved).equal).toBe(true);
      moved.run();
      await environment.advance(500);
      expect(compareVms(vm, moved).equal).toBe(false);
      // A started VM is not the preparation's any more.
      await destination.discard();
      expect(moved.state).toBe('running');
      vm = moved;
    }
  });

  test('into a VM that was given overwrites all of it', async () => {
    const vm = makeVm({ seed: 1 });
    const given = makeVm({ seed: 2, paused: true });
    const backend = createMemoryBackend({ vm: given });
    await vm.source().stun();
    const destination = await backend.prepare(vm.description);
    await copyAll(vm, destination);
    await destination.loadDeviceState(await stateOf(vm));
    await destination.start({ run: false });
    expect(backend.vm).toBe(given);
    expect(given.state).toBe('paused');
    expect(compareVms(vm, given).equal).toBe(true);
  });

  test('names every difference at once', async () => {
    const asked = makeVm().description;
    const given = createMemoryVm({
      vmId: 'other',
      cpus: 2,
      regions: [
        { name: 'ram', sizeBytes: MIB, pageBytes: 4096 },
        { name: 'more', sizeBytes: MIB, pageBytes: 4096 },
      ],
      disks: [
        { id: 'root', sizeBytes: MIB },
        { id: 'extra', sizeBytes: MIB },
      ],
    });
    const backend = createMemoryBackend({ name: 'here', vm: given });
    const refusal = backend.prepare({ ...asked, machine: 'q35', deviceStateFormat: 'x' });
    await expect(refusal).rejects.toMatchObject({ code: 'incompatible' });
    const { message } = (await refusal.catch((error: Error) => error)) as Error;
    for (const part of [
      'vmId',
      'cpus',
      'machine',
      'deviceStateFormat',
      'region 0',
      'region 1',
      'root',
      'cd',
      'extra',
      'in use',
    ]) {
      expect(message).toContain(part);
    }
  });

  test('insists on what it was told to, and takes anything else that a simulated VM can be', async () => {
    const asked = makeVm().description;
    const codes = async (accept: Parameters<typeof createMemoryBackend>[0]) =>
      failureCode(createMemoryBackend(accept).prepare(asked));
    expect(await codes({})).toBe('none');
    expect(await codes({ accept: { cpus: 1 } })).toBe('none');
    expect(await codes({ accept: { cpus: 4 } })).toBe('incompatible');
    expect(await codes({ accept: { disks: asked.disks.slice(1) } })).toBe('incompatible');
    expect(
      await codes({ accept: { memory: asked.memory.map((region) => ({ ...region, sizeBytes: MIB })) } }),
    ).toBe('incompatible');
  });

  test('refuses what no simulated VM can be', async () => {
    const asked = makeVm().description;
    const [region] = asked.memory;
    const [disk] = asked.disks;
    if (region === undefined || disk === undefined) throw new Error('the VM is bare');
    const backend = createMemoryBackend();
    for (const change of [
      { machine: 'pc-i440fx-10.0' },
      { deviceStateFormat: 'qemu' },
      { cpus: 0 },
      { vmId: '' },
      { memory: [{ ...region, sizeBytes: 2 ** 50 }] },
      { memory: [{ ...region, pageBytes: 3000 }] },
      { memory: [region, region] },
      { disks: [disk, disk] },
      { disks: [{ ...disk, blockBytes: 1 }] },
    ]) {
      expect(await failureCode(backend.prepare({ ...asked, ...change })), JSON.stringify(change)).toBe(
        'incompatible',
      );
    }
    expect(await failureCode(backend.prepare(asked, { signal: AbortSignal.abort() }))).toBe('aborted');
  });

  test('lends a given VM to one migration at a time, and again once that gave up', async () => {
    const given = makeVm({ paused: true });
    const backend = createMemoryBackend({ vm: given });
    const first = await backend.prepare(given.description);
    expect(await failureCode(backend.prepare(given.description))).toBe('incompatible');
    await first.discard();
    await first.discard();
    const second = await backend.prepare(given.description);
    await first.discard();
    expect(await failureCode(backend.prepare(given.description))).toBe('incompatible');
    await second.discard();
    given.run();
    expect(await failureCode(backend.prepare(given.description))).toBe('incompatible');
  });
});

describe('a prepared VM', () => {
  async function prepared() {
    const vm = makeVm();
    await vm.source().stun();
    const backend = createMemoryBackend();
    const destination = await backend.prepare(vm.description);
    return { vm, backend, destination, state: await stateOf(vm) };
  }

  test('refuses damaged, foreign or empty device states, and then everything but discard', async () => {
    const { state } = await prepared();
    const whole = Buffer.concat(state);
    const wrong: Buffer[] = [
      Buffer.alloc(0),
      Buffer.from('LHMEMVM1'),
      whole.subarray(0, -1),
      Buffer.concat([whole, Buffer.alloc(1)]),
    ];
    for (let byte = 0; byte < whole.length; byte += 7) {
      const flipped = Buffer.from(whole);
      flipped[byte] = (flipped[byte] ?? 0) ^ 0x10;
      wrong.push(flipped);
    }
    for (const bytes of wrong) {
      const { destination, backend } = await prepared();
      expect(await failureCode(destination.loadDeviceState([bytes]))).toBe('device-state');
      expect(await failureCode(destination.loadDeviceState(state))).toBe('invalid-state');
      expect(await failureCode(destination.start({ run: true }))).toBe('invalid-state');
      await destination.discard();
      expect(backend.vm).toBeUndefined();
    }
  });

  test('takes the device state in whatever chunks', async () => {
    const { destination, state, backend } = await prepared();
    await destination.loadDeviceState([...Buffer.concat(state)].map((byte) => Uint8Array.of(byte)));
    await destination.start({ run: true });
    expect(backend.vm?.state).toBe('running');
  });

  test('refuses a device state that does not suit it', async () => {
    const vm = createMemoryVm({ vmId: 'vm', memoryBytes: MIB });
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 1 }));
    await vm.source().stun();
    const destination = await createMemoryBackend().prepare(createMemoryVm({ vmId: 'vm' }).description);
    expect(await failureCode(destination.loadDeviceState(await stateOf(vm)))).toBe('device-state');
  });

  test('takes no device state before its disks were flushed, and no content after it', async () => {
    const { destination, state } = await prepared();
    const [disk] = destination.disks;
    const one = [Uint8Array.of(1)];
    await disk?.write(0, one);
    expect(await failureCode(destination.loadDeviceState(state))).toBe('invalid-state');
    await disk?.flush();
    await destination.loadDeviceState(state);
    expect(await failureCode(Promise.resolve(disk?.write(0, one)))).toBe('invalid-state');
    expect(await failureCode(Promise.resolve(disk?.writeZeroes(0, 1)))).toBe('invalid-state');
    const run: PageRun = { region: 0, offset: 0, length: 4096, content: 'zero' };
    expect(await failureCode(destination.memory.write([run]))).toBe('invalid-state');
  });

  test('takes runs in any chunks, zeros over data, and refuses what is not whole pages', async () => {
    const vm = makeVm({ paused: true, seed: 3 });
    const { memory } = await createMemoryBackend({ vm }).prepare(vm.description);
    const page = Buffer.from(Array.from({ length: 4096 }, (_, index) => index % 251));
    await memory.write([
      { region: 0, offset: 4096, length: 8192, content: [page.subarray(0, 100), page.subarray(100), page] },
      { region: 0, offset: MIB, length: MIB, content: 'zero' },
    ]);
    expect(vm.memory.read(0, 4096, 8192).equals(Buffer.concat([page, page]))).toBe(true);
    expect(vm.memory.read(0, MIB, MIB).every((byte) => byte === 0)).toBe(true);
    for (const wrong of [
      { offset: 1, length: 4096, content: 'zero' },
      { offset: 0, length: 100, content: 'zero' },
      { offset: 0, length: 0, content: 'zero' },
      { offset: 2 * MIB, length: 4096, content: 'zero' },
      { offset: -4096, length: 4096, content: 'zero' },
      { offset: 0, length: 4096, content: [page, page] },
    ] as const) {
      expect(await failureCode(memory.write([{ region: 0, ...wrong }]))).toBe('memory');
    }
  });

  test('that is discarded is gone, with its disks and whoever waits for them', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm();
    const destination = await createMemoryBackend({ environment, diskLatencyMs: 10 }).prepare(vm.description);
    const write = failureCode(Promise.resolve(destination.disks[0]?.write(0, [Uint8Array.of(1)])));
    await destination.discard();
    await environment.advance(10);
    expect(await write).toBe('disk-write');
    const read = failureCode(Promise.resolve(destination.disks[0]?.read(0, 1)));
    await environment.advance(10);
    expect(await read).toBe('disk-read');
    expect(await failureCode(destination.memory.write([]))).toBe('invalid-state');
  });
});

describe('room', () => {
  const root = { id: 'root', sizeBytes: 3 * MIB + 512 };

  test('is compared with what a disk holds now, where it is known', async () => {
    const vm = createMemoryVm({ vmId: 'vm', disks: [root] });
    expect(vm.description.disks[0]?.allocatedBytes).toBe(0);
    await vm.guest.writeDisk('root', 2 * MIB, Uint8Array.of(1));
    await vm.guest.writeDisk('root', 3 * MIB, Uint8Array.of(1));
    expect(vm.source().description.disks[0]?.allocatedBytes).toBe(MIB + 512);
    const codes = async (capacityBytes: number) => {
      const disk = createMemoryDisk({ ...root, capacityBytes });
      const given = createMemoryVm({ vmId: 'vm', disks: [disk], paused: true });
      return [
        await failureCode(createMemoryBackend({ disks: [disk] }).prepare(vm.description)),
        await failureCode(createMemoryBackend({ vm: given }).prepare(vm.description)),
        await failureCode(
          createMemoryBackend({ vm: given }).prepare(vm.description, { shared: new Set(['root']) }),
        ),
      ];
    };
    expect(await codes(MIB + 511)).toEqual(['disk-full', 'disk-full', 'none']);
    expect(await codes(MIB + 512)).toEqual(['none', 'none', 'none']);
  });

  test('that is missing is told for every disk, and nothing has changed', async () => {
    const shape = { sizeBytes: MIB, allocatedFraction: 1 };
    const vm = createMemoryVm({ vmId: 'vm', disks: ['a', 'b', 'c'].map((id) => ({ ...shape, id })) });
    const thin = ['a', 'c'].map((id) => ({ id, sizeBytes: MIB, capacityBytes: 0 }));
    const given = createMemoryVm({ vmId: 'vm', disks: [...thin, { id: 'b', sizeBytes: MIB }], paused: true });
    const backend = createMemoryBackend({ vm: given });
    for (let turn = 0; turn < 2; turn += 1) {
      const refusal = backend.prepare(vm.description);
      await expect(refusal).rejects.toMatchObject({ code: 'disk-full' });
      await expect(refusal).rejects.toThrow(/disk a .*disk c /);
    }
  });

  test('is not asked for by a description that knows nothing of it', async () => {
    const { disks, ...rest } = makeVm().description;
    const unknown = { ...rest, disks: disks.map(({ allocatedBytes: _, ...disk }) => disk) };
    const thin = createMemoryDisk({ ...root, capacityBytes: 0 });
    expect(await failureCode(createMemoryBackend({ disks: [thin] }).prepare(unknown))).toBe('none');
  });
});

describe('blocks', () => {
  test.each([
    [512, 4096],
    [4096, 512],
    [512, 1024],
  ])('of %i bytes are not taken where they have %i, wherever the disk is from', async (asked, here) => {
    const disk = { id: 'root', sizeBytes: MIB };
    const { description } = createMemoryVm({ vmId: 'vm', disks: [{ ...disk, blockBytes: asked }] });
    const there = { ...disk, blockBytes: here };
    const offer = createMemoryVm({ vmId: 'vm', disks: [there], paused: true });
    for (const options of [
      { vm: offer },
      { accept: { disks: offer.description.disks } },
      { disks: [createMemoryDisk(there)] },
    ]) {
      const backend = createMemoryBackend(options);
      for (const memory of ['copy', 'none'] as const) {
        const refusal = backend.prepare({ ...description, memory: [] }, { memory });
        await expect(refusal).rejects.toMatchObject({ code: 'incompatible' });
        await expect(refusal).rejects.toThrow(`blocks of ${asked}`);
      }
    }
  });
});

describe('disks alone', () => {
  const alone = (vm: MemoryVm) => ({ ...vm.description, memory: [] });

  test('are written, handed over, and are the caller’s then', async () => {
    const vm = makeVm();
    const backend = createMemoryBackend();
    const destination = await backend.prepare(alone(vm), { memory: 'none' });
    expect([destination.memory.regions, backend.disks]).toEqual([[], []]);
    const one = [Uint8Array.of(1)];
    await destination.disks[0]?.write(5, one);
    expect(await failureCode(destination.handOver())).toBe('invalid-state');
    await destination.disks[0]?.flush();
    await destination.handOver();
    expect(backend.disks.map(({ id }) => id)).toEqual(['root', 'cd']);
    expect(backend.vm).toBeUndefined();
    expect(await failureCode(Promise.resolve(destination.disks[0]?.write(0, one)))).toBe('invalid-state');
    expect(await failureCode(destination.handOver())).toBe('invalid-state');
    expect(await failureCode(destination.refill())).toBe('invalid-state');
    await destination.discard();
    const [root] = backend.disks;
    expect([...Buffer.concat((await root?.read(4, 3)) ?? [])]).toEqual([0, 1, 0]);
    // Now it is anybody's disk.
    const user = createMemoryVm({ vmId: 'other', disks: backend.disks.slice(0, 1) });
    await user.guest.writeDisk('root', 5, Uint8Array.of(2));
    expect(root?.medium.read(5, 1)[0]).toBe(2);
  });

  test('have no memory, no device state and nothing to start; a whole VM is not handed over', async () => {
    const vm = makeVm();
    const backend = createMemoryBackend();
    expect(await failureCode(backend.prepare(vm.description, { memory: 'none' }))).toBe('incompatible');
    const destination = await backend.prepare(alone(vm), { memory: 'none' });
    await vm.source().stun();
    expect(await failureCode(destination.loadDeviceState(await stateOf(vm)))).toBe('invalid-state');
    expect(await failureCode(destination.start({ run: true }))).toBe('invalid-state');
    const run: PageRun = { region: 0, offset: 0, length: 4096, content: 'zero' };
    expect(await failureCode(destination.memory.write([run]))).toBe('memory');
    await destination.discard();
    expect(await failureCode(destination.handOver())).toBe('invalid-state');
    const whole = await backend.prepare(vm.description);
    expect(await failureCode(whole.handOver())).toBe('invalid-state');
    expect(backend.disks).toEqual([]);
  });

  test('go into a VM that has them among others, of any machine and id, one migration at a time', async () => {
    const vm = makeVm();
    const [root] = vm.description.disks;
    if (root === undefined) throw new Error('the VM is bare');
    const extra = { id: 'extra', sizeBytes: MIB };
    const given = createMemoryVm({ vmId: 'other', cpus: 9, disks: [extra, root], paused: true });
    const backend = createMemoryBackend({ vm: given });
    const asked = { ...alone(vm), disks: [root] };
    const prepare = () => backend.prepare(asked, { memory: 'none' });
    const destination = await prepare();
    expect(destination.disks.map(({ id }) => id)).toEqual(['root']);
    expect(await failureCode(prepare())).toBe('incompatible');
    await destination.handOver();
    expect(backend.disks).toEqual([given.disk('root')]);
    await (await prepare()).discard();
    await destination.discard();
    expect(await failureCode(given.disk('root').read(0, 1))).toBe('none');
    expect(await failureCode(backend.prepare({ ...alone(vm) }, { memory: 'none' }))).toBe('incompatible');
    given.run();
    expect(await failureCode(prepare())).toBe('incompatible');
  });
});

test('a disk that two VMs share is one disk', async () => {
  const vm = createMemoryVm({ vmId: 'vm', disks: [{ id: 'shared', sizeBytes: MIB }] });
  const other = createMemoryVm({ vmId: 'vm', disks: [vm.disk('shared')], paused: true });
  await vm.guest.writeDisk('shared', 5, Uint8Array.of(1, 2, 3));
  expect([...Buffer.concat(await other.disk('shared').read(5, 3))]).toEqual([1, 2, 3]);
  other.destroy();
  expect([...(await vm.guest.readDisk('shared', 5, 3))]).toEqual([1, 2, 3]);
});
