import type { MigrationPolicy } from '../../interfaces/migration.ts';
import { Chance } from './chance.ts';
import { drawHiccup } from './draw-timeline.ts';
import type { ScenarioHook, ScenarioHooks } from './hooks.ts';
import type { Scenario, ScenarioHosts, TimelineEntry } from './scenario.ts';
import type { VmFault } from './vm-faults.ts';

/**
 * The scenario with a switchover of every kind: handed over in one flight, audited, forced or given up when its time is over, with hooks around the start. Hypervisors cheat (a
 * page is never offered, a write never tapped), flushes are slow, and states do not load. In a third nothing goes wrong at all, so that only the policy
 * is an excuse; in a fifth the scenario's own timeline happens too.
 */
export function withSwitchover(seed: number, scenario: Scenario): Scenario {
  const chance = new Chance(2 ** 42 + seed);
  const kind = chance.weighted([
    ['calm', 5],
    ['cheats', 4],
    ['faults', 3],
    ['all', 3],
  ] as const);
  const cheats = kind === 'cheats' || (kind === 'all' && chance.of(0.5)) ? drawCheats(chance) : [];
  const faults = kind === 'faults' || kind === 'all' ? drawFaults(chance) : [];
  return {
    ...scenario,
    hosts: drawHosts(chance, scenario.hosts ?? {}),
    policy: drawPolicy(chance, scenario.policy),
    rehearse: chance.of(0.05),
    timeline: [...cheats, ...faults, ...(kind === 'all' ? scenario.timeline : [])],
  };
}

function drawPolicy(chance: Chance, policy: MigrationPolicy): MigrationPolicy {
  return {
    ...policy,
    handover: chance.of(0.5) ? 'one-flight' : 'confirmed',
    audit: chance.weighted([
      ['off', 2],
      ['sample', 3],
      ['full', 4],
    ] as const),
    downtimeMsMax: chance.one([100, 300, 1000, 3000]),
    stunMsMax: chance.one([1000, 10_000, 60_000]),
    decideMsMax: chance.one([300, 1000, 3000, 10_000]),
    roundsMax: chance.one([5, 15, 30]),
    ...(chance.of(0.3) && {
      timeoutMs: chance.one([1000, 1000, 3000, 20_000]),
      onTimeout: chance.one(['cancel', 'force'] as const),
    }),
  };
}

function drawHosts(chance: Chance, hosts: ScenarioHosts): ScenarioHosts {
  const flushMs = chance.one([undefined, undefined, 20, 100, 500, 2000]);
  const hooks = drawHooks(chance);
  return {
    ...hosts,
    ...(flushMs !== undefined && { disk: { ...hosts.disk, flushMs } }),
    ...(hooks && { hooks }),
    loadsOnce: chance.of(0.2),
  };
}

function drawHooks(chance: Chance): ScenarioHooks | undefined {
  if (chance.of(0.4)) return undefined;
  const beforeStart = drawHook(chance);
  const afterStart = drawHook(chance);
  return {
    ...(beforeStart && { beforeStart }),
    ...(afterStart && { afterStart }),
    msMax: chance.one([150, 1500]),
  };
}

/** Half of them do what they are there for, sooner or later. */
function drawHook(chance: Chance): ScenarioHook | undefined {
  if (chance.of(0.25)) return undefined;
  const does = chance.weighted([
    ['end', 5],
    ['throw', 1],
    ['reject', 1],
    ['hang', 1],
  ] as const);
  return { does, ms: chance.one([0, 0.5, 20, 140, 400, 4000]) };
}

/** What the hypervisor does behind everybody's back, mostly while something is still to be sent. */
function drawCheats(chance: Chance): readonly TimelineEntry[] {
  return Array.from({ length: chance.integer(1, 2) }, () => {
    const point = chance.one(['tap-write', 'memory-batch'] as const);
    const fault: VmFault = {
      point,
      effect: 'drop',
      times: chance.one([1, 1, 3, 20]),
      skip: chance.one([0, 0, 3]),
    };
    const phase = chance.one(['copyDisks', 'copyMemory', 'copyMemory', 'stun'] as const);
    return {
      at: chance.of(0.2) ? { ms: 0 } : { end: 'source' as const, phase, afterMs: chance.delay(300) },
      do: { vm: 'source' as const, fault },
    };
  });
}

/** States that do not load, or late; flushes that fail, or are late; claims of which nobody knows whether they stand; and what else makes a switchover fail. */
function drawFaults(chance: Chance): readonly TimelineEntry[] {
  return Array.from({ length: chance.integer(1, 2) }, () => drawFault(chance)).flat();
}

function drawFault(chance: Chance): readonly TimelineEntry[] {
  const slow = { delayMs: chance.one([50, 700, 6000, 15_000]) };
  const fails = (probability: number) => (chance.of(probability) ? { effect: 'fail' as const } : slow);
  const times = chance.one([1, 1, 2, 5]);
  const at = { ms: 0 };
  switch (chance.one(['load', 'flush', 'start', 'seal', 'claim', 'hiccup'] as const)) {
    case 'load':
      return [{ at, do: { vm: 'destination', fault: { point: 'load', times, ...fails(0.6) } } }];
    case 'flush': {
      const phase = chance.one(['copyMemory', 'stun', 'verify'] as const);
      const fault: VmFault = { point: 'disk-flush', times, ...fails(0.3) };
      return [{ at: { end: 'source', phase }, do: { vm: 'destination', fault } }];
    }
    case 'start':
      return [{ at, do: { vm: 'destination', fault: { point: 'start', ...fails(0.5) } } }];
    case 'seal': {
      // One that takes longer than it is waited for has left the contract by itself.
      const fault: VmFault = { point: 'seal', ...(chance.of(0.5) ? { effect: 'fail' } : { delayMs: 700 }) };
      return [{ at, do: { vm: 'source', fault } }];
    }
    case 'claim': {
      const [register, value] = chance.one([
        ['source', 'given'],
        ['destination', 'owner'],
        ['destination', 'declined'],
      ] as const);
      const does = chance.one(['fail', 'fail-afterwards', 'delay', 'hang'] as const);
      const ms = does === 'delay' ? { ms: chance.one([100, 1500, 5000]) } : {};
      return [{ at, do: { register, on: 'claim', value, does, ...ms } }];
    }
    case 'hiccup':
      return drawHiccup(chance);
  }
}
