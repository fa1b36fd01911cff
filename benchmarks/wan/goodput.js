/**
 * The channel's goodput over long links, as the engine sees it, beside iperf3 over the same link: a VM of
 * random memory, no disk, an idle guest, over TCP between the two namespaces of the laboratory
 * (laboratory.js), each end a process of its own. The engine and iperf3 take turns, so that whatever else
 * the machine does falls on both.
 *
 * Goodputs are payload bytes over wall time. iperf3's are what its receiver read, with as many streams
 * as did best in that run: `cold` in the first seconds, slow start and all; `warm` later. `arrived` is
 * what `cold` is, of the engine: what the destination had read after as many seconds, headers, a thousandth,
 * and all. `copyMemory` is all of the source's phase of that name, to where the rest fits the downtime: the
 * end of a transfer, which iperf3's figures do not have, is in it. `total` is the source's whole run, from
 * connecting to the release. CPU time is that of the process during the run, user and system; peak RSS is
 * that of the process's life, the VM's memory included.
 *
 * Uses the built library: `npm run build` first.
 */
import { cpuText, gibibyte, head, median, row, rssText } from './figures.js';
import { iperf } from './iperf.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';
import { arrivedMbit, migrate } from './migrate.js';
import { readOptions, refuse } from './options.js';

const usage = `Usage: node benchmarks/wan/goodput.js [options]

  --rate N          Mbit/s of the link: 1 to 10000 (default 1000)
  --rtt LIST        round trips in ms, with commas between: 0 to 2000 (default 0,50,100,200)
  --loss LIST       percent of packets lost, each way, with commas between: 0 to 50 (default 0)
  --queue N         depth of the link's queues in ms of its rate: 1 to 10000 (default 50)
  --congestion X    bbr, cubic or what else the kernel has (default bbr)
  --seconds N       that a transfer takes at the full rate, whole ones: 1 to 600 (default 10)
  --omit N          seconds of slow start that iperf3's warm figure leaves out: 0 to 60 (default 0)
  --gib N           memory of the VM instead of what --seconds asks for, at most 1.5: 0.01 to 16
  --lanes N         data connections of the engine: 1 to 256, or 0 for as many as it likes (default 0)
  --runs N          runs of each, of which the medians are shown: 1 to 99 (default 3)
  --seed N          of the losses (default 1)
  --help            this text

Exit code: 0 if everything was measured, 1 if a run failed, 2 if there can be no laboratory here or the
options are wrong.
`;

const mebibyte = 2 ** 20;
/** Of what --seconds asks for: both ends hold the VM. */
const bytesMax = 1.5 * gibibyte;
const streamCounts = [1, 4, 16, 64];

/**
 * @typedef {import('./migrate.js').Move & Peer & { arrivedMbit: number }} Run
 *
 * @typedef {object} Peer
 * @property {import('./iperf.js').Transfer} cold The best of that run.
 * @property {import('./iperf.js').Transfer} warm The best of that run.
 *
 * @typedef {object} Settings
 * @property {number} rateMbit
 * @property {number} queueMs
 * @property {string} congestion
 * @property {number} seconds
 * @property {number} omit
 * @property {number} bytes
 * @property {number} lanes
 * @property {number} runs
 * @property {number} seed
 */

/**
 * All runs over one link. Returns what was lost before the link, too, which should be nothing.
 *
 * @param {Settings} settings @param {number} rttMs @param {number} lossPercent
 */
async function measure(settings, rttMs, lossPercent) {
  const { rateMbit, queueMs, congestion, seed, seconds, omit, bytes, lanes } = settings;
  const path = { rateMbit, delayMs: rttMs / 2, lossPercent, queueMs };
  const laboratory = await openLaboratory({ paths: [path], congestion, seed });
  const coldSeconds = Math.min(seconds, (8 * bytes) / rateMbit / 1e6);
  /** @type {Run[]} */
  const runs = [];
  try {
    for (let run = 1; run <= settings.runs; run++) {
      process.stderr.write(`RTT ${rttMs} ms, loss ${lossPercent} %, run ${run} of ${settings.runs}: engine`);
      const engine = await migrate(laboratory, { bytes, lanes, secondsMax: 60 + 20 * seconds });
      const arrived = arrivedMbit(engine, coldSeconds, rttMs);
      process.stderr.write(` ${arrived.toFixed(0)}, ${engine.copyMbit.toFixed(0)} Mbit/s, iperf3`);
      const transfers = [];
      for (const streams of streamCounts) {
        const transfer = await iperf(laboratory, { streams, seconds, omit, coldSeconds });
        process.stderr.write(` ${transfer.coldMbit.toFixed(0)}/${transfer.warmMbit.toFixed(0)}`);
        transfers.push(transfer);
      }
      process.stderr.write('\n');
      const cold = transfers.reduce((best, each) => (each.coldMbit > best.coldMbit ? each : best));
      const warm = transfers.reduce((best, each) => (each.warmMbit > best.warmMbit ? each : best));
      runs.push({ ...engine, arrivedMbit: arrived, cold, warm });
    }
    const { ab, ba } = (await laboratory.stats()).paths[0] ?? {};
    return { runs, spoiled: (ab?.overflow ?? 0) + (ba?.overflow ?? 0), sockets: laboratory.sockets };
  } finally {
    await laboratory.close();
  }
}

/**
 * The table's columns: head, width, and how a cell's runs are shown.
 *
 * @type {[string, number, (runs: readonly Run[], gib: number) => string][]}
 */
const columns = [
  ['arrived', 9, (runs) => median(runs, (run) => run.arrivedMbit).toFixed(0)],
  ['copyMemory', 12, (runs) => median(runs, (run) => run.copyMbit).toFixed(0)],
  ['total', 7, (runs) => median(runs, (run) => run.totalMbit).toFixed(0)],
  ['iperf3 cold', 13, (runs) => transferText(runs, 'cold')],
  ['iperf3 warm', 13, (runs) => transferText(runs, 'warm')],
  ['arrived/cold', 14, (runs) => median(runs, (run) => run.arrivedMbit / run.cold.coldMbit).toFixed(2)],
  ['copy/cold', 11, (runs) => median(runs, (run) => run.copyMbit / run.cold.coldMbit).toFixed(2)],
  ['copy/warm', 11, (runs) => median(runs, (run) => run.copyMbit / run.warm.warmMbit).toFixed(2)],
  ['total/cold', 12, (runs) => median(runs, (run) => run.totalMbit / run.cold.coldMbit).toFixed(2)],
  ['CPU s/GiB', 13, cpuText],
  ['RSS GiB', 13, rssText],
  ['link CPU', 10, (runs) => `${(median(runs, (run) => run.linkCpu) * 100).toFixed(0)} %`],
];

/** @param {readonly Run[]} runs @param {'cold' | 'warm'} which */
function transferText(runs, which) {
  const mbit = median(runs, (run) => run[which][`${which}Mbit`]);
  const streams = median(runs, (run) => run[which].streams);
  return `${mbit.toFixed(0)} (${streams})`;
}

async function main() {
  const given = readOptions(usage, {
    rate: '1000',
    rtt: '0,50,100,200',
    loss: '0',
    queue: '50',
    congestion: 'bbr',
    seconds: '10',
    omit: '0',
    gib: undefined,
    lanes: '0',
    runs: '3',
    seed: '1',
  });
  const rateMbit = given.number('rate', 1, 10_000);
  const seconds = given.whole('seconds', 1, 600);
  const wanted =
    given.text('gib') === undefined
      ? Math.min(bytesMax, (rateMbit * 1e6 * seconds) / 8)
      : given.number('gib', 0.01, 16) * gibibyte;
  /** @type {Settings} */
  const settings = {
    rateMbit,
    queueMs: given.number('queue', 1, 10_000),
    congestion: given.text('congestion') ?? '',
    seconds,
    omit: given.whole('omit', 0, 60),
    bytes: Math.ceil(wanted / mebibyte) * mebibyte,
    lanes: given.whole('lanes', 0, 256),
    runs: given.whole('runs', 1, 99),
    seed: given.whole('seed', 0, 2 ** 31),
  };
  const rtts = given.numbers('rtt', 0, 2000);
  const losses = given.numbers('loss', 0, 50);
  const reason = await whyNoLaboratory(settings.congestion, ['iperf3', 'ss']);
  if (reason !== undefined) refuse(reason);
  await measureAll(settings, rtts, losses);
}

/** @param {Settings} settings @param {readonly number[]} rtts @param {readonly number[]} losses */
async function measureAll(settings, rtts, losses) {
  const { rateMbit, queueMs, congestion, seconds, omit, lanes, runs, bytes } = settings;
  const gib = bytes / gibibyte;
  console.log(head('goodput over a long link'));
  console.log(`${rateMbit} Mbit/s, queue ${queueMs} ms, MTU 1500; TCP with ${congestion}, TLS off`);
  console.log(
    `engine: ${gib.toFixed(2)} GiB of random memory, no disk, idle guest; ${lanes === 0 ? 'automatic' : lanes} lanes and control`,
  );
  console.log(
    `iperf3: best of ${streamCounts.join(', ')} streams; cold: the first ${seconds} s, or as long as the link takes for the VM; warm: ${seconds} s after ${omit} s`,
  );
  console.log('each end its own process; CPU and RSS: of the source and the destination');
  console.log(`goodput in Mbit/s; every figure and ratio the median of ${runs}`);
  let headIsDue = true;
  for (const lossPercent of losses) {
    for (const rttMs of rtts) {
      const name = `${rttMs} ms`.padStart(8) + `${lossPercent} %`.padStart(8);
      try {
        const { runs: measured, spoiled, sockets } = await measure(settings, rttMs, lossPercent);
        if (headIsDue) {
          console.log(
            `sockets' buffers as the kernel has them: rmem ${sockets.rmem}, wmem ${sockets.wmem}\n`,
          );
          console.log(`     RTT    loss${row(columns.map(([name, width]) => [name, width]))}`);
          headIsDue = false;
        }
        console.log(name + row(columns.map(([, width, show]) => [show(measured, gib), width])));
        if (spoiled > 0) console.log(`${name}  spoiled: ${spoiled} packets were lost before the link`);
      } catch (error) {
        process.stderr.write('\n');
        console.log(`${name}  failed: ${error instanceof Error ? error.message : error}`);
        process.exitCode = 1;
      }
    }
  }
}

await main();
