/** Migrations over the laboratory's link, each end a process of its own. */
import { fileURLToPath } from 'node:url';
import { follow, runEnd } from '../support/ends.js';
import { destination, source } from '../support/migration-ends.js';

/**
 * @typedef {import('./laboratory.js').Laboratory} Laboratory
 * @typedef {import('../support/ends.js').Usage} Usage
 *
 * @typedef {object} Move What was measured of one.
 * @property {number} copyMs The source's phase `copyMemory`.
 * @property {number} totalMs From connecting to the release.
 * @property {number} copyMbit Payload over `copyMs`.
 * @property {number} totalMbit
 * @property {Usage} source
 * @property {Usage & { arrivals: readonly import('../support/migration-ends.js').Arrived[] }} destination
 * @property {number} linkCpu Cores that the emulation took meanwhile.
 */

const self = fileURLToPath(import.meta.url);

/**
 * One migration of a VM of random memory from `a` to `b`. Rejects if it fails or takes far too long.
 *
 * @param {Laboratory} laboratory
 * @param {{ bytes: number, lanes?: number, paths?: readonly number[], secondsMax: number }} options Lanes: as many as the
 *   engine likes. Paths: the first.
 * @returns {Promise<Move>}
 */
export async function migrate(laboratory, { bytes, lanes = 0, paths = [0], secondsMax }) {
  const start = (/** @type {'a' | 'b'} */ side, /** @type {string} */ end, /** @type {object} */ task) => {
    const args = [...process.execArgv, self, end, JSON.stringify({ bytes, lanes, ...task })];
    const child = laboratory.spawn(side, process.execPath, args, {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    return follow(end, child);
  };
  const receiver = start('b', 'destination', { host: '0.0.0.0', port: 0 });
  let sender;
  let timer;
  try {
    const { port } = await receiver.next();
    const ways = paths.map((path) => {
      const { a = '', b = '' } = laboratory.addresses[path] ?? {};
      return { host: b, port, localAddress: a };
    });
    sender = start('a', 'source', { paths: ways });
    await sender.next();
    const before = (await laboratory.stats()).cpuSeconds;
    // A run that hangs is a result, and the next one is not kept from its turn.
    timer = setTimeout(() => [sender, receiver].map((end) => end?.kill()), secondsMax * 1000);
    sender.go();
    const source = await sender.next();
    const destination = await receiver.next();
    const { copyMs, totalMs } = source;
    const linkCpu = ((await laboratory.stats()).cpuSeconds - before) / (totalMs / 1000);
    await Promise.all([sender.end(), receiver.end()]);
    const mbit = (/** @type {number} */ ms) => (bytes * 8) / 1000 / ms;
    return {
      copyMs,
      totalMs,
      copyMbit: mbit(copyMs),
      totalMbit: mbit(totalMs),
      source,
      destination,
      linkCpu,
    };
  } finally {
    clearTimeout(timer);
    sender?.kill();
    receiver.kill();
  }
}

/**
 * What arrived in the first `seconds`, over that time, in Mbit/s, as iperf3's receiver counts: from a round trip before the first of it on, and what is still on its way at the end does not. (The
 * destination hears of `copyMemory` when the first arrives.)
 *
 * @param {Move} move @param {number} seconds @param {number} rttMs
 */
export function arrivedMbit({ destination: { arrivals } }, seconds, rttMs) {
  const atMs = seconds * 1000 - rttMs;
  const after = arrivals.findIndex(({ ms }) => ms >= atMs);
  const [before, next] = [arrivals[after - 1], arrivals[after]];
  if (before === undefined || next === undefined) throw new Error(`the VM arrived within ${seconds} s`);
  const bytes = before.bytes + ((next.bytes - before.bytes) * (atMs - before.ms)) / (next.ms - before.ms);
  return (bytes * 8) / 1e6 / seconds;
}

const [file, end, task] = process.argv.slice(1);
if (file === self && process.send !== undefined && end !== undefined && task !== undefined) {
  await runEnd({ source, destination }, end, JSON.parse(task));
}
