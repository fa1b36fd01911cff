import type { MigrationPolicy } from '../../../src/index.ts';
import type { Scenario, TimelineEntry } from '../../../src/testing/sim/scenario.ts';
import { simulatedDirtier, simulatedWriter } from '../../../src/testing/sim/workloads.ts';
import { mebibyte } from '../../support/worlds.ts';

/** A small busy guest, nobody patient, and a link that is cut at that moment, and mended so long after. */
export function cutLink(at: TimelineEntry['at'], forMs: number, policy: MigrationPolicy = {}): Scenario {
  return {
    vm: {
      memory: { sizeBytes: 4 * mebibyte, usedFraction: 1 },
      disks: [{ id: 'disk0', sizeBytes: 4 * mebibyte, allocatedFraction: 1 }],
      workloads: [
        simulatedWriter({ disk: 'disk0', bytesPerSecond: mebibyte / 2, ioBytes: 4096, queueDepth: 1 }),
        simulatedDirtier({ bytesPerSecond: mebibyte / 2, hotBytes: mebibyte }),
      ],
    },
    paths: [{ name: 'wan', rateMbit: 400, delayMs: 10 }],
    policy: { stunMsMax: 1000, decideMsMax: 2000, silenceMsMax: 1000, ...policy },
    registers: 'own',
    timeline: [
      { at, do: { cut: 'wan' } },
      { at: { ...at, afterMs: forMs }, do: { mend: 'wan' } },
    ],
  };
}
