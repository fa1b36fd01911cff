/** What the benchmarks that compare two ends with two others print, and what they are told. */

/** @typedef {import('./ends.js').Usage} Usage @typedef {{ ms: number, sender: Usage, receiver: Usage }} Measured */

export const gibibyte = 2 ** 30;

/** How warm the processes are, for people. @param {number} warmBytes */
export function warmth(warmBytes) {
  if (warmBytes === 0) return 'started for it: cold';
  return `warmed by ${warmBytes / gibibyte} GiB that do not count, for all alike`;
}

/** The one in the middle; of an even number, the lower one of the two. @param {readonly number[]} values */
export function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted[Math.floor((sorted.length - 1) / 2)];
  if (middle === undefined) throw new Error('nothing was measured');
  return middle;
}

export const head = `${' '.repeat(28)}       rate   sender CPU receiver CPU sender RSS receiver RSS`;

/** A line of the table: every figure the median by itself. @param {string} name @param {number} bytes @param {readonly Measured[]} runs */
export function row(name, bytes, runs) {
  const gib = bytes / gibibyte;
  const cells = [
    name.padEnd(28),
    `${((1000 * gib) / median(runs.map(({ ms }) => ms))).toFixed(2)} GiB/s`.padStart(11),
  ];
  for (const end of /** @type {const} */ (['sender', 'receiver'])) {
    cells.push(`${(median(runs.map((run) => run[end].cpuSeconds)) / gib).toFixed(2)} s/GiB`.padStart(13));
  }
  for (const end of /** @type {const} */ (['sender', 'receiver'])) {
    cells.push(`${(median(runs.map((run) => run[end].rssBytes)) / gibibyte).toFixed(2)} GiB`.padStart(11));
  }
  return cells.join('');
}

/** Rate over rate, run by run, as they took turns; the median. @param {readonly { ms: number }[]} ours @param {readonly { ms: number }[]} theirs */
export function ratio(ours, theirs) {
  const ratios = ours.map(({ ms }, index) => (theirs[index]?.ms ?? Number.NaN) / ms);
  return `${median(ratios).toFixed(2)} (${ratios.map((each) => each.toFixed(2)).join(', ')})`;
}

/** CPU time of both ends over CPU time of both ends; of the medians. @param {readonly Measured[]} ours @param {readonly Measured[]} theirs */
export function cpuRatio(ours, theirs) {
  const both = (/** @type {readonly Measured[]} */ runs) =>
    median(runs.map(({ sender, receiver }) => sender.cpuSeconds + receiver.cpuSeconds));
  return (both(ours) / both(theirs)).toFixed(2);
}

/** A number of the command line, or the end of it. @param {string} name @param {string | undefined} text @param {number} least @param {number} most @param {string} usage */
export function number(name, text, least, most, usage) {
  const value = Number(text);
  if (text === undefined || text.trim() === '' || !(value >= least && value <= most)) {
    process.stderr.write(`${name} must be ${least} to ${most}\n\n${usage}`);
    process.exit(2);
  }
  return value;
}
