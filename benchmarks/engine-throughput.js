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
import { createDestination, createSource, memoryRegister } from '../dist/index.js';
import { createMemoryBackend, createMemoryVm } from '../dist/memory.js';
import { tcp } from '../dist/tcp.js';
import { follow, startMeter, tell, told } from './support/ends.js';

const usage = `Usage: node benchmarks/engine-throughput.js [options]

  --gib N      memory of the VM in GiB, and what the plain socket carries: 0.0625 to 64 (default 4);
               each end needs that much memory
  --runs N     runs of each, of which the median is shown: 1 to 99 (default 3)
  --lanes N    data connections of the engine: 1 to 256, or 0 for as many as it likes (default 0)
  --help       this text

Options of Node itself reach each end: node --cpu-prof benchmarks/engine-throughput.js --runs 1
`;

const gibibyte = 2 ** 30;
/** The simulated VM's regions are of 4 GiB at most. */
const regionBytesMax = 4 * gibibyte;
const writeBytes = 256 * 1024;
const host = '127.0.0.1';

/**
 * @typedef {object} Task What an end is told when it is started.
 * @property {number} bytes
 * @property {number} lanes
 * @property {number} port Where the other end listens; 0 at the end that listens.
 *
 * @typedef {import('./support/ends.js').Usage} Usage
 *
 * @typedef {{ seconds: number, copyMemorySeconds: number, sender: Usage, receiver: Usage }} Run
 */

/** The ends, by the name that the process is started with. @type {Record<string, (task: Task) => Promise<void>>} */
const ends = {
  source: async ({ bytes, lanes, port }) => {
    const vm = createMemoryVm({ ...shape(bytes), fill: 'random', seed: 1 });
    const transport = tcp({ connect: { host, port } });
    const source = createSource({
      vm: vm.source(),
      transport,
      register: memoryRegister(),
      policy: lanes === 0 ? {} : { connections: lanes },
    });
    await told({ ready: true });
    const meter = startMeter();
    const report = await source.run();
    if (report.outcome !== 'completed') throw report.error ?? new Error(report.outcome);
    if (report.bytes.memory !== bytes) throw new Error(`${report.bytes.memory} bytes were sent`);
    await tell({
      seconds: report.totalMs / 1000,
      copyMemorySeconds: (report.phases.copyMemory ?? 0) / 1000,
      ...meter(),
    });
    await transport.close();
  },

  destination: async ({ bytes }) => {
    // Touched before: what the host pays for the first touch of a page is no matter of the engine's.
    const vm = createMemoryVm({ ...shape(bytes), fill: 'random', seed: 2, paused: true });
    const transport = tcp({ listen: { host, port: 0 } });
    const backend = createMemoryBackend({ vm });
    const destination = createDestination({ backend, transport, register: memoryRegister() });
    const { port } = await transport.listening();
    await tell({ port });
    const meter = startMeter();
    const report = await destination.run();
    if (report.outcome !== 'completed') throw report.error ?? new Error(report.outcome);
    await tell(meter());
    await transport.close();
    vm.destroy();
  },

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
    const seconds = (performance.now() - start) / 1000;
    await tell({ seconds, copyMemorySeconds: seconds, ...meter() });
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

/** The VM, the same at both ends. @param {number} bytes */
function shape(bytes) {
  const regions = Array.from({ length: Math.ceil(bytes / regionBytesMax) }, (_, index) => ({
    name: `ram${index}`,
    sizeBytes: Math.min(regionBytesMax, bytes - index * regionBytesMax),
    pageBytes: 4096,
  }));
  return { vmId: 'throughput', regions };
}

/** @param {string} end @param {Task} task */
async function runEnd(end, task) {
  const run = ends[end];
  if (run === undefined) throw new Error(`there is no end ${end}`);
  await run(task);
  process.disconnect();
}

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

/** The run in the middle, by `key`. @param {readonly Run[]} runs @param {'seconds' | 'copyMemorySeconds'} key @returns {Run} */
function median(runs, key) {
  const sorted = runs.toSorted((a, b) => a[key] - b[key]);
  const middle = sorted[Math.floor((sorted.length - 1) / 2)];
  if (middle === undefined) throw new Error('nothing was measured');
  return middle;
}

/** @param {string} name @param {number} bytes @param {number} seconds @param {Run} [run] */
function row(name, bytes, seconds, run) {
  const gib = bytes / gibibyte;
  const cells = [name.padEnd(22), `${(gib / seconds).toFixed(2)} GiB/s`.padStart(11)];
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
  const task = { bytes, lanes, port: 0 };
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
      process.stderr.write(`${measured.seconds.toFixed(2)} s\n`);
    }
  }

  const copy = median(engine, 'copyMemorySeconds');
  const total = median(engine, 'seconds');
  const sockets = median(plain, 'seconds');
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
  row('engine, copyMemory', bytes, copy.copyMemorySeconds);
  row('engine, total', bytes, total.seconds, total);
  row('plain sockets', bytes, sockets.seconds, sockets);
  console.log(`\nratio, copyMemory: ${(sockets.seconds / copy.copyMemorySeconds).toFixed(2)}`);
  console.log(`ratio, total:      ${(sockets.seconds / total.seconds).toFixed(2)}`);
}

const [end, task] = process.argv.slice(2);
if (process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd(end, JSON.parse(task));
} else {
  await main();
}
