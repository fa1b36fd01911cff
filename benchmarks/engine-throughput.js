/**
 * How fast the engine moves memory, beside what plain sockets of the same machine carry: a VM of random memory, no disk, an idle guest, over
 * TCP on the loopback interface, each end a process of its own; and then the same amount through one plain socket in writes of 256 KiB,
 * each end a process of its own. Both take turns, so that whatever else the machine does falls on both.
 *
 * Rates are payload bytes over wall time. `copyMemory` is the source's phase of that name; `total` is its whole run, from connecting to
 * the release. The plain rate runs from the first write until the receiver says that it has the last byte. CPU time is that of the process during
 * the run, user and system; peak RSS is that of the process's life, the VM's memory included.
 *
 * A control plane's processes are warm, and what a compiler does in the first second says nothing of the hundredth. So what counts comes after another transfer of as much
 * through the same two processes, of the engine and of the plain socket alike; `--warm 0` leaves it out. (After 1 GiB, say, counters of bytes outgrow 31 bits only in the transfer that counts, and what uses
 * them is compiled anew.) Before each of its transfers the engine's processes collect their garbage, the warming VM's; those of the plain socket, which leave none of that size, do not.
 *
 * Uses the built library: `npm run build` first.
 */
import { availableParallelism, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runEnd, transfer } from './support/ends.js';
import { destination, source } from './support/migration-ends.js';
import { plainReceiver, plainSender, writeBytes } from './support/plain-ends.js';
import { cpuRatio, gibibyte, head, number, ratio, row, warmth } from './support/table.js';

const usage = `Usage: node benchmarks/engine-throughput.js [options]

  --gib N      memory of the VM in GiB, and what the plain socket carries: 0.0625 to 64 (default 4);
               each end needs that much memory
  --warm N     GiB of a VM, and through a plain socket, that go between the two processes before and do not count;
               0: none (default: as --gib)
  --runs N     runs of each, of which the medians are shown: 1 to 99 (default 3)
  --lanes N    data connections of the engine: 1 to 256, or 0 for as many as it likes (default 0)
  --help       this text

Options of Node itself reach each end: node --cpu-prof benchmarks/engine-throughput.js --runs 1
`;

const host = '127.0.0.1';
const script = fileURLToPath(import.meta.url);

/** @typedef {import('./support/table.js').Measured} Measured */

/** The ends, by the name that the process is started with. */
const ends = {
  source,
  destination,
  'plain-sender': (/** @type {import('./support/plain-ends.js').Task} */ task) => plainSender(task),
  'plain-receiver': (/** @type {import('./support/plain-ends.js').Task} */ task) => plainReceiver(task),
};

function options() {
  try {
    return parseArgs({
      options: {
        gib: { type: 'string', default: '4' },
        warm: { type: 'string' },
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
  const given = options();
  if (given.help) {
    process.stdout.write(usage);
    return;
  }
  const whole = (/** @type {number} */ gib) => Math.round((gib * gibibyte) / writeBytes) * writeBytes;
  const bytes = whole(number('--gib', given.gib, 1 / 16, 64, usage));
  const warmBytes = whole(number('--warm', given.warm ?? given.gib, 0, 64, usage));
  const runs = Math.floor(number('--runs', given.runs, 1, 99, usage));
  const lanes = Math.floor(number('--lanes', given.lanes, 0, 256, usage));
  const load = loadavg()[0] ?? 0;
  const task = { bytes, warmBytes, lanes, host, port: 0 };
  /** @type {Measured[]} */
  const copy = [];
  /** @type {Measured[]} */
  const total = [];
  /** @type {Measured[]} */
  const plain = [];
  for (let run = 1; run <= runs; run++) {
    process.stderr.write(`run ${run} of ${runs}: engine ... `);
    const engine = await transfer(script, { sender: 'source', receiver: 'destination' }, task);
    copy.push({ ms: engine.sender.copyMs, ...engine });
    total.push({ ms: engine.sender.totalMs, ...engine });
    process.stderr.write(`${(engine.sender.totalMs / 1000).toFixed(2)} s, plain sockets ... `);
    const sockets = await transfer(script, { sender: 'plain-sender', receiver: 'plain-receiver' }, task);
    plain.push({ ms: sockets.sender.ms, ...sockets });
    process.stderr.write(`${(sockets.sender.ms / 1000).toFixed(2)} s\n`);
  }
  console.log(`engine throughput, ${new Date().toISOString()}`);
  console.log(
    `node ${process.version}, ${availableParallelism()} cores, load ${load.toFixed(1)} at the start`,
  );
  console.log(`${bytes / gibibyte} GiB of random memory, no disk, idle guest`);
  console.log(`each end its own process, ${warmth(warmBytes)}`);
  console.log(
    `TCP on loopback, TLS off; ${lanes === 0 ? 'automatic' : lanes} lanes and control; plain: 1 socket, ${writeBytes / 1024} KiB writes`,
  );
  console.log(`figures are medians of ${runs}\n`);
  console.log(head);
  console.log(row('engine, copyMemory', bytes, copy));
  console.log(row('engine, total', bytes, total));
  console.log(row('plain sockets', bytes, plain));
  console.log('\nengine beside plain, median (each run):');
  console.log(`  rate, copyMemory: ${ratio(copy, plain)}`);
  console.log(`  rate, total:      ${ratio(total, plain)}`);
  console.log(`  CPU of both ends: ${cpuRatio(total, plain)}`);
}

const [end, task] = process.argv.slice(2);
if (process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd(ends, end, JSON.parse(task));
} else {
  await main();
}
