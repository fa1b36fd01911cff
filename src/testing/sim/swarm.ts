import { drawScenario } from './draw.ts';
import { withOutages } from './draw-outages.ts';
import { withStorage } from './draw-storage.ts';
import { withSwitchover } from './draw-switchover.ts';
import type { RuleName } from './oracle.ts';
import type { Scenario } from './scenario.ts';
import { shrink } from './shrink.ts';
import { type SimulationResult, simulate } from './simulate.ts';

/** What a seed came to. */
export interface SeedResult {
  readonly seed: number;
  readonly scenario: Scenario;
  readonly result: SimulationResult;
}

/** What is to be in each scenario that is drawn, and whether to keep every event. */
export interface SeedOptions {
  readonly log?: boolean;
  /** The link is gone for a while. */
  readonly outages?: boolean;
  /** Disks of every shape, and what goes wrong with them. */
  readonly storage?: boolean;
  /** Switchovers of every kind, hypervisors that cheat, and hooks. */
  readonly switchover?: boolean;
}

/** Draws a seed's scenario, and runs it. */
export async function runSeed(
  seed: number,
  { log = false, outages = false, storage = false, switchover = false }: SeedOptions = {},
): Promise<SeedResult> {
  const drawn = drawScenario(seed);
  const stored = storage ? withStorage(seed, drawn) : drawn;
  const switched = switchover ? withSwitchover(seed, stored) : stored;
  const scenario = outages ? withOutages(seed, switched) : switched;
  return { seed, scenario, result: await simulate({ seed, scenario, log }) };
}

/** As small a scenario as can be found in which the seed breaks the same rule. */
export function shrinkSeed({ seed, scenario, result }: SeedResult): Promise<Scenario> {
  const rule = result.violations[0]?.rule;
  return rule === undefined ? Promise.resolve(scenario) : shrink(scenario, breaks(seed, rule));
}

/** Whether a scenario breaks the rule; one that cannot be run does not. */
function breaks(seed: number, rule: RuleName): (scenario: Scenario) => Promise<boolean> {
  return async (scenario) => {
    try {
      const { violations } = await simulate({ seed, scenario });
      return violations.some((violation) => violation.rule === rule);
    } catch {
      return false;
    }
  };
}

/**
 * How a run ended, in a word: `completed`, `copied`, `rehearsed`, `refused` (the source did not begin), `failed` (the source said so), `undecided` (an end said so, and learned it later), `recovered`
 * (an end died, and learned from its register or by asking who owns the VM), or `died` (an end died, and there was nothing to learn).
 */
export function outcomeOf({ reports, refusal, recoveries }: SimulationResult): string {
  const { source, destination } = reports;
  if (refusal !== undefined) return 'refused';
  if (source?.outcome === 'undecided' || destination?.outcome === 'undecided') return 'undecided';
  if (source !== undefined && destination !== undefined) return source.outcome;
  return recoveries.some(({ report }) => report !== undefined && report.action !== 'none')
    ? 'recovered'
    : 'died';
}
