/**
 * How a control plane's own code is tested: the real engine in a simulated world, in virtual time. Three evenings that
 * nobody wants to have: a link that is cut while memory is copied, a destination that dies after READY, and a cancel in the last
 * second. Each takes some milliseconds, and the same seed gives the same evening again.
 */
import { oltp, type Scenario, simulate, simulatedDirtier, type TimelineEntry } from 'longhaul/testing';

const scenario = (timeline: readonly TimelineEntry[]): Scenario => ({
  vm: {
    memory: { sizeBytes: 16 << 20 },
    disks: [{ id: 'root', sizeBytes: 64 << 20, allocatedFraction: 0.2 }],
    workloads: [
      oltp({ disk: 'root', iops: 300 }),
      simulatedDirtier({ bytesPerSecond: 2 << 20, hotBytes: 1 << 20 }),
    ],
  },
  paths: [{ name: 'wan', rateMbit: 400, delayMs: 25 }],
  policy: { downtimeMsMax: 500 },
  registers: 'own',
  timeline,
});

const evenings: Readonly<Record<string, readonly TimelineEntry[]>> = {
  'a link that is cut during the memory copy': [
    { at: { end: 'source', phase: 'copyMemory', afterMs: 20 }, do: { cut: 'wan' } },
  ],
  'a destination that dies after READY': [
    { at: { end: 'source', phase: 'handover' }, do: { kill: 'destination', how: 'process' } },
    { at: { ms: 10_000 }, do: { restart: 'destination' } },
  ],
  'a cancel in the last second': [
    { at: { end: 'source', phase: 'stun', afterMs: 1 }, do: { abort: 'source' } },
  ],
};

for (const [name, timeline] of Object.entries(evenings)) {
  const { reports, recoveries, violations } = await simulate({ seed: 1, scenario: scenario(timeline) });
  // Here your own code would be asked: does it show what the report says, does it recover what it should?
  const { outcome, owner, error: reason } = reports.source ?? {};
  console.log(`${name}: ${outcome}, the ${owner} owns the VM, ${reason?.code}`);
  for (const { end, report, error } of recoveries) {
    console.log(`  the ${end} came back: ${report?.action ?? error?.code}`);
  }
  for (const { rule, message } of violations) console.log(`  BROKEN ${rule}: ${message}`);
}
