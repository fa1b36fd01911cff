/**
 * What compression is worth: the same VM is moved with `compression` `off` and `auto`, in turns, so that whatever else the machine does falls on both. No disk, an idle guest, TCP on the loopback interface, each
 * end a process of its own; its memory is Node's own program, again and again, which is about as compressible as code and tables are, or noise. The rate is the policy's, or what the machine gives.
 *
 * Rates are content over wall time, of the phase `copyMemory`; what went over the wire is the source's count. CPU time is that of each process during the run, user and system, the codec's threads included.
 *
 * Uses the built library: `npm run build` first.
 */
import { availableParallelism, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { runEnd, transfer } from './support/ends.js';
import { destination, source } from './support/migration-ends.js';
import { cpuRatio, gibibyte, head, median, ratio, row, warmth } from './support/table.js';
import { readOptions, refuse } from './wan/options.js';

const usage = `Usage: node benchmarks/compression.js [options]

  --gib N          memory of the VM in GiB: 0.0625 to 64 (default 1); each end needs that much memory
  --warm N         GiB of a VM that are moved between the two processes before and do not count; 0: none (default 0.25)
  --runs N         runs of each, of which the medians are shown: 1 to 99 (default 3)
  --rate-mbit N    what the policy lets out, in Mbit/s; 0: no limit (default 200)
  --content NAME   program or random (default program)
  --help           this text
`;

const script = fileURLToPath(import.meta.url);
const modes = /** @type {const} */ (['off', 'auto']);

/** @typedef {import('./support/table.js').Measured & { wire: number, memory: number, saved: number, codec: string }} Measured */

async function main() {
  const given = readOptions(usage, {
    gib: '1',
    warm: '0.25',
    runs: '3',
    'rate-mbit': '200',
    content: 'program',
  });
  const content = given.text('content');
  if (content !== 'program' && content !== 'random')
    refuse(`--content must be program or random\n\n${usage}`);
  const whole = (/** @type {number} */ gib) => Math.round((gib * gibibyte) / 2 ** 20) * 2 ** 20;
  const bytes = whole(given.number('gib', 1 / 16, 64));
  const warmBytes = whole(given.number('warm', 0, 64));
  const runs = given.whole('runs', 1, 99);
  const rateMbit = given.number('rate-mbit', 0, 1e6);
  const load = loadavg()[0] ?? 0;
  const limit = rateMbit === 0 ? {} : { rateBytesPerSecondMax: rateMbit * 125_000 };
  /** @type {Record<'off' | 'auto', Measured[]>} */
  const measured = { off: [], auto: [] };
  for (let run = 1; run <= runs; run++) {
    for (const compression of modes) {
      process.stderr.write(`run ${run} of ${runs}: ${compression} ... `);
      const policy = { ...limit, compression };
      const task = { bytes, warmBytes, lanes: 0, host: '127.0.0.1', port: 0, content, policy };
      const { sender, receiver } = await transfer(
        script,
        { sender: 'source', receiver: 'destination' },
        task,
      );
      const { copyMs: ms, wire, memory, compression: figures } = sender;
      measured[compression].push({
        ms,
        wire,
        memory,
        saved: figures?.savedBytes ?? 0,
        codec: figures?.codec ?? 'none',
        sender,
        receiver,
      });
      process.stderr.write(`${(ms / 1000).toFixed(2)} s\n`);
    }
  }
  const { off, auto } = measured;
  console.log(`compression, ${new Date().toISOString()}`);
  console.log(
    `node ${process.version}, ${availableParallelism()} cores, load ${load.toFixed(1)} at the start`,
  );
  console.log(`${bytes / gibibyte} GiB of memory (${content}), no disk, idle guest`);
  console.log(`each end its own process, ${warmth(warmBytes)}`);
  console.log(
    `TCP on loopback, TLS off, ${rateMbit === 0 ? 'no limit' : `${rateMbit} Mbit/s`}; figures are medians of ${runs}\n`,
  );
  console.log(head);
  for (const mode of modes) console.log(row(mode, bytes, measured[mode]));
  const mib = (/** @type {number[]} */ values) => (median(values) / 2 ** 20).toFixed(0);
  for (const mode of modes) {
    const wire = mib(measured[mode].map((each) => each.wire));
    const saved = mib(measured[mode].map((each) => each.saved));
    console.log(`${mode}: ${wire} MiB on the wire, ${saved} MiB saved, codec ${measured[mode][0]?.codec}`);
  }
  console.log('\nauto beside off, median (each run):');
  console.log(`  rate:             ${ratio(auto, off)}`);
  console.log(`  CPU of both ends: ${cpuRatio(auto, off)}`);
}

const [end, task] = process.argv.slice(2);
if (process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd({ source, destination }, end, JSON.parse(task));
} else {
  await main();
}
