// Goal: the distance benchmark measures what it says it does.
// Method: one tiny migration through it, and made-up results through its table and its chart.
import { expect, test } from 'vitest';
import {
  type DistanceCell,
  type DistanceResult,
  simulateCell,
} from '../../benchmarks/support/distance-cell.ts';
import { distanceChart, distanceTable } from '../../benchmarks/support/distance-render.ts';

const cell: DistanceCell = {
  rttMs: 40,
  lossPercent: 0.1,
  rateGbit: 0.5,
  memoryGiB: 1 / 64,
  diskGiB: 1 / 16,
  guest: 'oltp',
  congestion: 'bbr',
  socketMiB: 64,
  windowMiB: 64,
  beforeSeconds: 2,
  seed: 3,
};
const contentBytes = 2 * 16 * 2 ** 20;

test('a tiny migration, and the same again', async () => {
  const result = await simulateCell(cell);
  const { sentBytes, totalMs, downtimeMs } = result;
  expect(result).toMatchObject({ cell, outcome: 'completed', equal: true });
  expect(sentBytes).toBeGreaterThan(contentBytes);
  expect(sentBytes).toBeLessThan(2 * contentBytes);
  expect(result.overIdeal).toBeCloseTo(totalMs / ((sentBytes * 8) / 500_000), 9);
  expect(result.overIdeal).toBeGreaterThan(1);
  // One way, and back, and once more: FINAL, READY, COMMIT.
  expect(downtimeMs).toBeGreaterThan(1.5 * cell.rttMs);
  expect(downtimeMs).toBeLessThan(1000);
  expect(result.before?.perSecond).toBeCloseTo(120, -1);
  expect(result.before?.medianMs).toBeGreaterThan(0.3);
  expect(result.during?.perSecond).toBeGreaterThan(60);
  expect(result.during?.perSecond).toBeLessThan(125);
  expect(await simulateCell(cell)).toEqual(result);
});

test('distance costs time', async () => {
  const near = await simulateCell({ ...cell, guest: 'idle', rttMs: 1, lossPercent: 0 });
  const far = await simulateCell({ ...cell, guest: 'idle', rttMs: 200, lossPercent: 0 });
  expect(far.overIdeal).toBeGreaterThan(near.overIdeal);
  expect(far.downtimeMs).toBeGreaterThan(near.downtimeMs + 199);
  expect(far.before).toBeUndefined();
});

const completed: DistanceResult = {
  cell,
  outcome: 'completed',
  equal: true,
  totalMs: 12_345,
  sentBytes: contentBytes,
  overIdeal: 1.234,
  downtimeMs: 81.4,
  rounds: 3,
  throttleMax: 0.2,
  phases: {},
  setBack: 0,
  before: { perSecond: 120, medianMs: 0.66, p99Ms: 0.7, maxMs: 1 },
  during: { perSecond: 118.04, medianMs: 0.72, p99Ms: 1.13, maxMs: 80 },
};

test('the table has a line for each result, and says which did not complete', () => {
  const failed = { ...completed, cell: { ...cell, rttMs: 200 }, outcome: 'not-converging', equal: false };
  const differs = { ...completed, cell: { ...cell, rttMs: 300 }, equal: false };
  const lines = distanceTable([differs, failed, completed]).split('\n');
  expect(lines.filter((line) => line.startsWith('### '))).toHaveLength(1);
  expect(lines.filter((line) => /^\| \d/.test(line))).toEqual([
    '| 40 | 0.1 | 12.3 | 1.23 | 81 | 3 | 0.20 | 120.0 → 118.0 | 0.66 → 0.72 | 0.70 → 1.13 | completed |',
    '| 200 | 0.1 | 12.3 | – | – | 3 | 0.20 | 120.0 → 118.0 | 0.66 → 0.72 | 0.70 → 1.13 | not-converging |',
    '| 300 | 0.1 | 12.3 | 1.23 | 81 | 3 | 0.20 | 120.0 → 118.0 | 0.66 → 0.72 | 0.70 → 1.13 | **differs** |',
  ]);
});

test('the chart has a point for each completed migration of one VM', () => {
  const others = [
    { ...completed, cell: { ...cell, rttMs: 200 } },
    { ...completed, cell: { ...cell, rttMs: 100 }, outcome: 'not-converging' },
    { ...completed, cell: { ...cell, memoryGiB: 64 } },
  ];
  const svg = distanceChart([completed, ...others]);
  // Two points in each of two panels.
  expect(svg.match(/<circle/g)).toHaveLength(4);
  expect(svg).not.toMatch(/NaN|Infinity|undefined/);
});
