/**
 * Goal: a migration that can switch over does, and one that cannot says so; none goes on for ever. Method:
 * guests that outrun their link, on disk and in memory, in virtual time.
 */
import { afterEach, describe, expect, it } from 'vitest';
import {
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
} from '../../src/backends/memory/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte } from '../support/worlds.ts';
import { runWithin } from './support/settled-within.ts';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** A VM with a disk of more than the engine reads ahead, and a link that does not keep up with either. */
function slowLink(rateMbit: number) {
  const environment = createVirtualEnvironment();
  const disks = [{ id: 'disk0', sizeBytes: 12 * mebibyte, allocatedFraction: 1 }];
  const vm = createMemoryVm({ environment, vmId: 'v', memoryBytes: 4 * mebibyte, disks });
  vms.push(vm);
  return { environment, vm, link: { rttMs: 2, rateMbit } } as const;
}

/** Twice what the link carries. */
const floods = randomWriter({ disk: 'disk0', bytes: 65536, writesPerSecond: 80, hotBytes: 12 * mebibyte });

describe('a guest that outruns its link', () => {
  it('on disk is reported as not converging, and runs on', async () => {
    const { environment, vm, link } = slowLink(20);
    vm.startWorkload(floods);
    const w = createWorld({
      environment,
      vm,
      link,
      policy: { mirrorBufferBytesMax: mebibyte, roundsMax: 6 },
    });
    const { source, destination } = await runWithin(w, 60_000);
    expect(source).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      error: { code: 'not-converging', guest: 'running' },
    });
    expect(destination.outcome).toBe('failed');
    expect(source.guestWrites.setBack).toBeGreaterThan(0);
    vm.stopWorkloads();
    await environment.run(vm.guest.writeDisk('disk0', 100, new Uint8Array(5000).fill(7)));
    const again = createWorld({ vm, environment });
    expect((await again.run()).source.outcome).toBe('completed');
    expect(again.comparison()?.equal).toBe(true);
    again.backend.vm?.destroy();
  });

  it('on disk for a while is waited for', async () => {
    const { environment, vm, link } = slowLink(20);
    vm.startWorkload(floods);
    const w = createWorld({ environment, vm, link, policy: { mirrorBufferBytesMax: mebibyte } });
    environment.setTimer(8000, () => vm.stopWorkloads());
    const { source } = await runWithin(w, 120_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.guestWrites.setBack).toBeGreaterThan(0);
    expect(w.comparison()?.equal).toBe(true);
    w.backend.vm?.destroy();
  });

  it('in memory, within a few pages, is slowed until what is left fits, and not for longer', async () => {
    const { environment, vm } = slowLink(200);
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 50 * mebibyte, hotBytes: 4 * mebibyte }));
    const w = createWorld({
      environment,
      vm,
      link: { rttMs: 5, rateMbit: 200 },
      policy: { downtimeMsMax: 50 },
    });
    const { source } = await runWithin(w, 60_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.throttleMax).toBeGreaterThan(0.4);
    expect(source.rounds).toBeLessThan(60);
    expect(source.downtimeMs).toBeLessThanOrEqual(60);
    expect(w.comparison()?.equal).toBe(true);
    w.backend.vm?.destroy();
  });

  it('in memory switches over all the same where the downtime allows for what is left', async () => {
    const { environment, vm, link } = slowLink(10);
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 10 * mebibyte, hotBytes: 3 * mebibyte }));
    // A round of the hot pages takes more than a second.
    const policy = { connections: 1, downtimeMsMax: 5000, throttleMax: 0, roundsMax: 10 };
    const w = createWorld({ environment, vm, link, policy });
    const { source } = await runWithin(w, 120_000);
    expect(source.error?.message).toBeUndefined();
    expect(source.downtimeMs).toBeLessThanOrEqual(5000);
    expect(w.comparison()?.equal).toBe(true);
    w.backend.vm?.destroy();
  });
});
