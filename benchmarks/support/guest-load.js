/**
 * A real guest under QEMU that writes and dirties memory at steady rates, what it writes as seen from
 * outside, and the `longhaul` that moves it.
 *
 * Rates are counted by the guest and timed outside, because its clock stands still with it.
 */
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const mebibyte = 2 ** 20;
const sampleMs = 50;

/** Where the guest's writes go, from the start of its disk. */
export const hotMiB = 64;

/**
 * @typedef {import('../../test/qemu/support/guest.ts').Guest} Guest
 * @typedef {import('../../test/qemu/support/guest.ts').GuestStats} Stats
 * @typedef {Stats & { atMs: number }} Sample
 * @typedef {object} Load What the guest does.
 * @property {number} writes Disk writes of 8 KiB a second, at random places.
 * @property {number} writers Threads that write, each with one write outstanding.
 * @property {number} dirty Memory that is dirtied, MiB a second.
 * @property {number} disk Size of the disk, which is full, MiB.
 * @property {number} [memory] Of the guest, MiB. Default: 256.
 * @property {number} [stamped] Memory that it fills and verifies, MiB. Default: 48.
 * @property {number} [slowDisk] What the destination's disk writes at the most, MB a second; 0, which is the default: as it is.
 */

/**
 * Boots a guest, and a QEMU that waits for it, and does `use` with them. All that it has `keep` is killed at
 * the end, and the directory removed.
 *
 * @template Result
 * @param {string} support test/qemu/support/guest.ts, as a bundle. @param {Load} load
 * @param {(guests: {
 *   source: Guest, destination: Guest, directory: string,
 *   keep: <T extends { kill(): unknown }>(thing: T) => T,
 * }) => Promise<Result>} use
 * @param {Partial<Record<'a' | 'b', readonly string[]>>} [launchers] What starts the QEMUs, as of
 *   `bootGuest`.
 * @returns {Promise<Result>}
 */
export async function withGuests(support, load, use, launchers = {}) {
  const { writes, writers, dirty, disk, memory = 256, stamped = 48, slowDisk = 0 } = load;
  /** @type {typeof import('../../test/qemu/support/guest.ts')} */
  const { bootGuest, createDisk, guestDirectory } = await import(support);
  const directory = guestDirectory();
  /** @type {{ kill(): unknown }[]} */
  const started = [];
  /** @template {{ kill(): unknown }} T @param {T} thing */
  const keep = (thing) => {
    started.push(thing);
    return thing;
  };
  /** @param {'a' | 'b'} name @param {boolean} incoming */
  const boot = async (name, incoming) => {
    const file = join(directory.path, `${name}.img`);
    const limit = incoming && slowDisk > 0 ? { writeBytesPerSecondMax: slowDisk * 1e6 } : {};
    const disks = [{ ...(await createDisk({ file, format: 'raw', sizeBytes: disk * mebibyte })), ...limit }];
    const guestLoad = {
      memoryMiB: stamped,
      writesPerSecond: writes,
      writers,
      dirtyMiBPerSecond: dirty,
      hotMiB,
      fillMiB: disk,
      mixed: false,
    };
    return keep(
      await bootGuest({
        name,
        dir: directory.path,
        disks,
        memoryMiB: memory,
        load: guestLoad,
        incoming,
        launcher: launchers[name] ?? [],
      }),
    );
  };
  try {
    const source = await boot('a', false);
    const destination = await boot('b', true);
    return await use({ source, destination, directory: directory.path, keep });
  } finally {
    for (const thing of started) await thing.kill();
    await directory[Symbol.asyncDispose]();
  }
}

/**
 * A program that says something on stderr, line by line.
 *
 * @param {string} name For errors.
 * @param {import('node:child_process').ChildProcess} child Started with pipes for stdout and stderr.
 */
export function attend(name, child) {
  if (child.stdout === null || child.stderr === null) throw new Error(`${name} has no pipes`);
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
  });
  /** @type {{ atMs: number, line: string }[]} */
  const said = [];
  const lines = createInterface(child.stderr);
  lines.on('line', (line) => said.push({ atMs: performance.now(), line }));
  const ended = once(child, 'close');
  const everything = () => `${said.map(({ line }) => line).join('\n')}\n${stdout}`;
  return {
    /**
     * When it says a line of that kind, first since then, and what. Rejects if it ends without.
     *
     * @param {RegExp} pattern @param {number} [sinceMs] As `performance.now()` has it. Default: its start.
     */
    line: async (pattern, sinceMs = 0) => {
      for (;;) {
        for (const { atMs, line } of said) {
          const match = atMs >= sinceMs ? pattern.exec(line) : null;
          if (match !== null) return { atMs, match };
        }
        await Promise.race([
          once(lines, 'line'),
          ended.then(() => {
            throw new Error(`${name} ended:\n${everything()}`);
          }),
        ]);
      }
    },
    /** All lines of that kind so far. @param {RegExp} pattern */
    lines: (pattern) => said.filter(({ line }) => pattern.test(line)),
    /** Resolves to what it has printed. */
    end: async () => {
      const [code] = await ended;
      if (code !== 0) throw new Error(`${name} ended with ${code}:\n${everything()}`);
      return stdout;
    },
    /** The report that it has printed with `--json`, however it ended. */
    report: async () => {
      await ended;
      const last = stdout.trim().split('\n').at(-1) ?? '';
      if (!last.startsWith('{')) throw new Error(`${name} ended without a report:\n${everything()}`);
      return JSON.parse(last);
    },
    kill: () => child.kill('SIGKILL'),
  };
}

/**
 * The arguments of `longhaul send` or `receive` that are about this host.
 *
 * @param {Guest} guest @param {string} directory For its register.
 */
export function ownArguments(guest, directory) {
  return ['--qmp', guest.qmpPath, '--register', join(directory, `register-${guest.name}`), '--json'];
}

/**
 * Its writes a second and its own statistics, over so many seconds; the statistics begin anew then. It is
 * asked as often as it will be later, because to answer takes it time.
 *
 * @param {Guest} guest @param {number} seconds
 */
export async function measureAlone(guest, seconds) {
  await guest.reset();
  const first = await sample(guest);
  let last = first;
  while (last.atMs < first.atMs + seconds * 1000) {
    await sleep(sampleMs);
    last = await sample(guest);
  }
  await guest.reset();
  return { perSecond: perSecond(last.writes - first.writes, last.atMs - first.atMs), stats: last };
}

/** @param {number} writes @param {number} ms */
export function perSecond(writes, ms) {
  return (1000 * writes) / ms;
}

/** @param {Guest} guest @returns {Promise<Sample>} */
export async function sample(guest) {
  const stats = await guest.stats();
  // It was counted just before it came: a guest that stands still meanwhile answers when it runs on.
  return { ...stats, atMs: performance.now() };
}

/** Samples while the guest answers. @param {Guest} guest */
export async function sampleUntilItStops(guest) {
  /** @type {Sample[]} */
  const samples = [];
  try {
    for (;;) {
      samples.push(await sample(guest));
      await sleep(sampleMs);
    }
  } catch {
    // Its QEMU has ended.
    return samples;
  }
}

/**
 * Writes until then, between two samples in proportion. Throws if there is no sample from then or after.
 *
 * @param {readonly Sample[]} samples
 * @param {number} atMs
 */
export function writesAt(samples, atMs) {
  const found = samples.findIndex((sample) => sample.atMs >= atMs);
  const next = found === 0 ? 1 : found;
  const [one, other] = [samples[next - 1], samples[next]];
  if (one === undefined || other === undefined) throw new Error('not sampled');
  const share = (atMs - one.atMs) / (other.atMs - one.atMs);
  return one.writes + share * (other.writes - one.writes);
}

/**
 * Writes a second from then until the stun. The last answer is from before that, by one interval at most.
 *
 * @param {readonly Sample[]} samples @param {number} fromMs @param {number} stunMs
 */
export function perSecondUntilStun(samples, fromMs, stunMs) {
  const toMs = Math.min(stunMs, samples.at(-1)?.atMs ?? stunMs);
  return perSecond(writesAt(samples, toMs) - writesAt(samples, fromMs), toMs - fromMs);
}
