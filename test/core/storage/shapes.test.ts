/**
 * Goal: a VM's disks arrive whole whatever they are: none or many, of any size, with small or large blocks, read-only, shared or left behind,
 * alone or with their VM, and however their writes can be seen. Method: the real engine over the in-memory backend in virtual time, a guest that
 * writes unaligned and over itself all the while, and a comparison of every byte afterwards.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  compareVms,
  createMemoryDisk,
  createMemoryVm,
  type MemoryDisk,
  type MemoryVm,
  type MemoryVmOptions,
} from '../../../src/backends/memory/index.ts';
import {
  createSource,
  type MigrationPolicy,
  memoryLink,
  memoryRegister,
  type TapCapability,
} from '../../../src/index.ts';
import { type AnyFault, faultySourceVm, type SourceDiskFault } from '../../../src/testing/index.ts';
import { delay } from '../../../src/util/promises.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import { type Moved, type MoveOptions, move, type Restless, restlessGuest } from './shape-world.ts';

const mebibyte = 1 << 20;
const taps: readonly TapCapability[] = ['ordered', 'extents', 'none'];
/** Not a multiple of anything. */
const sizes = [1, 511, 4095, 65_537, mebibyte + 3];
const stunned = { copyWhileStunned: true } satisfies MigrationPolicy;

let environment: VirtualEnvironment;
const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

function makeVm(
  options: Partial<MemoryVmOptions> & { readonly environment?: VirtualEnvironment } = {},
): MemoryVm {
  environment = options.environment ?? createVirtualEnvironment();
  const vm = createMemoryVm({
    environment,
    vmId: 'vm-1',
    memoryBytes: mebibyte,
    diskLatencyMs: 2,
    seed: 7,
    ...options,
  });
  vms.push(vm);
  return vm;
}

/** Moves it while its guest writes; what arrived is destroyed with it. */
async function moved(
  vm: MemoryVm,
  options: Partial<MoveOptions> = {},
  guest: Restless = restlessGuest(vm, environment),
): Promise<Moved & { readonly guest: Restless }> {
  const result = await move({ environment, vm, ...options });
  await environment.run(guest.stop());
  if (result.backend.vm !== undefined) vms.push(result.backend.vm);
  return { ...result, guest };
}

/** Both ends say that it went well, and everything is there, byte by byte. */
function expectArrived(vm: MemoryVm, { source, destination, backend }: Moved): void {
  expect(source.error).toBeUndefined();
  expect([source.outcome, destination.outcome]).toEqual(['completed', 'completed']);
  expect(vm.state).toBe('released');
  if (backend.vm === undefined) throw new Error('nothing arrived');
  expect(compareVms(vm, backend.vm)).toMatchObject({ equal: true });
}

/** Both ends say that it failed, why, and that nothing has changed: the guest runs, and writes to all of its disks. */
async function expectRefused(
  vm: MemoryVm,
  { source, destination, backend }: Moved,
  code: string,
): Promise<void> {
  expect([source.error?.code, destination.error?.code]).toEqual([code, code]);
  expect(source).toMatchObject({ outcome: 'failed', owner: 'source' });
  expect(vm.state).toBe('running');
  expect(backend.vm).toBeUndefined();
  for (const { id, readOnly } of vm.disks) {
    if (!readOnly) await environment.run(vm.guest.writeDisk(id, 0, Uint8Array.of(1)));
  }
}

function bytesOf({ medium, sizeBytes }: MemoryDisk): Buffer {
  return medium.read(0, sizeBytes);
}

describe('disks of any number and size', () => {
  it('none: memory alone', async () => {
    const vm = makeVm();
    expectArrived(vm, await moved(vm));
  });

  it('sixteen, however their writes can be seen, with small and large blocks', async () => {
    const vm = makeVm({
      disks: Array.from({ length: 16 }, (_, index) => ({
        id: `disk${index}`,
        sizeBytes: (sizes[index % sizes.length] ?? 1) + index,
        blockBytes: index % 2 === 0 ? 512 : 4096,
        tap: taps[index % 3] ?? 'none',
        allocatedFraction: index % 4 === 0 ? 0 : 1,
      })),
    });
    const result = await moved(vm, { policy: stunned });
    expectArrived(vm, result);
    expect(result.guest.writes).toBeGreaterThan(0);
  });

  for (const tap of taps) {
    it.each(sizes)(`one of %i bytes, its tap ${tap}, written all the while`, async (sizeBytes) => {
      const vm = makeVm({ disks: [{ id: 'disk', sizeBytes, tap, allocatedFraction: 1 }] });
      const result = await moved(vm, { policy: stunned });
      expectArrived(vm, result);
      expect(result.guest.writes).toBeGreaterThan(0);
    });
  }

  it('memory and disks of a guest that stands still from the start', async () => {
    const vm = makeVm({
      paused: true,
      disks: taps.map((tap) => ({ id: tap, sizeBytes: mebibyte + 3, allocatedFraction: 1, tap })),
    });
    const { source, destination, backend } = await move({ environment, vm, policy: stunned });
    if (backend.vm !== undefined) vms.push(backend.vm);
    expectArrived(vm, { source, destination, backend, atTheStun: new Map() });
    expect(backend.vm?.state).toBe('paused');
  });
});

describe('writes of any kind', () => {
  const disks = (tap: TapCapability) => [
    { id: 'root', sizeBytes: 6 * mebibyte + 77, tap, allocatedFraction: 0.6 },
    { id: 'data', sizeBytes: 65_537, tap, allocatedFraction: 1 },
  ];
  for (const tap of taps) {
    it.each([1, 2, 3])(
      `unaligned, overlapping, failing, of zeros, and discards; the tap ${tap}, seed %i`,
      async (seed) => {
        const vm = makeVm({ disks: disks(tap), seed });
        const guest = restlessGuest(vm, environment, { seed, atOnce: 8, failing: true });
        const result = await moved(vm, { policy: stunned, link: { rttMs: 20, rateMbit: 500 } }, guest);
        expectArrived(vm, result);
        expect(guest.writes).toBeGreaterThan(50);
        expect(guest.failed).toBeGreaterThan(0);
      },
    );
  }

  it('as many as set the mirror back, where the buffer is small', async () => {
    const vm = makeVm({ disks: disks('ordered') });
    const guest = restlessGuest(vm, environment, { atOnce: 8, pauseMsMax: 1, failing: true });
    // Faster than the link; so it has to end, or the migration would not.
    environment.setTimer(500, () => void guest.stop());
    const policy = { mirrorBufferBytesMax: mebibyte };
    const result = await moved(vm, { policy, link: { rttMs: 30, rateMbit: 100 } }, guest);
    expectArrived(vm, result);
    expect(result.source.guestWrites.setBack).toBeGreaterThan(0);
  });

  it('to disks that are seen in three ways, at once', async () => {
    const vm = makeVm({
      disks: taps.map((tap) => ({ id: tap, sizeBytes: 3 * mebibyte + 5, tap, allocatedFraction: 0.7 })),
    });
    const result = await moved(vm, { policy: stunned });
    expectArrived(vm, result);
    expect(result.source.guestWrites.mirrored).toBeGreaterThan(0);
    expect(result.source.guestWrites.setBack).toBeGreaterThan(0);
  });

  it('and a switchover that fails: what is written between two stuns is there', async () => {
    const vm = makeVm({
      disks: taps.map((tap) => ({ id: tap, sizeBytes: 2 * mebibyte + 5, tap, allocatedFraction: 1 })),
    });
    const happened: AnyFault[] = [];
    const fault = { on: 'saveDeviceState', do: 'fail', code: 'device-state' } as const;
    const result = await moved(vm, {
      policy: stunned,
      sourceVm: (source) =>
        faultySourceVm(source, { vm: [fault] }, { environment, onFault: (each) => happened.push(each) }),
    });
    expect(happened).toEqual([fault]);
    expect(result.source.switchoverAttempts).toBe(2);
    expectArrived(vm, result);
  });
});

describe('a disk whose writes cannot be seen', () => {
  const disks = [{ id: 'root', sizeBytes: 4 * mebibyte, tap: 'none', allocatedFraction: 1 }] as const;

  it('is refused unless it may be copied with the guest stunned', () => {
    const vm = makeVm({ disks });
    const { source: transport } = memoryLink({ environment });
    const create = (policy: MigrationPolicy) => () =>
      createSource({ vm: vm.source(), transport, register: memoryRegister(), policy, environment });
    expect(create({})).toThrow(expect.objectContaining({ code: 'unsupported' }));
    expect(create(stunned)).not.toThrow();
    expect(create({ disks: { root: 'leave' } })).not.toThrow();
    expect(create({ disks: { root: 'shared' } })).not.toThrow();
  });

  it('is copied within stunMsMax, or the guest runs on here, and is not stunned for it again', async () => {
    const vm = makeVm({ disks });
    const policy = { ...stunned, stunMsMax: 100, switchoverAttemptsMax: 2 };
    const result = await moved(vm, { policy, link: { rttMs: 4, rateMbit: 50 } });
    expect(result.source.error?.code).toBe('stun-timeout');
    expect(result.source).toMatchObject({ outcome: 'failed', owner: 'source', switchoverAttempts: 1 });
    expect(vm.state).toBe('running');
    const again = await moved(vm, { policy: stunned });
    expectArrived(vm, again);
  });
});

describe('what the backend says of writes', () => {
  const withFaults = async (tap: TapCapability, fault: SourceDiskFault) => {
    const vm = makeVm({ disks: [{ id: 'root', sizeBytes: 6 * mebibyte, tap, allocatedFraction: 1 }] });
    const happened: AnyFault[] = [];
    const options = { environment, onFault: (each: AnyFault) => happened.push(each) };
    // With an audit some of it would be found.
    const result = await moved(vm, {
      policy: { audit: 'off' },
      sourceVm: (source) => faultySourceVm(source, { disks: { root: [fault] } }, options),
    });
    expect(happened.length).toBeGreaterThan(0);
    return { vm, result };
  };

  it.each([1, 2, 3])(
    'that a dirty log lost track, at take %i, ends the migration; the guest runs on',
    async (nth) => {
      const { vm, result } = await withFaults('extents', { on: 'take', nth, do: 'fail', code: 'tap-gap' });
      expect(result.source).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'tap-gap' } });
      expect(vm.state).toBe('running');
      // Nothing of it is left: it can be kept again.
      expectArrived(vm, await moved(vm));
    },
  );

  const silent: Readonly<Record<string, readonly [TapCapability, SourceDiskFault]>> = {
    'a dirty log': ['extents', { on: 'dirty-range', nth: 'every', do: 'drop' }],
    'a tap': ['ordered', { on: 'guest-write', nth: 'every', do: 'drop' }],
  };
  for (const [what, [tap, fault]] of Object.entries(silent)) {
    it(`is believed: what ${what} loses and knows nothing of is missing, which only a comparison shows`, async () => {
      const { vm, result } = await withFaults(tap, fault);
      expect(result.source.outcome).toBe('completed');
      if (result.backend.vm === undefined) throw new Error('nothing arrived');
      expect(compareVms(vm, result.backend.vm)).toMatchObject({ equal: false, memoryBytes: 0 });
    });
  }
});

describe('blocks', () => {
  it.each([512, 4096])('of %i bytes arrive on blocks as large', async (blockBytes) => {
    const disk = { id: 'root', sizeBytes: 2 * mebibyte + blockBytes, blockBytes };
    const vm = makeVm({ disks: [{ ...disk, allocatedFraction: 1 }] });
    const there = createMemoryDisk({ ...disk, environment });
    const result = await moved(vm, { backend: { disks: [there] } });
    expectArrived(vm, result);
    expect(result.backend.vm?.disk('root')).toBe(there);
  });

  it.each([
    [512, 4096],
    [4096, 512],
  ])('of %i bytes are refused where they have %i', async (blockBytes, there) => {
    const vm = makeVm({ disks: [{ id: 'root', sizeBytes: mebibyte, blockBytes }] });
    for (const policy of [{}, { memory: 'none' }] satisfies MigrationPolicy[]) {
      const disk = createMemoryDisk({ id: 'root', sizeBytes: mebibyte, blockBytes: there, environment });
      const result = await moved(vm, { policy, backend: { disks: [disk] } });
      await expectRefused(vm, result, 'incompatible');
      expect(result.source.error?.message).toContain(`blocks of ${blockBytes}`);
      expect(result.source.error?.message).toContain(`blocks of ${there}`);
    }
  });
});

describe('what happens to each disk', () => {
  const cd = { id: 'cd', sizeBytes: mebibyte + 2048, blockBytes: 2048, readOnly: true, allocatedFraction: 1 };
  const root = { id: 'root', sizeBytes: 2 * mebibyte + 512, allocatedFraction: 1 };
  const data = { id: 'data', sizeBytes: mebibyte, allocatedFraction: 1 };

  it('read-only ones are copied if that is asked for', async () => {
    const vm = makeVm({ disks: [root, cd] });
    const result = await moved(vm, { policy: { disks: { cd: 'copy' } } });
    expectArrived(vm, result);
    expect(result.backend.vm?.disk('cd').readOnly).toBe(true);
  });

  it('shared ones, and by default read-only ones, are not written', async () => {
    const vm = makeVm({ disks: [root, cd, data] });
    // What is on them there is other than here, which shows that they are left alone.
    const given = makeVm({ environment, paused: true, seed: 8, disks: [root, cd, data] });
    const before = ['cd', 'data'].map((id) => bytesOf(given.disk(id)));
    const { source, backend } = await moved(vm, {
      policy: { disks: { data: 'shared' } },
      backend: { vm: given },
    });
    expect(source.outcome).toBe('completed');
    expect(backend.vm).toBe(given);
    expect(bytesOf(given.disk('root')).equals(bytesOf(vm.disk('root')))).toBe(true);
    for (const [index, id] of ['cd', 'data'].entries()) {
      expect(bytesOf(given.disk(id)).equals(before[index] ?? Buffer.alloc(0)), id).toBe(true);
      expect(bytesOf(given.disk(id)).equals(bytesOf(vm.disk(id))), id).toBe(false);
    }
  });

  it('a disk that both ends have is one disk, to which the guest writes on', async () => {
    const shared = createMemoryDisk({ id: 'data', sizeBytes: mebibyte });
    const vm = makeVm({ disks: [root, shared] });
    const given = makeVm({ environment, paused: true, disks: [root, shared] });
    const result = await moved(vm, { policy: { disks: { data: 'shared' } }, backend: { vm: given } });
    expectArrived(vm, result);
    given.run();
    await environment.run(given.guest.writeDisk('data', 5, Uint8Array.of(1, 2, 3)));
    expect([...shared.medium.read(5, 3)]).toEqual([1, 2, 3]);
  });

  it('those that are left are not there', async () => {
    const vm = makeVm({ disks: [root, cd, data] });
    const { source, backend } = await moved(vm, { policy: { disks: { cd: 'leave', data: 'leave' } } });
    expect(source.outcome).toBe('completed');
    expect(backend.vm?.disks.map(({ id }) => id)).toEqual(['root']);
    expect(compareVms(vm, backend.vm ?? vm).disks.map(({ disk }) => disk)).not.toContain('root');
  });

  it('one that the VM does not have is an error in the policy', () => {
    const vm = makeVm({ disks: [root] });
    const { source: transport } = memoryLink({ environment });
    const policy = { disks: { rot: 'leave' } } as const;
    expect(() =>
      createSource({ vm: vm.source(), transport, register: memoryRegister(), policy, environment }),
    ).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });
});

describe('disks alone', () => {
  const alone = { memory: 'none', ...stunned } satisfies MigrationPolicy;
  const cd = { id: 'cd', sizeBytes: mebibyte, blockBytes: 2048, readOnly: true, allocatedFraction: 1 };

  for (const tap of taps) {
    it(`arrive as they were at the stun, their tap ${tap}, and the guest runs on`, async () => {
      const vm = makeVm({
        disks: [
          { id: 'root', sizeBytes: 3 * mebibyte + 3, tap, allocatedFraction: 0.7 },
          { id: 'data', sizeBytes: 511, tap, allocatedFraction: 1 },
          cd,
        ],
      });
      const guest = restlessGuest(vm, environment, { failing: true });
      const { source, destination, backend, atTheStun } = await move({ environment, vm, policy: alone });
      expect(source.error).toBeUndefined();
      expect([source.outcome, destination.outcome]).toEqual(['copied', 'copied']);
      expect([source.owner, destination.owner]).toEqual(['source', 'source']);
      expect(source.bytes.memory).toBe(0);
      expect([vm.state, backend.vm]).toEqual(['running', undefined]);
      expect(backend.disks.map(({ id }) => id)).toEqual(['root', 'data']);
      const expectAsAtTheStun = () => {
        for (const disk of backend.disks) {
          expect(bytesOf(disk).equals(atTheStun.get(disk.id) ?? Buffer.alloc(0)), disk.id).toBe(true);
        }
      };
      expectAsAtTheStun();
      const before = guest.writes;
      // It may be one of those that fail; two in a row do not.
      const write = () => vm.guest.writeDisk('data', 0, new Uint8Array(511).fill(0xa5));
      await environment.run(write().catch(write));
      await environment.run(delay(environment, 500));
      await environment.run(guest.stop());
      expect(guest.writes).toBeGreaterThan(before);
      expectAsAtTheStun();
      expect(bytesOf(vm.disk('data')).equals(atTheStun.get('data') ?? Buffer.alloc(0))).toBe(false);
    });
  }

  it('are moved again and again, also with their VM after that', async () => {
    const vm = makeVm({ disks: [{ id: 'root', sizeBytes: 2 * mebibyte, allocatedFraction: 1 }] });
    for (let turn = 0; turn < 2; turn += 1) {
      const { source, backend, atTheStun } = await moved(vm, { policy: alone });
      expect(source.outcome).toBe('copied');
      const [disk] = backend.disks;
      expect(disk && bytesOf(disk).equals(atTheStun.get('root') ?? Buffer.alloc(0))).toBe(true);
    }
    expectArrived(vm, await moved(vm));
  });

  it('go into the disks of a VM that waits, whatever machine that is', async () => {
    const disk = { id: 'root', sizeBytes: mebibyte + 3 };
    const vm = makeVm({ disks: [{ ...disk, allocatedFraction: 1 }, cd] });
    const other = makeVm({
      environment,
      vmId: 'other',
      cpus: 4,
      memoryBytes: 0,
      paused: true,
      disks: [disk],
    });
    const { source, backend, atTheStun } = await moved(vm, { policy: alone, backend: { vm: other } });
    expect(source.error).toBeUndefined();
    expect(backend.disks).toEqual([other.disk('root')]);
    expect(bytesOf(other.disk('root')).equals(atTheStun.get('root') ?? Buffer.alloc(0))).toBe(true);
    expect(other.state).toBe('paused');
  });
});

describe('a destination without room', () => {
  const root = { id: 'root', sizeBytes: 6 * mebibyte };
  const full = (capacityBytes: number) => ({
    disks: [createMemoryDisk({ ...root, capacityBytes, environment })],
  });

  it('says so before a byte is copied, where that is known', async () => {
    const vm = makeVm({ disks: [{ ...root, allocatedFraction: 1 }] });
    const result = await move({ environment, vm, backend: full(3 * mebibyte) });
    await expectRefused(vm, result, 'disk-full');
    expect(result.source.bytes.disk).toBe(0);
    expectArrived(vm, await move({ environment, vm, backend: full(6 * mebibyte) }));
  });

  it('says so when the guest has written more than there was', async () => {
    const vm = makeVm({ disks: [root] });
    await environment.run(vm.guest.writeDisk('root', 0, new Uint8Array(mebibyte).fill(1)));
    const writing = (async () => {
      for (let at = 1; at < 6; at += 1)
        await vm.guest.writeDisk('root', at * mebibyte, new Uint8Array(4096).fill(at));
    })();
    const result = await move({ environment, vm, backend: full(3 * mebibyte) });
    await environment.run(writing);
    await expectRefused(vm, result, 'disk-full');
  });

  it('has room for what holds only zeros', async () => {
    const vm = makeVm({ disks: [root] });
    await environment.run(vm.guest.writeDisk('root', 5 * mebibyte, new Uint8Array(100).fill(1)));
    expectArrived(vm, await move({ environment, vm, backend: full(mebibyte) }));
  });
});
