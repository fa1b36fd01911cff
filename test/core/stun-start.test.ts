/** Goal: a downtime begins when the guest stands still, and not with what a hypervisor does before. Method: migrations in virtual time of a VM that takes its time over a stun. */
import { expect, test } from 'vitest';
import type { SourceVm } from '../../src/index.ts';
import { delay } from '../../src/util/promises.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, withChanges } from '../support/worlds.ts';

const takesMs = 500;

async function stunned(tells: boolean) {
  const environment = createVirtualEnvironment();
  const world = createWorld({
    environment,
    sourceVm: (vm) =>
      withChanges<SourceVm>(vm, {
        stun: async (options = {}) => {
          await delay(environment, takesMs);
          if (tells) options.onStopping?.();
          await vm.stun(options);
        },
      }),
  });
  const { source } = await world.run();
  expect(source.outcome).toBe('completed');
  const { uncertaintyMs: _, ...parts } = source.downtime ?? { uncertaintyMs: 0 };
  const sum = Object.values(parts).reduce((total, ms) => total + ms, 0);
  expect(sum).toBeCloseTo(source.downtimeMs, 6);
  return source;
}

test('a VM that says when it stops stands still from then on', async () => {
  const { downtimeMs, lost } = await stunned(true);
  expect(downtimeMs).toBeLessThan(takesMs);
  expect(lost.pauseMs).toBeLessThan(takesMs);
});

test('one that does not is taken to stand still from the call on', async () => {
  expect((await stunned(false)).downtimeMs).toBeGreaterThan(takesMs);
});
