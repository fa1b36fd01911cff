/**
 * Goal: predictions hold. Method: whole migrations in the simulator from fixed seeds, each estimated before and watched on its way, against what they came to; only those count
 * that completed (see `calibrationOf`). `npm run predict` does the same with more of them.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import {
  calibrationOf,
  lookShares,
  type PredictionResult,
  predictScenario,
} from '../../support/prediction-cell.ts';
import { drawLarger } from '../../support/prediction-draw.ts';

const seeds = Array.from(
  { length: Number(process.env.LONGHAUL_PREDICTIONS ?? 16) },
  (_, index) => 1001 + index,
);

describe('predictions', () => {
  const results: PredictionResult[] = [];

  beforeAll(async () => {
    for (const seed of seeds) results.push(await predictScenario(seed, drawLarger(seed)));
  }, 600_000);

  it('are made of migrations of which nearly all complete', () => {
    const completed = results.filter(({ outcome }) => outcome === 'completed').length;
    expect(completed).toBeGreaterThan(0.8 * seeds.length);
  });

  it('are never wider than three to one', () => {
    for (const when of ['before', ...lookShares] as const) {
      for (const what of ['time', 'downtime'] as const) {
        expect(calibrationOf(results, when, what).widthMax).toBeLessThanOrEqual(3.001);
      }
    }
  });

  it('hold the time that it takes, before it and on its way', () => {
    const looks = (['before', ...lookShares] as const).map((when) => calibrationOf(results, when, 'time'));
    const count = looks.reduce((sum, look) => sum + look.count, 0);
    const held = looks.reduce((sum, look) => sum + look.count * look.holds, 0);
    expect(count).toBeGreaterThan(3 * 0.7 * seeds.length);
    expect(held / count).toBeGreaterThanOrEqual(0.85);
  });

  it('hold the downtime, before it and on its way', () => {
    const looks = (['before', ...lookShares] as const).map((when) =>
      calibrationOf(results, when, 'downtime'),
    );
    const count = looks.reduce((sum, look) => sum + look.count, 0);
    const held = looks.reduce((sum, look) => sum + look.count * look.holds, 0);
    expect(count).toBeGreaterThan(3 * 0.7 * seeds.length);
    expect(held / count).toBeGreaterThanOrEqual(0.8);
  });

  it('have a fraction that never falls', () => {
    for (const { fractions, outcome } of results) {
      expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
      if (outcome === 'completed') expect(fractions.at(-1)).toBe(1);
    }
  });

  it('say rightly, of most, whether it converges', () => {
    const right = results.filter(
      ({ outcome, estimate }) => (outcome === 'completed') === (estimate.converges !== 'no'),
    );
    expect(right.length).toBeGreaterThan(0.85 * seeds.length);
  });
});
