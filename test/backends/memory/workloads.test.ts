/**
 * Goal: workloads keep the pace that they were given, slower under a throttle, only while the guest runs,
 * also on a host whose timers are late; what they do depends on the seed alone, also across a migration.
 * Method: counting what they did after so much time on a virtual clock; comparing a guest that was moved with
 * one that was not.
 */
import { describe, expect, test } from 'vitest';
import {
  compareVms,
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
  sequentialWriter,
  type WorkloadSpec,
} from '../../../src/backends/memory/index.ts';
import { deferred } from '../../../src/util/promises.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from './support/virtual-environment.ts';

const MIB = 1024 * 1024;

const specs: Record<string, { readonly spec: WorkloadSpec; readonly perSecond: number }> = {
  'a random writer': { spec: randomWriter({ disk: 'disk', writesPerSecond: 500 }), perSecond: 500 },
  'a slow random writer': { spec: randomWriter({ disk: 'disk', writesPerSecond: 3 }), perSecond: 3 },
  'a sequential writer': {
    spec: sequentialWriter({ disk: 'disk', bytes: 4096, bytesPerSecond: 400 * 4096 }),
    perSecond: 400,
  },
  'a memory dirtier': { spec: memoryDirtier({ bytesPerSecond: 64 * MIB, hotBytes: MIB }), perSecond: 16_384 },
};

function makeVm(
  environment: VirtualEnvironment,
  options: { seed?: number; diskLatencyMs?: number; paused?: boolean } = {},
): MemoryVm {
  return createMemoryVm({
    vmId: 'vm',
    regions: [
      { name: 'low', sizeBytes: 256 * 1024, pageBytes: 4096 },
      { name: 'high', sizeBytes: 2 * MIB, pageBytes: 65536 },
    ],
    disks: [{ id: 'disk', sizeBytes: 4 * MIB }],
    environment,
    ...options,
  });
}

function steps(vm: MemoryVm): number {
  return vm.workloads()[0]?.steps ?? 0;
}

/** The state of a stunned VM moved to another one, with memory and disks copied. */
async function move(from: MemoryVm, to: MemoryVm): Promise<void> {
  await from.source().stun();
  const state: Uint8Array[] = [];
  for await (const chunk of from.source().saveDeviceState()) state.push(chunk);
  for (const [region, { sizeBytes: length }] of from.memory.regions.entries())
    to.memory.put({ region, offset: 0, length, content: [from.memory.read(region, 0, length)] });
  for (const { id, sizeBytes, medium } of from.disks) to.disk(id).medium.write(0, medium.read(0, sizeBytes));
  to.loadDeviceState(state);
  await from.source().seal();
  await from.source().release();
}

for (const [name, { spec, perSecond }] of Object.entries(specs)) {
  describe(name, () => {
    test('keeps its pace', async () => {
      const environment = createVirtualEnvironment();
      const vm = makeVm(environment);
      vm.startWorkload(spec);
      await environment.advance(4000);
      expect(steps(vm)).toBeGreaterThanOrEqual(perSecond * 4 * 0.99 - 1);
      expect(steps(vm)).toBeLessThanOrEqual(perSecond * 4);
    });

    test('slows down with the throttle, from when it is set, and only as long', async () => {
      const environment = createVirtualEnvironment();
      const vm = makeVm(environment);
      vm.startWorkload(spec);
      await environment.advance(10_000);
      const before = steps(vm);
      await vm.source().setThrottle(0.75);
      await environment.advance(20_000);
      const throttled = steps(vm) - before;
      expect(Math.abs(throttled - perSecond * 5)).toBeLessThanOrEqual(perSecond * 0.05 + 1);
      await vm.source().detach();
      await environment.advance(10_000);
      expect(Math.abs(steps(vm) - before - throttled - perSecond * 10)).toBeLessThanOrEqual(
        perSecond * 0.1 + 1,
      );
    });

    test('stands still with the guest, and does not make up for that', async () => {
      const environment = createVirtualEnvironment();
      const vm = makeVm(environment);
      vm.startWorkload(spec);
      await environment.advance(2000);
      await vm.source().stun();
      const before = steps(vm);
      await environment.advance(60_000);
      expect(steps(vm)).toBe(before);
      await vm.source().resume();
      await environment.advance(2000);
      expect(Math.abs(steps(vm) - perSecond * 4)).toBeLessThanOrEqual(perSecond * 0.05 + 1);
    });

    test('makes up for late timers, but not for a host that was away', async () => {
      const environment = createVirtualEnvironment();
      const vm = makeVm(environment);
      vm.startWorkload(spec);
      for (let stall = 0; stall < 20; stall += 1) {
        environment.stall(100);
        await environment.advance(100);
      }
      expect(Math.abs(steps(vm) - perSecond * 4)).toBeLessThanOrEqual(perSecond * 0.05 + 1);
      const before = steps(vm);
      environment.stall(60_000);
      await environment.advance(1);
      expect(steps(vm) - before).toBeLessThanOrEqual(perSecond * 0.5 + 2);
    });

    test('goes on at the destination as if nothing had happened', async () => {
      const environment = createVirtualEnvironment();
      const [moved, stayed] = [makeVm(environment, { seed: 4 }), makeVm(environment, { seed: 4 })];
      for (const vm of [moved, stayed]) vm.startWorkload(spec);
      await environment.advance(1234);
      await stayed.source().stun();
      const destination = makeVm(environment, { seed: 99, paused: true });
      await move(moved, destination);
      expect(steps(destination)).toBe(steps(moved));
      await environment.advance(777);
      await stayed.source().resume();
      destination.run();
      await environment.advance(2345);
      expect(steps(destination)).toBe(steps(stayed));
      expect(steps(destination)).toBeGreaterThan(steps(moved));
      expect(compareVms(destination, stayed).equal).toBe(true);
      expect(compareVms(destination, moved).equal).toBe(false);
    });
  });
}

describe('a guest with workloads', () => {
  test('loses nothing of what is nearly due when it is throttled or stunned', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm(environment);
    vm.startWorkload(randomWriter({ disk: 'disk', writesPerSecond: 1 }));
    await environment.advance(900);
    await vm.source().setThrottle(0.9);
    await environment.advance(990);
    expect(steps(vm)).toBe(0);
    await environment.advance(20);
    expect(steps(vm)).toBe(1);
    await vm.source().setThrottle(0);
    for (let stun = 0; stun < 10; stun += 1) {
      await environment.advance(450);
      await vm.source().stun();
      await environment.advance(1000);
      await vm.source().resume();
    }
    expect(steps(vm)).toBe(5);
  });

  test('that draws a new one after it was moved draws the same as one that stayed', async () => {
    const environment = createVirtualEnvironment();
    const [moved, stayed] = [makeVm(environment), makeVm(environment)];
    const destination = makeVm(environment, { seed: 99, paused: true });
    await move(moved, destination);
    destination.run();
    for (const vm of [destination, stayed])
      vm.startWorkload(randomWriter({ disk: 'disk', writesPerSecond: 100 }));
    await environment.advance(1000);
    expect(compareVms(destination, stayed).equal).toBe(true);
  });

  test('writes only where it is told to', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm(environment);
    const untouched = makeVm(environment);
    vm.startWorkload(randomWriter({ disk: 'disk', bytes: 512, writesPerSecond: 1000, hotBytes: 8192 }));
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 64 * MIB, hotBytes: 320 * 1024 }));
    await environment.advance(2000);
    const { memory, disks } = compareVms(vm, untouched);
    expect(memory).toEqual([
      { region: 'low', offset: 0, length: 256 * 1024 },
      { region: 'high', offset: 0, length: 65536 },
    ]);
    expect(disks).toEqual([{ disk: 'disk', offset: 0, length: 8192 }]);
  });

  test('writes one behind the other, and begins again at the end', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm(environment);
    const offsets: number[] = [];
    await vm.source().disks[0]?.tap({
      write: ({ offset }) => void offsets.push(offset),
      invalidate: () => {},
      broken: () => {},
    });
    vm.startWorkload(sequentialWriter({ disk: 'disk', bytes: MIB, bytesPerSecond: 100 * MIB }));
    await environment.advance(65);
    expect(offsets.map((offset) => offset / MIB)).toEqual([0, 1, 2, 3, 0, 1]);
  });

  test('has so many writes in flight and no more while they are held', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm(environment);
    const hold = deferred<void>();
    let held = 0;
    await vm.source().disks[0]?.tap({
      write: () => {
        held += 1;
        return hold.promise;
      },
      invalidate: () => {},
      broken: () => {},
    });
    vm.startWorkload(randomWriter({ disk: 'disk', writesPerSecond: 1000 }));
    await environment.advance(1000);
    expect(held).toBe(16);
    hold.resolve();
    await environment.advance(100);
    expect(held).toBeGreaterThan(100);
  });

  test('measures how long its writes take, and what it dirties', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm(environment, { diskLatencyMs: 2 });
    vm.startWorkload(randomWriter({ disk: 'disk', writesPerSecond: 100 }));
    await environment.advance(10_000);
    await vm.source().setThrottle(0);
    const { writes, writeLatencyMs } = vm.guest.statistics();
    expect(writes).toBeGreaterThan(950);
    expect(writeLatencyMs.max).toBeCloseTo(2, 6);
    expect(writeLatencyMs.median).toBeCloseTo(2, 6);

    const hold = deferred<void>();
    const tap = await vm
      .source()
      .disks[0]?.tap({ write: () => hold.promise, invalidate: () => {}, broken: () => {} });
    await environment.advance(30);
    hold.resolve();
    await tap?.remove();
    await environment.advance(1000);
    const after = vm.guest.statistics();
    expect(after.writeLatencyMs.max).toBeGreaterThan(15);
    expect(after.writeLatencyMs.median).toBeLessThan(2.2);
    expect(after.pagesDirtied).toBe(0);

    vm.stopWorkloads();
    await environment.advance(10);
    vm.guest.resetStatistics();
    await environment.advance(1000);
    expect(vm.guest.statistics()).toMatchObject({ writes: 0, writeLatencyMs: { median: 0, p99: 0, max: 0 } });
    await vm.guest.writeMemory(0, 4095, new Uint8Array(2));
    expect(vm.guest.statistics().pagesDirtied).toBe(2);
  });

  test('orders latencies rightly over five orders of magnitude', async () => {
    const environment = createVirtualEnvironment();
    const vm = makeVm(environment);
    const delays = Array.from({ length: 200 }, (_, index) => (index < 150 ? 0.1 : index < 197 ? 5 : 9000));
    let next = 0;
    await vm.source().disks[0]?.tap({
      write: () => new Promise((resolve) => void environment.setTimer(delays[next++] ?? 0, resolve)),
      invalidate: () => {},
      broken: () => {},
    });
    for (const delayMs of delays) {
      const write = vm.guest.writeDisk('disk', 0, Uint8Array.of(1));
      await environment.advance(delayMs);
      await write;
    }
    const { median, p99, max } = vm.guest.statistics().writeLatencyMs;
    expect(median).toBeGreaterThanOrEqual(0.1);
    expect(median).toBeLessThan(0.106);
    expect(p99).toBeGreaterThanOrEqual(8500);
    expect(max).toBeCloseTo(9000, 3);
  });

  test('refuses a workload that does not suit it', () => {
    const vm = makeVm(createVirtualEnvironment());
    const readOnly = createMemoryVm({ vmId: 'vm', disks: [{ id: 'disk', sizeBytes: MIB, readOnly: true }] });
    const wrong: (() => void)[] = [
      () => vm.startWorkload(randomWriter({ disk: 'other', writesPerSecond: 1 })),
      () => vm.startWorkload(randomWriter({ disk: 'disk', writesPerSecond: 0 })),
      () => vm.startWorkload(randomWriter({ disk: 'disk', writesPerSecond: 1, hotBytes: 100 })),
      () => vm.startWorkload(randomWriter({ disk: 'disk', writesPerSecond: Number.POSITIVE_INFINITY })),
      () => vm.startWorkload(sequentialWriter({ disk: 'disk', bytes: 5 * MIB, bytesPerSecond: 1 })),
      () => vm.startWorkload(sequentialWriter({ disk: 'disk', bytes: 0, bytesPerSecond: 1 })),
      () => vm.startWorkload(memoryDirtier({ bytesPerSecond: Number.NaN })),
      () => readOnly.startWorkload(memoryDirtier({ bytesPerSecond: 1 })),
      () => readOnly.startWorkload(randomWriter({ disk: 'disk', writesPerSecond: 1 })),
    ];
    for (const start of wrong) expect(start).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
    expect(vm.workloads()).toEqual([]);
  });
});
