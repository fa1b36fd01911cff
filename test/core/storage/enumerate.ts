/** Picks one of `options` (1 or more) ways to go on: 0 to `options` - 1. */
export type Choose = (options: number) => number;

/**
 * Runs `scenario` once for every sequence of choices that it can make, and returns how often that was. The scenario starts
 * afresh each time, and does the same after the same choices. Stops early when it returns false.
 */
export function enumerate(scenario: (choose: Choose) => boolean): number {
  const path: { choice: number; readonly options: number }[] = [];
  for (let runs = 1; ; runs++) {
    let depth = 0;
    const goOn = scenario((options) => {
      const step = path[depth] ?? { choice: 0, options };
      path[depth] = step;
      depth += 1;
      if (step.options !== options) throw new Error('the scenario is not deterministic');
      return step.choice;
    });
    if (!goOn) return runs;
    for (;;) {
      const last = path.at(-1);
      if (last === undefined) return runs;
      last.choice += 1;
      if (last.choice < last.options) break;
      path.pop();
    }
  }
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
