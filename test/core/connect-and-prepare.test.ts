/** Goal: the destination prepares while the source's lanes are still dialled. Method: a migration in virtual time over a long link. */
import { expect, test } from 'vitest';
import type { HypervisorBackend } from '../../src/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, withChanges } from '../support/worlds.ts';

test('control, what it is asked first, and the lanes take five round trips together', async () => {
  const rttMs = 100;
  const environment = createVirtualEnvironment();
  const startMs = environment.now();
  let askedMs = Number.NaN;
  const world = createWorld({
    environment,
    idle: true,
    link: { rttMs },
    wrapBackend: (backend) =>
      withChanges<HypervisorBackend>(backend, {
        prepare: async (description, call) => {
          askedMs = environment.now() - startMs;
          return backend.prepare(description, call);
        },
      }),
  });
  const { source } = await world.run();
  expect(source.outcome).toBe('completed');
  expect(askedMs).toBeLessThan(3.6 * rttMs);
  const { connect = Number.NaN, prepare = Number.NaN } = source.phases;
  expect(connect).toBeLessThan(5.1 * rttMs);
  expect(prepare).toBeLessThan(0.1 * rttMs);
});
