/**
 * Goal: what a completed migration could not let go of at the source is in its report, for somebody has to.
 * Method: a hypervisor that fails at each step of the release.
 */
import { describe, expect, it } from 'vitest';
import { MigrationError, type SourceVm } from '../../src/index.ts';
import { createWorld, withChanges } from '../support/worlds.ts';
import { runWithin } from './support/settled-within.ts';

const fails = () => Promise.reject(new MigrationError('hypervisor', 'no answer from the monitor'));

const steps: Readonly<Record<string, (vm: SourceVm) => Partial<SourceVm>>> = {
  'its VM': () => ({ release: fails }),
  "its memory's tracking": (vm) => ({ memory: withChanges(vm.memory, { stop: fails }) }),
  'its taps': (vm) => ({
    disks: vm.disks.map((disk) =>
      withChanges(disk, {
        tap: async (handler, options) => withChanges(await disk.tap(handler, options), { remove: fails }),
      }),
    ),
  }),
};

describe('a migration that completes', () => {
  for (const [name, make] of Object.entries(steps)) {
    it(`says so when the source cannot let go of ${name}`, async () => {
      const w = createWorld({ idle: true, sourceVm: (vm) => withChanges(vm, make(vm)) });
      const { source, destination } = await runWithin(w, 60_000);
      expect(source).toMatchObject({
        outcome: 'completed',
        owner: 'destination',
        error: { code: 'hypervisor', phase: 'release', owner: 'destination', guest: 'running' },
      });
      expect(source.error?.message).toContain('no answer from the monitor');
      expect(destination).toMatchObject({ outcome: 'completed', owner: 'destination' });
      expect(destination.error).toBeUndefined();
      expect(w.backend.vm?.state).toBe('running');
      w.backend.vm?.destroy();
      w.vm.destroy();
    });
  }
});
