import type { Phase } from '../../errors.ts';
import type { ClaimValue } from '../../interfaces/register.ts';
import type { Chance } from './chance.ts';
import type { Action, EndName, TimelineEntry, Trigger } from './scenario.ts';
import type { StepName } from './steps.ts';
import type { VmState } from './vm-events.ts';
import type { VmFault, VmFaultPoint } from './vm-faults.ts';

/** What there is to hurt. */
export interface Targets {
  /** The paths' names. */
  readonly paths: readonly string[];
  /** The disks' ids. */
  readonly disks: readonly string[];
}

const ends = ['source', 'destination'] as const;
const claims: readonly ClaimValue[] = ['given', 'owner', 'declined', 'reclaimed'];
/** There is no `declined` before something else has gone wrong. */
const claimWeights: readonly (readonly [ClaimValue, number])[] = [
  ['given', 4],
  ['owner', 4],
  ['declined', 1],
  ['reclaimed', 1],
];
const phases: readonly (readonly [Phase, number])[] = [
  ['connect', 1],
  ['prepare', 1],
  ['copyDisks', 2],
  ['copyMemory', 2],
  ['stun', 2],
  ['verify', 2],
  ['handover', 4],
  ['release', 2],
  ['done', 1],
];
const sourceSteps: readonly StepName[] = [
  'claim',
  'register-read',
  'stun',
  'save',
  'seal',
  'resume',
  'release',
  'detach',
  'round',
  'disk-read',
  'tap',
  'tap-finish',
  'tap-remove',
  'open',
];
const destinationSteps: readonly StepName[] = [
  'claim',
  'register-read',
  'prepare',
  'load',
  'start',
  'discard',
  'disk-write',
  'disk-flush',
  'memory-write',
  'accept',
];
const sourceStates: readonly VmState[] = ['stunning', 'stunned', 'sealed', 'running', 'released'];
const destinationStates: readonly VmState[] = ['loaded', 'running', 'discarded'];

/** What goes wrong: each kind draws one action, and perhaps what ends it later. */
type Kind = (chance: Chance, targets: Targets) => readonly [Action, Action?];

const kinds: readonly Kind[] = [
  cut,
  dark,
  reset,
  flip,
  change,
  killProcess,
  killHost,
  abort,
  pause,
  hurtSource,
  hurtDestination,
  register,
];

/** Up to six entries, of some of the kinds. */
export function drawTimeline(chance: Chance, targets: Targets): readonly TimelineEntry[] {
  const mixture = kinds.flatMap((kind) => (chance.of(0.35) ? [[kind, chance.integer(1, 4)] as const] : []));
  if (mixture.length === 0) return [];
  const count = chance.weighted([
    [0, 1],
    [1, 4],
    [2, 4],
    [3, 2],
    [4, 1],
  ]);
  // In a part of the worlds all is well until the VM changes hands.
  const late = chance.of(0.35);
  const timeline: TimelineEntry[] = [];
  for (let index = 0; index < count; index++) {
    const [action, end] = chance.weighted(mixture)(chance, targets);
    const at = late ? drawLateTrigger(chance) : drawTrigger(chance);
    timeline.push({ at, do: action });
    if (end !== undefined) timeline.push({ at: later(chance, at), do: end });
  }
  return timeline;
}

/** Something for which a switchover fails, and which another one need not meet. */
export function drawHiccup(chance: Chance): readonly TimelineEntry[] {
  const slow = { delayMs: chance.one([400, 6000, 15_000]) };
  const fault = (point: VmFaultPoint): VmFault => ({
    point,
    times: chance.weighted([
      [1, 4],
      [2, 1],
    ]),
    ...(chance.of(0.5) ? slow : { effect: 'fail' as const }),
  });
  switch (chance.one(['source', 'destination', 'link'])) {
    case 'source':
      return [{ at: { ms: 0 }, do: { vm: 'source', fault: fault(chance.one(['stun', 'save'])) } }];
    case 'destination':
      return [{ at: { ms: 0 }, do: { vm: 'destination', fault: fault('load') } }];
    default: {
      const at = { end: chance.one(ends), phase: chance.one(['stun', 'verify'] as const) };
      const afterMs = chance.of(0.5) ? 0 : chance.delay(60);
      return [
        { at: { ...at, afterMs }, do: { darken: '*' } },
        { at: { ...at, afterMs: afterMs + slow.delayMs }, do: { lighten: '*' } },
      ];
    }
  }
}

function drawTrigger(chance: Chance): Trigger {
  const end = chance.one(ends);
  const afterMs = chance.of(0.4) ? 0 : chance.delay(300);
  switch (
    chance.weighted<'ms' | 'phase' | 'step' | 'any' | 'state' | 'claim'>([
      ['ms', 2],
      ['phase', 4],
      ['step', 4],
      ['any', 2],
      ['state', 3],
      ['claim', 4],
    ])
  ) {
    case 'ms':
      return { ms: chance.delay(chance.one([500, 5000])) };
    case 'phase':
      return { end, phase: chance.weighted(phases), afterMs };
    case 'step':
      return {
        end,
        step: chance.one(end === 'source' ? sourceSteps : destinationSteps),
        nth: chance.weighted([
          [1, 4],
          [2, 2],
          [chance.integer(3, 12), 1],
        ]),
        ...(chance.of(0.4) && { afterMs: chance.delay(60) }),
      };
    case 'any':
      return { end, step: 'any', nth: 1 + Math.floor(chance.delay(300)) };
    case 'state':
      return {
        host: end,
        state: chance.one(end === 'source' ? sourceStates : destinationStates),
        afterMs,
      };
    case 'claim':
      return { claim: chance.weighted(claimWeights), afterMs };
  }
}

/** From the stun on. */
function drawLateTrigger(chance: Chance): Trigger {
  const afterMs = chance.of(0.4) ? 0 : chance.delay(100);
  const end = chance.one(ends);
  switch (
    chance.weighted<'claim' | 'step' | 'state' | 'phase'>([
      ['claim', 4],
      ['step', 4],
      ['state', 2],
      ['phase', 2],
    ])
  ) {
    case 'claim':
      return { claim: chance.weighted(claimWeights), afterMs };
    case 'step': {
      const step = chance.one(
        end === 'source' ? (['seal', 'claim', 'release'] as const) : (['load', 'claim', 'start'] as const),
      );
      return chance.of(0.4) ? { end, step } : { end, step, afterMs };
    }
    case 'state':
      return end === 'source'
        ? { host: end, state: chance.one(['stunned', 'sealed'] as const), afterMs }
        : { host: end, state: chance.one(['loaded', 'running'] as const), afterMs };
    case 'phase':
      return { end, phase: chance.one(['verify', 'handover', 'release'] as const), afterMs };
  }
}

/** When what began there ends: by the same occasion if that may be, else some time on. */
function later(chance: Chance, at: Trigger): Trigger {
  const more = chance.delay(chance.one([300, 8000]));
  if ('ms' in at) return { ms: at.ms + more };
  if ('step' in at && at.afterMs === undefined) return { ms: more };
  return { ...at, afterMs: (at.afterMs ?? 0) + more };
}

function from(chance: Chance): { readonly from?: EndName } {
  return chance.of(0.5) ? {} : { from: chance.one(ends) };
}

function pathOf(chance: Chance, { paths }: Targets): string {
  return chance.of(0.7) ? '*' : chance.one(paths);
}

function cut(chance: Chance, targets: Targets): readonly [Action, Action?] {
  const path = pathOf(chance, targets);
  return chance.of(0.7) ? [{ cut: path }, { mend: path }] : [{ cut: path }];
}

function dark(chance: Chance, targets: Targets): readonly [Action, Action?] {
  const path = pathOf(chance, targets);
  const way = from(chance);
  const action = { darken: path, ...way };
  return chance.of(0.7) ? [action, { lighten: path, ...way }] : [action];
}

function reset(chance: Chance, targets: Targets): readonly [Action] {
  const path = pathOf(chance, targets);
  if (chance.of(0.5)) return [{ reset: path }];
  return [{ resetAfterBytes: chance.integer(0, 200_000), path, ...from(chance) }];
}

function flip(chance: Chance, targets: Targets): readonly [Action] {
  return [{ flip: pathOf(chance, targets), ...from(chance), chunkBytesMin: chance.one([1, 16, 1024]) }];
}

function change(chance: Chance, targets: Targets): readonly [Action] {
  const to = chance.one([
    { rateMbit: 10 },
    { rateMbit: 1000 },
    { delayMs: 150 },
    { delayMs: 1, jitterMs: 5 },
    { lossProbability: 0.002 },
  ]);
  return [{ change: pathOf(chance, targets), ...from(chance), to }];
}

function killProcess(chance: Chance): readonly [Action, Action?] {
  const end = chance.one(ends);
  const action = { kill: end, how: 'process' } as const;
  return chance.of(0.6) ? [action, { restart: end }] : [action];
}

function killHost(chance: Chance): readonly [Action, Action?] {
  const end = chance.one(ends);
  const action = { kill: end, how: 'host' } as const;
  return chance.of(0.5) ? [action, { restart: end }] : [action];
}

function abort(chance: Chance): readonly [Action] {
  return [{ abort: chance.one(ends) }];
}

function pause(): readonly [Action] {
  return [{ pause: 'source' }];
}

const sourcePoints: readonly VmFaultPoint[] = [
  'disk-read',
  'disk-write',
  'disk-flush',
  'tap-write',
  'memory-batch',
  'stun',
  'save',
  'seal',
  'resume',
  'release',
  'throttle',
  'clock',
];
const destinationPoints: readonly VmFaultPoint[] = [
  'disk-read',
  'disk-write',
  'disk-flush',
  'memory-write',
  'prepare',
  'load',
  'start',
];

function hurtSource(chance: Chance): readonly [Action] {
  return [{ vm: 'source', fault: drawFault(chance, sourcePoints) }];
}

function hurtDestination(chance: Chance): readonly [Action] {
  return [{ vm: 'destination', fault: drawFault(chance, destinationPoints) }];
}

function drawFault(chance: Chance, points: readonly VmFaultPoint[]): VmFault {
  const point = chance.one(points);
  const isDisk = point.startsWith('disk-');
  const effect = chance.weighted([
    ['fail', 6],
    ['none', 4],
    ['die', 1],
    ['power-off', points === sourcePoints ? 1 : 0],
    ['break-tap', points === sourcePoints ? 1 : 0],
  ] as const);
  return {
    point,
    effect: point === 'clock' && (effect === 'fail' || effect === 'none') ? 'break-tap' : effect,
    // A seal is waited for, for a second; one that takes longer has left the contract by itself.
    ...(effect === 'none' && { delayMs: chance.one(point === 'seal' ? [1, 50, 700] : [1, 50, 700, 6000]) }),
    ...(isDisk && { skip: chance.integer(0, 20), times: chance.integer(1, 3) }),
    ...(isDisk && chance.of(0.5) && { by: chance.one(['guest', 'engine'] as const) }),
    ...(point === 'disk-write' && chance.of(0.5) && { tornBytes: 4096 }),
    ...(point === 'save' && { dirtyBytes: 65_536 }),
  };
}

function register(chance: Chance): readonly [Action] {
  const does = chance.weighted([
    ['fail', 3],
    ['fail-afterwards', 3],
    ['delay', 2],
    ['hang', 1],
  ] as const);
  const on = chance.of(0.75) ? 'claim' : 'read';
  return [
    {
      register: chance.one(ends),
      on,
      does,
      ...(on === 'claim' && chance.of(0.5) && { value: chance.one(claims) }),
      times: chance.integer(1, 4),
      ...(does === 'delay' && { ms: chance.one([5, 100, 1500, 5000]) }),
    },
  ];
}
