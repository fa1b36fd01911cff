/**
 * What a migration costs the guest: its disk writes per second and their latency while it is moved, beside
 * before, and for how long it stands still. A Linux guest under QEMU (emulated, no KVM), `longhaul send` and
 * `longhaul receive` as processes of their own, and between them a link of so many Mbit/s in each direction
 * (test/cli/support/slow-link.ts: a TCP proxy, without a delay of its own).
 *
 * The guest writes 8 KiB at random places at a steady rate that its disk can keep up with, so that what is
 * missing during the migration was taken by it; a writer has one write outstanding, and one that is late by
 * more than 0.1 s does not make up for it. At the same time it dirties memory. Rates are counted by the guest
 * and timed outside, because its clock stands still with it:
 *
 *   before   for some seconds before it
 *   copying  from the first connection to the stun
 *   moving   from the first connection until `send` ends: with the time in which the guest stands still
 *   silence  from the guest's last tick here to its first there (it ticks every 10 ms)
 *
 * Latencies are the guest's own, of all its writes before, and from the start of the migration to shortly
 * after it.
 *
 * Uses the built program: `npm run build` first; and the tests' guest: `npm run setup:qemu`.
 */
import { spawn } from 'node:child_process';
import { availableParallelism, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { bundle } from './support/bundle.js';
import {
  attend,
  hotMiB,
  measureAlone,
  ownArguments,
  perSecond,
  perSecondUntilStun,
  sample,
  sampleUntilItStops,
  withGuests,
  writesAt,
} from './support/guest-load.js';

const usage = `Usage: node benchmarks/guest-writes.js [options]

  --runs N         migrations, of which the median is shown: 1 to 99 (default 5)
  --mbit N         the link, each way: 1 to 100000 (default 400)
  --writes N       disk writes a second: 1 to 100000 (default 365)
  --writers N      threads that write, each with one write outstanding: 1 to 32 (default 4)
  --dirty N        memory that is dirtied, MiB a second: 0 to 1000 (default 8)
  --disk N         size of the disk, which is full, MiB: 64 to 4096 (default 256)
  --before N       seconds to measure before the migration: 1 to 600 (default 5)
  --program FILE   the command-line program (default: dist/cli/main.js)
  --help           this text
`;

const mebibyte = 2 ** 20;

/**
 * @typedef {import('./support/guest-load.js').Stats} Stats
 * @typedef {{ runs: number, mbit: number, writes: number, writers: number, dirty: number, disk: number,
 *   before: number, program: string }} Settings
 * @typedef {object} Run
 * @property {number} before Writes per second.
 * @property {number} copying
 * @property {number} moving
 * @property {Stats} statsBefore
 * @property {Stats} statsDuring
 * @property {number} silenceMs
 * @property {any} report What `send` reports.
 */

/**
 * @param {Settings} settings
 * @param {Record<'guest' | 'slowLink', string>} support
 * @returns {Promise<Run>}
 */
function measure(settings, support) {
  const { program, mbit } = settings;
  /** @param {string[]} args */
  const start = (...args) =>
    attend(args.join(' '), spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] }));
  return withGuests(support.guest, settings, async ({ source, destination, directory, keep }) => {
    const receiving = keep(
      start(program, 'receive', '--listen', '127.0.0.1:0', ...ownArguments(destination, directory)),
    );
    const listening = await receiving.line(/^listening on (\S+)$/);
    const to = listening.match[1] ?? '';
    const link = keep(start(support.slowLink, '--to', to, '--mbit', String(mbit)));
    const entry = (await link.line(/^listening on (\S+)$/)).match[1] ?? '';

    const before = await measureAlone(source, settings.before);

    const sampling = sampleUntilItStops(source);
    const sending = keep(start(program, 'send', '--to', entry, ...ownArguments(source, directory)));
    const begin = (await sending.line(/^connecting$/)).atMs;
    const stun = (await sending.line(/^pausing the guest$/)).atMs;
    const report = JSON.parse(await sending.end());
    const end = await sample(destination);
    const samples = await sampling;
    const statsDuring = await destination.stats();
    await receiving.end();
    const verdict = await destination.verify();
    if (verdict.badPages + verdict.badBlocks > 0)
      throw new Error(`the guest is not whole: ${verdict.firstBad}`);

    return {
      before: before.perSecond,
      copying: perSecondUntilStun(samples, begin, stun),
      moving: perSecond(end.writes - writesAt(samples, begin), end.atMs - begin),
      statsBefore: before.stats,
      statsDuring,
      silenceMs: (destination.ticks.firstAtMs ?? Number.NaN) - (source.ticks.lastAtMs ?? Number.NaN),
      report,
    };
  });
}

/** @param {readonly number[]} values */
function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? Number.NaN;
}

/** The columns of the table. @type {readonly [string, (run: Run) => number, number][]} */
const columns = [
  ['before /s', (run) => run.before, 0],
  ['copying /s', (run) => run.copying, 0],
  ['%', (run) => (100 * run.copying) / run.before, 1],
  ['moving /s', (run) => run.moving, 0],
  ['%', (run) => (100 * run.moving) / run.before, 1],
  ['p50 before', (run) => run.statsBefore.p50Ms, 2],
  ['during', (run) => run.statsDuring.p50Ms, 2],
  ['p99 before', (run) => run.statsBefore.p99Ms, 1],
  ['during', (run) => run.statsDuring.p99Ms, 1],
  ['max before', (run) => run.statsBefore.longestMs, 0],
  ['during', (run) => run.statsDuring.longestMs, 0],
  ['downtime', (run) => run.report.downtimeMs, 0],
  ['silence', (run) => run.silenceMs, 0],
  ['total s', (run) => run.report.totalMs / 1000, 1],
  ['wire MiB', (run) => run.report.bytes.wire / mebibyte, 0],
];

/** @param {string} name @param {readonly string[]} cells */
function row(name, cells) {
  console.log(name.padEnd(8) + cells.map((cell, index) => cell.padStart(width(index))).join(''));
}

/** @param {number} index */
function width(index) {
  return Math.max(8, (columns[index]?.[0].length ?? 0) + 2);
}

/** @param {readonly Run[]} runs @param {Settings} settings @param {number} load */
function show(runs, settings, load) {
  const { mbit, writes, writers, dirty, disk } = settings;
  console.log(`guest writes, ${new Date().toISOString()}`);
  console.log(
    `node ${process.version}, ${availableParallelism()} cores, load ${load.toFixed(1)} at the start; no KVM`,
  );
  console.log(
    `${mbit} Mbit/s; ${writes} writes of 8 KiB a second by ${writers} threads over ${hotMiB} MiB; ` +
      `${dirty} MiB/s of memory; ${disk} MiB of disk\n`,
  );
  row(
    'ms, /s',
    columns.map(([name]) => name),
  );
  for (const [index, run] of runs.entries()) {
    row(
      `run ${index + 1}`,
      columns.map(([, of, digits]) => of(run).toFixed(digits)),
    );
  }
  row(
    'median',
    columns.map(([, of, digits]) => median(runs.map(of)).toFixed(digits)),
  );
}

/** @param {string | undefined} text @param {number} least @param {number} most @param {string} name */
function number(text, least, most, name) {
  const value = Number(text);
  if (text === undefined || !(value >= least && value <= most)) {
    process.stderr.write(`--${name} must be ${least} to ${most}\n\n${usage}`);
    process.exit(2);
  }
  return value;
}

/** @returns {Settings | undefined} Nothing if only help is wanted. */
function readSettings() {
  let values;
  try {
    values = parseArgs({
      options: {
        runs: { type: 'string', default: '5' },
        mbit: { type: 'string', default: '400' },
        writes: { type: 'string', default: '365' },
        writers: { type: 'string', default: '4' },
        dirty: { type: 'string', default: '8' },
        disk: { type: 'string', default: '256' },
        before: { type: 'string', default: '5' },
        program: {
          type: 'string',
          default: fileURLToPath(new URL('../dist/cli/main.js', import.meta.url)),
        },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : error}\n\n${usage}`);
    process.exit(2);
  }
  if (values.help) return undefined;
  return {
    runs: Math.floor(number(values.runs, 1, 99, 'runs')),
    mbit: number(values.mbit, 1, 100_000, 'mbit'),
    writes: Math.floor(number(values.writes, 1, 100_000, 'writes')),
    writers: Math.floor(number(values.writers, 1, 32, 'writers')),
    dirty: Math.floor(number(values.dirty, 0, 1000, 'dirty')),
    disk: Math.floor(number(values.disk, hotMiB, 4096, 'disk')),
    before: number(values.before, 1, 600, 'before'),
    program: values.program,
  };
}

const settings = readSettings();
if (settings === undefined) {
  process.stdout.write(usage);
} else {
  const load = loadavg()[0] ?? 0;
  const support = await bundle({
    guest: 'test/qemu/support/guest.ts',
    slowLink: 'test/cli/support/slow-link.ts',
  });
  try {
    /** @type {Run[]} */
    const runs = [];
    for (let run = 1; run <= settings.runs; run++) {
      process.stderr.write(`run ${run} of ${settings.runs} ... `);
      const measured = await measure(settings, support.paths);
      runs.push(measured);
      const percent = (100 * measured.copying) / measured.before;
      process.stderr.write(`${percent.toFixed(1)} % of ${measured.before.toFixed(0)} writes a second\n`);
    }
    show(runs, settings, load);
  } finally {
    await support.remove();
  }
}
