// Goal: a simulated VM moves through the real engine, and what arrives is told apart, write by write.
// Method: whole migrations in virtual time; both VMs are compared by generation before the destination's
// guest runs.
import { expect, test } from 'vitest';
import { idle, oltp, simulatedDirtier, simulatedWriter } from '../../src/testing/sim/workloads.ts';
import { createVmWorld, mebibyte } from './vm-world.ts';

const busy = [
  oltp({ disk: 'disk0', iops: 800, burst: 4, hotBytes: 8 * mebibyte }),
  simulatedWriter({ disk: 'disk1', bytesPerSecond: 2 * mebibyte }),
  simulatedDirtier({
    bytesPerSecond: 8 * mebibyte,
    hotBytes: 2 * mebibyte,
    hotFraction: 0.9,
    coldBytes: 10 * mebibyte,
  }),
  idle(),
];

test('a busy VM arrives equal, and its guest goes on where it was', async () => {
  const world = createVmWorld({ vm: { workloads: busy, saveDirtyBytes: 300_000 } });
  await world.environment.run(2000);
  world.vm.guest.mark('during');
  const { source, destination } = await world.migrate();
  expect([source.error, destination.error]).toEqual([undefined, undefined]);
  expect(world.comparison()).toMatchObject({ equal: true, summary: '' });
  expect(source.guestWrites.mirrored).toBeGreaterThan(0);
  const arrived = world.backend.vm;
  expect(arrived?.state).toBe('running');
  expect(world.vm.state).toBe('released');
  expect([...world.vm.violations, ...(arrived?.violations ?? [])]).toEqual([]);
  expect(world.vm.tappedDisks).toEqual([]);

  const written = arrived?.guest.generation ?? 0;
  await world.environment.run(world.environment.now() + 1000);
  expect(arrived?.guest.generation).toBeGreaterThan(written + 100);
  const [before, during] = arrived?.guest.statistics() ?? [];
  expect(before?.label).toBe('start');
  expect(before?.longestPauseMs).toBe(0);
  expect(before?.workloads['oltp-0']?.completed).toBeGreaterThan(1500);
  expect(during?.label).toBe('during');
  expect(during?.longestPauseMs).toBeGreaterThan(0);
  expect(during?.longestPauseMs).toBeLessThanOrEqual(source.downtimeMs + 2);
  expect(during?.workloads['idle-3']?.longestGapMs).toBeGreaterThanOrEqual(during?.longestPauseMs ?? 0);
  expect(during?.workloads['oltp-0']?.failed).toBe(0);
});

test('events tell who runs when: never both hosts, and nothing of the engine stays behind', async () => {
  const world = createVmWorld({ vm: { workloads: busy } });
  await world.migrate();
  const running = new Set<string>();
  const taps = new Map<string, number>();
  const states: string[] = [];
  for (const event of world.events) {
    if (event.kind === 'tap') taps.set(event.disk, (taps.get(event.disk) ?? 0) + (event.set ? 1 : -1));
    if (event.kind === 'started') expect([...running]).toEqual([]);
    if (event.kind !== 'state') continue;
    states.push(`${event.host} ${event.state}`);
    if (event.state === 'running') running.add(event.host);
    else running.delete(event.host);
    expect(running.size).toBeLessThanOrEqual(1);
  }
  expect(states).toEqual([
    'source running',
    'source stunning',
    'source stunned',
    // The source seals when the destination is ready.
    'destination loaded',
    'source sealed',
    'destination running',
    'source released',
  ]);
  expect([...taps]).toEqual([
    ['disk0', 0],
    ['disk1', 0],
  ]);
});

test('the same seed gives the same migration', async () => {
  const once = async () => {
    const world = createVmWorld({ vm: { workloads: busy } });
    const { source } = await world.migrate();
    return [source.totalMs, source.downtimeMs, source.bytes, world.backend.vm?.guest.statistics()];
  };
  expect(await once()).toEqual(await once());
});
