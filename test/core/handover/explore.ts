/** Walks every state that a model world can come to, in every order of what can happen. */

import * as ownership from '../../../src/core/handover/ownership.ts';
import { type Rules, rules, transitions } from './model.ts';
import { hostOf, keyOf, startOf, violations, type World } from './world.ts';

export interface Exploration {
  /** Distinct states. */
  states: number;
  /** What broke a promise, with the shortest way there among those walked first. */
  readonly broken: Map<string, readonly string[]>;
  /** What to stop at, once it is found. */
  readonly until: string | undefined;
  /** Where, once nothing fails any more, nothing is left to happen. */
  readonly ends: Map<string, World>;
}

/** Every state from `start` on. */
export function explore(start: World, using: Rules = rules, found: Exploration = exploration()): Exploration {
  const parents = new Map<string, { readonly from: string; readonly label: string } | undefined>();
  const way = (key: string): string[] => {
    const parent = parents.get(key);
    return parent === undefined ? [] : [...way(parent.from), parent.label];
  };
  const broken = (what: string, key: string) => {
    if (!found.broken.has(what)) found.broken.set(what, way(key));
  };
  const first = keyOf(start);
  parents.set(first, undefined);
  let frontier = [{ key: first, world: start }];
  while (frontier.length > 0 && !isOver(found)) {
    const next: typeof frontier = [];
    for (const { key, world } of frontier) {
      found.states += 1;
      for (const what of violations(world)) broken(what, key);
      try {
        const possible = transitions(world, using);
        if (world.healed && possible.length === 0) {
          found.ends.set(key, world);
          if (running(world).length === 0) broken('nobody runs in the end', key);
        }
        for (const { label, to } of possible) {
          const reached = keyOf(to);
          if (parents.has(reached)) continue;
          parents.set(reached, { from: key, label });
          next.push({ key: reached, world: to });
        }
      } catch (error) {
        broken(`thrown: ${String(error)}`, key);
      }
    }
    frontier = next;
  }
  return found;
}

/**
 * Whether, once nothing fails any more, the ends of an attempt can go round in circles and so never come to
 * an end.
 */
export function canLoop(start: World): boolean {
  const walked = new Map<string, 'on the way' | 'ends'>();
  const loops = (world: World): boolean => {
    const key = keyOf(world);
    const known = walked.get(key);
    if (known !== undefined) return world.healed && known === 'on the way';
    walked.set(key, 'on the way');
    const found = transitions(world).some(({ to }) => loops(to));
    walked.set(key, 'ends');
    return found;
  };
  return loops(start);
}

export function exploration(until?: string): Exploration {
  return { states: 0, broken: new Map(), until, ends: new Map() };
}

function isOver({ broken, until }: Exploration): boolean {
  return until !== undefined && broken.has(until);
}

/** The ends whose guest runs. */
export function running(world: World): ownership.End[] {
  const ends: ownership.End[] = [];
  if (world.source.guest === 'running') ends.push('source');
  if (world.destination.guest === 'running') ends.push('destination');
  return ends;
}

/**
 * One attempt after the other, `attempts` of them, each from wherever the VM then runs and from every state
 * in which the one before may have left the registers. Claims arrive late only in the first, to keep the walk
 * short.
 */
export function exploreAttempts(
  options: Pick<World, 'shared' | 'named'>,
  attempts: number,
  using: Rules = rules,
  until?: string,
): Exploration {
  const found = exploration(until);
  let starts = [startOf({ ...options, late: true, epoch: 1, sourceHost: 'A', registers: { A: [], B: [] } })];
  for (let attempt = 1; attempt <= attempts && !isOver(found); attempt += 1) {
    const ends = new Map<string, World>();
    for (const start of starts) {
      const reached = explore(start, using, { ...found, states: 0, ends: new Map() });
      found.states += reached.states;
      for (const [key, end] of reached.ends) found.ends.set(`${start.sourceHost}${start.epoch} ${key}`, end);
      for (const end of reached.ends.values()) {
        if (running(end).length !== 1) continue;
        const following = startAfter(end, using);
        ends.set(`${following.sourceHost}${keyOf(following)}`, following);
      }
    }
    starts = [...ends.values()];
  }
  return found;
}

/** The attempt that follows: from the end that runs the guest, numbered from both ends' registers. */
function startAfter(end: World, using: Rules): World {
  const { shared, named, registers } = end;
  const sourceHost = hostOf(end, running(end)[0] ?? 'source');
  const [a, b] = [ownership.highestEpoch(registers.A), ownership.highestEpoch(registers.B)];
  return startOf({ shared, named, late: false, sourceHost, epoch: using.nextEpoch(a, b), registers });
}
