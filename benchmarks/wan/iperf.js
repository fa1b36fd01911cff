/** iperf3 in the laboratory, as the receiver sees it. */
import { once } from 'node:events';

/**
 * @typedef {object} Transfer Goodput in Mbit/s, of what the receiving process read.
 * @property {number} streams
 * @property {number} coldMbit Over the first `coldSeconds`, slow start and all.
 * @property {number} warmMbit Over `seconds`, after the first `omit`.
 * @property {number} retransmits Segments, of the whole run.
 *
 * @typedef {import('./laboratory.js').Laboratory} Laboratory
 * @typedef {{ start: number, end: number, bytes: number }} Interval
 */

/**
 * One transfer from `a` to `b`, which takes `omit` + `seconds`. Rejects if iperf3 fails.
 *
 * @param {Laboratory} laboratory
 * @param {{ path?: number, streams: number, seconds: number, omit: number, coldSeconds?: number, niceness?: number }} options Path 0
 *   and niceness 0 by default; `seconds` and `omit` whole ones; `coldSeconds` as `seconds` by default.
 * @returns {Promise<Transfer>}
 */
export async function iperf(
  laboratory,
  { path = 0, streams, seconds, omit, coldSeconds = seconds, niceness = 0 },
) {
  const { a, b } = laboratory.addresses[path] ?? { a: '', b: '' };
  const nicely = ['-n', String(niceness), 'iperf3'];
  const server = laboratory.spawn('b', 'nice', [...nicely, '-s', '-1', '-J', '-B', b], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    let text = '';
    server.stdout?.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
    });
    const closed = once(server, 'close');
    await listening(laboratory, b);
    const time = ['-t', String(omit + seconds), '-P', String(streams)];
    const client = await laboratory.output('a', 'nice', [...nicely, '-c', b, '-B', a, '-J', ...time]);
    await closed;
    const sums = JSON.parse(text).intervals.map((/** @type {{ sum: Interval }} */ each) => each.sum);
    return {
      streams,
      coldMbit: goodput(sums, 0, coldSeconds),
      warmMbit: goodput(sums, omit, omit + seconds),
      retransmits: JSON.parse(client).end.sum_sent.retransmits,
    };
  } finally {
    server.kill('SIGKILL');
  }
}

/** Waits until something listens on iperf3's port. @param {Laboratory} laboratory @param {string} host */
async function listening(laboratory, host) {
  for (let tries = 0; tries < 200; tries++) {
    if ((await laboratory.output('b', 'ss', ['-Hltn', 'sport = :5201'])).includes(host)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error('iperf3 does not listen');
}

/**
 * An interval that is only in part between the two counts in part.
 *
 * @param {Interval[]} sums @param {number} from @param {number} to
 */
function goodput(sums, from, to) {
  let bytes = 0;
  for (const sum of sums) {
    const shared = Math.min(to, sum.end) - Math.max(from, sum.start);
    if (shared > 0) bytes += (sum.bytes * shared) / (sum.end - sum.start);
  }
  return (bytes * 8) / 1e6 / (to - from);
}
