/**
 * What an outage costs: a VM of random memory, no disk, an idle guest, over the laboratory's link (laboratory.js), each end a process of
 * its own; once undisturbed, and once with the link cut in the middle, without a word to either end.
 *
 * `wire` is what the source's connections carried both ways, as it counts them. `going on` is from the mend until both ends knew again what the
 * other has, as the source says it, taken here. `again` is what was on its way at the cut.
 *
 * Uses the built library: `npm run build` first.
 */
import { fileURLToPath } from 'node:url';
import { createDestination, createSource, memoryRegister } from '../../dist/index.js';
import { createMemoryBackend, createMemoryVm } from '../../dist/memory.js';
import { tcp } from '../../dist/tcp.js';
import { follow, runEnd, tell, told } from '../support/ends.js';
import { gibibyte, head, median, row } from './figures.js';
import { openLaboratory, whyNoLaboratory } from './laboratory.js';
import { readOptions, refuse } from './options.js';

const usage = `Usage: node benchmarks/wan/outage.js [options]

  --rate N          Mbit/s of the link: 1 to 10000 (default 400)
  --rtt N           round trip in ms: 0 to 2000 (default 100)
  --cut LIST        seconds that the link is gone, with commas between: 1 to 500 (default 5,20)
  --gib N           memory of the VM: 0.01 to 4 (default 1)
  --congestion X    bbr, cubic or what else the kernel has (default bbr)
  --runs N          runs of each, of which the medians are shown: 1 to 99 (default 3)
  --help            this text

Exit code: 0 if everything was measured, 1 if a run failed, 2 if there can be no laboratory here or the
options are wrong.
`;

const self = fileURLToPath(import.meta.url);
const mebibyte = 2 ** 20;

/**
 * @typedef {{ bytes: number, host: string, port: number }} Task
 * @typedef {{ wireBytes: number, totalMs: number, again: number, goingOnMs: number }} Move
 */

const ends = {
  /** @param {Task} task */
  source: async ({ bytes, host, port }) => {
    const transport = tcp({ connect: { host, port } });
    const vm = createMemoryVm({ vmId: 'benchmark', memoryBytes: bytes, fill: 'random', seed: 1 });
    const migration = createSource({ vm: vm.source(), transport, register: memoryRegister() });
    migration.on('phase', (phase) => {
      if (phase === 'copyMemory') void tell({ copying: true });
    });
    migration.on('outage', (outage) => void tell({ outage }));
    await told({ ready: true });
    const { outcome, error, bytes: sent, totalMs } = await migration.run();
    if (outcome !== 'completed') throw error ?? new Error(outcome);
    await tell({ wireBytes: sent.wire, totalMs });
    vm.destroy();
    await transport.close();
  },

  /** @param {Task} task */
  destination: async ({ host, port }) => {
    const transport = tcp({ listen: { host, port } });
    const backend = createMemoryBackend({});
    const migration = createDestination({ backend, transport, register: memoryRegister() });
    await tell(await transport.listening());
    const { outcome, error } = await migration.run();
    if (outcome !== 'completed') throw error ?? new Error(outcome);
    backend.vm?.destroy();
    await transport.close();
  },
};

/**
 * One migration, with the link gone for so many seconds from its middle on, or not at all.
 *
 * @param {import('./laboratory.js').Laboratory} laboratory
 * @param {{ bytes: number, rateMbit: number }} settings @param {number} cutSeconds
 * @returns {Promise<Move>}
 */
async function move(laboratory, { bytes, rateMbit }, cutSeconds) {
  const start = (/** @type {'a' | 'b'} */ side, /** @type {string} */ end, /** @type {Task} */ task) =>
    follow(
      end,
      laboratory.spawn(side, process.execPath, [self, end, JSON.stringify(task)], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      }),
    );
  const host = laboratory.addresses[0]?.b ?? '';
  const destination = start('b', 'destination', { bytes, host, port: 0 });
  let source;
  try {
    const { port } = await destination.next();
    source = start('a', 'source', { bytes, host, port });
    await source.next();
    source.go();
    await source.next();
    let again = 0;
    let goingOnMs = 0;
    if (cutSeconds > 0) {
      await pause((bytes * 8) / (rateMbit * 1000) / 2);
      await laboratory.cut(0);
      await pause(cutSeconds * 1000);
      await laboratory.mend(0);
      const mendedMs = performance.now();
      const { outage } = await source.next();
      goingOnMs = performance.now() - mendedMs;
      again = outage.resentBytes;
    }
    const { wireBytes, totalMs } = await source.next();
    await Promise.all([source.end(), destination.end()]);
    return { wireBytes, totalMs, again, goingOnMs };
  } finally {
    source?.kill();
    destination.kill();
  }
}

/** @param {number} ms */
function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** @type {readonly (readonly [string, number])[]} */
const columns = [
  ['cut', 8],
  ['total', 10],
  ['wire', 12],
  ['over uncut', 14],
  ['again', 12],
  ['going on', 12],
];

async function main() {
  const given = readOptions(usage, {
    rate: '400',
    rtt: '100',
    cut: '5,20',
    gib: '1',
    congestion: 'bbr',
    runs: '3',
  });
  const rateMbit = given.number('rate', 1, 10_000);
  const rttMs = given.number('rtt', 0, 2000);
  const cuts = given.numbers('cut', 1, 500);
  const bytes = Math.ceil((given.number('gib', 0.01, 4) * gibibyte) / mebibyte) * mebibyte;
  const count = given.whole('runs', 1, 99);
  const congestion = given.text('congestion') ?? '';
  const reason = await whyNoLaboratory(congestion);
  if (reason !== undefined) refuse(reason);
  console.log(head('a link that is cut in the middle of a migration'));
  console.log(`${rateMbit} Mbit/s, round trip ${rttMs} ms, queue 50 ms; TCP with ${congestion}, TLS off`);
  console.log(
    `${(bytes / gibibyte).toFixed(2)} GiB of random memory, no disk, idle guest; medians of ${count}\n`,
  );
  console.log(row(columns));
  const laboratory = await openLaboratory({ paths: [{ rateMbit, delayMs: rttMs / 2 }], congestion });
  try {
    let uncut = Number.NaN;
    for (const seconds of [0, ...cuts]) {
      /** @type {Move[]} */
      const moves = [];
      for (let run = 1; run <= count; run++) {
        process.stderr.write(`cut of ${seconds} s, run ${run} of ${count}\n`);
        moves.push(await move(laboratory, { bytes, rateMbit }, seconds));
      }
      const wire = median(moves, ({ wireBytes }) => wireBytes);
      if (seconds === 0) uncut = wire;
      const mib = (/** @type {number} */ value) => `${(value / mebibyte).toFixed(1)} MiB`;
      const cells = [
        `${seconds} s`,
        `${(median(moves, ({ totalMs }) => totalMs) / 1000).toFixed(1)} s`,
        mib(wire),
        (wire / uncut).toFixed(4),
        seconds === 0 ? '' : mib(median(moves, ({ again }) => again)),
        seconds === 0 ? '' : `${median(moves, ({ goingOnMs }) => goingOnMs).toFixed(0)} ms`,
      ];
      console.log(row(columns.map(([, width], index) => [cells[index] ?? '', width])));
    }
  } finally {
    await laboratory.close();
  }
}

const [end, task] = process.argv.slice(2);
if (process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd(ends, end, JSON.parse(task));
} else {
  await main();
}
