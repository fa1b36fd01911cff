/** How the laboratory's benchmarks show what they measured. */
import { availableParallelism, loadavg, release } from 'node:os';

export const gibibyte = 2 ** 30;

/**
 * @typedef {import('../support/ends.js').Usage} Usage
 * @typedef {{ source: Usage, destination: Usage }} Costs
 */

/** The first lines of what is printed. @param {string} name */
export function head(name) {
  const load = (loadavg()[0] ?? 0).toFixed(1);
  const machine = `node ${process.version}, Linux ${release()}, ${availableParallelism()} cores`;
  return `${name}, ${new Date().toISOString()}\n${machine}, load ${load} at the start`;
}

/**
 * Of an even number, the lower one of the two in the middle.
 *
 * @template Run
 * @param {readonly Run[]} runs @param {(run: Run) => number} figure
 */
export function median(runs, figure) {
  const sorted = runs.map(figure).sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN;
}

/** Of the source and the destination. @param {readonly Costs[]} runs @param {number} gib That were moved. */
export function cpuText(runs, gib) {
  return both(runs, ({ cpuSeconds }) => cpuSeconds / gib);
}

/** Of the source and the destination. @param {readonly Costs[]} runs */
export function rssText(runs) {
  return both(runs, ({ rssBytes }) => rssBytes / gibibyte);
}

/** @param {readonly Costs[]} runs @param {(usage: Usage) => number} figure */
function both(runs, figure) {
  const source = median(runs, (run) => figure(run.source));
  const destination = median(runs, (run) => figure(run.destination));
  return `${source.toFixed(2)} ${destination.toFixed(2)}`;
}

/**
 * A line of a table.
 *
 * @param {readonly (readonly [string, number])[]} cells Each with its width.
 */
export function row(cells) {
  return cells.map(([text, width]) => text.padStart(width)).join('');
}
