import { Chance } from './chance.ts';
import type { Action, Scenario, TimelineEntry } from './scenario.ts';

/** Longer than any of them, three in a row included. */
const outageMsMax = 120_000;
const lastsMsMax = 25_000;

/**
 * The scenario with one to three outages in it, each of which ends long before the policy gives up; and in half of them nothing else goes wrong, so
 * that there is no excuse.
 */
export function withOutages(seed: number, scenario: Scenario): Scenario {
  const chance = new Chance(2 ** 40 + seed);
  const { policy, timeline } = scenario;
  const outages = Array.from({ length: chance.integer(1, 3) }, () => drawOutage(chance));
  return {
    ...scenario,
    policy: { ...policy, outageMsMax },
    timeline: [...(chance.of(0.5) ? timeline : []), ...outages.flat()],
  };
}

function drawOutage(chance: Chance): readonly TimelineEntry[] {
  const phase = chance.weighted([
    ['copyDisks', 3],
    ['copyMemory', 3],
    ['stun', 2],
    ['verify', 2],
    ['handover', 2],
    ['release', 1],
  ] as const);
  const end = 'source';
  const afterMs = chance.of(0.3) ? 0 : chance.delay(chance.one([20, 2000]));
  const path = '*';
  const way = chance.of(0.5) ? {} : { from: chance.one(['source', 'destination'] as const) };
  const [begins, ends] = chance.one<readonly [Action, Action?]>([
    [{ cut: path }, { mend: path }],
    [
      { darken: path, ...way },
      { lighten: path, ...way },
    ],
    [{ reset: path }],
    [{ resetAfterBytes: chance.integer(0, 300_000), path, ...way }],
  ]);
  const lastsMs = chance.delay(chance.one([300, 6000, lastsMsMax]));
  const later = { end, phase, afterMs: afterMs + lastsMs } as const;
  return [
    { at: { end, phase, afterMs }, do: begins },
    ...(ends === undefined ? [] : [{ at: later, do: ends }]),
  ];
}
