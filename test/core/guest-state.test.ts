/**
 * Goal: the guest arrives in the state in which it was stunned, not in which it was when the migration began.
 * Method: operators that run the guest while it is copied.
 */
import { expect, it } from 'vitest';
import { createMemoryVm } from '../../src/backends/memory/index.ts';
import type { Phase } from '../../src/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte } from '../support/worlds.ts';

for (const phase of ['connect', 'prepare', 'copyDisks', 'copyMemory'] satisfies Phase[]) {
  it(`a guest that was paused, and is run by its operator in ${phase}, runs at the destination`, async () => {
    const environment = createVirtualEnvironment();
    const vm = createMemoryVm({ environment, vmId: 'paused', memoryBytes: mebibyte, paused: true });
    const w = createWorld({ environment, vm });
    w.source.on('phase', (entered) => {
      if (entered === phase) vm.run();
    });
    const { source } = await w.run();
    expect(source.outcome).toBe('completed');
    expect(w.backend.vm?.state).toBe('running');
    w.backend.vm?.destroy();
  });
}
