/** How many bytes of different pages a guest dirties in a time: fewer and fewer new ones, as it comes back to what it wrote before. */
export interface WorkingSet {
  /** At first, in bytes a second: when each page that is written is another one. */
  readonly bytesPerSecond: number;
  /** What it dirties in all the time in the world, in bytes; Infinity: nothing shows that there is an end of it. */
  readonly sizeBytes: number;
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
export function dirtiedIn({ bytesPerSecond, sizeBytes }: WorkingSet, durationMs: number): number {
  const touched = (bytesPerSecond * Math.max(0, durationMs)) / 1000;
  if (touched === 0 || sizeBytes === 0) return 0;
  return Number.isFinite(sizeBytes) ? (touched * sizeBytes) / (sizeBytes + touched) : touched;
}

/**
 * What two looks of different lengths say, the shorter first: the reciprocal of what is dirtied is a straight line over the reciprocal of the time. `memoryBytes`: of
 * the VM, the most that it can be. Where the longer look shows as much in proportion, or more, there is no end to be seen below that.
 */
export function workingSetOf(shorter: DirtyLook, longer: DirtyLook, memoryBytes: number): WorkingSet {
  if (longer.dirtiedBytes <= 0) return { bytesPerSecond: rateOf(shorter), sizeBytes: memoryBytes };
  const [short, long] = [shorter.durationMs / 1000, longer.durationMs / 1000];
  const rate = Math.max(rateOf(shorter), rateOf(longer));
  const unbent = { bytesPerSecond: rate, sizeBytes: memoryBytes };
  if (shorter.dirtiedBytes <= 0 || short >= long) return unbent;
  const slope = (1 / shorter.dirtiedBytes - 1 / longer.dirtiedBytes) / (1 / short - 1 / long);
  const size = 1 / Math.max(1 / memoryBytes, 1 / longer.dirtiedBytes - slope / long);
  // All of it was dirty before the first look was over: then the rate is at least that of the look.
  const bytesPerSecond = slope > 0 ? Math.min(Math.max(rate, 1 / slope), steepMax * rate) : rate;
  return { bytesPerSecond, sizeBytes: Math.max(size, longer.dirtiedBytes) };
}

/** The same guest, were it to dirty so many times as much. */
export function scaled({ bytesPerSecond, sizeBytes }: WorkingSet, factor: number): WorkingSet {
  return { bytesPerSecond: factor * bytesPerSecond, sizeBytes: factor * sizeBytes };
}

function rateOf({ durationMs, dirtiedBytes }: DirtyLook): number {
  return durationMs > 0 ? (1000 * dirtiedBytes) / durationMs : 0;
}
