/**
 * A real guest under QEMU (emulated, no KVM) is moved over the laboratory's link (laboratory.js), which is
 * cut meanwhile, without a word to either end; `longhaul send` and `receive` are processes of their own, one
 * in each namespace.
 *
 *   copying  cuts one after the other while disk and memory are copied, at random moments: the first after
 *            the ends have connected, each other one after the one before is over
 *   stun     one cut when the guest is paused: it runs on by itself, and the switchover is done again
 *
 * The guest's writes are counted by itself and timed outside: before the migration, and in each cut, from the
 * cut to the mend; in that of the stun, from when the guest runs on. Its silence is the longest time between
 * two of its ticks, which come every 10 ms: here, from the last one here to the first one there, and there.
 * At the end it reads all that it has ever written.
 *
 * Uses the built program: `npm run build` first; and the tests' guest: `npm run setup:qemu`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { bundle } from '../support/bundle.js';
import {
  attend,
  hotMiB,
  measureAlone,
  ownArguments,
  perSecond,
  sampleUntilItStops,
  withGuests,
  writesAt,
} from '../support/guest-load.js';
import { head, row } from './figures.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';
import { readOptions, refuse } from './options.js';

const usage = `Usage: node benchmarks/wan/guest-outages.js [options]

  --trial X         copying, stun, both, or none: a migration that is left alone, to compare (default both)
  --cut LIST        seconds of the cuts while copying, with commas between: 1 to 500 (default 5,20,40)
  --stun-cut N      seconds of the cut in the stun: 1 to 500 (default 5)
  --stun-ms N       longest stun, as of longhaul send: 100 to 600000 (default 3000)
  --seed N          of the moments of the cuts (default 1)
  --mbit N          the link: 1 to 10000 (default 400)
  --rate N          Mbit/s to send at most, so that the copy lasts: 1 to 10000 (default 200)
  --rtt N           round trip in ms: 0 to 2000 (default 100)
  --congestion X    bbr, cubic or what else the kernel has (default bbr)
  --writes N        disk writes a second: 1 to 100000 (default 365)
  --writers N       threads that write, each with one write outstanding: 1 to 32 (default 4)
  --dirty N         memory that is dirtied, MiB a second: 0 to 1000 (default 8)
  --disk N          size of the disk, which is full, MiB: ${hotMiB} to 4096 (default 256)
  --before N        seconds to measure before the migration: 1 to 600 (default 10)
  --least N         percent of the writes before that are required in a cut: 0 to 100 (default 95)
  --program FILE    the command-line program (default: dist/cli/main.js)
  --help            this text

Exit code: 0 if all is as required, 1 if something is not or a run failed, 2 if there can be no laboratory
here or the options are wrong.
`;

const mebibyte = 2 ** 20;
/** From one cut's end to the next cut, at random. */
const apartMs = { least: 1000, most: 3000 };
/** A shorter cut may be over before silence is told from slowness: the policy's `silenceMsMax`, and some. */
const surelyToldMs = 7000;

const outageLine = /^the link was gone for /;
const retreatLine = /^switchover \d+ failed: /;

/**
 * @typedef {import('../support/guest-load.js').Guest} Guest
 * @typedef {ReturnType<typeof attend>} Program
 * @typedef {import('./laboratory.js').Laboratory} Laboratory
 * @typedef {import('../support/guest-load.js').Load} Load
 * @typedef {Load & { rateMbit: number, before: number, program: string }} Settings
 * @typedef {{ name: string, fromMs: number, toMs: number }} Span In which the guest has to write as before.
 * @typedef {object} Trial
 * @property {string} name
 * @property {readonly string[]} options For `longhaul send`.
 * @property {{ outages: number, retreats: number }} required At least.
 * @property {(link: { cut(ms: number): Promise<Span>, sending: Program }) => Promise<Span[]>} disturb
 * @typedef {object} Run
 * @property {number} before Writes a second.
 * @property {{ name: string, perSecond: number }[]} cuts
 * @property {{ source: number, handover: number, destination: number }} silenceMs
 * @property {string[]} told
 * @property {{ outages: number, retreats: number }} count As told.
 * @property {any} report What `send` reports.
 * @property {import('../../test/qemu/support/guest.ts').GuestVerdict} verdict
 */

/** @param {readonly number[]} seconds @param {() => number} random From 0 to 1. @returns {Trial} */
function whileCopying(seconds, random) {
  const told = seconds.filter((each) => each * 1000 >= surelyToldMs);
  return {
    name: seconds.length === 0 ? 'left alone' : `copying: cuts of ${seconds.join(', ')} s`,
    options: [],
    required: { outages: told.length, retreats: 0 },
    disturb: async ({ cut, sending }) => {
      const spans = [];
      await sending.line(/^preparing$/);
      for (const each of seconds) {
        await sleep(apartMs.least + random() * (apartMs.most - apartMs.least));
        if (sending.lines(/^pausing the guest$/).length > 0)
          throw new Error(`the migration was too fast for the cut of ${each} s: lower --rate`);
        const span = await cut(each * 1000);
        spans.push(span);
        // TCP may carry on by itself after a short one: then bytes move, and nothing is told.
        await sending.line(/^(the link was gone|copying|pausing)/, span.toMs);
      }
      return spans;
    },
  };
}

/** @param {number} seconds @param {number} stunMs @returns {Trial} */
function inTheStun(seconds, stunMs) {
  return {
    name: `stun: a cut of ${seconds} s, stun of ${stunMs} ms at most`,
    options: ['--stun-ms', String(stunMs)],
    required: { outages: 0, retreats: seconds * 1000 > stunMs ? 1 : 0 },
    disturb: async ({ cut, sending }) => {
      await sending.line(/^pausing the guest$/);
      const span = await cut(seconds * 1000);
      const [retreat] = sending.lines(retreatLine);
      return retreat === undefined
        ? []
        : [{ ...span, name: `${span.name}, once it runs on`, fromMs: retreat.atMs }];
    },
  };
}

/**
 * @param {Laboratory} laboratory @param {string} support @param {Settings} settings @param {Trial} trial
 * @returns {Promise<Run>}
 */
function run(laboratory, support, settings, trial) {
  /** @param {'a' | 'b'} side @param {string[]} args */
  const longhaul = (side, ...args) =>
    attend(
      `longhaul ${args[0]}`,
      laboratory.spawn(side, process.execPath, [settings.program, ...args, '--no-tls'], {
        stdio: ['ignore', 'pipe', 'pipe'],
      }),
    );
  return withGuests(support, settings, async ({ source, destination, directory, keep }) => {
    const address = `${laboratory.addresses[0]?.b}:0`;
    const receiving = keep(
      longhaul('b', 'receive', '--listen', address, ...ownArguments(destination, directory)),
    );
    const to = (await receiving.line(/^listening on (\S+)$/)).match[1] ?? '';
    const { perSecond: before } = await measureAlone(source, settings.before);

    const sampling = sampleUntilItStops(source);
    const rate = ['--rate-mbit', String(settings.rateMbit)];
    const args = ['--to', to, ...rate, ...trial.options, ...ownArguments(source, directory)];
    const sending = keep(longhaul('a', 'send', ...args));
    const connectedMs = (await sending.line(/^preparing$/)).atMs;
    const cut = async (/** @type {number} */ ms) => {
      const fromMs = performance.now();
      const name = `cut of ${ms / 1000} s at ${((fromMs - connectedMs) / 1000).toFixed(2)} s`;
      process.stderr.write(`${name}\n`);
      await laboratory.cut(0);
      await sleep(ms);
      const toMs = performance.now();
      await laboratory.mend(0);
      return { name, fromMs, toMs };
    };
    const spans = await trial.disturb({ cut, sending });
    const report = JSON.parse(await sending.end());
    const samples = await sampling;
    await receiving.end();
    await destination.nextTick();
    const there = destination.ticks;
    const verdict = await destination.verify();
    const [outages, retreats] = [sending.lines(outageLine), sending.lines(retreatLine)];
    const told = [...outages, ...retreats].toSorted((a, b) => a.atMs - b.atMs);
    return {
      before,
      cuts: spans.map(({ name, fromMs, toMs }) => ({
        name,
        perSecond: perSecond(writesAt(samples, toMs) - writesAt(samples, fromMs), toMs - fromMs),
      })),
      silenceMs: {
        source: source.ticks.gapMaxMs,
        handover: (there.firstAtMs ?? Number.NaN) - (source.ticks.lastAtMs ?? Number.NaN),
        destination: there.gapMaxMs,
      },
      told: told.map(({ atMs, line }) => `${((atMs - connectedMs) / 1000).toFixed(2)} s: ${line}`),
      count: { outages: outages.length, retreats: retreats.length },
      report,
      verdict,
    };
  });
}

/** @param {Run} run */
function show({ before, cuts, silenceMs, told, report, verdict }) {
  const line = (/** @type {string} */ name, /** @type {string} */ text) =>
    console.log(
      row([
        [name, 44],
        [`  ${text}`, 0],
      ]),
    );
  line('guest writes before', `${before.toFixed(1)}/s`);
  for (const { name, perSecond } of cuts) {
    line(name, `${perSecond.toFixed(1)}/s  ${((100 * perSecond) / before).toFixed(1)} %`);
  }
  const { source, handover, destination } = silenceMs;
  line(
    'longest silence here, between, there',
    `${[source, handover, destination].map((ms) => ms.toFixed(0)).join(', ')} ms`,
  );
  const again = report.outages.map((/** @type {any} */ { resentBytes }) =>
    (resentBytes / mebibyte).toFixed(1),
  );
  line(
    'again',
    `${again.join(' + ') || '0'} MiB, of ${(report.bytes.wire / mebibyte).toFixed(0)} MiB on the wire`,
  );
  line('downtime, total', `${report.downtimeMs.toFixed(0)} ms, ${(report.totalMs / 1000).toFixed(1)} s`);
  line('mirrored, set back', `${report.guestWrites.mirrored}, ${report.guestWrites.setBack}`);
  line(
    'verify',
    `${verdict.badPages} of ${verdict.pages} pages bad, ${verdict.badBlocks} of ${verdict.blocks} blocks`,
  );
  for (const each of told) console.log(`  ${each}`);
}

/** What is not as required. @param {Run} run @param {Trial} trial @param {number} leastPercent */
function problems({ before, cuts, count, report, verdict }, { required }, leastPercent) {
  const found = [];
  if (report.outcome !== 'completed') found.push(`the migration ${report.outcome}`);
  for (const { name, perSecond } of cuts) {
    if (100 * perSecond < leastPercent * before)
      found.push(`${name}: less than ${leastPercent} % of the writes`);
  }
  if (count.outages < required.outages) found.push(`${count.outages} outages told of ${required.outages}`);
  if (count.retreats < required.retreats) found.push('the guest did not run on by itself');
  if (verdict.badPages + verdict.badBlocks > 0) found.push(`the guest is not whole: ${verdict.firstBad}`);
  return found;
}

const given = readOptions(usage, {
  trial: 'both',
  cut: '5,20,40',
  'stun-cut': '5',
  'stun-ms': '3000',
  seed: '1',
  mbit: '400',
  rate: '200',
  rtt: '100',
  congestion: 'bbr',
  writes: '365',
  writers: '4',
  dirty: '8',
  disk: '256',
  before: '10',
  least: '95',
  program: fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url)),
});
const trial = given.text('trial') ?? '';
if (!['copying', 'stun', 'both', 'none'].includes(trial))
  refuse(`--trial must be copying, stun, both or none\n\n${usage}`);
const cutSeconds = given.numbers('cut', 1, 500);
const stunCutSeconds = given.number('stun-cut', 1, 500);
const stunMs = given.whole('stun-ms', 100, 600_000);
const seed = given.whole('seed', 0, 2 ** 31);
const linkMbit = given.number('mbit', 1, 10_000);
const rttMs = given.number('rtt', 0, 2000);
const congestion = given.text('congestion') ?? '';
const leastPercent = given.number('least', 0, 100);
/** @type {Settings} */
const settings = {
  rateMbit: given.number('rate', 1, 10_000),
  writes: given.whole('writes', 1, 100_000),
  writers: given.whole('writers', 1, 32),
  dirty: given.whole('dirty', 0, 1000),
  disk: given.whole('disk', hotMiB, 4096),
  before: given.number('before', 1, 600),
  program: given.text('program') ?? '',
};
const reason = await whyNoLaboratory(congestion, ['qemu-system-x86_64', 'qemu-img']);
if (reason !== undefined) refuse(reason);

const support = await bundle({ guest: 'test/qemu/support/guest.ts', prng: 'src/util/prng.ts' });
try {
  /** @type {typeof import('../../src/util/prng.ts')} */
  const { createPrng } = await import(support.paths.prng);
  const prng = createPrng(seed);
  const copying = whileCopying(cutSeconds, () => prng.fraction());
  const stun = inTheStun(stunCutSeconds, stunMs);
  const none = whileCopying([], () => 0);
  /** @type {Record<string, Trial[]>} */
  const named = { copying: [copying], stun: [stun], both: [copying, stun], none: [none] };
  const trials = named[trial] ?? [];
  console.log(head('a guest that is moved while its link is cut'));
  console.log(
    `${linkMbit} Mbit/s, at most ${settings.rateMbit} of it used, round trip ${rttMs} ms, queue 50 ms; ` +
      `TCP with ${congestion}, TLS off; seed ${seed}`,
  );
  console.log(
    `${settings.writes} writes of 8 KiB a second by ${settings.writers} threads over ${hotMiB} MiB; ` +
      `${settings.dirty} MiB/s of memory; ${settings.disk} MiB of disk`,
  );
  const laboratory = await openLaboratory({
    paths: [{ rateMbit: linkMbit, delayMs: rttMs / 2 }],
    congestion,
  });
  try {
    for (const each of trials) {
      console.log(`\n${each.name}`);
      const measured = await run(laboratory, support.paths.guest, settings, each);
      show(measured);
      const found = problems(measured, each, leastPercent);
      for (const problem of found) console.log(`  NOT AS REQUIRED: ${problem}`);
      if (found.length > 0) process.exitCode = 1;
    }
  } finally {
    await laboratory.close();
  }
} finally {
  await support.remove();
}
