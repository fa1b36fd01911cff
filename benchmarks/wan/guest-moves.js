/**
 * A real guest under QEMU that is moved over the laboratory's link, and what that costs it: by `longhaul
 * send` and `receive`, a process in each namespace. What QEMU does by itself is in qemu-moves.js, and is
 * measured alike.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  attend,
  measureAlone,
  ownArguments,
  perSecond,
  perSecondUntilStun,
  sample,
  sampleUntilItStops,
  withGuests,
} from '../support/guest-load.js';

const mebibyte = 2 ** 20;
const pageBytes = 4096;
/** What is read of an image of the guest's memory at once. */
const pieceBytes = 64 * mebibyte;
/** Of the clock of /proc, as Linux tells it to everybody. */
const clockTicksPerSecond = 100;

/**
 * @typedef {import('./laboratory.js').Laboratory} Laboratory
 * @typedef {import('../support/guest-load.js').Guest} Guest
 * @typedef {import('../support/guest-load.js').Load} Load
 * @typedef {import('../../test/qemu/support/guest.ts').GuestVerdict} Verdict
 * @typedef {Load & { memory: number, before: number, limit: number, program: string, handover: string }} Settings `before`:
 *   seconds for which the guest is watched before it is moved. `limit`: seconds after which a move is given
 *   up.
 *
 * @typedef {object} Moved What whoever moves a guest tells of it.
 * @property {number} startMs When the migration began, and the guest's part in it: as `performance.now()` has
 *   it.
 * @property {number} stunMs When the guest was stopped, likewise.
 * @property {number} totalMs
 * @property {number} downtimeMs As the mover has it.
 * @property {{ first: number, mirrored: number, again: number }} bytes
 * @property {Record<string, number>} cpu Seconds of processor time until the stun, by process.
 * @property {object} told What else it has to tell.
 *
 * @typedef {object} Move
 * @property {{ perSecond: number, p99Ms: number, longestMs: number }} before
 * @property {Move['before']} [beside] Without being moved, beside a link that is full.
 * @property {{ perSecond: number, p99Ms: number, longestMs: number }} during Until the stun; the longest
 *   write: also shortly after it.
 * @property {number} silenceMs From the guest's last tick here to its first one there.
 * @property {Verdict} verdict
 * @property {number} totalMs
 * @property {number} downtimeMs
 * @property {Moved['bytes']} bytes
 * @property {Record<string, number>} cpu
 * @property {object} told
 *
 * @typedef {object} Stage What a mover has to do with.
 * @property {Laboratory} laboratory
 * @property {Guest} source
 * @property {Guest} destination
 * @property {string} directory
 * @property {<T extends { kill(): unknown }>(thing: T) => T} keep It is killed at the end.
 * @property {{ memory: number, disk: number }} holds What the first pass has to carry, in bytes.
 * @property {() => Promise<void>} begin The mover calls it when the migration begins: the guest's figures
 *   start anew.
 * @property {() => string | Promise<string>} howFar The mover's word on that, for people; it may set it.
 */

/**
 * Boots a guest in namespace `a`, watches it, has it moved to `b`, and has it verify itself there. Rejects if
 * the move fails or takes longer than the limit. Nothing is left running in either case.
 *
 * @param {Laboratory} laboratory @param {string} support test/qemu/support/guest.ts, as a bundle.
 * @param {Settings} settings @param {(stage: Stage) => Promise<Moved>} mover
 * @param {((seconds: number) => Promise<unknown>) | undefined} fill Fills the link for so long: what the guest
 *   does beside that, which is of no concern to it, shows what the machine makes of it.
 * @returns {Promise<Move>}
 */
export function moveGuest(laboratory, support, settings, mover, fill) {
  const { a, b } = laboratory.namespaces;
  const launchers = { a: ['ip', 'netns', 'exec', a], b: ['ip', 'netns', 'exec', b] };
  return withGuests(
    support,
    settings,
    async ({ source, destination, directory, keep }) => {
      const holds = {
        memory: await memoryHeld(source, settings.memory * mebibyte, directory),
        disk: settings.disk * mebibyte,
      };
      const alone = await measureAlone(source, settings.before);
      const { p99Ms, longestMs: longestBeforeMs } = alone.stats;
      const before = { perSecond: alone.perSecond, p99Ms, longestMs: longestBeforeMs };
      const beside = fill && (await measureBeside(source, settings.before, fill));
      const sampling = sampleUntilItStops(source);
      /** @type {Awaited<ReturnType<typeof sample>> | undefined} */
      let first;
      const begin = async () => {
        await source.reset();
        first = await sample(source);
      };
      const howFar = () => '';
      const stage = { laboratory, source, destination, directory, keep, holds, begin, howFar };
      const moved = await within(settings.limit, mover(stage)).catch(async (error) => {
        if (error instanceof GivenUp && first !== undefined) {
          const last = await sample(source);
          const during = {
            ...last,
            perSecond: perSecond(last.writes - first.writes, last.atMs - first.atMs),
          };
          error.message += `: ${await stage.howFar()}`;
          error.soFar = { before, during };
        }
        throw error;
      });
      await source.kill(); // Where the mover leaves it, it no longer answers.
      const samples = await sampling;
      await destination.nextTick();
      await destination.ping();
      const { longestMs } = await destination.stats();
      const verdict = await destination.verify();
      const last = samples.findLast(({ atMs }) => atMs <= moved.stunMs) ?? samples.at(-1);
      return {
        before,
        ...(beside === undefined ? {} : { beside }),
        during: {
          perSecond: perSecondUntilStun(samples, moved.startMs, moved.stunMs),
          p99Ms: last?.p99Ms ?? Number.NaN,
          longestMs,
        },
        silenceMs: (destination.ticks.firstAtMs ?? Number.NaN) - (source.ticks.lastAtMs ?? Number.NaN),
        verdict,
        totalMs: moved.totalMs,
        downtimeMs: moved.downtimeMs,
        bytes: moved.bytes,
        cpu: moved.cpu,
        told: moved.told,
      };
    },
    launchers,
  );
}

/**
 * @param {Guest} guest @param {number} seconds @param {(seconds: number) => Promise<unknown>} fill
 * @returns {Promise<Move['before']>}
 */
async function measureBeside(guest, seconds, fill) {
  const filling = fill(seconds + 2);
  // Two seconds of slow start do not count.
  await sleep(2000);
  const [{ perSecond: rate, stats }] = await Promise.all([measureAlone(guest, seconds), filling]);
  return { perSecond: rate, p99Ms: stats.p99Ms, longestMs: stats.longestMs };
}

/**
 * By `longhaul send` and `receive`.
 *
 * @param {Settings} settings
 * @returns {(stage: Stage) => Promise<Moved>}
 */
export function byLonghaul({ program, handover }) {
  return async (stage) => {
    const { laboratory, source, destination, directory, keep, holds, begin } = stage;
    /** @param {'a' | 'b'} side @param {Guest} guest @param {string[]} args */
    const longhaul = (side, guest, ...args) => {
      const command = [program, ...args, '--no-tls', ...ownArguments(guest, directory)];
      const child = laboratory.spawn(side, process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] });
      return { child, ...keep(attend(`longhaul ${args[0]}`, child)) };
    };
    const receiving = longhaul('b', destination, 'receive', '--listen', `${laboratory.addresses[0]?.b}:0`);
    const to = (await receiving.line(/^listening on (\S+)$/)).match[1] ?? '';
    const sending = longhaul('a', source, 'send', '--to', to, '--handover', handover);
    stage.howFar = () => sending.lines(/./).at(-1)?.line ?? '';
    const usage = watchCpu({
      'source QEMU': source.pid,
      send: sending.child.pid,
      receive: receiving.child.pid,
      'destination QEMU': destination.pid,
    });
    const { atMs: startMs } = await sending.line(/^preparing$/);
    await begin();
    await usage.begin();
    const stunned = sending.line(/^pausing the guest$/).then(
      () => usage.end(),
      () => ({}), // Its report says why it did not come to that.
    );
    const report = await sending.report();
    if (report.outcome !== 'completed') {
      const { code, message } = report.error ?? {};
      const after = `${(report.totalMs / 1000).toFixed(1)} s, ${report.rounds} rounds`;
      throw new Error(`${report.outcome} after ${after}: ${code}: ${message}`);
    }
    const cpu = await stunned;
    await receiving.end();
    const { memory, disk, mirror } = report.bytes;
    const first = holds.memory + holds.disk;
    return {
      startMs,
      stunMs: sending.lines(/^pausing the guest$/).at(-1)?.atMs ?? Number.NaN,
      totalMs: report.totalMs,
      downtimeMs: report.downtimeMs,
      bytes: { first, mirrored: mirror, again: memory + disk - first },
      cpu,
      told: report,
    };
  };
}

/**
 * Processor time of processes, between two moments; what has ended meanwhile is left out.
 *
 * @param {Record<string, number | undefined>} pids
 */
export function watchCpu(pids) {
  const look = async () => {
    /** @type {Record<string, number>} */
    const seconds = {};
    for (const [name, pid] of Object.entries(pids)) {
      const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
      // The name, in brackets, may have anything in it; user and system time are the 12th and 13th after
      // that.
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
      seconds[name] = (Number(fields[11]) + Number(fields[12])) / clockTicksPerSecond;
    }
    return seconds;
  };
  /** @type {Record<string, number>} */
  let first = {};
  return {
    begin: async () => {
      first = await look();
    },
    end: async () => {
      const last = Object.entries(await look()).filter(([, seconds]) => !Number.isNaN(seconds));
      return Object.fromEntries(last.map(([name, seconds]) => [name, seconds - (first[name] ?? 0)]));
    },
  };
}

/**
 * Bytes of the guest's pages that are not zero.
 *
 * @param {Guest} guest @param {number} sizeBytes @param {string} directory
 */
async function memoryHeld(guest, sizeBytes, directory) {
  const filename = join(directory, 'memory');
  const zero = Buffer.alloc(pageBytes);
  let held = 0;
  try {
    for (let val = 0; val < sizeBytes; val += pieceBytes) {
      await guest.qmp('pmemsave', { val, size: Math.min(pieceBytes, sizeBytes - val), filename });
      const piece = await readFile(filename);
      for (let at = 0; at < piece.byteLength; at += pageBytes) {
        if (piece.compare(zero, 0, pageBytes, at, at + pageBytes) !== 0) held += pageBytes;
      }
    }
  } finally {
    await rm(filename, { force: true });
  }
  return held;
}

/** @template Result @param {number} seconds @param {Promise<Result>} move */
function within(seconds, move) {
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new GivenUp(`not over after ${seconds} s`)), seconds * 1000);
  });
  return /** @type {Promise<Result>} */ (Promise.race([move, late]).finally(() => clearTimeout(timer)));
}

/** A move that has taken longer than it may. */
export class GivenUp extends Error {
  /** What was seen of the guest until then. @type {Pick<Move, 'before' | 'during'> | undefined} */
  soFar;
}
