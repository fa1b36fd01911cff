/** How many bytes of different pages a guest dirties in a time: fewer and fewer new ones, as it comes back to what it wrote before. */
export interface WorkingSet {
  /** At first, in bytes a second: when each page that is written is another one. */
  readonly bytesPerSecond: number;
  /** What it dirties in all the time in the world, in bytes; Infinity: nothing shows that there is an end of it. */
  readonly sizeBytes: number;
  /** How it goes on after so long, if otherwise: what is written ever again is dirty by then, and what comes now is colder. */
  readonly later?: { readonly fromMs: number; readonly set: WorkingSet };
}

/** The first look is short enough to show the rate to within this factor; more than that is the noise of a small difference. */
const steepMax = 3;

/** What was dirtied in a time. */
export interface DirtyLook {
  readonly durationMs: number;
  readonly dirtiedBytes: number;
}

/**
 * The bytes that are dirty after so long. With rate *r* and size *W* it is *r t W / (W + r t)*: begins with the rate, and comes up to the size. (Pages chosen
 * evenly at random come a little closer a little sooner; guests have hot pages and cold ones, and do not.) Grows with each argument.
 */
export function dirtiedIn({ bytesPerSecond, sizeBytes, later }: WorkingSet, durationMs: number): number {
  if (later !== undefined && durationMs > later.fromMs) return dirtiedIn(later.set, durationMs);
  const touched = (bytesPerSecond * Math.max(0, durationMs)) / 1000;
  if (touched === 0 || sizeBytes === 0) return 0;
  if (!Number.isFinite(touched)) return sizeBytes;
  // In this form rounding cannot make more of less.
  return Number.isFinite(sizeBytes) ? sizeBytes / (1 + sizeBytes / touched) : touched;
}

/**
 * What looks of different lengths say, the shortest first: from one to the next the reciprocal of what is dirtied is a straight line over the reciprocal of the time.
 * `memoryBytes`: of the VM, the most that it can be. Where a longer look shows as much in proportion, or more, there is no end to be seen below that.
 */
export function workingSetOf(looks: readonly DirtyLook[], memoryBytes: number): WorkingSet {
  const [first, ...others] = evened(looks);
  if (first === undefined) return { bytesPerSecond: 0, sizeBytes: memoryBytes };
  const set = goingOn(first, others, memoryBytes);
  const rate = rateOf(first);
  // All of it may have been dirty before the first look was over: then the rate is at least that of the look.
  return { ...set, bytesPerSecond: Math.min(Math.max(rate, set.bytesPerSecond), steepMax * rate) };
}

/** From a look on, through the longer ones. */
function goingOn(from: DirtyLook, longer: readonly DirtyLook[], memoryBytes: number): WorkingSet {
  const [to, ...others] = longer;
  if (to === undefined) return { bytesPerSecond: rateOf(from), sizeBytes: memoryBytes };
  const [short, long] = [from.durationMs / 1000, to.durationMs / 1000];
  const slope = (1 / from.dirtiedBytes - 1 / to.dirtiedBytes) / (1 / short - 1 / long);
  const most = others.length > 0 ? Number.POSITIVE_INFINITY : memoryBytes;
  const sizeBytes = 1 / Math.max(1 / most, 1 / to.dirtiedBytes - slope / long);
  return {
    bytesPerSecond: 1 / (long * Math.max(0, 1 / to.dirtiedBytes - 1 / sizeBytes)),
    sizeBytes,
    ...(others.length > 0 && {
      later: { fromMs: to.durationMs, set: goingOn(to, others, memoryBytes) },
    }),
  };
}

/** As it can have been: what a longer time shows no less of, in all, and no more of for its length. Those that saw something, each longer than the one before. */
function evened(looks: readonly DirtyLook[]): readonly DirtyLook[] {
  const even: DirtyLook[] = [];
  const ordered = looks.toSorted(
    (one, other) => other.durationMs - one.durationMs || other.dirtiedBytes - one.dirtiedBytes,
  );
  const mostSeen = Math.max(0, ...looks.map(({ dirtiedBytes }) => dirtiedBytes));
  for (const { durationMs, dirtiedBytes: seen } of ordered) {
    const longer = even[0];
    if (longer !== undefined && durationMs >= longer.durationMs) continue;
    // The longest saw nothing: there is no more than what the others did.
    const dirtiedBytes = longer === undefined && seen === 0 ? mostSeen : seen;
    const least = longer === undefined ? 0 : (rateOf(longer) * durationMs) / 1000;
    const most = longer?.dirtiedBytes ?? Number.POSITIVE_INFINITY;
    const bytes = Math.min(most, Math.max(least, dirtiedBytes));
    if (bytes > 0) even.unshift({ durationMs, dirtiedBytes: bytes });
  }
  return even;
}

/** The same guest, were it to dirty so many times as much. */
export function scaled({ bytesPerSecond, sizeBytes, later }: WorkingSet, factor: number): WorkingSet {
  return {
    bytesPerSecond: factor * bytesPerSecond,
    sizeBytes: factor * sizeBytes,
    ...(later && { later: { fromMs: later.fromMs, set: scaled(later.set, factor) } }),
  };
}

function rateOf({ durationMs, dirtiedBytes }: DirtyLook): number {
  return durationMs > 0 ? (1000 * dirtiedBytes) / durationMs : 0;
}
