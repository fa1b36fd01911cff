import type { Scenario, TimelineEntry, Trigger } from './scenario.ts';

/** Simulations that are spent on one scenario. */
const triesMax = 300;

/**
 * The smallest scenario that can be found by leaving things out, one after the other, for as long as `breaks` holds: entries of the timeline
 * first, then delays, workloads, paths, disks, timings.
 */
export async function shrink(
  scenario: Scenario,
  breaks: (scenario: Scenario) => Promise<boolean>,
): Promise<Scenario> {
  let smallest = scenario;
  let tries = 0;
  for (;;) {
    let found = false;
    for (const smaller of smallerOnes(smallest)) {
      if (tries++ >= triesMax) return smallest;
      if (!(await breaks(smaller))) continue;
      smallest = smaller;
      found = true;
      break;
    }
    if (!found) return smallest;
  }
}

/** Everything that is a step smaller, the boldest steps first. */
function* smallerOnes(scenario: Scenario): Generator<Scenario> {
  const { timeline, vm, paths } = scenario;
  for (const index of timeline.keys()) yield { ...scenario, timeline: without(timeline, index) };
  for (const [index, entry] of timeline.entries()) {
    for (const simpler of simplerEntries(entry)) {
      yield { ...scenario, timeline: timeline.with(index, simpler) };
    }
  }
  for (const index of vm.workloads.keys()) {
    yield { ...scenario, vm: { ...vm, workloads: without(vm.workloads, index) } };
  }
  for (const index of vm.disks.keys()) {
    yield { ...scenario, vm: { ...vm, disks: without(vm.disks, index) } };
  }
  if (paths.length > 1) yield { ...scenario, paths: paths.slice(0, 1) };
  for (const [index, { name, rateMbit = 1000, delayMs = 1, ...more }] of paths.entries()) {
    if (Object.keys(more).length > 0) {
      yield { ...scenario, paths: paths.with(index, { name, rateMbit, delayMs }) };
    }
  }
  if (scenario.hosts !== undefined) {
    const { hosts: _, ...rest } = scenario;
    yield rest;
  }
  if (scenario.hosts?.hooks !== undefined) {
    const { hooks: _, ...hosts } = scenario.hosts;
    yield { ...scenario, hosts };
  }
  for (const setting of ['handover', 'audit', 'timeoutMs'] as const) {
    const { [setting]: set, ...policy } = scenario.policy;
    if (set !== undefined) yield { ...scenario, policy };
  }
  if (scenario.registers === 'shared') yield { ...scenario, registers: 'own' };
}

function* simplerEntries({ at, do: action }: TimelineEntry): Generator<TimelineEntry> {
  for (const simpler of simplerTriggers(at)) yield { at: simpler, do: action };
  if ('times' in action && (action.times ?? 1) > 1) yield { at, do: { ...action, times: 1 } };
  if ('vm' in action) {
    const { skip, times, delayMs, tornBytes, dirtyBytes, by, ...plain } = action.fault;
    const extra = [skip, times, delayMs, tornBytes, dirtyBytes, by].some((field) => field !== undefined);
    if (extra) yield { at, do: { ...action, fault: plain } };
  }
}

function* simplerTriggers(at: Trigger): Generator<Trigger> {
  if ('ms' in at) {
    if (at.ms > 10) yield { ms: Math.floor(at.ms / 10) * 10 };
    return;
  }
  const { afterMs = 0 } = at;
  if (afterMs === 0) return;
  yield { ...at, afterMs: 0 };
  if (afterMs > 10) yield { ...at, afterMs: Math.floor(afterMs / 10) * 10 };
}

function without<T>(items: readonly T[], index: number): readonly T[] {
  return items.filter((_, at) => at !== index);
}
