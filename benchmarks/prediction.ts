/**
 * How well migrations are predicted: `npm run predict -- --seeds 200`, with `--from N`, and with `--swarm` for the small worlds of `npm run simulate` instead of VMs that take
 * seconds to move, and with `--compression` for both ends with a codec. In virtual time, so the figures do not depend on the machine.
 */
import { parseArgs } from 'node:util';
import {
  calibrationOf,
  lookShares,
  type PredictionResult,
  predictScenario,
} from '../test/support/prediction-cell.ts';
import { drawCalm, drawLarger, withCompression } from '../test/support/prediction-draw.ts';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '100' },
    from: { type: 'string', default: '1' },
    swarm: { type: 'boolean', default: false },
    compression: { type: 'boolean', default: false },
  },
});

const from = Number(values.from);
const results: PredictionResult[] = [];
for (let seed = from; seed < from + Number(values.seeds); seed++) {
  const scenario = values.swarm ? drawCalm(seed) : drawLarger(seed);
  if (scenario === undefined) continue;
  results.push(await predictScenario(seed, values.compression ? withCompression(scenario) : scenario));
}
const completed = results.filter(({ outcome }) => outcome === 'completed').length;
console.log(`${results.length} migrations, ${completed} completed`);
for (const when of ['before', ...lookShares] as const) {
  for (const what of ['time', 'downtime'] as const) {
    const { count, holds, below, above, widthMedian, widthMax } = calibrationOf(results, when, what);
    const widths = `width ${widthMedian.toFixed(2)}, at most ${widthMax.toFixed(2)}`;
    console.log(
      `${String(when).padEnd(6)} ${what.padEnd(8)} ${(100 * holds).toFixed(1)} % of ${count} hold (${below} below, ${above} above), ${widths}`,
    );
  }
}
const agrees = results.filter(
  ({ outcome, estimate }) => (outcome === 'completed') === (estimate.converges !== 'no'),
);
console.log(`whether it converges was said rightly of ${agrees.length} of ${results.length}`);
