/** How much of its read-ahead the bulk copy may use, so that the guest's own writes come first. */

/** What the guest's writes to one disk took since the last look. */
export interface WritesSeen {
  /** How many were completed: 0 or more. */
  readonly writes: number;
  /** How long they took altogether, in ms. */
  readonly totalMs: number;
}

/** What {@link CopyShare.look} goes by. */
export interface ShareLook {
  /** Since the last look, in ms. */
  readonly elapsedMs: number;
  /** Whether no read of the bulk copy was out in all this time, on any disk. */
  readonly calm: boolean;
  /** By disk. */
  readonly disks: ReadonlyMap<string, WritesSeen>;
}

/** A guest feels it when its writes take half as long again, and a millisecond, which is what they vary by on a quiet disk. */
const feltFactor = 1.5;
const feltMs = 1;
/**
 * The share never falls below this: of four reads in flight that leaves one of them, an eighth of the time. A disk that gives 100 MB/s to one reader
 * then still gives 12, so that also a guest that suffers from something else does not keep the migration from its end; and a guest's write meets a read on
 * every eighth occasion, which it does not feel.
 */
export const shareMin = 1 / 32;
/** What a look at which nothing was felt adds. From the least to all of it takes three seconds of such looks, a tenth of a second each. */
const shareStep = 1 / 32;
/** So many writes are a sample; of a guest that writes less, what comes within this time. */
const sampleWrites = 8;
const sampleMs = 500;
/** A pause is for so long without a read; what completes in the first third of it was issued beside one. */
const measureMs = 300;
/** A pause is over after this, whatever was seen: a read that does not end would prolong it. */
const pauseMsMax = 2000;
/** What writes take without us is measured again after this: 0.4 s in 15 s are 3 % of the copy. */
const measuredMsMax = 15_000;
/** ... and when something is felt, unless that was measured just now. */
const feltMeasuredMsMax = 2000;
/** Against so many writes of before a new sample is weighed. */
const oldWrites = 16;

/** Of a disk: whether its guest feels the copy. `open`: too little was seen as yet. `unknown`: nobody knows what its writes take without us. */
type Verdict = 'felt' | 'fine' | 'open' | 'unknown';

interface Disk {
  /** What a write takes without us, in ms, if that is known. */
  baselineMs: number | undefined;
  /** Whether it was measured, or is an average over the guest's life. */
  measured: boolean;
  writes: number;
  totalMs: number;
  sinceMs: number;
}

/**
 * Decides from what guest writes take how much of its read-ahead the bulk copy of all disks may use. Pure: no I/O, no clock.
 *
 * - What is *felt*: writes to a disk take more than {@link feltFactor} times what they take without us, and {@link feltMs}. Then the share is halved; while
 *   nothing is felt it grows by a fixed step. All disks share it, as they may be on one medium.
 * - What they take *without us* is seen whenever no read is out: because the link is full, or because the copy pauses, which it does
 *   now and then for this alone. What changes by itself, as with a guest that has become busier, is no reason to yield.
 * - A guest that writes nothing feels nothing, and is not paused for.
 */
export class CopyShare {
  readonly #disks = new Map<string, Disk>();
  #share = 1;
  /** For how long it has been pausing, if it is. */
  #pauseMs: number | undefined;
  /** For how long no read has been out. */
  #calmMs = 0;
  /**
   * How long ago was measured what writes take without us. It is measured at once for the first time: until then an average over the guest's life stands for it, and while connections are in
   * their slow start, the link carries what was read in the first look.
   */
  #measuredMs = measuredMsMax;

  /** The part of its read-ahead that each disk's copy may use: from {@link shareMin} to 1, and 0 while it is to pause. */
  get share(): number {
    return this.#pauseMs === undefined ? this.#share : 0;
  }

  /** What a write to the disk takes without us, in ms, if that is known. */
  baselineMs(disk: string): number | undefined {
    return this.#disks.get(disk)?.baselineMs;
  }

  /** What writes took before the copy, over the guest's life: what stands for a measurement until there is one. */
  before(disk: string, { writes, totalMs }: WritesSeen): void {
    if (writes >= sampleWrites && !this.#disks.has(disk)) this.#of(disk).baselineMs = totalMs / writes;
  }

  /** The next look. */
  look({ elapsedMs, calm, disks }: ShareLook): void {
    this.#measuredMs += elapsedMs;
    const settled = calm && this.#calmMs > 0;
    this.#calmMs = calm ? this.#calmMs + elapsedMs : 0;
    if (settled) for (const [id, seen] of disks) learn(this.#of(id), seen);
    if (this.#pauseMs !== undefined) this.#goOnPausing(elapsedMs);
    else if (calm) this.#forget();
    else this.#judge(elapsedMs, disks);
  }

  /** Nobody copies for now. */
  rest(): void {
    this.#pauseMs = undefined;
    this.#calmMs = 0;
    this.#forget();
  }

  #of(disk: string): Disk {
    let found = this.#disks.get(disk);
    if (found === undefined) {
      found = { baselineMs: undefined, measured: false, writes: 0, totalMs: 0, sinceMs: 0 };
      this.#disks.set(disk, found);
    }
    return found;
  }

  #goOnPausing(elapsedMs: number): void {
    this.#pauseMs = (this.#pauseMs ?? 0) + elapsedMs;
    if (this.#calmMs < measureMs && this.#pauseMs < pauseMsMax) return;
    this.#pauseMs = undefined;
    this.#measuredMs = 0;
  }

  #judge(elapsedMs: number, seen: ReadonlyMap<string, WritesSeen>): void {
    const verdicts = new Set([...seen].map(([id, one]) => judge(this.#of(id), one, elapsedMs)));
    if (verdicts.has('felt')) this.#share = Math.max(shareMin, this.#share / 2);
    else if (!verdicts.has('open') && !verdicts.has('unknown'))
      this.#share = Math.min(1, this.#share + shareStep);
    if (this.#measuredMs >= this.#measuredMsMax(verdicts, seen)) this.#pause();
  }

  /** For how long what was measured is good enough. */
  #measuredMsMax(verdicts: ReadonlySet<Verdict>, seen: ReadonlyMap<string, WritesSeen>): number {
    if (verdicts.has('felt') || verdicts.has('unknown')) return feltMeasuredMsMax;
    const writes = [...seen.values()].some((disk) => disk.writes > 0);
    return writes ? measuredMsMax : Number.POSITIVE_INFINITY;
  }

  #pause(): void {
    this.#pauseMs = 0;
    this.#calmMs = 0;
    this.#forget();
  }

  #forget(): void {
    for (const disk of this.#disks.values()) reset(disk);
  }
}

/** What writes took while no read was out: the more of them, the more it counts against what was known. */
function learn(disk: Disk, { writes, totalMs }: WritesSeen): void {
  if (writes === 0) return;
  const takesMs = totalMs / writes;
  const weight = disk.measured ? writes / (writes + oldWrites) : 1;
  const beforeMs = disk.baselineMs ?? takesMs;
  disk.baselineMs = beforeMs + weight * (takesMs - beforeMs);
  disk.measured = true;
}

/** Takes in what was seen, and judges once it is a sample. */
function judge(disk: Disk, { writes, totalMs }: WritesSeen, elapsedMs: number): Verdict {
  disk.writes += writes;
  disk.totalMs += totalMs;
  disk.sinceMs += elapsedMs;
  if (disk.writes < sampleWrites && disk.sinceMs < sampleMs) return disk.writes > 0 ? 'open' : 'fine';
  const takesMs = disk.writes === 0 ? undefined : disk.totalMs / disk.writes;
  reset(disk);
  if (takesMs === undefined) return 'fine';
  if (disk.baselineMs === undefined) return 'unknown';
  return takesMs > feltFactor * disk.baselineMs + feltMs ? 'felt' : 'fine';
}

function reset(disk: Disk): void {
  disk.writes = 0;
  disk.totalMs = 0;
  disk.sinceMs = 0;
}
