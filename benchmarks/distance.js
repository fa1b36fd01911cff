/**
 * What distance costs: whole migrations between two simulated hosts, over round trip time, loss, bandwidth,
 * size of the VM and what its guest does. The engine is the real one, both ends of it; time, network, disks
 * and guest are simulated (`longhaul/testing`), so that a cell has the same result on any machine, and hours
 * pass in a minute. See docs/distance.md for what is simulated, and a table made with it.
 *
 * A cell of 8 GiB of memory and 100 GiB of disk takes half a minute or so of one core.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { bundle } from './support/bundle.js';

const usage = `Usage: node benchmarks/distance.js [options]

Simulates one migration for each combination of these, each a list with commas:

  --rtt LIST         round trip times, ms (default 0,50,100,150,200)
  --loss LIST        packets lost each way, % (default 0,0.1,0.5)
  --rate LIST        bandwidths, Gbit/s (default 1,10)
  --memory LIST      the VM's memory, GiB (default 8)
  --guest LIST       of idle, oltp, dirtier (default: all)
  --congestion LIST  of bbr, cubic, reno (default bbr)

and for all of them:

  --disk N           the VM's disk, GiB, of which a quarter is allocated (default 100)
  --socket N         what a connection may have on its way, MiB: 1 to 1024 (default 64)
  --window N         the policy's windowBytesMax, MiB: 1 to 4096 (default 256)
  --before N         seconds to watch the guest before: 1 to 3600 (default 30)
  --seed N           (default 1)
  --jobs N           threads: 1 to 64 (default 1)
  --json FILE        results; those that are in it already are not simulated again, and shown too
  --markdown FILE    the table (default: to the standard output)
  --svg FILE         a chart of the VM of which there is most, and of its oltp guest
  --help             this text
`;

/**
 * @typedef {import('./support/distance-cell.ts').DistanceCell} Cell
 * @typedef {import('./support/distance-cell.ts').DistanceResult} Result
 * @typedef {{ cells: Cell[], jobs: number, json?: string, markdown?: string, svg?: string }} Settings
 */

/** @param {string} message @returns {never} */
function wrongUsage(message) {
  process.stderr.write(`${message}\n\n${usage}`);
  process.exit(2);
}

/** @param {string} name @param {string} text @param {number} least @param {number} most */
function number(name, text, least, most) {
  const value = Number(text);
  if (text === '' || !(value >= least && value <= most)) wrongUsage(`--${name} must be ${least} to ${most}`);
  return value;
}

/** @param {string} name @param {string} text @param {number} least @param {number} most */
function numbers(name, text, least, most) {
  return text.split(',').map((one) => number(name, one, least, most));
}

/**
 * @template {string} T
 * @param {string} name
 * @param {string} text
 * @param {readonly T[]} known
 * @returns {T[]}
 */
function names(name, text, known) {
  return text.split(',').map((one) => {
    const found = known.find((candidate) => candidate === one);
    return found ?? wrongUsage(`--${name} must be of ${known.join(', ')}`);
  });
}

/** @returns {Settings | undefined} Nothing if only help is wanted. */
function readSettings() {
  let values;
  try {
    values = parseArgs({
      options: {
        rtt: { type: 'string', default: '0,50,100,150,200' },
        loss: { type: 'string', default: '0,0.1,0.5' },
        rate: { type: 'string', default: '1,10' },
        memory: { type: 'string', default: '8' },
        guest: { type: 'string', default: 'idle,oltp,dirtier' },
        congestion: { type: 'string', default: 'bbr' },
        disk: { type: 'string', default: '100' },
        socket: { type: 'string', default: '64' },
        window: { type: 'string', default: '256' },
        before: { type: 'string', default: '30' },
        seed: { type: 'string', default: '1' },
        jobs: { type: 'string', default: '1' },
        json: { type: 'string' },
        markdown: { type: 'string' },
        svg: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    wrongUsage(error instanceof Error ? error.message : String(error));
  }
  if (values.help) return undefined;
  const all = {
    diskGiB: number('disk', values.disk, 1 / 64, 1024),
    socketMiB: number('socket', values.socket, 1, 1024),
    windowMiB: number('window', values.window, 1, 4096),
    beforeSeconds: number('before', values.before, 1, 3600),
    seed: Math.floor(number('seed', values.seed, 0, 2 ** 31)),
  };
  /** @type {Cell[]} */
  const cells = [];
  for (const congestion of names('congestion', values.congestion, ['bbr', 'cubic', 'reno']))
    for (const memoryGiB of numbers('memory', values.memory, 1 / 64, 1024))
      for (const guest of names('guest', values.guest, ['idle', 'oltp', 'dirtier']))
        for (const rateGbit of numbers('rate', values.rate, 0.01, 100))
          for (const lossPercent of numbers('loss', values.loss, 0, 30))
            for (const rttMs of numbers('rtt', values.rtt, 0, 1000))
              cells.push({ ...all, congestion, memoryGiB, guest, rateGbit, lossPercent, rttMs });
  const { json, markdown, svg } = values;
  return { cells, jobs: Math.floor(number('jobs', values.jobs, 1, 64)), json, markdown, svg };
}

/** @param {string | undefined} file @returns {Promise<Result[]>} */
async function readResults(file) {
  if (file === undefined) return [];
  try {
    return JSON.parse(await readFile(file, 'utf8'));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}

/** The same for equal cells. @param {Cell} cell */
function key(cell) {
  return JSON.stringify(Object.entries(cell).toSorted(([one], [other]) => (one < other ? -1 : 1)));
}

/** The result of one cell. @param {Worker} worker @param {Cell} cell @returns {Promise<Result>} */
function simulateIn(worker, cell) {
  return new Promise((resolve, reject) => {
    worker.once('error', reject).once('message', (result) => {
      worker.off('error', reject);
      resolve(result);
    });
    worker.postMessage(cell);
  });
}

/**
 * Simulates the cells in several threads, each cell in one.
 *
 * @param {readonly Cell[]} cells
 * @param {number} jobs
 * @param {string} workerPath
 * @param {(result: Result, seconds: number) => Promise<void>} onResult
 */
async function simulateAll(cells, jobs, workerPath, onResult) {
  const left = [...cells];
  const work = async () => {
    // The garbage of a simulation is young, and much.
    const worker = new Worker(workerPath, { resourceLimits: { maxYoungGenerationSizeMb: 192 } });
    try {
      for (let cell = left.shift(); cell !== undefined; cell = left.shift()) {
        const startedMs = performance.now();
        const result = await simulateIn(worker, cell);
        await onResult(result, (performance.now() - startedMs) / 1000);
      }
    } finally {
      await worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, cells.length) }, work));
}

/** @param {Settings} settings */
async function main({ cells, jobs, json, markdown, svg }) {
  const { paths, remove } = await bundle({
    worker: 'benchmarks/support/distance-worker.ts',
    render: 'benchmarks/support/distance-render.ts',
  });
  try {
    /** @type {typeof import('./support/distance-render.ts')} */
    const { distanceChart, distanceTable } = await import(paths.render);
    const results = await readResults(json);
    const known = new Set(results.map(({ cell }) => key(cell)));
    const missing = cells.filter((cell) => !known.has(key(cell)));
    let done = 0;
    await simulateAll(missing, jobs, paths.worker, async (result, seconds) => {
      results.push(result);
      done += 1;
      const { cell, outcome, overIdeal, downtimeMs } = result;
      process.stderr.write(
        `${done} of ${missing.length}: ${cell.congestion} ${cell.memoryGiB} GiB ${cell.guest} ` +
          `${cell.rateGbit} Gbit/s ${cell.rttMs} ms ${cell.lossPercent} %: ${outcome}, ` +
          `${overIdeal.toFixed(2)} of the ideal, ${downtimeMs.toFixed(0)} ms down ` +
          `(${seconds.toFixed(0)} s)\n`,
      );
      if (json !== undefined) await writeFile(json, `${JSON.stringify(results)}\n`);
    });
    const date = new Date().toISOString().slice(0, 10);
    const made = `Made on ${date} with Node ${process.version}.`;
    const table = `${distanceTable(results)}\n${made}\n`;
    if (markdown === undefined) process.stdout.write(table);
    else await writeFile(markdown, table);
    if (svg !== undefined) await writeFile(svg, distanceChart(results));
    if (results.some(({ outcome, equal }) => outcome === 'completed' && !equal)) {
      process.stderr.write('a migration completed with a difference\n');
      process.exitCode = 1;
    }
  } finally {
    await remove();
  }
}

const settings = readSettings();
if (settings === undefined) process.stdout.write(usage);
else await main(settings);
