/**
 * The channel's goodput over long links, as the engine sees it, beside iperf3 over the same link: a VM of
 * random memory, no disk, an idle guest, over TCP between the two namespaces of the laboratory
 * (laboratory.js), each end a process of its own. The engine and iperf3 take turns, so that whatever else
 * the machine does falls on both.
 *
 * Goodputs are payload bytes over wall time. `copyMemory` is the source's phase of that name; `total` is
 * its whole run, from connecting to the release. iperf3's are what its receiver read, with as many streams
 * as did best in that run: `cold` in the first seconds, slow start and all, as the engine starts too;
 * `warm` in as many seconds, later. CPU time is that of the process during the run, user and system; peak
 * RSS is that of the process's life, the VM's memory included.
 *
 * Uses the built library: `npm run build` first.
 */
import { availableParallelism, loadavg, release } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { follow, runEnd } from '../support/ends.js';
import { destination, source } from '../support/migration-ends.js';
import { iperf } from './iperf.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';

const usage = `Usage: node benchmarks/wan/goodput.js [options]

  --rate N          Mbit/s of the link: 1 to 10000 (default 1000)
  --rtt LIST        round trips in ms, with commas between: 0 to 2000 (default 0,50,100,200)
  --loss LIST       percent of packets lost, each way, with commas between: 0 to 50 (default 0)
  --queue N         depth of the link's queues in ms of its rate: 1 to 10000 (default 50)
  --congestion X    bbr, cubic or what else the kernel has (default bbr)
  --seconds N       that a transfer takes at the full rate, whole ones: 1 to 600 (default 10)
  --omit N          seconds of slow start that iperf3's warm figure leaves out: 0 to 60 (default 5)
  --gib N           memory of the VM instead of what --seconds asks for, at most 1.5: 0.01 to 16
  --lanes N         data connections of the engine: 1 to 256, or 0 for as many as it likes (default 0)
  --runs N          runs of each, of which the medians are shown: 1 to 99 (default 3)
  --seed N          of the losses (default 1)
  --help            this text

Exit code: 0 if everything was measured, 1 if a run failed, 2 if there can be no laboratory here or the
options are wrong.
`;

const gibibyte = 2 ** 30;
const mebibyte = 2 ** 20;
/** Of what --seconds asks for: both ends hold the VM. */
const bytesMax = 1.5 * gibibyte;
const streamCounts = [1, 4, 16];

/**
 * @typedef {import('../support/ends.js').Usage} Usage
 * @typedef {import('./laboratory.js').Laboratory} Laboratory
 *
 * @typedef {import('../support/migration-ends.js').Task} Task
 *
 * @typedef {object} Run
 * @property {number} copyMbit
 * @property {number} totalMbit
 * @property {import('./iperf.js').Transfer} cold The best of that run.
 * @property {import('./iperf.js').Transfer} warm The best of that run.
 * @property {Usage} source
 * @property {Usage} destination
 * @property {number} linkCpu Cores, while the engine ran.
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

const ends = { source, destination };

/** @param {Laboratory} laboratory @param {'a' | 'b'} side @param {string} end @param {Task} task */
function startEnd(laboratory, side, end, task) {
  const args = [...process.execArgv, fileURLToPath(import.meta.url), end, JSON.stringify(task)];
  const child = laboratory.spawn(side, process.execPath, args, {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  return follow(end, child);
}

/** One migration from `a` to `b`. @param {Laboratory} laboratory @param {Settings} settings */
async function migrate(laboratory, { bytes, lanes, seconds }) {
  const host = laboratory.addresses[0]?.b ?? '';
  const receiver = startEnd(laboratory, 'b', 'destination', { bytes, lanes, host, port: 0 });
  let sender;
  let timer;
  try {
    const { port } = await receiver.next();
    sender = startEnd(laboratory, 'a', 'source', { bytes, lanes, host, port });
    await sender.next();
    const before = (await laboratory.stats()).cpuSeconds;
    // A run that hangs is a result, and the next cell is not kept from its turn.
    timer = setTimeout(() => [sender, receiver].map((end) => end?.kill()), (seconds * 20 + 60) * 1000);
    sender.go();
    const source = await sender.next();
    const destination = await receiver.next();
    const linkCpu = ((await laboratory.stats()).cpuSeconds - before) / (source.totalMs / 1000);
    await Promise.all([sender.end(), receiver.end()]);
    const mbit = (/** @type {number} */ ms) => (bytes * 8) / 1000 / ms;
    return { copyMbit: mbit(source.copyMs), totalMbit: mbit(source.totalMs), source, destination, linkCpu };
  } finally {
    clearTimeout(timer);
    sender?.kill();
    receiver.kill();
  }
}

/**
 * All runs over one link. Returns what was lost before the link, too, which should be nothing.
 *
 * @param {Settings} settings @param {number} rttMs @param {number} lossPercent
 */
async function measure(settings, rttMs, lossPercent) {
  const { rateMbit, queueMs, congestion, seed, seconds, omit } = settings;
  const path = { rateMbit, delayMs: rttMs / 2, lossPercent, queueMs };
  const laboratory = await openLaboratory({ paths: [path], congestion, seed });
  /** @type {Run[]} */
  const runs = [];
  try {
    for (let run = 1; run <= settings.runs; run++) {
      process.stderr.write(`RTT ${rttMs} ms, loss ${lossPercent} %, run ${run} of ${settings.runs}: engine`);
      const engine = await migrate(laboratory, settings);
      process.stderr.write(` ${engine.copyMbit.toFixed(0)} Mbit/s, iperf3`);
      const transfers = [];
      for (const streams of streamCounts) {
        const transfer = await iperf(laboratory, { streams, seconds, omit });
        process.stderr.write(` ${transfer.coldMbit.toFixed(0)}/${transfer.warmMbit.toFixed(0)}`);
        transfers.push(transfer);
      }
      process.stderr.write('\n');
      const cold = transfers.reduce((best, each) => (each.coldMbit > best.coldMbit ? each : best));
      const warm = transfers.reduce((best, each) => (each.warmMbit > best.warmMbit ? each : best));
      runs.push({ ...engine, cold, warm });
    }
    const { ab, ba } = (await laboratory.stats()).paths[0] ?? {};
    return { runs, spoiled: (ab?.overflow ?? 0) + (ba?.overflow ?? 0), sockets: laboratory.sockets };
  } finally {
    await laboratory.close();
  }
}

/**
 * Of an even number, the lower one of the two in the middle.
 *
 * @param {readonly Run[]} runs @param {(run: Run) => number} figure
 */
function median(runs, figure) {
  const sorted = runs.map(figure).sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN;
}

/**
 * The table's columns: head, width, and how a cell's runs are shown.
 *
 * @type {[string, number, (runs: readonly Run[], gib: number) => string][]}
 */
const columns = [
  ['copyMemory', 12, (runs) => median(runs, (run) => run.copyMbit).toFixed(0)],
  ['total', 7, (runs) => median(runs, (run) => run.totalMbit).toFixed(0)],
  ['iperf3 cold', 13, (runs) => transferText(runs, 'cold')],
  ['iperf3 warm', 13, (runs) => transferText(runs, 'warm')],
  ['copy/cold', 11, (runs) => median(runs, (run) => run.copyMbit / run.cold.coldMbit).toFixed(2)],
  ['copy/warm', 11, (runs) => median(runs, (run) => run.copyMbit / run.warm.warmMbit).toFixed(2)],
  ['total/cold', 12, (runs) => median(runs, (run) => run.totalMbit / run.cold.coldMbit).toFixed(2)],
  ['CPU s/GiB', 13, (runs, gib) => both(runs, (usage) => usage.cpuSeconds / gib)],
  ['RSS GiB', 13, (runs) => both(runs, (usage) => usage.rssBytes / gibibyte)],
  ['link CPU', 10, (runs) => `${(median(runs, (run) => run.linkCpu) * 100).toFixed(0)} %`],
];

/** @param {readonly Run[]} runs @param {'cold' | 'warm'} which */
function transferText(runs, which) {
  const mbit = median(runs, (run) => run[which][`${which}Mbit`]);
  const streams = median(runs, (run) => run[which].streams);
  return `${mbit.toFixed(0)} (${streams})`;
}

/** @param {readonly Run[]} runs @param {(usage: Usage) => number} figure */
function both(runs, figure) {
  const source = median(runs, (run) => figure(run.source));
  const destination = median(runs, (run) => figure(run.destination));
  return `${source.toFixed(2)} ${destination.toFixed(2)}`;
}

/** @param {string} message @returns {never} */
function refuse(message) {
  process.stderr.write(`${message}\n`);
  process.exit(2);
}

/** @param {string} name @param {string | undefined} text @param {number} least @param {number} most */
function number(name, text, least, most) {
  const value = Number(text);
  if (text === undefined || text.trim() === '' || !(value >= least && value <= most))
    return refuse(`${name} must be ${least} to ${most}\n\n${usage}`);
  return value;
}

/** @param {string} name @param {string} text @param {number} least @param {number} most */
function numbers(name, text, least, most) {
  return text.split(',').map((each) => number(name, each, least, most));
}

function options() {
  try {
    return parseArgs({
      options: {
        rate: { type: 'string', default: '1000' },
        rtt: { type: 'string', default: '0,50,100,200' },
        loss: { type: 'string', default: '0' },
        queue: { type: 'string', default: '50' },
        congestion: { type: 'string', default: 'bbr' },
        seconds: { type: 'string', default: '10' },
        omit: { type: 'string', default: '5' },
        gib: { type: 'string' },
        lanes: { type: 'string', default: '0' },
        runs: { type: 'string', default: '3' },
        seed: { type: 'string', default: '1' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return refuse(`${error instanceof Error ? error.message : error}\n\n${usage}`);
  }
}

async function main() {
  const given = options();
  if (given.help) {
    process.stdout.write(usage);
    return;
  }
  const rateMbit = number('--rate', given.rate, 1, 10_000);
  const seconds = Math.floor(number('--seconds', given.seconds, 1, 600));
  const wanted =
    given.gib === undefined
      ? Math.min(bytesMax, (rateMbit * 1e6 * seconds) / 8)
      : number('--gib', given.gib, 0.01, 16) * gibibyte;
  /** @type {Settings} */
  const settings = {
    rateMbit,
    queueMs: number('--queue', given.queue, 1, 10_000),
    congestion: given.congestion,
    seconds,
    omit: Math.floor(number('--omit', given.omit, 0, 60)),
    bytes: Math.ceil(wanted / mebibyte) * mebibyte,
    lanes: Math.floor(number('--lanes', given.lanes, 0, 256)),
    runs: Math.floor(number('--runs', given.runs, 1, 99)),
    seed: Math.floor(number('--seed', given.seed, 0, 2 ** 31)),
  };
  const rtts = numbers('--rtt', given.rtt, 0, 2000);
  const losses = numbers('--loss', given.loss, 0, 50);
  const reason = await whyNoLaboratory(settings.congestion, ['iperf3', 'ss']);
  if (reason !== undefined) refuse(reason);
  await measureAll(settings, rtts, losses);
}

/** @param {Settings} settings @param {readonly number[]} rtts @param {readonly number[]} losses */
async function measureAll(settings, rtts, losses) {
  const { rateMbit, queueMs, congestion, seconds, omit, lanes, runs, bytes } = settings;
  const gib = bytes / gibibyte;
  const load = (loadavg()[0] ?? 0).toFixed(1);
  console.log(`goodput over a long link, ${new Date().toISOString()}`);
  console.log(
    `node ${process.version}, Linux ${release()}, ${availableParallelism()} cores, load ${load} at the start`,
  );
  console.log(`${rateMbit} Mbit/s, queue ${queueMs} ms, MTU 1500; TCP with ${congestion}, TLS off`);
  console.log(
    `engine: ${gib.toFixed(2)} GiB of random memory, no disk, idle guest; ${lanes === 0 ? 'automatic' : lanes} lanes and control`,
  );
  console.log(
    `iperf3: best of ${streamCounts.join(', ')} streams; cold: ${seconds} s; warm: as many after ${omit} s`,
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
          console.log(['     RTT    loss', ...columns.map(([head, width]) => head.padStart(width))].join(''));
          headIsDue = false;
        }
        console.log(
          [name, ...columns.map(([, width, show]) => show(measured, gib).padStart(width))].join(''),
        );
        if (spoiled > 0) console.log(`${name}  spoiled: ${spoiled} packets were lost before the link`);
      } catch (error) {
        process.stderr.write('\n');
        console.log(`${name}  failed: ${error instanceof Error ? error.message : error}`);
        process.exitCode = 1;
      }
    }
  }
}

const [end, task] = process.argv.slice(2);
if (process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd(ends, end, JSON.parse(task));
} else {
  await main();
}
