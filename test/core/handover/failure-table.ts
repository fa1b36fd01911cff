/**
 * The table of docs/failure-model.md, computed: every point that one attempt can have reached when something
 * fails.
 */
import {
  claimsAt,
  type DestinationVerdict,
  type SourceVerdict,
  verdictForDestination,
  verdictForSource,
} from '../../../src/core/handover/ownership.ts';
import { explore, running } from './explore.ts';
import { transitions } from './model.ts';
import { claimsOf, crash, cutLink, startOf, type World } from './world.ts';

/** A point: its name in the table, and the steps that lead to it. */
export interface Point {
  readonly name: string;
  readonly steps: readonly string[];
}

const stunned = ['source stun'];
const readySent = [...stunned, 'destination ready'];
const readyArrived = [...readySent, 'source ready'];
const sealed = [...readyArrived, 'source seal'];
const given = [...sealed, 'source given: given'];
const goSent = [...given, 'source go'];
const goArrived = [...goSent, 'destination go'];
const owner = [...goArrived, 'destination owner'];
const started = [...owner, 'destination start'];
const doneSent = [...started, 'destination says'];
const doneArrived = [...doneSent, 'source answer'];
const givingUp = [...goSent, 'destination gives up'];
const declined = [...givingUp, 'destination declined'];
const declinedSent = [...declined, 'destination says'];
const declinedArrived = [...declinedSent, 'source answer', 'source reclaim'];
const reclaimed = [...declinedArrived, 'source reclaimed'];

/** In the order in which an attempt comes to them. */
export const points: readonly Point[] = [
  { name: 'before the stun', steps: [] },
  { name: 'stunned, before READY', steps: stunned },
  { name: 'READY sent, not arrived', steps: readySent },
  { name: 'READY arrived, before the seal', steps: readyArrived },
  { name: 'sealed, before the claim `given`', steps: sealed },
  {
    name: 'in the claim `given`, it does not stand',
    steps: [...sealed, 'source given rejected, does not stand'],
  },
  { name: 'in the claim `given`, it stands', steps: [...sealed, 'source given rejected, stands'] },
  { name: '`given` claimed, before GO', steps: given },
  { name: 'GO sent, not arrived', steps: goSent },
  { name: 'GO arrived, before the claim `owner`', steps: goArrived },
  {
    name: 'in the claim `owner`, it does not stand',
    steps: [...goArrived, 'destination owner rejected, does not stand'],
  },
  { name: 'in the claim `owner`, it stands', steps: [...goArrived, 'destination owner rejected, stands'] },
  { name: '`owner` claimed, before the start', steps: owner },
  { name: 'started, before DONE', steps: started },
  { name: 'DONE sent, not arrived', steps: doneSent },
  { name: 'DONE arrived, before the release', steps: doneArrived },
  { name: 'released', steps: [...doneArrived, 'source release'] },
  {
    name: 'destination failed before READY, nothing claimed',
    steps: [...stunned, 'destination gives up'],
  },
  {
    name: 'destination failed before READY, `declined` claimed',
    steps: [...stunned, 'destination gives up', 'destination declined'],
  },
  { name: 'destination failed or gave up after `given`, before the claim `declined`', steps: givingUp },
  {
    name: 'in the claim `declined`, it does not stand',
    steps: [...givingUp, 'destination declined rejected, does not stand'],
  },
  {
    name: 'in the claim `declined`, it stands',
    steps: [...givingUp, 'destination declined rejected, stands'],
  },
  { name: '`declined` claimed, before DECLINED', steps: declined },
  { name: 'DECLINED sent, not arrived', steps: declinedSent },
  { name: 'DECLINED arrived, before the claim `reclaimed`', steps: declinedArrived },
  {
    name: 'in the claim `reclaimed`, it does not stand',
    steps: [...declinedArrived, 'source reclaimed rejected, does not stand'],
  },
  {
    name: 'in the claim `reclaimed`, it stands',
    steps: [...declinedArrived, 'source reclaimed rejected, stands'],
  },
  { name: '`reclaimed` claimed, before the resume', steps: reclaimed },
  { name: 'resumed', steps: [...reclaimed, 'source resume'] },
];

export const header = [
  'Point reached',
  "Source's claims",
  "Destination's claim",
  'Source, restarted',
  'Source, restarted, shared register',
  'Destination, restarted',
  'Guest until they hear of each other',
  'Owner if the source or the link fails here',
  'Owner if the destination fails here',
];

const sourceWords: Readonly<Record<SourceVerdict, string>> = {
  run: 'runs it',
  'reclaim-then-run': 'reclaims, runs it',
  released: 'releases it',
  ask: 'asks',
};

const destinationWords: Readonly<Record<DestinationVerdict, string>> = {
  start: 'starts it',
  never: 'discards it',
  decline: 'declines, discards it',
};

/** One row of the table for a point, cell by cell. */
export function rowOf(point: Point): string[] {
  const world = reach(point, false);
  const [seenBySource, seenByDestination] = [claimsOf(world, 'source'), claimsOf(world, 'destination')];
  const seenByBoth = claimsOf(reach(point, true), 'source');
  const source = verdictForSource(seenBySource, world.epoch);
  const destination = verdictForDestination(seenByDestination, world.epoch);
  const { given: gave, reclaimed: back } = claimsAt(seenBySource, world.epoch);
  return [
    point.name,
    [gave ? '`given`' : '', back ? '`reclaimed`' : ''].filter((word) => word !== '').join(', ') || 'none',
    seenByDestination[0] === undefined ? 'none' : `\`${seenByDestination[0].value}\``,
    sourceWords[source],
    sourceWords[verdictForSource(seenByBoth, world.epoch)],
    destinationWords[destination],
    source === 'run' ? 'runs at the source' : destination === 'start' ? 'runs at the destination' : 'paused',
    ownerAfter(point, [[], ['source']]),
    ownerAfter(point, [['destination'], ['source', 'destination']]),
  ];
}

/** The world at a point. */
export function reach(point: Point, shared: boolean): World {
  let world = startOf({
    shared,
    named: true,
    late: false,
    epoch: 1,
    sourceHost: 'A',
    registers: { A: [], B: [] },
  });
  for (const step of point.steps) {
    const taken = transitions(world).find((transition) => transition.label === step);
    if (taken === undefined) throw new Error(`${point.name}: cannot do '${step}'`);
    world = taken.to;
  }
  return world;
}

/**
 * Who runs the guest in the end when, at this point, the session's connections are lost and the given ends
 * crash (each of several cases), in whatever order both then restart, recover and ask, with registers of
 * their own or a shared one.
 */
function ownerAfter(point: Point, cases: readonly (readonly ('source' | 'destination')[])[]): string {
  const owners = new Set<string>();
  for (const shared of [false, true]) {
    for (const crashed of cases) {
      const cut = cutLink(reach(point, shared));
      const failed = crashed.reduce((world, end) => crash(world, end), cut);
      for (const end of explore({ ...failed, healed: true }).ends.values())
        owners.add(running(end).join(' and '));
    }
  }
  return [...owners].join(' or ');
}
