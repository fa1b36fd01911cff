/**
 * Two paths of unequal speed and length: the engine over each alone, and over both at once through `tcp({ paths })`. Each is
 * given what it carries in the same time, so that their starts and ends weigh the same.
 *
 * Uses the built library: `npm run build` first.
 */
import { cpuText, gibibyte, head, median, row, rssText } from './figures.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';
import { migrate } from './migrate.js';
import { readOptions, refuse } from './options.js';

const usage = `Usage: node benchmarks/wan/paths.js [options]

  --rate LIST       Mbit/s of the paths, with commas between: 1 to 10000 (default 600,200)
  --rtt LIST        their round trips in ms, as many: 0 to 2000 (default 20,120)
  --loss N          percent of packets lost, each way: 0 to 50 (default 0)
  --queue N         depth of the paths' queues in ms of their rates: 1 to 10000 (default 50)
  --congestion X    bbr, cubic or what else the kernel has (default bbr)
  --seconds N       that a transfer takes at the full rate, whole ones: 1 to 600 (default 10)
  --runs N          runs of each, of which the medians are shown: 1 to 99 (default 3)
  --seed N          of the losses (default 1)
  --help            this text

Exit code: 0 if everything was measured, 2 if there can be no laboratory here or the options are wrong.
`;

const mebibyte = 2 ** 20;

/** @typedef {import('./migrate.js').Move} Move */

const given = readOptions(usage, {
  rate: '600,200',
  rtt: '20,120',
  loss: '0',
  queue: '50',
  congestion: 'bbr',
  seconds: '10',
  runs: '3',
  seed: '1',
});
const rates = given.numbers('rate', 1, 10_000);
const rtts = given.numbers('rtt', 0, 2000);
const lossPercent = given.number('loss', 0, 50);
const queueMs = given.number('queue', 1, 10_000);
const congestion = given.text('congestion') ?? '';
const seconds = given.whole('seconds', 1, 600);
const runs = given.whole('runs', 1, 99);
const seed = given.whole('seed', 0, 2 ** 31);
if (rates.length !== rtts.length || rates.length > 16)
  refuse(`as many --rate as --rtt, 16 at most\n\n${usage}`);
const reason = await whyNoLaboratory(congestion);
if (reason !== undefined) refuse(reason);

const all = rates.map((_, index) => index);
/** Each alone, then all. */
const cases = [...all.map((index) => [index]), all];
/** @type {Move[][]} */
const moves = cases.map(() => []);
const bytesOf = (/** @type {readonly number[]} */ paths) => {
  const rateMbit = paths.reduce((sum, path) => sum + (rates[path] ?? 0), 0);
  return Math.ceil((rateMbit * 1e6 * seconds) / 8 / mebibyte) * mebibyte;
};

const laboratory = await openLaboratory({
  paths: rates.map((rateMbit, index) => ({
    rateMbit,
    delayMs: (rtts[index] ?? 0) / 2,
    lossPercent,
    queueMs,
  })),
  congestion,
  seed,
});
try {
  console.log(head('the engine over several paths'));
  console.log(`queues of ${queueMs} ms, loss ${lossPercent} %, MTU 1500; TCP with ${congestion}, TLS off`);
  console.log(
    `random memory for ${seconds} s at the full rate, no disk, idle guest; automatic lanes and control`,
  );
  console.log('each end its own process; CPU and RSS: of the source and the destination');
  console.log(`goodput in Mbit/s; every figure and ratio the median of ${runs}`);
  const { rmem, wmem } = laboratory.sockets;
  console.log(`sockets' buffers as the kernel has them: rmem ${rmem}, wmem ${wmem}\n`);
  for (let run = 1; run <= runs; run++) {
    for (const [index, paths] of cases.entries()) {
      const move = await migrate(laboratory, { bytes: bytesOf(paths), paths, secondsMax: 60 + 20 * seconds });
      moves[index]?.push(move);
      process.stderr.write(`run ${run} of ${runs}: paths ${paths} ${move.copyMbit.toFixed(0)} Mbit/s\n`);
    }
  }
} finally {
  await laboratory.close();
}

console.log(
  row([
    ['paths', 26],
    ['copyMemory', 12],
    ['total', 8],
    ['CPU s/GiB', 13],
    ['RSS GiB', 13],
  ]),
);
for (const [index, paths] of cases.entries()) {
  const of = moves[index] ?? [];
  const name = paths.length > 1 ? 'all of them' : `${rates[index]} Mbit/s, ${rtts[index]} ms`;
  console.log(
    row([
      [name, 26],
      [median(of, (move) => move.copyMbit).toFixed(0), 12],
      [median(of, (move) => move.totalMbit).toFixed(0), 8],
      [cpuText(of, bytesOf(paths) / gibibyte), 13],
      [rssText(of), 13],
    ]),
  );
}

/** Of each run, all paths over the sum of each alone. @param {(move: Move) => number} figure */
function share(figure) {
  const together = moves.at(-1) ?? [];
  return median(
    together.map((move, run) => ({ move, run })),
    ({ move, run }) => {
      const alone = moves.slice(0, -1).map((each) => figure(/** @type {Move} */ (each[run])));
      return figure(move) / alone.reduce((sum, each) => sum + each, 0);
    },
  ).toFixed(2);
}
console.log(
  `\nall over the sum of each alone: copyMemory ${share((move) => move.copyMbit)}, total ${share((move) => move.totalMbit)}`,
);
