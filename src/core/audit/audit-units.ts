/** Which units there are, and which of them an audit compares. Pure: whoever calls brings the chance. */
import type { ReadableDisk } from '../../interfaces/block-device.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import type { MemoryRegion } from '../../interfaces/memory.ts';
import type { Prng } from '../../util/prng.ts';
import type { UnitGroup } from '../../wire/audit-list.ts';
import { auditUnitBytesMax, auditUnitBytesMin } from '../../wire/limits.ts';
import { memoryStream } from '../../wire/messages.ts';
import type { Place, RecentWrites } from './recent-writes.ts';

/** What can be audited: a memory region, or a disk that is copied. */
export interface AuditSpace {
  readonly stream: number;
  /** Index of the region; 0 for disks. */
  readonly space: number;
  readonly sizeBytes: number;
  /** A page, or a logical block. */
  readonly grainBytes: number;
}

/** All that there are, to be found by what names them. */
export class AuditSpaces {
  readonly all: readonly AuditSpace[];
  readonly #byName: ReadonlyMap<string, AuditSpace>;

  constructor(all: readonly AuditSpace[]) {
    this.all = all;
    this.#byName = new Map(all.map((space) => [nameOf(space), space]));
  }

  find(place: Pick<Place, 'stream' | 'space'>): AuditSpace | undefined {
    return this.#byName.get(nameOf(place));
  }
}

/** What an end has to audit: the memory that moves, and the disks that are copied, by the numbers of their streams. */
export function auditSpaces(
  regions: readonly MemoryRegion[],
  disks: ReadonlyMap<number, ReadableDisk>,
): AuditSpaces {
  return new AuditSpaces([
    ...regions.map(({ sizeBytes, pageBytes }, space) => ({
      stream: memoryStream,
      space,
      sizeBytes,
      grainBytes: pageBytes,
    })),
    ...[...disks].map(([stream, { sizeBytes, blockBytes }]) => ({
      stream,
      space: 0,
      sizeBytes,
      grainBytes: blockBytes,
    })),
  ]);
}

function nameOf({ stream, space }: Pick<Place, 'stream' | 'space'>): string {
  return `${stream}/${space}`;
}

/** A unit where it lies. */
export interface AuditUnit extends ByteRange {
  readonly stream: number;
  readonly space: number;
}

/** Units that a sample has, if there are as many. */
export const sampleUnits = 1024;
/** How long a sample is read at each end, at the most: where a disk is slow fewer units are compared, and the report says so. */
export const sampleMsMax = 20;

/** The unit of a sample: a page, or 4 KiB of a disk; a larger block, but at most 64 KiB of either. */
export function sampleUnitBytes({ grainBytes }: AuditSpace): number {
  return Math.min(Math.max(grainBytes, auditUnitBytesMin), auditUnitBytesMax);
}

/** How many units of that size a space has; the last may be shorter. */
export function unitsOf({ sizeBytes }: AuditSpace, unitBytes: number): number {
  return Math.ceil(sizeBytes / unitBytes);
}

/** Each unit where it lies. The spaces are known: see {@link fitsInto}. */
export function placeUnits(groups: readonly UnitGroup[], spaces: AuditSpaces): readonly AuditUnit[] {
  return groups.flatMap((group) => {
    const sizeBytes = spaces.find(group)?.sizeBytes ?? 0;
    const { stream, space, unitBytes } = group;
    return group.units.map((unit) => {
      const offset = unit * unitBytes;
      return { stream, space, offset, length: Math.min(unitBytes, sizeBytes - offset) };
    });
  });
}

/** Whether each of the group's units is one of a space that there is. */
export function fitsInto(group: UnitGroup, spaces: AuditSpaces): boolean {
  const space = spaces.find(group);
  return space !== undefined && (group.units.at(-1) ?? 0) < unitsOf(space, group.unitBytes);
}

/**
 * The sample: what differed the last time; up to half of it from what was written last, memory's and the disks' in equal parts if both have as
 * many; and the rest from all there is, each unit with the same chance, whatever else was chosen. A unit is in it once, and counts as
 * drawn if it was.
 */
export function drawSample(
  spaces: AuditSpaces,
  recent: readonly RecentWrites[],
  differed: readonly Place[],
  prng: Prng,
): readonly UnitGroup[] {
  const chosen = new UnitSet(spaces);
  const rings = recent.filter(({ size }) => size > 0);
  const wanted = sampleUnits / 2;
  // Places in a ring may be in the same unit, so there are more tries than units; not for ever.
  for (let tries = 0; rings.length > 0 && chosen.size < wanted && tries < 4 * wanted; tries++) {
    const place = rings[tries % rings.length]?.draw(prng);
    if (place !== undefined) chosen.add(place);
  }
  const drawn = drawUnits(spaces, sampleUnits, chosen.size, prng);
  for (const place of differed.slice(0, sampleUnits)) chosen.add(place);
  for (const place of drawn.places()) chosen.delete(place);
  return [...drawn.groups(true), ...chosen.groups(false)];
}

/** So many different units less those that are spared, or all if there are no more, each with the same chance: Floyd's way to draw without putting back. */
function drawUnits(spaces: AuditSpaces, unitsMax: number, spared: number, prng: Prng): UnitSet {
  const counts = spaces.all.map((space) => unitsOf(space, sampleUnitBytes(space)));
  const total = counts.reduce((sum, count) => sum + count, 0);
  const wanted = total > unitsMax ? unitsMax - spared : total;
  const picked = new Set<number>();
  for (let limit = total - wanted; limit < total; limit++) {
    const pick = prng.below(limit + 1);
    picked.add(picked.has(pick) ? limit : pick);
  }
  const set = new UnitSet(spaces);
  const sorted = [...picked].sort((a, b) => a - b);
  let [next, base] = [0, 0];
  for (const [index, space] of spaces.all.entries()) {
    const end = base + (counts[index] ?? 0);
    for (; next < sorted.length && (sorted[next] ?? 0) < end; next++) {
      set.add({ ...space, offset: ((sorted[next] ?? 0) - base) * sampleUnitBytes(space) });
    }
    base = end;
  }
  return set;
}

/** Units of a sample, by space. */
class UnitSet {
  readonly #spaces: AuditSpaces;
  readonly #units = new Map<AuditSpace, Set<number>>();
  #size = 0;

  constructor(spaces: AuditSpaces) {
    this.#spaces = spaces;
  }

  get size(): number {
    return this.#size;
  }

  /** The unit in which the place lies. */
  add(place: Place): void {
    const space = this.#spaces.find(place);
    if (space === undefined) return;
    const units = this.#units.get(space) ?? new Set();
    this.#units.set(space, units);
    const before = units.size;
    units.add(Math.floor(place.offset / sampleUnitBytes(space)));
    this.#size += units.size - before;
  }

  delete(place: Place): void {
    const space = this.#spaces.find(place);
    if (space === undefined) return;
    if (this.#units.get(space)?.delete(Math.floor(place.offset / sampleUnitBytes(space)))) this.#size--;
  }

  *places(): Iterable<Place> {
    for (const [{ stream, space, ...rest }, units] of this.#units) {
      const unitBytes = sampleUnitBytes({ stream, space, ...rest });
      for (const unit of units) yield { stream, space, offset: unit * unitBytes };
    }
  }

  groups(drawn: boolean): readonly UnitGroup[] {
    return [...this.#units].flatMap(([space, set]) => {
      if (set.size === 0) return [];
      const units = [...set].sort((a, b) => a - b);
      return [{ drawn, stream: space.stream, space: space.space, unitBytes: sampleUnitBytes(space), units }];
    });
  }
}
