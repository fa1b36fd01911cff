// Goal: a quantile that is read out is the true one, to within a tenth. Method: random durations, sorted, beside it.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Histogram } from '../../src/util/histogram.ts';

test('a quantile is right to within a tenth', () => {
  const durations = fc.array(fc.double({ min: 0.2, max: 1e6, noNaN: true }), {
    minLength: 1,
    maxLength: 300,
  });
  fc.assert(
    fc.property(durations, fc.constantFrom(0.01, 0.5, 0.99, 1), (values, part) => {
      const histogram = new Histogram();
      for (const value of values) histogram.add(value);
      const sorted = values.toSorted((a, b) => a - b);
      const truth = sorted[Math.max(0, Math.ceil(part * values.length - 1e-9) - 1)] ?? 0;
      expect(histogram.quantile(part)).toBeGreaterThanOrEqual(truth * 0.999);
      expect(histogram.quantile(part)).toBeLessThanOrEqual(truth * 1.101);
    }),
  );
});

test('of nothing it is 0, and of what took no time too', () => {
  const histogram = new Histogram();
  expect(histogram.quantile(0.5)).toBe(0);
  histogram.add(0);
  expect(histogram.quantile(1)).toBe(0);
});
