import { createPrng } from '../../../src/util/prng.ts';

/** Picks one of `options` (1 or more) ways to go on: 0 to `options` - 1. */
export type Choose = (options: number) => number;

/** Choices drawn at random, the same ones for the same seed. */
export function drawn(seed: number): Choose {
  const prng = createPrng(seed);
  return (options) => prng.below(options);
}

/**
 * Runs `scenario` once for every sequence of choices that it can make, and returns how often that was. The scenario starts
 * afresh each time, and does the same after the same choices; `isNew()` says whether it has gone beyond what it
 * did the last time. Stops early when it returns false.
 */
export function enumerate(scenario: (choose: Choose, isNew: () => boolean) => boolean): number {
  const path: { choice: number; readonly options: number }[] = [];
  for (let runs = 1; ; runs++) {
    const known = path.length;
    let depth = 0;
    const choose: Choose = (options) => {
      const step = path[depth] ?? { choice: 0, options };
      path[depth] = step;
      depth += 1;
      if (step.options !== options) throw new Error('the scenario is not deterministic');
      return step.choice;
    };
    if (!scenario(choose, () => depth >= known)) return runs;
    for (;;) {
      const last = path.at(-1);
      if (last === undefined) return runs;
      last.choice += 1;
      if (last.choice < last.options) break;
      path.pop();
    }
  }
}

/** Asked before each choice whether to go on from a state. */
export type Enter = (tellState: () => string) => boolean;

/**
 * The same for scenarios whose future depends on a state that can be told: they call `enter` before each choice; where it
 * returns false, some run was in this state before, and this one need not go on.
 */
export function enumerateStates(scenario: (choose: Choose, enter: Enter) => boolean): {
  readonly runs: number;
  readonly states: number;
} {
  const entered = new Set<string>();
  const runs = enumerate((choose, isNew) =>
    scenario(choose, (tellState) => {
      if (!isNew()) return true;
      const state = tellState();
      if (entered.has(state)) return false;
      entered.add(state);
      return true;
    }),
  );
  return { runs, states: entered.size };
}

/** Every contiguous range within `bytes` bytes. */
export function contiguousRanges(bytes: number): { offset: number; length: number }[] {
  const ranges: { offset: number; length: number }[] = [];
  for (let offset = 0; offset < bytes; offset++) {
    for (let length = 1; offset + length <= bytes; length++) ranges.push({ offset, length });
  }
  return ranges;
}

/** Every sequence of `length` elements of `items`, with repetition. */
export function sequences<T>(items: readonly T[], length: number): T[][] {
  if (length === 0) return [[]];
  return sequences(items, length - 1).flatMap((head) => items.map((item) => [...head, item]));
}
