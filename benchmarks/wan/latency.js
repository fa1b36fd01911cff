/**
 * How long a control message and its answer take over a channel that is as full as it can be, beside ping over the same link, idle.
 *
 * The ends are processes of their own, on the channel itself (latency-ends.ts), bundled from the sources.
 */
import { fileURLToPath, pathToFileURL } from 'node:url';
import { bundle } from '../support/bundle.js';
import { follow, runEnd, startMeter, tell, told } from '../support/ends.js';
import { cpuText, gibibyte, head, median, row, rssText } from './figures.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';
import { readOptions, refuse } from './options.js';

const usage = `Usage: node benchmarks/wan/latency.js [options]

  --rate N          Mbit/s of the link: 1 to 10000 (default 1000)
  --rtt N           its round trip in ms: 0 to 2000 (default 100)
  --loss N          percent of packets lost, each way: 0 to 50 (default 0)
  --queue N         depth of the link's queues in ms of its rate: 1 to 10000 (default 20)
  --congestion X    bbr, cubic or what else the kernel has (default bbr)
  --window N        the policy's windowBytesMax in MiB: 1 to 4096 (default 256)
  --count N         control messages of a run: 1 to 100000 (default 500)
  --interval N      ms from one to the next: 1 to 10000 (default 20)
  --omit N          seconds of full load before the first: 0 to 60 (default 3)
  --runs N          runs, of which the medians are shown: 1 to 99 (default 3)
  --seed N          of the losses (default 1)
  --help            this text

Exit code: 0 if everything was measured, 2 if there can be no laboratory here or the options are wrong.
`;

/**
 * @typedef {import('./latency-ends.ts').LatencyTask & { ends: string }} Task `ends`: the bundle.
 * @typedef {import('./latency-ends.ts').LatencyResult} Result
 * @typedef {import('../support/ends.js').Usage} Usage
 */

/** @param {readonly number[]} values @param {number} part */
function percentile(values, part) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.ceil(sorted.length * part) - 1] ?? Number.NaN;
}

const ends = {
  /** @param {Task} task */
  source: async (task) => {
    const { measureLatency } = await import(task.ends);
    await told({ ready: true });
    const meter = startMeter();
    const result = await measureLatency(task);
    await tell({ ...result, ...meter() });
  },
  /** @param {Task} task */
  destination: async (task) => {
    const { answer } = await import(task.ends);
    const meter = startMeter();
    await answer(task, (/** @type {number} */ port) => tell({ port }));
    await tell(meter());
  },
};

/** @param {import('./laboratory.js').Laboratory} laboratory @param {Task} task */
async function measure(laboratory, task) {
  const script = fileURLToPath(import.meta.url);
  const start = (/** @type {'a' | 'b'} */ side, /** @type {string} */ end, /** @type {Task} */ what) =>
    follow(
      end,
      laboratory.spawn(side, process.execPath, [script, end, JSON.stringify(what)], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      }),
    );
  const receiver = start('b', 'destination', task);
  let sender;
  try {
    const { port } = await receiver.next();
    sender = start('a', 'source', { ...task, port });
    await sender.next();
    sender.go();
    /** @type {Result & Usage} */
    const source = await sender.next();
    /** @type {Usage} */
    const destination = await receiver.next();
    return { source, destination };
  } finally {
    sender?.kill();
    receiver.kill();
  }
}

async function main() {
  const given = readOptions(usage, {
    rate: '1000',
    rtt: '100',
    loss: '0',
    queue: '20',
    congestion: 'bbr',
    window: '256',
    count: '500',
    interval: '20',
    omit: '3',
    runs: '3',
    seed: '1',
  });
  const rateMbit = given.number('rate', 1, 10_000);
  const rttMs = given.number('rtt', 0, 2000);
  const lossPercent = given.number('loss', 0, 50);
  const queueMs = given.number('queue', 1, 10_000);
  const congestion = given.text('congestion') ?? '';
  const windowMiB = given.number('window', 1, 4096);
  const count = given.whole('count', 1, 100_000);
  const intervalMs = given.number('interval', 1, 10_000);
  const omit = given.number('omit', 0, 60);
  const runs = given.whole('runs', 1, 99);
  const seed = given.whole('seed', 0, 2 ** 31);
  const reason = await whyNoLaboratory(congestion);
  if (reason !== undefined) refuse(reason);
  console.log(head('control messages over a full channel'));
  console.log(
    `${rateMbit} Mbit/s, RTT ${rttMs} ms, loss ${lossPercent} %, queue ${queueMs} ms; TCP with ${congestion}, TLS off`,
  );
  console.log(
    `${count} messages a run, ${intervalMs} ms apart, after ${omit} s; automatic lanes and control; a window of ${windowMiB} MiB`,
  );
  console.log('each end its own process; CPU and RSS: of the source and the destination');
  console.log(`ms; every figure the median of ${runs}\n`);
  const bundled = await bundle({ ends: 'benchmarks/wan/latency-ends.ts' });
  const path = { rateMbit, delayMs: rttMs / 2, lossPercent, queueMs };
  const laboratory = await openLaboratory({ paths: [path], congestion, seed });
  const measured = [];
  try {
    for (let run = 1; run <= runs; run++) {
      const idle = await laboratory.ping({ count: 100 });
      const task = {
        ends: pathToFileURL(bundled.paths.ends).href,
        host: laboratory.addresses[0]?.b ?? '',
        port: 0,
        windowBytesMax: windowMiB * 2 ** 20,
        omitMs: omit * 1000,
        intervalMs,
        count,
      };
      const before = (await laboratory.stats()).paths[0]?.ab;
      const [{ source, destination }, full] = await Promise.all([
        measure(laboratory, task),
        laboratory.ping({ count: Math.ceil((omit * 1000 + count * intervalMs) / 20) }),
      ]);
      const after = (await laboratory.stats()).paths[0]?.ab;
      const lost = (after?.droppedByQueue ?? 0) - (before?.droppedByQueue ?? 0);
      const mbit = (source.bytes * 8) / 1000 / source.ms;
      const p99 = percentile(source.roundTripsMs, 0.99);
      process.stderr.write(
        `run ${run} of ${runs}: ping ${idle.p99Ms} ms, control ${p99.toFixed(1)} ms, ${mbit.toFixed(0)} Mbit/s, ${lost} packets met a full queue\n`,
      );
      measured.push({ idle, full, source, destination, mbit, lost, trips: source.roundTripsMs });
    }
  } finally {
    await laboratory.close();
    await bundled.remove();
  }
  const gib = median(measured, ({ source }) => source.bytes) / gibibyte;
  const line = (/** @type {string} */ name, /** @type {(part: number) => number} */ figure) =>
    row([[name, 34], ...[0.5, 0.99, 1].map((part) => /** @type {const} */ ([figure(part).toFixed(1), 10]))]);
  console.log(
    row([
      ['', 34],
      ['median', 10],
      ['p99', 10],
      ['most', 10],
    ]),
  );
  const of = (/** @type {'idle' | 'full'} */ which) => (/** @type {number} */ part) =>
    median(measured, (run) =>
      part === 0.5 ? run[which].medianMs : part === 1 ? run[which].maxMs : run[which].p99Ms,
    );
  console.log(line('ping, idle', of('idle')));
  console.log(line('ping, beside the full channel', of('full')));
  console.log(
    line('control message and its answer', (part) =>
      median(measured, ({ trips }) => percentile(trips, part)),
    ),
  );
  const over = median(measured, ({ trips, idle }) => percentile(trips, 0.99) - idle.p99Ms);
  console.log(`\ncontrol over idle ping, 99th percentiles: ${over.toFixed(1)} ms more`);
  console.log(
    `goodput ${median(measured, ({ mbit }) => mbit).toFixed(0)} Mbit/s; CPU s/GiB ${cpuText(measured, gib)}; RSS GiB ${rssText(measured)}`,
  );
  console.log(`packets that met a full queue: ${median(measured, ({ lost }) => lost)}`);
}

const [end, task] = process.argv.slice(2);
if (process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd(ends, end, JSON.parse(task));
} else {
  await main();
}
