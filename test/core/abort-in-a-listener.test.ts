/**
 * Goal: an application may abort from within any event, and gets a report, never an unhandled rejection,
 * which would end its process. Method: an abort in the listener of each round's event, by its verdict.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createMemoryVm, memoryDirtier } from '../../src/backends/memory/index.ts';
import type { RoundStatistics } from '../../src/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { createWorld, mebibyte } from '../support/worlds.ts';

const unhandled: unknown[] = [];
const note = (reason: unknown) => unhandled.push(reason);
beforeEach(() => {
  unhandled.length = 0;
  process.on('unhandledRejection', note);
});
afterEach(() => {
  process.off('unhandledRejection', note);
});

/** Node tells of unhandled rejections once its promises are drained. */
const drained = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('an abort in the listener of a round', () => {
  const decisions: readonly RoundStatistics['decision'][] = ['continue', 'throttle', 'switchover', 'fail'];
  for (const decision of decisions) {
    it(`whose verdict is ${decision} ends the migration, and nothing is left unhandled`, async () => {
      const environment = createVirtualEnvironment();
      const vm = createMemoryVm({
        environment,
        vmId: 'hot',
        memoryBytes: 2 * mebibyte,
        disks: [{ id: 'disk0', sizeBytes: mebibyte, allocatedFraction: 1 }],
      });
      const hot = decision !== 'switchover';
      if (hot) vm.startWorkload(memoryDirtier({ bytesPerSecond: 8 * mebibyte, hotBytes: 2 * mebibyte }));
      const w = createWorld({
        environment,
        vm,
        link: { rateMbit: 25 },
        policy: { downtimeMsMax: 100, ...(decision === 'fail' ? { roundsMax: 2, throttleMax: 0 } : {}) },
      });
      const stop = new AbortController();
      w.source.on('round', (round) => {
        if (round.decision === decision) stop.abort();
      });
      const { source } = await w.run({ source: stop.signal });
      await drained();
      expect(stop.signal.aborted).toBe(true);
      expect(source).toMatchObject({
        outcome: 'failed',
        owner: 'source',
        error: { code: 'aborted', guest: 'running' },
      });
      expect(unhandled).toEqual([]);
      vm.destroy();
    });
  }
});
