/**
 * How fast the engine moves memory, beside what plain sockets of the same machine carry: a VM of random memory, no disk, an idle guest, over
 * TCP on the loopback interface, each end a process of its own; and then the same amount through one plain socket in writes of 256 KiB,
 * each end a process of its own. Both take turns, so that whatever else the machine does falls on both.
 *
 * Rates are payload bytes over wall time. `copyMemory` is the source's phase of that name; `total` is its whole run, from connecting to
 * the release. The plain rate runs from the first write until the receiver says that it has the last byte. CPU time is that of the process during
 * the run, user and system; peak RSS is that of the process's life, the VM's memory included.
 *
 * Uses the built library: `npm run build` first.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { availableParallelism, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { follow, runEnd, startMeter, tell, told } from './support/ends.js';
import { destination, source } from './support/migration-ends.js';

const usage = `Usage: node benchmarks/engine-throughput.js [options]

  --gib N      memory of the VM in GiB, and what the plain socket carries: 0.0625 to 64 (default 4);
               each end needs that much memory
  --runs N     runs of each, of which the median is shown: 1 to 99 (default 3)
  --lanes N    data connections of the engine: 1 to 256, or 0 for as many as it likes (default 0)
  --help       this text

Options of Node itself reach each end: node --cpu-prof benchmarks/engine-throughput.js --runs 1
`;

const gibibyte = 2 ** 30;
const writeBytes = 256 * 1024;
const host = '127.0.0.1';

/**
 * @typedef {import('./support/migration-ends.js').Task} Task
 * @typedef {import('./support/ends.js').Usage} Usage
 *
 * @typedef {{ totalMs: number, copyMs: number, sender: Usage, receiver: Usage }} Run
 */

/** The ends, by the name that the process is started with. @type {Record<string, (task: Task) => Promise<void>>} */
const ends = {
  source,
  destination,

  'plain-sender': async ({ bytes, port }) => {
    const socket = connect({ host, port, noDelay: true });
    await once(socket, 'connect');
    await told({ ready: true });
    const meter = startMeter();
    const start = performance.now();
    const content = Buffer.alloc(writeBytes, 0xa5);
    for (let rest = bytes; rest > 0; rest -= writeBytes) {
      if (!socket.write(content)) await once(socket, 'drain');
    }
    // The receiver has the last byte when it answers.
    socket.end();
    await once(socket, 'data');
    const totalMs = performance.now() - start;
    await tell({ totalMs, copyMs: totalMs, ...meter() });
  },

  'plain-receiver': async ({ bytes }) => {
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    server.listen({ host, port: 0 });
    await once(server, 'listening');
    const address = server.address();
    const [connection] = await Promise.all([
      once(server, 'connection'),
      tell({ port: address !== null && typeof address === 'object' ? address.port : 0 }),
    ]);
    const meter = startMeter();
    const [socket] = connection;
    let received = 0;
    socket.on('data', (/** @type {Buffer} */ chunk) => {
      received += chunk.byteLength;
    });
    await once(socket, 'end');
    socket.end('x');
    if (received !== bytes) throw new Error(`${received} bytes arrived`);
    await tell(meter());
    server.close();
  },
};

/** An end in a process of its own. @param {string} end @param {Task} task */
function startEnd(end, task) {
  return follow(end, fork(fileURLToPath(import.meta.url), [end, JSON.stringify(task)]));
}

/** One run between two ends. @param {string} from @param {string} to @param {Task} task @returns {Promise<Run>} */
async function measure(from, to, task) {
  const receiver = startEnd(to, task);
  let sender;
  try {
    const { port } = await receiver.next();
    sender = startEnd(from, { ...task, port });
    await sender.next();
    sender.go();
    const sent = await sender.next();
    const received = await receiver.next();
    await Promise.all([sender.end(), receiver.end()]);
    return { ...sent, sender: sent, receiver: received };
  } catch (error) {
    sender?.kill();
    receiver.kill();
    throw error;
  }
}

/** The run in the middle, by `key`. @param {readonly Run[]} runs @param {'totalMs' | 'copyMs'} key @returns {Run} */
function median(runs, key) {
  const sorted = runs.toSorted((a, b) => a[key] - b[key]);
  const middle = sorted[Math.floor((sorted.length - 1) / 2)];
  if (middle === undefined) throw new Error('nothing was measured');
  return middle;
}

/** @param {string} name @param {number} bytes @param {number} ms @param {Run} [run] */
function row(name, bytes, ms, run) {
  const gib = bytes / gibibyte;
  const cells = [name.padEnd(22), `${((1000 * gib) / ms).toFixed(2)} GiB/s`.padStart(11)];
  if (run !== undefined) {
    for (const { cpuSeconds } of [run.sender, run.receiver])
      cells.push(`${(cpuSeconds / gib).toFixed(2)} s/GiB`.padStart(13));
    for (const { rssBytes } of [run.sender, run.receiver])
      cells.push(`${(rssBytes / gibibyte).toFixed(2)} GiB`.padStart(11));
  }
  console.log(cells.join(''));
}

/** @param {string | undefined} text @param {number} least @param {number} most @param {string} name */
function number(text, least, most, name) {
  const value = Number(text);
  if (text === undefined || !(value >= least && value <= most)) {
    process.stderr.write(`${name} must be ${least} to ${most}\n\n${usage}`);
    process.exit(2);
  }
  return value;
}

function options() {
  try {
    return parseArgs({
      options: {
        gib: { type: 'string', default: '4' },
        runs: { type: 'string', default: '3' },
        lanes: { type: 'string', default: '0' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : error}\n\n${usage}`);
    process.exit(2);
  }
}

async function main() {
  const { gib, runs: runsText, lanes: lanesText, help } = options();
  if (help) {
    process.stdout.write(usage);
    return;
  }
  const bytes = Math.round((number(gib, 1 / 16, 64, '--gib') * gibibyte) / writeBytes) * writeBytes;
  const runs = Math.floor(number(runsText, 1, 99, '--runs'));
  const lanes = Math.floor(number(lanesText, 0, 256, '--lanes'));
  const load = loadavg()[0] ?? 0;
  const task = { bytes, lanes, host, port: 0 };
  /** @type {Run[]} */
  const engine = [];
  /** @type {Run[]} */
  const plain = [];
  for (let run = 1; run <= runs; run++) {
    for (const [name, list, from, to] of /** @type {const} */ ([
      ['engine', engine, 'source', 'destination'],
      ['plain sockets', plain, 'plain-sender', 'plain-receiver'],
    ])) {
      process.stderr.write(`run ${run} of ${runs}: ${name} ... `);
      const measured = await measure(from, to, task);
      list.push(measured);
      process.stderr.write(`${(measured.totalMs / 1000).toFixed(2)} s\n`);
    }
  }

  const copy = median(engine, 'copyMs');
  const total = median(engine, 'totalMs');
  const sockets = median(plain, 'totalMs');
  console.log(`engine throughput, ${new Date().toISOString()}`);
  console.log(
    `node ${process.version}, ${availableParallelism()} cores, load ${load.toFixed(1)} at the start`,
  );
  console.log(`${bytes / gibibyte} GiB of random memory, no disk, idle guest; each end its own process`);
  console.log(
    `TCP on loopback, TLS off; ${lanes === 0 ? 'automatic' : lanes} lanes and control; plain: 1 socket, 256 KiB writes`,
  );
  console.log(`median of ${runs}\n`);
  console.log(`${' '.repeat(22)}       rate   sender CPU receiver CPU sender RSS receiver RSS`);
  row('engine, copyMemory', bytes, copy.copyMs);
  row('engine, total', bytes, total.totalMs, total);
  row('plain sockets', bytes, sockets.totalMs, sockets);
  console.log(`\nratio, copyMemory: ${(sockets.totalMs / copy.copyMs).toFixed(2)}`);
  console.log(`ratio, total:      ${(sockets.totalMs / total.totalMs).toFixed(2)}`);
}

const [end, task] = process.argv.slice(2);
if (process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd(ends, end, JSON.parse(task));
} else {
  await main();
}
