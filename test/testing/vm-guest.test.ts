// Goal: a simulated guest works at the pace that it was told, notices what becomes of it, and its taps see
// what the contract says.
// Method: guests alone, in virtual time.
import { expect, test } from 'vitest';
import type { GuestWrite, TapHandler } from '../../src/index.ts';
import { createSimulatedDisk } from '../../src/testing/sim/disk.ts';
import { createSimulatedVm, type SimulatedVm, type SimulatedVmOptions } from '../../src/testing/sim/vm.ts';
import {
  idle,
  oltp,
  type SimulatedWorkload,
  simulatedDirtier,
  simulatedWriter,
} from '../../src/testing/sim/workloads.ts';
import { chunksLength } from '../../src/util/chunks.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../support/virtual-environment.ts';
import { createVmWorld, mebibyte } from './vm-world.ts';

interface Alone {
  readonly environment: VirtualEnvironment;
  readonly vm: SimulatedVm;
}

function alone(options: Partial<SimulatedVmOptions> = {}): Alone {
  const environment = createVirtualEnvironment();
  const vm = createSimulatedVm({
    environment,
    vmId: 'vm',
    memory: { sizeBytes: 64 * mebibyte },
    disks: [{ id: 'disk', sizeBytes: 16 * mebibyte }],
    ...options,
  });
  return { environment, vm };
}

async function inOneSecond(
  workload: SimulatedWorkload,
  throttle = 0,
  options: Partial<SimulatedVmOptions> = {},
) {
  const { environment, vm } = alone(options);
  await environment.run(vm.attachSource().setThrottle(throttle));
  vm.guest.startWorkload(workload);
  await environment.run(1000);
  const [statistics] = Object.values(vm.guest.statistics()[0]?.workloads ?? {});
  if (statistics === undefined) throw new Error('the workload did nothing');
  return { vm, statistics };
}

test('workloads keep their pace, and a throttle slows them', async () => {
  const database = oltp({ disk: 'disk', iops: 1000, burst: 10 });
  expect((await inOneSecond(database)).statistics.completed).toBe(1000);
  expect((await inOneSecond(database, 0.75)).statistics.completed).toBe(250);
  const writer = simulatedWriter({ disk: 'disk', bytesPerSecond: 8 * mebibyte });
  expect((await inOneSecond(writer)).statistics.bytes).toBe(8 * mebibyte);
  const dirtier = simulatedDirtier({ bytesPerSecond: 40 * 1000 * 4096, hotBytes: 8 * mebibyte });
  expect((await inOneSecond(dirtier)).statistics.bytes).toBe(40 * 1000 * 4096);
  expect((await inOneSecond(dirtier, 0.5)).statistics.bytes).toBe(20 * 1000 * 4096);
});

test('a dirtier stays in its hot and cold pages; a database in its hot part', async () => {
  const { environment, vm } = alone();
  for await (const batch of vm.attachSource().memory.round()) batch.release();
  expect(vm.dirtyBytes).toBe(0);
  const cold = { hotFraction: 0.9, coldBytes: 16 * mebibyte };
  vm.guest.startWorkload(simulatedDirtier({ bytesPerSecond: 4 * mebibyte, hotBytes: 4096, ...cold }));
  vm.guest.startWorkload(oltp({ disk: 'disk', readFraction: 0, iops: 500, hotBytes: 65_536 }));
  await environment.run(1000);
  // A tenth of 1024 touches, hardly any two of them of one page.
  expect(vm.dirtyBytes / 4096).toBeGreaterThan(70);
  expect(vm.dirtyBytes / 4096).toBeLessThan(140);
  const [ram] = vm.memory;
  expect(ram?.generations.get(0)).toBeGreaterThan(100);
  expect(ram?.generations.runEnd(4097, 16_384)).toBe(16_384);
  expect(vm.disks[0]?.allocatedBytes).toBe(65_536);
});

test('a slow disk shows in the latency, and the queue depth bounds what is under way', async () => {
  const disks = [{ id: 'disk', sizeBytes: 16 * mebibyte, latencyMs: 10 }];
  const { statistics } = await inOneSecond(oltp({ disk: 'disk', iops: 5000, queueDepth: 4 }), 0, { disks });
  expect(statistics.completed).toBeGreaterThan(350);
  expect(statistics.completed).toBeLessThanOrEqual(400);
  expect(statistics.latencyMs.median).toBeCloseTo(10, 6);
  expect(statistics.latencyMs.max).toBeCloseTo(10, 6);
});

test('windows tell before from during; a pause counts where it lasted', async () => {
  const { environment, vm } = alone({ workloads: [idle()] });
  await environment.run(500);
  vm.guest.mark('during');
  await vm.pause();
  await environment.run(800);
  vm.run();
  await environment.run(1000);
  vm.guest.mark('after');
  await environment.run(1500);
  const windows = vm.guest.statistics();
  expect(windows.map(({ label, fromMs, toMs }) => [label, fromMs, toMs])).toEqual([
    ['start', 0, 500],
    ['during', 500, 1000],
    ['after', 1000, 1500],
  ]);
  expect(windows.map(({ longestPauseMs }) => longestPauseMs)).toEqual([0, 300, 0]);
  const gaps = windows.map(({ workloads }) => workloads['idle-0']?.longestGapMs);
  expect(gaps).toEqual([10, 310, 10]);
});

test('a workload that does not suit the VM is refused', () => {
  const { vm } = alone();
  for (const workload of [
    oltp({ disk: 'none' }),
    oltp({ disk: 'disk', ioBytes: 1000 }),
    oltp({ disk: 'disk', iops: 0 }),
    oltp({ disk: 'disk', hotBytes: 4096 }),
    simulatedWriter({ disk: 'disk', bytesPerSecond: 1, ioBytes: 32 * mebibyte }),
    simulatedDirtier({ bytesPerSecond: 1, hotBytes: 65 * mebibyte }),
  ]) {
    expect(() => vm.guest.startWorkload(workload)).toThrow(
      expect.objectContaining({ code: 'invalid-argument' }),
    );
  }
});

test('the tap sees each write after the medium and before the guest; overlapping ones wait', async () => {
  const { environment, vm } = alone({
    disks: [{ id: 'disk', sizeBytes: 16 * mebibyte, latencyMs: 10 }],
  });
  const [medium] = vm.disks;
  const log: string[] = [];
  let letGo: (() => void) | undefined;
  const handler: TapHandler = {
    write: ({ offset, length, content }: GuestWrite) => {
      const bytes = content === 'zero' ? 'zero' : chunksLength(content);
      log.push(`${environment.now()} tap ${offset} ${length} ${bytes} ${medium?.space.generations.get(1)}`);
      return letGo === undefined ? new Promise((resolve) => (letGo = resolve)) : undefined;
    },
    invalidate: () => {},
    broken: () => {},
  };
  await vm.attachSource().disks[0]?.tap(handler);
  const told = (name: string) => () => void log.push(`${environment.now()} told ${name}`);
  void vm.guest.writeDisk('disk', 0, 8192).then(told('first'));
  void vm.guest.zeroDisk('disk', 4096, 8192).then(told('second'));
  void vm.guest.writeDisk('disk', 65_536, 4096).then(told('third'));
  await environment.run(50);
  letGo?.();
  await environment.run(60);
  expect(log).toEqual([
    '10 tap 0 8192 8192 2',
    '10 tap 65536 4096 4096 2',
    '10 told third',
    // Not on the medium before the first was seen: 10 ms more.
    '20 tap 4096 8192 zero 0',
    '20 told second',
    '50 told first',
  ]);
});

test('shared, left and read-only disks, and memory in regions, move as the policy says', async () => {
  const environment = createVirtualEnvironment();
  const shared = createSimulatedDisk(
    { id: 'shared', sizeBytes: mebibyte },
    { environment, vmId: 'elsewhere' },
  );
  const world = createVmWorld({
    environment,
    vm: {
      memory: [
        { name: 'low', sizeBytes: mebibyte, pageBytes: 4096 },
        { name: 'high', sizeBytes: 4 * mebibyte, pageBytes: 2 ** 20 },
      ],
      disks: [
        shared,
        { id: 'scratch', sizeBytes: mebibyte, allocatedFraction: 1 },
        { id: 'rom', sizeBytes: mebibyte + 520, blockBytes: 512, allocatedFraction: 1, readOnly: true },
      ],
      workloads: [
        oltp({ disk: 'shared', iops: 200 }),
        oltp({ disk: 'scratch', iops: 200 }),
        simulatedDirtier({ bytesPerSecond: mebibyte, hotBytes: 2 * mebibyte }),
      ],
    },
    backend: { sharedDisks: [shared] },
    compare: { exceptDisks: ['scratch'] },
  });
  const { source } = await world.migrate({ disks: { rom: 'copy', shared: 'shared', scratch: 'leave' } });
  expect(source.error).toBeUndefined();
  expect(world.comparison()).toMatchObject({ equal: true });
  const there = world.backend.vm;
  expect(there?.disks.map(({ id }) => id)).toEqual(['shared', 'rom']);
  expect(there?.disks[0]).toBe(shared);
  await environment.run(environment.now() + 500);
  const workloads = there?.guest.statistics()[0]?.workloads;
  // Its program there finds no disk any more.
  expect([workloads?.['oltp-0']?.failed, (workloads?.['oltp-1']?.failed ?? 0) > 50]).toEqual([0, true]);
});
