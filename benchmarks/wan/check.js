/**
 * Measures the laboratory itself: whether its links are what they are said to be. For each link: round
 * trips of ping, iperf3's goodput with 1, 4 and 16 streams, what was lost of what was sent, and what the
 * emulation costs. Then a cut that has to be silent and a mend that has to help.
 */
import { setTimeout } from 'node:timers/promises';
import { head } from './figures.js';
import { iperf } from './iperf.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';
import { readOptions, refuse } from './options.js';

const usage = `Usage: node benchmarks/wan/check.js [options]

  --seconds N       of each transfer that are measured: 1 to 60 (default 4)
  --omit N          seconds of each transfer before those, for slow start: 0 to 60 (default 4)
  --congestion X    bbr, cubic or what else the kernel has (default bbr)
  --seed N          of the losses (default 1)
  --help            this text

Exit code: 0 if every link is within its limits, 1 if one is not, 2 if there can be no laboratory here
or the options are wrong. Limits: a round trip's least 0.05 ms below and 0.5 ms above what is wanted, its
median 1 ms; losses within four standard deviations; no more carried than the rate allows, 2 % aside; on a
link without losses, goodput of at least 80 % of what the rate can carry, with the best of 1, 4 and 16
streams; nothing lost before the link. (A goodput may be above 100 % for a while: when a lost packet arrives
at last, what had waited behind it is read at once.)
`;

const streamCounts = [1, 4, 16];
/** TCP's payload of an IP packet at MTU 1500, with timestamps. */
const payloadShare = 1448 / 1500;

/** @type {readonly Path[][]} */
const links = [
  [{ rateMbit: 1000, delayMs: 0 }],
  [{ rateMbit: 1000, delayMs: 25 }],
  [{ rateMbit: 1000, delayMs: 100 }],
  [{ rateMbit: 400, delayMs: 50, lossPercent: 0.1 }],
  [
    { rateMbit: 600, delayMs: 10 },
    { rateMbit: 200, delayMs: 60 },
  ],
];

/**
 * @typedef {import('./laboratory.js').Laboratory} Laboratory
 * @typedef {import('./laboratory.js').Path} Path
 * @typedef {import('./laboratory.js').Stats} Stats
 *
 * @typedef {{ congestion: string, seconds: number, omit: number, seed: number }} Settings
 */

/** What was out of limits, over all links. @type {string[]} */
const faults = [];

/** @param {boolean} isWithin @param {string} fault */
function expect(isWithin, fault) {
  if (isWithin) return;
  faults.push(fault);
  console.log(`  OUT OF LIMITS: ${fault}`);
}

/** @param {readonly Path[]} paths @param {Settings} settings */
async function checkLink(paths, settings) {
  const laboratory = await openLaboratory({ paths, congestion: settings.congestion, seed: settings.seed });
  try {
    for (const [index, path] of paths.entries()) {
      const { rateMbit, delayMs, lossPercent = 0 } = path;
      console.log(`\npath ${index}: ${rateMbit} Mbit/s, RTT ${2 * delayMs} ms, loss ${lossPercent} %`);
      await checkPing(laboratory, index, path);
      if (paths.length === 1) {
        let best = 0;
        for (const streams of streamCounts) {
          const [mbit = 0] = await checkTransfers(laboratory, paths, streams, settings);
          best = Math.max(best, mbit);
        }
        if (lossPercent === 0) expectGoodput(best, path);
      }
    }
    if (paths.length > 1) {
      console.log('\nboth paths at once:');
      const mbits = await checkTransfers(laboratory, paths, 4, settings);
      for (const [index, path] of paths.entries()) expectGoodput(mbits[index] ?? 0, path);
      await checkCut(laboratory);
    }
  } finally {
    await laboratory.close();
  }
}

/** @param {number} mbit @param {Path} path */
function expectGoodput(mbit, { rateMbit }) {
  const most = rateMbit * payloadShare;
  expect(mbit >= most * 0.8, `goodput of ${mbit.toFixed(0)} of ${most.toFixed(0)} Mbit/s`);
}

/** @param {Laboratory} laboratory @param {number} index @param {Path} path */
async function checkPing(laboratory, index, { delayMs, lossPercent = 0 }) {
  const ping = await laboratory.ping({ path: index, count: 100 });
  const wanted = 2 * delayMs;
  const shown = [ping.minMs, ping.meanMs, ping.medianMs, ping.p99Ms].map((ms) => ms.toFixed(3)).join(' / ');
  console.log(
    `  ping     ${shown} ms, min / mean / median / p99; ${ping.received} of ${ping.sent} came back`,
  );
  expect(ping.minMs >= wanted - 0.05 && ping.minMs <= wanted + 0.5, `least round trip ${ping.minMs} ms`);
  expect(Math.abs(ping.medianMs - wanted) <= 1, `median round trip ${ping.medianMs} ms`);
  if (lossPercent === 0) expect(ping.received === ping.sent, `${ping.sent - ping.received} pings lost`);
}

/**
 * A transfer on every path at once. Returns the goodputs.
 *
 * @param {Laboratory} laboratory @param {readonly Path[]} paths
 * @param {number} streams @param {Settings} settings
 */
async function checkTransfers(laboratory, paths, streams, { seconds, omit }) {
  const before = await laboratory.stats();
  const start = performance.now();
  const [carried, ...transfers] = await Promise.all([
    measureCarried(laboratory, omit, seconds),
    ...paths.map((_, path) => iperf(laboratory, { path, streams, seconds, omit })),
  ]);
  const wall = (performance.now() - start) / 1000;
  const after = await laboratory.stats();
  const cpu = ((after.cpuSeconds - before.cpuSeconds) / wall) * 100;
  for (const [index, transfer] of transfers.entries()) {
    const { rateMbit = 0, lossPercent = 0 } = paths[index] ?? {};
    const most = rateMbit * payloadShare;
    const counted = difference(after, before, index);
    const sent = counted.packets + counted.droppedByLoss;
    const lost = (counted.droppedByLoss / sent) * 100;
    const name = paths.length > 1 ? `path ${index}, ${streams} streams` : `${streams} streams`;
    const share = ((transfer.warmMbit / most) * 100).toFixed(0);
    const figures = [
      `${transfer.warmMbit.toFixed(0)} Mbit/s = ${share} % of what the rate carries`,
      `${transfer.coldMbit.toFixed(0)} with slow start`,
      `lost ${lost.toFixed(4)} % by chance, ${counted.droppedByQueue} packets by the queue`,
    ];
    console.log(`  iperf3   ${name.padEnd(11)} ${figures.join('; ')}`);
    const mbit = carried[index] ?? Number.NaN;
    expect(mbit <= rateMbit * 1.02, `${mbit.toFixed(0)} Mbit/s carried, packets with their headers`);
    const chance = lossPercent / 100;
    const deviation = Math.sqrt((chance * (1 - chance)) / sent) * 100;
    expect(Math.abs(lost - lossPercent) <= 4 * deviation, `${lost.toFixed(4)} % lost by chance`);
    expect(counted.overflow === 0, `${counted.overflow} packets lost before the link`);
    expect(counted.refused === 0, `${counted.refused} packets not taken by the receiver`);
  }
  const { mean, max } = after.lateUs;
  console.log(`           the link: ${cpu.toFixed(0)} % of a core; late by ${mean} us, at most ${max} us`);
  return transfers.map((transfer) => transfer.warmMbit);
}

/**
 * What the link hands over from `a` to `b`, of each path in Mbit/s, from `omit` seconds on for `seconds`.
 *
 * @param {Laboratory} laboratory @param {number} omit @param {number} seconds
 */
async function measureCarried(laboratory, omit, seconds) {
  const sample = async () => ({ paths: (await laboratory.stats()).paths, at: performance.now() });
  await setTimeout(omit * 1000);
  const from = await sample();
  await setTimeout(seconds * 1000);
  const to = await sample();
  return to.paths.map(({ ab }, index) => {
    const bytes = ab.bytes - (from.paths[index]?.ab.bytes ?? 0);
    return (bytes * 8) / 1000 / (to.at - from.at);
  });
}

/** @param {Stats} after @param {Stats} before @param {number} path */
function difference(after, before, path) {
  const [to, from] = [after.paths[path]?.ab, before.paths[path]?.ab];
  if (to === undefined || from === undefined) throw new Error(`there is no path ${path}`);
  const { packets, droppedByLoss, droppedByQueue, overflow, refused } = to;
  return {
    packets: packets - from.packets,
    droppedByLoss: droppedByLoss - from.droppedByLoss,
    droppedByQueue: droppedByQueue - from.droppedByQueue,
    overflow: overflow - from.overflow,
    refused: refused - from.refused,
  };
}

/** @param {Laboratory} laboratory */
async function checkCut(laboratory) {
  await laboratory.cut(1);
  const cut = await laboratory.ping({ path: 1, count: 5 });
  const other = await laboratory.ping({ path: 0, count: 5 });
  await laboratory.mend(1);
  const mended = await laboratory.ping({ path: 1, count: 5 });
  const shown = `${cut.received} when cut, ${other.received} on path 0 then, ${mended.received} when mended`;
  console.log(`\npath 1 cut, and mended:\n  ping     of 5, came back: ${shown}`);
  expect(cut.received === 0 && other.received === 5 && mended.received === 5, 'cut or mend');
}

async function main() {
  const given = readOptions(usage, { seconds: '4', omit: '4', congestion: 'bbr', seed: '1' });
  const settings = {
    congestion: given.text('congestion') ?? '',
    seconds: given.whole('seconds', 1, 60),
    omit: given.whole('omit', 0, 60),
    seed: given.whole('seed', 0, 2 ** 31),
  };
  const reason = await whyNoLaboratory(settings.congestion, ['iperf3', 'ss']);
  if (reason !== undefined) refuse(reason);
  console.log(head('the links of the laboratory'));
  console.log(
    `${settings.congestion}, queues of 50 ms; ${settings.seconds} s after the first ${settings.omit} s`,
  );
  for (const paths of links) await checkLink(paths, settings);
  console.log(faults.length === 0 ? '\nall within limits' : `\n${faults.length} out of limits`);
  if (faults.length > 0) process.exitCode = 1;
}

await main();
