import { MigrationError } from '../../errors.ts';
import type { ByteRange } from '../../interfaces/content.ts';
import type { BadUnit, UnitSpace } from './unit-space.ts';
import type { SimulatedVm } from './vm.ts';

/** Ranges that are listed for each region and disk at most; all are counted. */
const listedMax = 100;

/** One memory region, or disk, that is not the same at both ends. */
export interface SpaceDifference {
  /** `memory` or `disk`. */
  readonly kind: 'memory' | 'disk';
  /** The region's name, or the disk's id. */
  readonly name: string;
  /** All that differs, whole pages or blocks, in bytes. */
  readonly bytes: number;
  /** The first 100 ranges of it. */
  readonly ranges: readonly ByteRange[];
  /** Units of the destination that are worse than old: damaged or misplaced; the first 1000. */
  readonly bad: readonly BadUnit[];
}

/** How a VM that was moved differs from what it was. */
export interface SimulatedComparison {
  /** Whether there is no difference. */
  readonly equal: boolean;
  /** What differs in memory and on disks; empty if nothing. */
  readonly spaces: readonly SpaceDifference[];
  /**
   * Whether the destination loaded the device state that the source saved last, and goes on from its last
   * write.
   */
  readonly stateEqual: boolean;
  /** For people: one line for each difference. */
  readonly summary: string;
}

/** What {@link compareSimulatedVms} leaves out. */
export interface ComparisonOptions {
  /** Disks, by id, that did not move. A disk that both have as the same medium needs no mention. */
  readonly exceptDisks?: readonly string[];
  /** Set to false where the destination has no device state yet. Default true. */
  readonly state?: boolean;
}

/**
 * Compares by generation every page and block of two VMs as they are at this moment: the source sealed or
 * released, and the destination not running yet, as within the `started` event. Each guest write has a
 * generation of its own (but those that undo others), so equal means that the very same writes are there. Throws `invalid-argument` if
 * they have not the same regions and disks.
 */
export function compareSimulatedVms(
  source: SimulatedVm,
  destination: SimulatedVm,
  options: ComparisonOptions = {},
): SimulatedComparison {
  const except = new Set(options.exceptDisks ?? []);
  const differences: SpaceDifference[] = [];
  const add = (kind: 'memory' | 'disk', name: string, one: UnitSpace, other: UnitSpace | undefined) => {
    if (other === undefined || other.sizeBytes !== one.sizeBytes || other.unitBytes !== one.unitBytes) {
      throw new MigrationError('invalid-argument', `${kind} ${name} is not the same size at both ends`);
    }
    if (one === other) return;
    const difference = differ(kind, name, one, other);
    if (difference.bytes > 0 || difference.bad.length > 0) differences.push(difference);
  };
  for (const [index, { name }] of source.description.memory.entries()) {
    const space = source.memory[index];
    if (space !== undefined) add('memory', name, space, destination.memory[index]);
  }
  for (const { id, space } of source.disks) {
    if (!except.has(id)) add('disk', id, space, destination.disks.find((disk) => disk.id === id)?.space);
  }
  const stateEqual = options.state === false || sameState(source, destination);
  const lines = differences.map(describe);
  if (!stateEqual) lines.push('the device state is not the one that was saved last');
  const equal = lines.length === 0;
  return { equal, spaces: differences, stateEqual, summary: lines.join('\n') };
}

function differ(
  kind: 'memory' | 'disk',
  name: string,
  source: UnitSpace,
  destination: UnitSpace,
): SpaceDifference {
  const ranges: ByteRange[] = [];
  let bytes = 0;
  source.generations.differences(destination.generations, (from, to) => {
    const offset = from * source.unitBytes;
    const length = Math.min(source.sizeBytes, to * source.unitBytes) - offset;
    bytes += length;
    if (ranges.length < listedMax) ranges.push({ offset, length });
  });
  return { kind, name, bytes, ranges, bad: destination.badUnits };
}

function sameState(source: SimulatedVm, destination: SimulatedVm): boolean {
  const [saved, loaded] = [source.stateToken, destination.stateToken];
  return (
    saved !== undefined &&
    loaded !== undefined &&
    saved.host === loaded.host &&
    saved.save === loaded.save &&
    source.guest.generation === destination.guest.generation
  );
}

function describe({ kind, name, bytes, ranges, bad }: SpaceDifference): string {
  const first = ranges[0];
  const where = first === undefined ? '' : `, first ${first.length} at ${first.offset}`;
  const worse = bad.length === 0 ? '' : `; ${bad.length} bad, first unit ${bad[0]?.unit} ${bad[0]?.reason}`;
  return `${kind} ${name}: ${bytes} bytes differ${where}${worse}`;
}
