/**
 * Goal: a switchover that fails is followed by another one whatever kind of error it failed with, whatever the link did meanwhile, and nothing that
 * hangs keeps a migration from its end. Method: the real engine at both ends in virtual time, with plug points that fail or hang once.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { createMemoryVm, memoryDirtier } from '../../src/backends/memory/index.ts';
import { type DestinationVm, MigrationError, type SourceVm } from '../../src/index.ts';
import { delay } from '../../src/util/promises.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte, type World, type WorldOptions, withChanges } from '../support/worlds.ts';

const worlds: World[] = [];
afterEach(() => {
  for (const { vm, backend } of worlds.splice(0)) {
    vm.destroy();
    backend.vm?.destroy();
  }
});

function world(options: WorldOptions): World {
  const made = createWorld(options);
  worlds.push(made);
  return made;
}

describe('an error that has no code', () => {
  const plain = () => Promise.reject(new Error('as the test wants it'));
  /** Fails the first time. */
  function once<T>(call: () => Promise<T>): () => Promise<T> {
    let failed = false;
    return () => {
      if (failed) return call();
      failed = true;
      return plain() as Promise<T>;
    };
  }
  const faults: Readonly<Record<string, WorldOptions>> = {
    'stun()': { sourceVm: (vm) => withChanges<SourceVm>(vm, { stun: once(() => vm.stun()) }) },
    'seal()': { sourceVm: (vm) => withChanges<SourceVm>(vm, { seal: once(() => vm.seal()) }) },
    'loadDeviceState()': {
      destinationVm: (vm) => {
        let failed = false;
        return withChanges<DestinationVm>(vm, {
          loadDeviceState: (state, options) => {
            if (failed) return vm.loadDeviceState(state, options);
            failed = true;
            return plain() as Promise<never>;
          },
        });
      },
    },
  };
  for (const [name, options] of Object.entries(faults)) {
    it(`of ${name} ends a switchover, and not the migration`, async () => {
      const { source, destination } = await world(options).run();
      expect(source.error).toBeUndefined();
      expect(source).toMatchObject({ outcome: 'completed', switchoverAttempts: 2 });
      expect(destination.outcome).toBe('completed');
    });
  }
});

it('a prepared VM that does not go back to taking content ends the migration, and is not waited for', async () => {
  const w = world({
    destinationVm: (vm) =>
      withChanges<DestinationVm>(vm, {
        loadDeviceState: () => Promise.reject(new MigrationError('device-state', 'not today')),
        refill: () => new Promise<void>(() => {}),
      }),
  });
  const { source, destination } = await w.run();
  expect(source).toMatchObject({ outcome: 'failed', owner: 'source', error: { guest: 'running' } });
  expect(destination).toMatchObject({ outcome: 'failed', error: { code: 'timeout' } });
  expect(source.totalMs).toBeLessThan(60_000);
});

it('a link that is gone while a throttled guest is stunned does not end the migration', async () => {
  const environment = createVirtualEnvironment();
  const vm = createMemoryVm({
    environment,
    vmId: 'vm-1',
    memoryBytes: 8 * mebibyte,
    disks: [{ id: 'disk0', sizeBytes: mebibyte }],
    seed: 1,
  });
  vm.startWorkload(memoryDirtier({ bytesPerSecond: 30 * mebibyte, hotBytes: 6 * mebibyte }));
  let throttle = 0;
  let throttleAtStun: number | undefined;
  let cut = () => {};
  const w = world({
    environment,
    vm,
    link: { rttMs: 4, rateMbit: 150 },
    policy: { downtimeMsMax: 200, throttleMax: 0.9, outageMsMax: 20_000 },
    sourceVm: (source) =>
      withChanges<SourceVm>(source, {
        setThrottle: async (fraction) => {
          await source.setThrottle(fraction);
          throttle = fraction;
        },
        stun: async (options) => {
          await source.stun(options);
          if (throttleAtStun !== undefined) return;
          throttleAtStun = throttle;
          cut();
          await delay(environment, 20);
        },
      }),
  });
  cut = () => w.link.cut();
  const { source } = await w.run();
  expect(throttleAtStun).toBeGreaterThan(0);
  expect(source.error).toBeUndefined();
  expect(source.outages).toHaveLength(1);
});
