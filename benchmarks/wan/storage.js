/**
 * What the migration of a running guest with its disk costs over long links: the guest, and time. A Linux
 * guest under QEMU (emulated, no KVM), moved by `longhaul send` and `receive` over the laboratory's link
 * (laboratory.js), and, if wanted, a guest like it by QEMU alone (qemu-moves.js). The guest writes at random
 * places at a steady rate that its disk can keep up with, and dirties memory.
 *
 *   writes    a second, from when the ends have connected to the stun, and before; counted by the guest,
 *             timed outside, because its clock stands still with it
 *   p99       of the latency of the same writes; the guest's own, as is the longest; that also shortly after
 *             the stun. `iperf3`: of the guest as it is not moved, while iperf3 fills the same link: what the
 *             machine makes of that alone; with --beside-nice 19 of little more than the link itself
 *   total     of the whole migration, over the least that it can take: the bytes of the first pass
 *             (disk and pages that are not zero), the mirrored and the re-dirtied ones at the rate that
 *             iperf3 had in the same run, and 12 round trips
 *   downtime  as the mover tells it
 *   silence   from the last tick of the guest here to its first one there; it ticks every 10 ms
 *   bad       pages and blocks, of all that the guest has ever written and reads again at the end
 *
 * Both QEMUs, both ends and the link share this machine's processors: it bounds what is seen, and silence
 * above all.
 *
 * Uses the built program: `npm run build` first; and the tests' guest: `npm run setup:qemu`.
 */
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { bundle } from '../support/bundle.js';
import { hotMiB } from '../support/guest-load.js';
import { head, median, row } from './figures.js';
import { byLonghaul, GivenUp, moveGuest } from './guest-moves.js';
import { iperf } from './iperf.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';
import { readOptions, refuse } from './options.js';
import { byQemu } from './qemu-moves.js';

/**
 * The links, and what may be lost on them: `total` over its floor at most.
 *
 * @type {Readonly<Record<string, { rttMs: number, lossPercent: number, congestion: string, total: number }>>}
 */
const links = {
  0: { rttMs: 0, lossPercent: 0, congestion: 'bbr', total: 1.1 },
  50: { rttMs: 50, lossPercent: 0, congestion: 'bbr', total: 1.1 },
  100: { rttMs: 100, lossPercent: 0, congestion: 'bbr', total: 1.1 },
  200: { rttMs: 200, lossPercent: 0, congestion: 'bbr', total: 1.1 },
  'lossy-bbr': { rttMs: 100, lossPercent: 0.1, congestion: 'bbr', total: 1.15 },
  'lossy-cubic': { rttMs: 100, lossPercent: 0.1, congestion: 'cubic', total: 1.3 },
};
/** ... and so many ms, and so many more where packets are lost. */
const downtimeMarkMs = 150;
const lossyDowntimeMs = 100;
/** Of the guest's writes before, at least. */
const writesMark = 0.95;
/** The most that the 99th percentile may be, in ms. @param {number} beforeMs */
const p99Mark = (beforeMs) => 2 * beforeMs + 2;

const usage = `Usage: node benchmarks/wan/storage.js [options]

  --links LIST      which, with commas between: 0, 50, 100, 200 (round trips in ms, no loss, BBR),
                    lossy-bbr and lossy-cubic (100 ms, 0.1 % of packets lost each way) (default: all)
  --runs N          of longhaul over each link, of which the medians are shown: 0 to 99 (default 5)
  --peer-runs N     of QEMU alone over each link: multifd, and blockdev-mirror in write-blocking mode: 0 to 99
                    (default 0; with --peer 1: as many as --runs)
  --peer X          1 or 0 (default 0)
  --limit N         seconds after which a migration of longhaul has failed: 1 to 3600 (default 120)
  --peer-limit N    seconds after which one of QEMU is given up: 1 to 3600 (default 120)
  --mbit N          the links: 1 to 10000 (default 400)
  --writes N        disk writes of 8 KiB a second, over ${hotMiB} MiB: 1 to 100000 (default 365)
  --writers N       threads that write, each with one write outstanding: 1 to 32 (default 4)
  --dirty N         memory that is dirtied, MiB a second: 0 to 1000 (default 8)
  --disk N          size of the disk, which is full, MiB: ${hotMiB} to 4096 (default 256)
  --slow-disk N     what the destination's disk writes at the most, MB a second: 1 to 10000, or 0: as it is
                    (default 0)
  --memory N        of the guest, MiB: 128 to 4096 (default 384)
  --stamped N       memory that it fills, MiB: 16 to 4000 (default 232)
  --before N        seconds to measure before the migration: 1 to 600 (default 10)
  --streams LIST    of iperf3, of which the best counts: 1 to 128 (default 4,64)
  --beside-nice N   how nice iperf3 is beside a guest that is not moved: 0 to 19 (default 0)
  --iperf N         seconds of iperf3, after 5 that do not count: 1 to 60 (default 12)
  --seed N          of the losses (default 1)
  --handover HOW    confirmed or one-flight (default confirmed)
  --program FILE    the command-line program (default: dist/cli/main.js)
  --json FILE       writes all that was measured there
  --help            this text

Exit code: 0 if all medians of longhaul are within their marks, 1 if one is not or a run failed, 2 if there
can be no laboratory here or the options are wrong. Marks: ${writesMark * 100} % of the writes before; a 99th percentile of
twice that before and 2 ms; total of 1.1, lossy-bbr 1.15, lossy-cubic 1.3 of the least; a downtime of 1.5 round
trips, or half of one in one flight, and 150 ms, with losses 250; nothing bad.
`;

const mebibyte = 2 ** 20;
/**
 * Of iperf3: slow start, and what overflows in it. What is late of that arrives in the seconds that count, the more of it the fewer they are: 64
 * streams over 400 Mbit/s and 200 ms showed 449 Mbit/s in 3 seconds after 3, and 390 in 12, where packets of 1500 bytes can carry 386.
 */
const omitSeconds = 5;
/** Of iperf3 beside a guest that is not moved: about as many connections as a migration has. */
const besideStreams = 16;
/** Of the least time: what greetings, slow start and the handover may take. */
const roundTrips = 12;

/**
 * @typedef {import('./guest-moves.js').Move & { rateMbit: number, floorMs: number }} Run
 * @typedef {{ error: string, givenUp: boolean, soFar?: Run | undefined }} Failure
 * @typedef {{ runs: Run[], failures: Failure[] }} Runs
 * @typedef {{ link: string, longhaul: Runs, qemu: Runs }} Measured
 */

const given = readOptions(usage, {
  links: Object.keys(links).join(','),
  runs: '5',
  peer: '0',
  'peer-runs': undefined,
  limit: '120',
  'peer-limit': '120',
  mbit: '400',
  writes: '365',
  writers: '4',
  dirty: '8',
  disk: '256',
  'slow-disk': '0',
  memory: '384',
  stamped: '232',
  before: '10',
  streams: '4,64',
  'beside-nice': '0',
  iperf: '12',
  seed: '1',
  handover: 'confirmed',
  program: fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url)),
  json: undefined,
});
const names = (given.text('links') ?? '').split(',');
for (const name of names) {
  if (!(name in links)) refuse(`--links: there is no ${name}\n\n${usage}`);
}
const runs = given.whole('runs', 0, 99);
const peerDefault = given.whole('peer', 0, 1) * runs;
const peerRuns = given.text('peer-runs') === undefined ? peerDefault : given.whole('peer-runs', 0, 99);
const peerLimit = given.number('peer-limit', 1, 3600);
const rateMbit = given.number('mbit', 1, 10_000);
const seed = given.whole('seed', 0, 2 ** 31);
const streamCounts = given.numbers('streams', 1, 128);
const iperfSeconds = given.whole('iperf', 1, 60);
const besideNice = given.whole('beside-nice', 0, 19);
const jsonFile = given.text('json');
/** @type {import('./guest-moves.js').Settings} */
const settings = {
  writes: given.whole('writes', 1, 100_000),
  writers: given.whole('writers', 1, 32),
  dirty: given.whole('dirty', 0, 1000),
  disk: given.whole('disk', hotMiB, 4096),
  slowDisk: given.whole('slow-disk', 0, 10_000),
  memory: given.whole('memory', 128, 4096),
  stamped: given.whole('stamped', 16, 4000),
  before: given.number('before', 1, 600),
  limit: given.number('limit', 1, 3600),
  program: given.text('program') ?? '',
  handover: given.text('handover') ?? '',
};
/** Of a downtime: so many round trips ... */
const trips = { confirmed: 1.5, 'one-flight': 0.5 }[settings.handover];
if (trips === undefined) refuse(`--handover must be confirmed or one-flight\n\n${usage}`);
for (const congestion of new Set(names.map((name) => links[name]?.congestion))) {
  const reason = await whyNoLaboratory(congestion, ['iperf3', 'ss', 'qemu-system-x86_64', 'qemu-img']);
  if (reason !== undefined) refuse(reason);
}

/** All runs over one link. @param {string} name @param {string} support @returns {Promise<Measured>} */
async function measure(name, support) {
  const { rttMs, lossPercent, congestion } = /** @type {(typeof links)[string]} */ (links[name]);
  /** @type {Measured} */
  const measured = { link: name, longhaul: { runs: [], failures: [] }, qemu: { runs: [], failures: [] } };
  const laboratory = await openLaboratory({
    paths: [{ rateMbit, delayMs: rttMs / 2, lossPercent }],
    congestion,
    seed,
  });
  /** @param {number} seconds */
  const fill = (seconds) =>
    iperf(laboratory, {
      streams: besideStreams,
      seconds: Math.ceil(seconds),
      omit: 0,
      niceness: besideNice,
    });
  try {
    for (let run = 1; run <= Math.max(runs, peerRuns); run++) {
      /** @type {number | undefined} */
      let rate;
      const take = async (
        /** @type {'longhaul' | 'qemu'} */ who,
        /** @type {Parameters<typeof moveGuest>[3]} */ mover,
        /** @type {number} */ limit,
      ) => {
        const heading = `${name}, run ${run}, ${who}:`;
        try {
          rate ??= await iperfRate(laboratory);
          const move = await moveGuest(laboratory, support, { ...settings, limit }, mover, fill);
          const { first, mirrored, again } = move.bytes;
          const floorMs = ((first + mirrored + again) * 8) / (rate * 1000) + roundTrips * rttMs;
          const whole = { ...move, rateMbit: rate, floorMs };
          measured[who].runs.push(whole);
          console.log(`${heading} ${describe(whole)}`);
        } catch (error) {
          const message = error instanceof Error ? error.message : String(error);
          const soFar = error instanceof GivenUp && error.soFar ? { ...nothing, ...error.soFar } : undefined;
          measured[who].failures.push({ error: message, givenUp: error instanceof GivenUp, soFar });
          const seen = soFar === undefined ? '' : `; until then ${guestText(soFar)}`;
          console.log(`${heading} FAILED: ${message}${seen}`);
        }
      };
      if (run <= runs) await take('longhaul', byLonghaul(settings), settings.limit);
      if (run <= peerRuns) await take('qemu', byQemu(), peerLimit);
    }
  } finally {
    await laboratory.close();
  }
  return measured;
}

/**
 * Of the link now, with as many streams as carry most. @param {import('./laboratory.js').Laboratory}
 * laboratory
 */
async function iperfRate(laboratory) {
  let best = 0;
  for (const streams of streamCounts) {
    const { warmMbit } = await iperf(laboratory, { streams, seconds: iperfSeconds, omit: omitSeconds });
    best = Math.max(best, warmMbit);
  }
  return best;
}

/** Of a run that was given up, all but the guest's figures until then. */
const nothing = {
  silenceMs: Number.NaN,
  verdict: /** @type {any} */ ({ badPages: Number.NaN, badBlocks: Number.NaN }),
  totalMs: Number.NaN,
  downtimeMs: Number.NaN,
  bytes: { first: Number.NaN, mirrored: Number.NaN, again: Number.NaN },
  cpu: {},
  told: {},
  rateMbit: Number.NaN,
  floorMs: Number.NaN,
};

/** @param {Run} run */
function guestText({ before, beside, during }) {
  const writes = `writes ${during.perSecond.toFixed(0)}/s of ${before.perSecond.toFixed(0)}`;
  const late = `p99 ${during.p99Ms.toFixed(1)} ms of ${before.p99Ms.toFixed(1)}`;
  const longest = `longest ${during.longestMs.toFixed(0)} ms of ${before.longestMs.toFixed(0)}`;
  const alone =
    beside === undefined
      ? ''
      : ` (beside iperf3: ${beside.perSecond.toFixed(0)}/s, p99 ${beside.p99Ms.toFixed(1)} ms)`;
  return `${writes}, ${late}, ${longest}${alone}`;
}

/** One run in a few lines. @param {Run} run */
function describe(run) {
  const { bytes, cpu, verdict } = run;
  const mib = (/** @type {number} */ value) => (value / mebibyte).toFixed(1);
  const seconds = (/** @type {number} */ ms) => `${(ms / 1000).toFixed(1)} s`;
  const told = /** @type {any} */ (run.told);
  const lines = [
    `${guestText(run)}; total ` +
      `${seconds(run.totalMs)} of ${seconds(run.floorMs)}: ${(run.totalMs / run.floorMs).toFixed(2)}; downtime ` +
      `${run.downtimeMs.toFixed(0)} ms, silence ${run.silenceMs.toFixed(0)} ms; bad: ` +
      `${verdict.badPages} of ${verdict.pages} pages, ${verdict.badBlocks} of ${verdict.blocks} blocks`,
    `MiB: first pass ${mib(bytes.first)}, mirrored ${mib(bytes.mirrored)}, again ${mib(bytes.again)}; iperf3 ` +
      `${run.rateMbit.toFixed(0)} Mbit/s; CPU until the stun: ` +
      Object.entries(cpu)
        .map(([name, each]) => `${name} ${each.toFixed(1)} s`)
        .join(', '),
  ];
  if (told.phases !== undefined) {
    const phases = Object.entries(told.phases).map(([phase, ms]) => `${phase} ${Number(ms).toFixed(0)}`);
    const { mirrored, setBack } = told.guestWrites;
    lines.push(
      `rounds ${told.rounds}, throttle ${told.throttleMax}, mirrored ${mirrored}, set back ${setBack}, switchovers ` +
        `${told.switchoverAttempts}; phases in ms: ${phases.join(', ')}`,
    );
    const parts = Object.entries(told.downtime ?? {}).filter(([, ms]) => Number(ms) >= 0.5);
    lines.push(
      `downtime in ms: ${parts.map(([part, ms]) => `${part.slice(0, -2)} ${Number(ms).toFixed(0)}`).join(', ')}`,
    );
  }
  if (told.mirroredMs !== undefined) lines.push(`mirror ready after ${seconds(told.mirroredMs)}`);
  return lines.join('\n    ');
}

/** The columns of the table. @type {readonly [string, number, (run: Run) => number, number][]} */
const columns = [
  ['before /s', 11, (run) => run.before.perSecond, 0],
  ['during', 8, (run) => run.during.perSecond, 0],
  ['share', 7, share, 2],
  ['longest ms', 12, (run) => run.before.longestMs, 0],
  ['during', 8, (run) => run.during.longestMs, 0],
  ['p99 ms', 9, (run) => run.before.p99Ms, 1],
  ['iperf3', 8, (run) => run.beside?.p99Ms ?? Number.NaN, 1],
  ['during', 8, (run) => run.during.p99Ms, 1],
  ['total s', 9, (run) => run.totalMs / 1000, 1],
  ['floor', 7, (run) => run.floorMs / 1000, 1],
  ['share', 7, overFloor, 2],
  ['downtime', 10, (run) => run.downtimeMs, 0],
  ['silence', 9, (run) => run.silenceMs, 0],
  ['bad', 5, (run) => run.verdict.badPages + run.verdict.badBlocks, 0],
];

/** Of the writes before. @param {Run} run */
function share({ before, during }) {
  return during.perSecond / before.perSecond;
}

/** @param {Run} run */
function overFloor({ totalMs, floorMs }) {
  return totalMs / floorMs;
}

/** @param {readonly Measured[]} all */
function show(all) {
  console.log(
    `\nmedians\n${'link'.padEnd(12)}${'by'.padEnd(10)}${row(columns.map(([name, width]) => [name, width]))}`,
  );
  for (const measured of all) {
    for (const who of /** @type {const} */ (['longhaul', 'qemu'])) {
      const { runs: done, failures } = measured[who];
      if (done.length + failures.length === 0) continue;
      // The marks are for those that came to an end; what is known of the others is better than nothing.
      const shown = done.length > 0 ? done : failures.flatMap(({ soFar }) => soFar ?? []);
      const cells = columns.map(([, width, figure, digits]) => {
        const value = median(shown, figure);
        return /** @type {const} */ ([Number.isNaN(value) ? '-' : value.toFixed(digits), width]);
      });
      const givenUp = failures.filter((each) => each.givenUp).length;
      const notes = [`${done.length} runs`];
      if (givenUp > 0) notes.push(`${givenUp} not over in time`);
      if (failures.length > givenUp) notes.push(`${failures.length - givenUp} failed`);
      console.log(`${measured.link.padEnd(12)}${who.padEnd(10)}${row(cells)}  ${notes.join(', ')}`);
    }
  }
}

/** What of longhaul is not within its marks. @param {Measured} measured @returns {string[]} */
function problems({ link, longhaul: { runs: done, failures } }) {
  const found = failures.map(() => 'a run failed');
  if (done.length > 0) {
    const writes = median(done, share);
    if (writes < writesMark) found.push(`${writes.toFixed(3)} of the writes before, ${writesMark} is wanted`);
    const late = median(done, ({ before, during }) => during.p99Ms - p99Mark(before.p99Ms));
    if (late > 0) found.push(`the 99th percentile is ${late.toFixed(1)} ms above its mark`);
    const mark = links[link]?.total ?? Number.NaN;
    const total = median(done, overFloor);
    if (!(total <= mark)) found.push(`total ${total.toFixed(3)} of the least, ${mark} is allowed`);
    const { rttMs = 0, lossPercent = 0 } = links[link] ?? {};
    const downtimeMark = (trips ?? 0) * rttMs + downtimeMarkMs + (lossPercent > 0 ? lossyDowntimeMs : 0);
    const downtime = median(done, ({ downtimeMs }) => downtimeMs);
    if (downtime > downtimeMark)
      found.push(`a downtime of ${downtime.toFixed(0)} ms, ${downtimeMark} is allowed`);
    const bad = done.filter(({ verdict }) => verdict.badPages + verdict.badBlocks > 0);
    found.push(...bad.map(({ verdict }) => `a guest is not whole: ${verdict.firstBad}`));
  }
  return found.map((each) => `${link}: ${each}`);
}

const support = await bundle({ guest: 'test/qemu/support/guest.ts' });
try {
  console.log(head('a guest and its disk over long links'));
  console.log(`${rateMbit} Mbit/s, queue 50 ms, MTU 1500; TLS off; seed ${seed}; no KVM`);
  console.log(
    `${settings.writes} writes of 8 KiB a second by ${settings.writers} threads over ${hotMiB} MiB; ` +
      `${settings.dirty} MiB/s of memory; ${settings.disk} MiB of disk, ${settings.memory} MiB of memory\n`,
  );
  /** @type {Measured[]} */
  const all = [];
  for (const name of names) all.push(await measure(name, support.paths.guest));
  show(all);
  if (jsonFile !== undefined)
    await writeFile(jsonFile, `${JSON.stringify({ settings, all }, undefined, 2)}\n`);
  const found = all.flatMap(problems);
  for (const problem of found) console.log(`NOT AS REQUIRED: ${problem}`);
  if (found.length > 0) process.exitCode = 1;
} finally {
  await support.remove();
}
