import type { DestinationHooks, Hook } from '../../interfaces/hooks.ts';
import { delay } from '../../util/promises.ts';
import type { SimulatedProcess } from './process.ts';

/** A hook's name. */
export type HookName = keyof DestinationHooks;

/** What a hook does that a caller at the destination has. */
export interface ScenarioHook {
  /** For so long, in ms. Default 0. */
  readonly ms?: number;
  /** How it ends then. `throw`: at once, before it has returned a promise. `hang`: never, whatever its signal says. Default `end`. */
  readonly does?: 'end' | 'throw' | 'reject' | 'hang';
}

/** The hooks of a destination's caller. */
export interface ScenarioHooks {
  /** Before the guest starts. Default: none. */
  readonly beforeStart?: ScenarioHook;
  /** When it runs. Default: none. */
  readonly afterStart?: ScenarioHook;
  /** How long each may take, in ms. Default 5000. */
  readonly msMax?: number;
}

const msMaxDefault = 5000;

/** How long a hook is waited for, in ms, and whether it has failed then. */
export function outcomeOfHook(
  { ms = 0, does = 'end' }: ScenarioHook,
  { msMax = msMaxDefault }: ScenarioHooks,
) {
  if (does === 'throw') return { ms: 0, fails: true };
  const isLate = does === 'hang' || ms > msMax;
  return { ms: isLate ? msMax : ms, fails: isLate || does === 'reject' };
}

/** For a destination in a process. `called` is told of each call; a process that is dead, or dies just before it, makes none. */
export function hooksOf(
  { beforeStart, afterStart, msMax = msMaxDefault }: ScenarioHooks,
  process: SimulatedProcess,
  called: (name: HookName) => void,
): { readonly hooks: DestinationHooks; readonly hookMsMax: number } {
  const hook = (name: HookName, how: ScenarioHook | undefined): Hook | undefined =>
    how &&
    (() => {
      process.step(name === 'beforeStart' ? 'before-start' : 'after-start');
      // What a dead process calls never settles.
      if (process.dead) return new Promise(() => {});
      called(name);
      if (how.does === 'throw') throw new Error(`${name} throws`);
      return act(how, process);
    });
  return {
    hooks: { beforeStart: hook('beforeStart', beforeStart), afterStart: hook('afterStart', afterStart) },
    hookMsMax: msMax,
  };
}

async function act({ ms = 0, does }: ScenarioHook, { environment }: SimulatedProcess): Promise<void> {
  if (does === 'hang') await new Promise(() => {});
  await delay(environment, ms);
  if (does === 'reject') throw new Error('it rejects');
}
