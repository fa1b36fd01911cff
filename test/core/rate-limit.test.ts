// Goal: a limit of the rate, and the limit of the downtime, both hold. Method: a guest that keeps writing, over a link that is a hundred
// times as fast as the limit, in virtual time.
import { expect, test } from 'vitest';
import { createMemoryVm, memoryDirtier } from '../../src/backends/memory/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld } from '../support/worlds.ts';

test.each([
  [0.1, 1],
  [0.6, 4],
])('a guest that dirties %d MiB/s, of %d MiB', async (rate, hotMebibytes) => {
  for (let seed = 1; seed <= 4; seed++) {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'vm-1', memoryBytes: 32 << 20, disks: [], seed });
    vm.startWorkload(memoryDirtier({ bytesPerSecond: rate * 2 ** 20, hotBytes: hotMebibytes << 20 }));
    const rateBytesPerSecondMax = 1.25e6;
    const policy = { downtimeMsMax: 300, rateBytesPerSecondMax };
    const { source } = await createWorld({
      environment,
      vm,
      link: { rttMs: 40, rateMbit: 1000 },
      policy,
    }).run();
    expect(source.error).toBeUndefined();
    expect(source.downtimeMs).toBeLessThan(300 + 1.5 * 40);
    const seconds = (source.phases.copyMemory ?? 0) / 1000;
    expect(source.bytes.memory / seconds).toBeLessThan(1.1 * rateBytesPerSecondMax);
    vm.destroy();
  }
});
