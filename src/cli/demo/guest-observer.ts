import type { MemoryVm } from '../../backends/memory/index.ts';
import { formatCount, formatMs } from '../units.ts';

/** What a guest noticed over some time in which it ran. */
export interface GuestFigures {
  readonly writesPerSecond: number;
  /** From issuing a write until the guest was told. */
  readonly longestWriteMs: number;
  readonly medianWriteMs: number;
}

/** Looks at what a guest notices, from now on. */
export class GuestObserver {
  readonly #vm: MemoryVm;
  readonly #startMs = performance.now();
  #runMs: number | undefined;

  constructor(vm: MemoryVm) {
    this.#vm = vm;
    vm.guest.resetStatistics();
  }

  /** The guest stands still from now on; writes in flight still count. */
  stopped(): void {
    this.#runMs = performance.now() - this.#startMs;
  }

  figures(): GuestFigures {
    const { writes, writeLatencyMs } = this.#vm.guest.statistics();
    const runMs = this.#runMs ?? performance.now() - this.#startMs;
    return {
      writesPerSecond: runMs > 0 ? (writes / runMs) * 1000 : 0,
      longestWriteMs: writeLatencyMs.max,
      medianWriteMs: writeLatencyMs.median,
    };
  }
}

/** Figures side by side, a column each. */
export function renderGuestFigures(columns: Readonly<Record<string, GuestFigures>>): readonly string[] {
  const figures = Object.values(columns);
  const rows = [
    ['the guest', ...Object.keys(columns)],
    ['writes a second', ...figures.map(({ writesPerSecond }) => formatCount(writesPerSecond))],
    ['median write', ...figures.map(({ medianWriteMs }) => formatMs(medianWriteMs))],
    ['longest write', ...figures.map(({ longestWriteMs }) => formatMs(longestWriteMs))],
  ];
  return rows.map(
    ([name = '', ...cells]) => name.padEnd(15) + cells.map((cell) => cell.padStart(11)).join(''),
  );
}
