/** The state of the model in model.ts: what it is made of, and how its parts change. */
import * as ownership from '../../../src/core/handover/ownership.ts';
import type { Claim, ClaimValue } from '../../../src/interfaces/register.ts';

export type Host = 'A' | 'B';
export type SourceStep = 'stun' | 'ready' | 'seal' | 'given' | 'go' | 'answer';

/** One state of the whole. */
export interface World {
  readonly shared: boolean;
  /** Whether a restarted end knows which attempt it was in. */
  readonly named: boolean;
  /** Whether a claim that a dead process had under way may still arrive. */
  readonly late: boolean;
  /** From here on nothing fails any more. */
  readonly healed: boolean;
  /** The session's connections are gone for good; questions may still get through. */
  readonly cut: boolean;
  readonly epoch: number;
  readonly sourceHost: Host;
  readonly registers: Readonly<Record<Host, readonly Claim[]>>;
  /** Claims that a dead process had under way: each may still arrive. */
  readonly pending: readonly { readonly host: Host; readonly claim: Claim }[];
  readonly source: {
    /** The step to do next; `verdict`: does what the rules say; `done`, `down`. */
    readonly at: SourceStep | 'verdict' | 'reclaim' | 'resume' | 'done' | 'down';
    readonly guest: 'running' | 'stunned' | 'sealed' | 'released';
    /** Its first process still lives. */
    readonly session: boolean;
    /** That process has called the claim of `given`. */
    readonly gave: boolean;
    readonly answer: ownership.Decision | 'unknown';
  };
  readonly destination: {
    readonly at: 'load' | 'go' | 'own' | 'decline' | 'start' | 'say' | 'verdict' | 'done' | 'down';
    readonly guest: 'empty' | 'complete' | 'running' | 'discarded';
    /** Its first process still lives. */
    readonly session: boolean;
    readonly claimedOwner: boolean;
  };
  readonly flight: { readonly ready: boolean; readonly go: boolean; readonly answer: boolean };
  /** For the invariants only: GO was sent. */
  readonly committed: boolean;
}

/** What tells two states of the same exploration apart, in few characters. */
export function keyOf({
  healed,
  cut,
  registers,
  pending,
  source,
  destination,
  flight,
  committed,
}: World): string {
  const claims = (list: readonly Claim[]) => list.map(({ epoch, value }) => `${epoch}${value[0]}`).join('');
  const bits = [healed, cut, committed, flight.ready, flight.go, flight.answer, source.session, source.gave];
  return [
    bits.map(Number).join(''),
    claims(registers.A),
    claims(registers.B),
    claims(pending.map((late) => late.claim)),
    source.at,
    source.guest,
    source.answer,
    destination.at,
    destination.guest,
    Number(destination.session) + 2 * Number(destination.claimedOwner),
  ].join(' ');
}

/** Where an attempt begins, with what its predecessors left in the registers. */
export function startOf(
  options: Pick<World, 'shared' | 'named' | 'late' | 'epoch' | 'sourceHost' | 'registers'>,
): World {
  return {
    ...options,
    healed: false,
    cut: false,
    pending: [],
    source: { at: 'stun', guest: 'running', session: true, gave: false, answer: 'unknown' },
    destination: { at: 'load', guest: 'empty', session: true, claimedOwner: false },
    flight: { ready: false, go: false, answer: false },
    committed: false,
  };
}

export function hostOf(world: World, end: ownership.End): Host {
  if (end === 'source') return world.sourceHost;
  return world.sourceHost === 'A' ? 'B' : 'A';
}

/** What an end sees in its register. */
export function claimsOf(world: World, end: ownership.End): readonly Claim[] {
  return world.registers[world.shared ? 'A' : hostOf(world, end)];
}

/** What breaks the promises in this very state: empty if nothing does. */
export function violations(world: World): string[] {
  const { source, destination, committed, epoch } = world;
  const { decision } = ownership.claimsAt(claimsOf(world, 'destination'), epoch);
  const found: string[] = [];
  if (source.guest === 'running' && destination.guest === 'running') found.push('both run');
  if (destination.guest === 'running' && decision !== 'owner')
    found.push('the destination runs without owner');
  if (source.guest === 'running' && committed && decision !== 'declined') {
    found.push('the source runs after GO without declined');
  }
  return found;
}

type SourceChange = Partial<World['source']>;
type DestinationChange = Partial<World['destination']>;

export function withSource(world: World, change: SourceChange): World {
  return { ...world, source: { ...world.source, ...change } };
}

export function withDestination(world: World, change: DestinationChange): World {
  return { ...world, destination: { ...world.destination, ...change } };
}

export function send(world: World, message: keyof World['flight']): World {
  return world.cut ? world : { ...world, flight: { ...world.flight, [message]: true } };
}

export function take(world: World, message: keyof World['flight']): World {
  return { ...world, flight: { ...world.flight, [message]: false } };
}

/** The world after a claim was made in a host's register, and the value that stands there. */
export function claimed(world: World, host: Host, claim: Claim): readonly [World, ClaimValue] {
  const key: Host = world.shared ? 'A' : host;
  const claims = world.registers[key];
  const standing = claims.find((other) => other.epoch === claim.epoch && other.role === claim.role);
  if (standing !== undefined) return [world, standing.value];
  // In one order, so that states that differ only in who claimed first are one.
  const sorted = [...claims, claim].sort((a, b) => a.epoch - b.epoch || a.role.localeCompare(b.role));
  return [{ ...world, registers: { ...world.registers, [key]: sorted } }, claim.value];
}

export function crash(world: World, end: ownership.End): World {
  if (end === 'source') {
    const down = withSource(world, { at: 'down', session: false, gave: false, answer: 'unknown' });
    return { ...down, flight: { ...down.flight, ready: false, answer: false } };
  }
  const down = withDestination(world, { at: 'down', session: false, claimedOwner: false });
  return { ...down, flight: { ...down.flight, go: false } };
}

export function cutLink(world: World): World {
  return { ...world, cut: true, flight: { ready: false, go: false, answer: false } };
}
