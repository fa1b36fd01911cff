/**
 * Goal: a destination that waits in an attempt of which nothing was claimed never takes the claims of a later one for its own, also where all share a register. Method: the link is cut with READY on
 * its way, the source gives up and moves its VM to another destination, and the first one is left to itself, or recovered.
 */
import { afterEach, expect, it } from 'vitest';
import {
  type DestinationVm,
  MigrationError,
  memoryRegister,
  recover,
  type Transport,
} from '../../../src/index.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import { busyVm, createWorld, type World, withChanges } from '../../support/worlds.ts';

const worlds: World[] = [];
afterEach(() => {
  for (const { vm, backend } of worlds.splice(0)) {
    vm.destroy();
    backend.vm?.destroy();
  }
});

it('declines, and starts nothing', async () => {
  const environment = createVirtualEnvironment();
  const vm = busyVm(environment);
  const register = memoryRegister();
  const common = { environment, vm, registers: { source: register, destination: register } };
  let gone = false;
  const givesUp = new AbortController();
  const first: World = createWorld({
    ...common,
    link: { rttMs: 20 },
    transport: (transport) =>
      withChanges<Transport>(transport, {
        open: (call) =>
          gone ? Promise.reject(new MigrationError('connect-failed', 'no way')) : transport.open(call),
      }),
    policy: { outageMsMax: 60_000 },
    destinationVm: (prepared) =>
      withChanges<DestinationVm>(prepared, {
        loadDeviceState: async (state, call) => {
          await prepared.loadDeviceState(state, call);
          environment.setTimer(0.5, () => {
            gone = true;
            first.link.cut();
            givesUp.abort();
          });
        },
      }),
  });
  const waiting = first.destination.run();
  const given = await environment.run(first.source.run({ signal: givesUp.signal }));
  expect(given).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'aborted' } });
  expect(await register.read('vm-1')).toEqual([]);

  const second = createWorld(common);
  worlds.push(first, second);
  const { source } = await second.run();
  expect(source).toMatchObject({ outcome: 'completed', owner: 'destination' });

  const left = await environment.run(waiting);
  expect(left).toMatchObject({ outcome: 'failed', owner: 'source' });
  expect(first.backend.vm).toBeUndefined();
  let started = 0;
  const prepared = { start: async () => void started++, discard: async () => {} };
  const { epoch } = left;
  // The number of the later one is larger, here: so this one is over.
  await expect(
    recover({ role: 'destination', vmId: 'vm-1', register, epoch, vm: prepared }),
  ).rejects.toMatchObject({ code: 'invalid-argument' });
  expect(started).toBe(0);
  expect(second.backend.vm?.state).toBe('running');
});
