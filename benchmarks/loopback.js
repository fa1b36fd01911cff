/**
 * How much the channel by itself carries, without an engine or a VM, and how much a migration of as much memory, with its digest and its audit, beside plain sockets that do the least that a mover of pages has to do as well: TCP on the
 * loopback interface, each end a process of its own. The channel sends items of 1 MiB, which are applied as soon as they have arrived; the
 * plain socket is written to in pieces of 256 KiB, and CRC-32C is computed over all of it at both ends, with the package that the channel uses. Then the
 * same over TLS 1.3, where the plain sockets do without: TLS has its own. All take turns, so that whatever else the machine does falls on all.
 *
 * Rates are payload bytes over wall time, from the first write until the sender knows that the receiver has the last byte. What is sent is 64 MiB of
 * random bytes over and over, the same for all but the migration, which has a VM full of them; its time is that of its whole run. CPU time is that of the process during the transfer, user and system; peak RSS is that of the process's life, the VM's memory included.
 *
 * Before each migration its processes collect their garbage, the warming VM's; the others, which leave none of that size, do not.
 *
 * The migration uses the built library: `npm run build` first.
 */
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { bundle } from './support/bundle.js';
import { runEnd, sizes, startMeter, tell, told, transfer } from './support/ends.js';
import { destination, source } from './support/migration-ends.js';
import { plainReceiver, plainSender, writeBytes } from './support/plain-ends.js';
import { cpuRatio, gibibyte, head, number, ratio, row, warmth } from './support/table.js';

const usage = `Usage: node benchmarks/loopback.js [options]

  --gib N      what each transfer carries, in GiB: 0.0625 to 64 (default 4)
  --warm N     GiB that go through both processes before, and do not count; 0: none (default: as --gib)
  --runs N     runs of each, of which the medians are shown: 1 to 99 (default 3)
  --lanes N    data connections of the channel: 1 to 256, or 0 for as many as it likes (default 0)
  --no-tls     leave out TLS, which needs the program openssl for a certificate
  --help       this text

Options of Node itself reach each end: node --cpu-prof benchmarks/loopback.js --runs 1
`;

const mebibyte = 2 ** 20;
const host = '127.0.0.1';
const script = fileURLToPath(import.meta.url);

/**
 * @typedef {import('./support/plain-ends.js').Task & { bundle: string }} Task
 * @typedef {import('./support/table.js').Measured} Measured
 */

/** @param {Task} task @returns {Promise<typeof import('./support/channel-ends.ts')>} */
const bundled = (task) => import(pathToFileURL(task.bundle).href);

const content = () => randomFillSync(Buffer.alloc(64 * mebibyte));

/** The ends, by the name that the process is started with. @type {Record<string, (task: Task) => Promise<void>>} */
const ends = {
  'engine-sender': (task) => source(task),
  'engine-receiver': (task) => destination(task),

  'channel-sender': async (task) => {
    const { transportOf, openSender } = await bundled(task);
    const { port, lanes, credentials } = task;
    const transport = transportOf({ connect: { host, port } }, credentials);
    const sent = content();
    for (const bytes of sizes(task)) {
      // Not sooner: the receiver of the transfer before would take the connections for its own.
      await told({ ready: true });
      const sender = await openSender(transport, lanes === 0 ? undefined : lanes);
      const meter = startMeter();
      const start = performance.now();
      const sum = await sender.send(sent, bytes);
      await tell({ ms: performance.now() - start, sum, ...meter() });
      await sender.close();
    }
    await transport.close();
  },

  'channel-receiver': async (task) => {
    const { transportOf, openReceiver } = await bundled(task);
    const transport = transportOf({ listen: { host, port: 0 } }, task.credentials);
    const { port } = await transport.listening();
    for (const bytes of sizes(task)) {
      const receiver = openReceiver(transport);
      await tell({ port });
      const meter = startMeter();
      const sum = await receiver.receive(bytes);
      await tell({ sum, ...meter() });
      await receiver.close();
    }
    await transport.close();
  },

  // Plain TCP with a checksum, as the channel has one; TLS without, as it is one.
  'plain-sender': async (task) => {
    const { crc32c } = await bundled(task);
    await plainSender(task, content(), task.credentials === undefined ? crc32c : undefined);
  },

  'plain-receiver': async (task) => {
    const { crc32c } = await bundled(task);
    await plainReceiver(task, task.credentials === undefined ? crc32c : undefined);
  },
};

/** One transfer. @param {string} kind @param {Task} task @returns {Promise<Measured>} */
async function measure(kind, task) {
  const names = { sender: `${kind}-sender`, receiver: `${kind}-receiver` };
  const { sender, receiver } = await transfer(script, names, task);
  if (sender.sum !== receiver.sum) throw new Error('what arrived is not what was sent');
  return { ms: sender.ms ?? sender.totalMs, sender, receiver };
}

/** A certificate that is its own CA, for this machine; undefined where there is no openssl. */
function makeCredentials() {
  const directory = mkdtempSync(join(tmpdir(), 'longhaul-loopback-'));
  const [key, cert] = ['key', 'pem'].map((suffix) => join(directory, `end.${suffix}`));
  try {
    const names = ['-subj', '/CN=localhost', '-addext', `subjectAltName=IP:${host}`, '-days', '2'];
    const files = ['-keyout', key ?? '', '-out', cert ?? ''];
    const what = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    execFileSync('openssl', [...what, ...names, ...files], { stdio: 'pipe' });
    const read = (/** @type {string | undefined} */ file) => readFileSync(file ?? '', 'utf8');
    return { cert: read(cert), key: read(key), ca: read(cert) };
  } catch (error) {
    process.stderr.write(`no TLS: ${error instanceof Error ? error.message : error}\n`);
    return undefined;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function options() {
  try {
    return parseArgs({
      options: {
        gib: { type: 'string', default: '4' },
        warm: { type: 'string' },
        runs: { type: 'string', default: '3' },
        lanes: { type: 'string', default: '0' },
        'no-tls': { type: 'boolean', default: false },
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
  const gib = number('--gib', given.gib, 1 / 16, 64, usage);
  const warm = number('--warm', given.warm ?? given.gib, 0, 64, usage);
  const runs = Math.floor(number('--runs', given.runs, 1, 99, usage));
  const lanes = Math.floor(number('--lanes', given.lanes, 0, 256, usage));
  const [bytes, warmBytes] = [gib, warm].map((each) => Math.round((each * gibibyte) / mebibyte) * mebibyte);
  const credentials = given['no-tls'] ? undefined : makeCredentials();
  const load = loadavg()[0] ?? 0;
  const { paths, remove } = await bundle({ channel: 'benchmarks/support/channel-ends.ts' });
  const task = { bytes: bytes ?? 0, warmBytes: warmBytes ?? 0, lanes, host, port: 0, bundle: paths.channel };
  const secure = credentials && { ...task, credentials };
  /** @type {[name: string, kind: string, task: Task | undefined, runs: Measured[]][]} */
  const contestants = [
    ['engine, total', 'engine', task, []],
    ['channel', 'channel', task, []],
    ['plain sockets, CRC-32C', 'plain', task, []],
    ['channel, TLS 1.3', 'channel', secure, []],
    ['plain TLS 1.3 sockets', 'plain', secure, []],
  ];
  try {
    for (let run = 1; run <= runs; run++) {
      for (const [name, kind, what, list] of contestants) {
        if (what === undefined) continue;
        process.stderr.write(`run ${run} of ${runs}: ${name} ... `);
        const measured = await measure(kind, what);
        list.push(measured);
        process.stderr.write(`${(measured.ms / 1000).toFixed(2)} s\n`);
      }
    }
    const { checksumImplementation } = await bundled(task);
    print(contestants, task, runs, load, checksumImplementation());
  } finally {
    await remove();
  }
}

/**
 * @param {readonly [name: string, kind: string, task: Task | undefined, runs: Measured[]][]} contestants
 * @param {Task} task @param {number} runs @param {number} load @param {string} checksums
 */
function print(contestants, { bytes, warmBytes = 0, lanes }, runs, load, checksums) {
  console.log(`channel on loopback, ${new Date().toISOString()}`);
  console.log(
    `node ${process.version}, ${availableParallelism()} cores, load ${load.toFixed(1)} at the start`,
  );
  console.log(`${bytes / gibibyte} GiB; each end its own process, ${warmth(warmBytes)}`);
  console.log(
    `channel: ${lanes === 0 ? 'automatic' : lanes} lanes and control, items of 1 MiB; plain: 1 socket, ${writeBytes / 1024} KiB writes`,
  );
  console.log(`CRC-32C by ${checksums}; TLS off and on, as it says; figures are medians of ${runs}\n`);
  console.log(head);
  for (const [name, , , list] of contestants) if (list.length > 0) console.log(row(name, bytes, list));
  const [engine, tcpChannel, tcpPlain, tlsChannel, tlsPlain] = contestants.map(([, , , list]) => list);
  console.log('\nbeside the plain sockets, median (each run):');
  for (const [name, ours, theirs] of /** @type {const} */ ([
    ['engine', engine, tcpPlain],
    ['channel', tcpChannel, tcpPlain],
    ['channel, TLS', tlsChannel, tlsPlain],
  ])) {
    if (!ours?.length || !theirs?.length) continue;
    console.log(`  ${name}: rate ${ratio(ours, theirs)}; CPU of both ends ${cpuRatio(ours, theirs)}`);
  }
}

const [end, task] = process.argv.slice(2);
if (process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd(ends, end, JSON.parse(task));
} else {
  await main();
}
