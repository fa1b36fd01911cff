/**
 * A model of one attempt at moving a VM: both ends as step lists, two registers (or one), what is on its way
 * between them, and everything that can go wrong at each step. It decides nothing itself: what an end may do
 * comes from the rules that it is given, so that the enumeration tests the rules, and shows that broken rules
 * break it.
 */
import * as ownership from '../../../src/core/handover/ownership.ts';
import { MigrationError } from '../../../src/errors.ts';
import type { Claim } from '../../../src/interfaces/register.ts';
import {
  claimed,
  claimsOf,
  crash,
  hostOf,
  type SourceStep,
  send,
  take,
  type World,
  withDestination,
  withSource,
} from './world.ts';

/** The rules under test, and the order of the source's steps. */
export type Rules = Pick<
  typeof ownership,
  'nextEpoch' | 'verdictForSource' | 'verdictForDestination' | 'answerTo' | 'attemptToRecover'
> & { readonly sourceSteps: readonly SourceStep[] };

export const rules: Rules = {
  nextEpoch: ownership.nextEpoch,
  verdictForSource: ownership.verdictForSource,
  verdictForDestination: ownership.verdictForDestination,
  answerTo: ownership.answerTo,
  attemptToRecover: ownership.attemptToRecover,
  sourceSteps: ['stun', 'ready', 'seal', 'given', 'go', 'answer'],
};

/** A step that can be taken, and where it leads. */
export interface Transition {
  readonly label: string;
  readonly to: World;
}

/** Everything that can happen next. Throws what the rules throw. */
export function transitions(world: World, using: Rules = rules): Transition[] {
  return [
    ...sourceTransitions(world, using),
    ...destinationTransitions(world, using),
    ...pendingTransitions(world),
    ...(world.healed ? [] : failures(world)),
  ];
}

/**
 * A claim's call that fails: it stands, or does not, or may arrive later if the process dies; `rejected` is
 * where a living end goes.
 */
function failedClaim(
  world: World,
  end: ownership.End,
  claim: Claim,
  rejected: (world: World) => World,
): Transition[] {
  const host = hostOf(world, end);
  const [stands] = claimed(world, host, claim);
  const known = world.pending.some((late) => late.claim.value === claim.value);
  const late = known ? world : { ...world, pending: [...world.pending, { host, claim }] };
  const label = `${end} ${claim.value}`;
  return [
    { label: `${label} rejected, does not stand`, to: rejected(world) },
    { label: `${label} rejected, stands`, to: rejected(stands) },
    { label: `${label} crash, stands`, to: crash(stands, end) },
    ...(world.late ? [{ label: `${label} crash, under way`, to: crash(late, end) }] : []),
  ];
}

function sourceTransitions(world: World, using: Rules): Transition[] {
  const { source, flight } = world;
  const next = using.sourceSteps[using.sourceSteps.indexOf(source.at as SourceStep) + 1] ?? 'answer';
  const giveUp = { label: 'source gives up', to: withSource(world, { at: 'verdict' }) };
  switch (source.at) {
    case 'stun':
      return [{ label: 'source stun', to: withSource(world, { at: next, guest: 'stunned' }) }];
    case 'ready':
      if (!flight.ready) return [giveUp];
      return [giveUp, { label: 'source ready', to: take(withSource(world, { at: next }), 'ready') }];
    case 'seal':
      return [{ label: 'source seal', to: withSource(world, { at: next, guest: 'sealed' }) }];
    case 'given': {
      const claim: Claim = { epoch: world.epoch, role: 'source', value: 'given' };
      const [stands, value] = claimed(world, world.sourceHost, claim);
      const rejected = (from: World) => withSource(from, { at: 'verdict', gave: true });
      return [
        { label: `source given: ${value}`, to: withSource(stands, { at: next, gave: true }) },
        ...(world.healed ? [] : failedClaim(world, 'source', claim, rejected)),
      ];
    }
    case 'go':
      return [
        { label: 'source go', to: send(withSource({ ...world, committed: true }, { at: next }), 'go') },
      ];
    case 'answer': {
      if (!flight.answer) return [giveUp];
      const { decision } = ownership.claimsAt(claimsOf(world, 'destination'), world.epoch);
      const heard = withSource(world, { at: 'verdict', answer: decision ?? 'unknown' });
      return [giveUp, { label: 'source answer', to: take(heard, 'answer') }];
    }
    case 'reclaim': {
      const epoch = attemptOfSource(world, using) ?? world.epoch;
      const claim: Claim = { epoch, role: 'return', value: 'reclaimed' };
      const [stands] = claimed(world, world.sourceHost, claim);
      return [
        { label: 'source reclaimed', to: resuming(stands) },
        // Declined stands and cannot change: a living source runs on without, a restarted one tries again.
        ...(world.healed
          ? []
          : failedClaim(world, 'source', claim, (from) => (source.session ? resuming(from) : from))),
      ];
    }
    case 'resume':
      return [{ label: 'source resume', to: withSource(world, { at: 'done', guest: 'running' }) }];
    case 'verdict':
      return judged(world, using);
    case 'down':
      // Unless it was sealed, a hypervisor left alone by the process that stunned the guest may run it on by itself.
      return [
        { label: 'source restart', to: withSource(world, { at: 'verdict' }) },
        ...(source.guest === 'stunned'
          ? [{ label: 'source hypervisor', to: withSource(world, { guest: 'running' }) }]
          : []),
      ];
    case 'done':
      return [];
  }
}

function resuming(world: World): World {
  return withSource(world, { at: 'resume' });
}

/** A source that goes by the rules: living, after it gave up or heard an answer; or restarted. */
function judged(world: World, using: Rules): Transition[] {
  const { source } = world;
  const seen = claimsOf(world, 'source');
  const given: Claim = { epoch: world.epoch, role: 'source', value: 'given' };
  const claims = source.gave ? [...seen, given] : seen;
  const epoch = attemptOfSource(world, using);
  if (epoch === undefined) return [];
  const answer = source.answer === 'unknown' ? undefined : source.answer;
  const verdict = using.verdictForSource(claims, epoch, answer);
  switch (verdict) {
    case 'run':
      return [{ label: 'source run', to: resuming(world) }];
    case 'reclaim-then-run':
      return [{ label: 'source reclaim', to: withSource(world, { at: 'reclaim' }) }];
    case 'released':
      return [{ label: 'source release', to: withSource(world, { at: 'done', guest: 'released' }) }];
    case 'ask':
      return question(world, epoch, using);
  }
}

function attemptOfSource(world: World, using: Rules): number | undefined {
  return world.source.session ? world.epoch : recovered(world, 'source', using);
}

/** The attempt that a restarted end takes up; undefined where the rules refuse to guess. */
function recovered(world: World, end: ownership.End, using: Rules): number | undefined {
  try {
    return using.attemptToRecover(end, claimsOf(world, end), world.named ? world.epoch : undefined);
  } catch (error) {
    if (error instanceof MigrationError && error.code === 'invalid-argument') return undefined;
    throw error;
  }
}

/** The source asks the destination's host. A session that still waits for GO may count as active or not. */
function question(world: World, epoch: number, using: Rules): Transition[] {
  const { at, session } = world.destination;
  if (at === 'down') return [];
  const active = session && at !== 'done' && epoch === world.epoch;
  const waiting = active && (at === 'load' || at === 'go');
  return [...answers(world, epoch, active, using), ...(waiting ? answers(world, epoch, false, using) : [])];
}

/** What the source can hear, or not: an answer may be lost. */
function answers(world: World, epoch: number, active: boolean, using: Rules): Transition[] {
  const answer = using.answerTo(claimsOf(world, 'destination'), epoch, active);
  if (answer === 'pending') return [];
  const declined: Claim = { epoch, role: 'destination', value: 'declined' };
  const [after, value] =
    answer === 'decline' ? claimed(world, hostOf(world, 'destination'), declined) : [world, answer];
  const heard = {
    label: `source hears ${value}`,
    to: withSource(after, { answer: value as ownership.Decision }),
  };
  return world.healed ? [heard] : [heard, { label: 'answer lost', to: after }];
}

function destinationTransitions(world: World, using: Rules): Transition[] {
  const { destination, flight, epoch } = world;
  const decline = { label: 'destination gives up', to: withDestination(world, { at: 'decline' }) };
  switch (destination.at) {
    case 'load': {
      const loaded = withDestination(world, { at: 'go', guest: 'complete' });
      return [decline, { label: 'destination ready', to: send(loaded, 'ready') }];
    }
    case 'go':
      if (!flight.go) return [decline];
      return [decline, { label: 'destination go', to: take(withDestination(world, { at: 'own' }), 'go') }];
    case 'own': {
      const claim: Claim = { epoch, role: 'destination', value: 'owner' };
      const rejected = (from: World) => withDestination(from, { at: 'decline', claimedOwner: true });
      return [
        { label: 'destination owner', to: decided(world, claim, true, using) },
        ...(world.healed ? [] : failedClaim(world, 'destination', claim, rejected)),
      ];
    }
    case 'decline': {
      const claim: Claim = { epoch, role: 'destination', value: 'declined' };
      // Restarted, it goes by what stands, whoever of its processes claimed it.
      const claimedOwner = destination.claimedOwner || !destination.session;
      return [
        { label: 'destination declined', to: decided(world, claim, claimedOwner, using) },
        ...(world.healed ? [] : failedClaim(world, 'destination', claim, (from) => from)),
      ];
    }
    case 'start':
      return [{ label: 'destination start', to: started(world) }];
    case 'say':
      return [{ label: 'destination says', to: send(withDestination(world, { at: 'done' }), 'answer') }];
    case 'verdict': {
      const attempt = recovered(world, 'destination', using);
      if (attempt === undefined) return [];
      const verdict = using.verdictForDestination(claimsOf(world, 'destination'), attempt);
      const at = verdict === 'decline' ? 'decline' : verdict === 'start' ? 'start' : 'done';
      return [{ label: 'destination recovers', to: withDestination(world, { at }) }];
    }
    case 'down':
      return [{ label: 'destination restart', to: withDestination(world, { at: 'verdict' }) }];
    case 'done':
      return [];
  }
}

/** The destination claims, and goes by the value that stands. */
function decided(world: World, claim: Claim, claimedOwner: boolean, using: Rules): World {
  const [after, value] = claimed(world, hostOf(world, 'destination'), claim);
  const verdict = using.verdictForDestination([{ ...claim, value }], world.epoch, claimedOwner);
  return withDestination(after, { at: verdict === 'start' ? 'start' : 'say', claimedOwner });
}

function started(world: World): World {
  if (world.destination.guest === 'empty') throw new Error('a guest was started that is not complete');
  return withDestination(world, { at: world.destination.session ? 'say' : 'done', guest: 'running' });
}

function pendingTransitions(world: World): Transition[] {
  return world.pending.flatMap((late, index) => {
    const rest = { ...world, pending: world.pending.filter((_, other) => other !== index) };
    const [arrived] = claimed(rest, late.host, late.claim);
    return [
      { label: `${late.claim.value} arrives late`, to: arrived },
      { label: `${late.claim.value} never arrives`, to: rest },
    ];
  });
}

/**
 * What can fail at any time, beside messages: a lost one is one that nobody took before he gave up. And the
 * end of all that.
 */
function failures(world: World): Transition[] {
  const { source, destination } = world;
  const found: Transition[] = [{ label: 'healed', to: { ...world, healed: true } }];
  if (source.at !== 'down') found.push({ label: 'source crash', to: crash(world, 'source') });
  if (destination.at !== 'down') found.push({ label: 'destination crash', to: crash(world, 'destination') });
  return found;
}
