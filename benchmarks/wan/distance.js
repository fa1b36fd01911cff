/**
 * Does the simulator tell the truth? The same migrations twice: simulated, as in benchmarks/distance.js, and over the laboratory's link
 * with the kernel's TCP. One VM, the same round trips, losses, rate and queue; no more on its disk than the simulation needs.
 *
 * Rates are of payload, as the simulator counts them: the laboratory's link is faster by what headers take.
 *
 * Uses the built library for the laboratory, and the sources for the simulator: `npm run build` first.
 */
import { bundle } from '../support/bundle.js';
import { gibibyte, head, median, row } from './figures.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';
import { migrate } from './migrate.js';
import { readOptions, refuse } from './options.js';

const usage = `Usage: node benchmarks/wan/distance.js [options]

Each combination of these, each a list with commas:

  --rtt LIST        round trips, ms: 0 to 1000 (default 50,150)
  --loss LIST       percent of packets lost, each way: 0 to 30 (default 0,0.1)

and for all of them:

  --rate N          Mbit/s of payload: 1 to 10000 (default 1000)
  --gib N           the VM's memory: 0.0625 to 16 (default 1)
  --congestion X    bbr, cubic or reno (default bbr)
  --socket N        what a simulated connection may have on its way, MiB: 1 to 1024 (default 3)
  --runs N          migrations in the laboratory, of which the median is shown: 1 to 99 (default 3)
  --seed N          (default 1)
  --help            this text

Exit code: 0 if all are within 15 %, 1 if not, 2 if there can be no laboratory here or the options are wrong.
`;

/** TCP's payload of an IP packet at MTU 1500, with timestamps. */
const payloadShare = 1448 / 1500;
/** What the simulator has in front of its paths. */
const queueMs = 25;
/** The least disk that a simulated VM may have: a quarter of it is copied. */
const diskGiB = 1 / 64;
const within = 0.15;

const given = readOptions(usage, {
  rtt: '50,150',
  loss: '0,0.1',
  rate: '1000',
  gib: '1',
  congestion: 'bbr',
  socket: '3',
  runs: '3',
  seed: '1',
});
const rtts = given.numbers('rtt', 0, 1000);
const losses = given.numbers('loss', 0, 30);
const rateMbit = given.number('rate', 1, 10_000);
const gib = given.number('gib', 1 / 16, 16);
const congestion = given.text('congestion') ?? '';
const socketMiB = given.number('socket', 1, 1024);
const runs = given.whole('runs', 1, 99);
const seed = given.whole('seed', 0, 2 ** 31);
const reason = await whyNoLaboratory(congestion);
if (reason !== undefined) refuse(reason);

const bundled = await bundle({ cell: 'benchmarks/support/distance-cell.ts' });
try {
  /** @type {typeof import('../support/distance-cell.ts')} */
  const { simulateCell } = await import(bundled.paths.cell);
  console.log(head('simulated, and over the laboratory\u2019s link'));
  console.log(`${rateMbit} Mbit/s of payload, queue ${queueMs} ms; TCP with ${congestion}, TLS off`);
  console.log(`${gib} GiB of memory, no disk to speak of, idle guest; automatic lanes and control`);
  console.log(`copyMemory in s; in the laboratory the median of ${runs}, and the least and the most\n`);
  console.log(
    row([
      ['RTT', 8],
      ['loss', 8],
      ['simulated', 12],
      ['laboratory', 12],
      ['', 18],
      ['ratio', 8],
    ]),
  );
  for (const lossPercent of losses) {
    for (const rttMs of rtts) {
      const common = { rttMs, lossPercent, congestion: /** @type {'bbr'} */ (congestion), seed };
      const simulated = await simulateCell({
        ...common,
        rateGbit: rateMbit / 1000,
        memoryGiB: gib,
        diskGiB,
        guest: 'idle',
        socketMiB,
        windowMiB: 256,
        beforeSeconds: 1,
      });
      const real = await measure(rttMs, lossPercent);
      const simulatedMs = simulated.phases.copyMemory ?? Number.NaN;
      const realMs = median(real, ({ copyMs }) => copyMs);
      const ratio = simulatedMs / realMs;
      if (!(Math.abs(ratio - 1) <= within)) process.exitCode = 1;
      const all = real.map(({ copyMs }) => copyMs / 1000);
      console.log(
        row([
          [`${rttMs} ms`, 8],
          [`${lossPercent} %`, 8],
          [(simulatedMs / 1000).toFixed(2), 12],
          [(realMs / 1000).toFixed(2), 12],
          [`(${Math.min(...all).toFixed(2)} to ${Math.max(...all).toFixed(2)})`, 18],
          [ratio.toFixed(2), 8],
        ]),
      );
    }
  }
} finally {
  await bundled.remove();
}

/** @param {number} rttMs @param {number} lossPercent */
async function measure(rttMs, lossPercent) {
  const path = { rateMbit: rateMbit / payloadShare, delayMs: rttMs / 2, lossPercent, queueMs };
  const laboratory = await openLaboratory({ paths: [path], congestion, seed });
  try {
    const moves = [];
    for (let run = 0; run < runs; run++)
      moves.push(await migrate(laboratory, { bytes: gib * gibibyte, secondsMax: 600 }));
    return moves;
  } finally {
    await laboratory.close();
  }
}
