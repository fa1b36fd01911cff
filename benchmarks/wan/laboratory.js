/**
 * The wide-area laboratory: two network namespaces, `a` and `b`, joined by an emulated link of one or more
 * paths (link.c), with the kernel's own TCP at both ends. What runs in them sees real sockets, real
 * congestion control and a link that has a rate, a delay, a queue and losses, and can be cut and mended.
 *
 * Linux only, as root, with /dev/net/tun, ip (iproute2), ping and a C compiler: see setup.sh. Nothing
 * outside the namespaces is changed. README.md says what the link does and does not model.
 */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { access, readdir, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { compileLink, ended, Link } from './link.js';

const run = promisify(execFile);
const prefix = 'longhaul';
const queueMsDefault = 50;
/** Packets that a device keeps for the link while that waits for a processor; super-packets count as one. */
const deviceQueue = 10_000;

/**
 * @typedef {'a' | 'b'} Side
 * @typedef {'ab' | 'ba'} Direction
 *
 * @typedef {object} Path What both directions of a path are like.
 * @property {number} rateMbit Megabits a second, of IP packets with their headers: above 0.
 * @property {number} delayMs One way.
 * @property {number} [lossPercent] Of packets, each for itself, by chance: 0 to 100. Default: 0.
 * @property {number} [queueMs] Depth of the queue before the path, in milliseconds of its rate. Default: 50.
 * @property {number} [queueBytes] Depth of that queue in bytes, instead.
 *
 * @typedef {object} LaboratoryOptions
 * @property {readonly Path[]} paths 1 to 16.
 * @property {string} [congestion] TCP's congestion control: `bbr`, `cubic` or what else the kernel has.
 *   Default: the kernel's.
 * @property {number} [seed] Of the losses. The same sequence of packets loses the same ones. Default: 1.
 *
 * @typedef {object} Counters Packets as they are on the wire, at most the MTU long.
 * @property {number} packets Handed over.
 * @property {number} bytes Handed over, with IP headers.
 * @property {number} droppedByQueue
 * @property {number} droppedByLoss
 * @property {number} droppedByCut
 * @property {number} refused Not taken by the receiving device.
 * @property {number} overflow Lost before the link, as it did not get to run; super-packets count as one.
 *   Anything but 0 spoils a measurement.
 *
 * @typedef {object} Stats
 * @property {number} cpuSeconds Of the link so far; a share of it is the receiver's own network stack.
 * @property {{ mean: number, max: number }} lateUs How late packets were handed over since the last call, in
 *   microseconds.
 * @property {Record<Direction, Counters>[]} paths
 *
 * @typedef {object} Ping Round trips; `NaN` if none came back. `medianMs`, `p99Ms` and `maxMs` are taken from the
 *   single times that `ping` shows, in whole milliseconds from 100 ms on.
 * @property {number} minMs
 * @property {number} meanMs
 * @property {number} medianMs
 * @property {number} p99Ms
 * @property {number} maxMs
 * @property {number} sent
 * @property {number} received
 */

/** Of this process, for its exit. @type {Set<Laboratory>} */
const open = new Set();
let opened = 0;

/**
 * Why there can be no laboratory here, in one line, or `undefined` if there can.
 *
 * @param {string} [congestion] @param {readonly string[]} [commands] What else must be installed.
 */
export async function whyNoLaboratory(congestion, commands = []) {
  if (process.platform !== 'linux') return 'the laboratory needs Linux';
  if (process.getuid?.() !== 0) return 'the laboratory needs root, for network namespaces and TUN devices';
  if (!(await exists('/dev/net/tun'))) return 'the laboratory needs /dev/net/tun';
  for (const command of ['ip', 'ping', 'cc', ...commands]) {
    if (!(await inPath(command)))
      return `the laboratory needs ${command}: benchmarks/wan/setup.sh installs it on Debian and Ubuntu`;
  }
  const available = await readFile('/proc/sys/net/ipv4/tcp_available_congestion_control', 'utf8');
  if (congestion !== undefined && !available.trim().split(' ').includes(congestion))
    return `the kernel has no congestion control ${congestion}, only ${available.trim()}`;
  return undefined;
}

/**
 * Opens a laboratory. What killed ones have left on this machine is removed before. Rejects if there can be
 * none here (`whyNoLaboratory`), or if a path is not valid; nothing is left then.
 *
 * It closes by itself when the process exits, or is ended by SIGINT, SIGTERM or SIGHUP; what runs in it is
 * killed then.
 *
 * @param {LaboratoryOptions} options
 */
export async function openLaboratory(options) {
  const reason = await whyNoLaboratory(options.congestion);
  if (reason !== undefined) throw new Error(reason);
  const link = await compileLink();
  await removeLeftovers();
  const laboratory = new Laboratory(options);
  watch(laboratory);
  try {
    await laboratory.start(link);
  } catch (error) {
    await laboratory.close();
    throw error;
  }
  return laboratory;
}

/** Made by `openLaboratory`. */
export class Laboratory {
  /** @type {Readonly<Record<Side, string>>} The namespaces' names. */
  namespaces;
  /** @type {readonly Readonly<Record<Side, string>>[]} Of each path. A path is chosen by them. */
  addresses;
  /** What TCP's sockets have at both ends, as the kernel sets them. */
  sockets = { congestion: '', rmem: '', wmem: '' };

  #options;
  /** @type {Link | undefined} */
  #link;
  /** @type {Set<import('node:child_process').ChildProcess>} */
  #children = new Set();

  /** @param {LaboratoryOptions} options */
  constructor(options) {
    const name = `${prefix}-${process.pid}-${++opened}`;
    this.#options = options;
    this.namespaces = { a: `${name}-a`, b: `${name}-b` };
    this.addresses = options.paths.map((_, path) => ({ a: `10.77.${path}.1`, b: `10.77.${path}.2` }));
  }

  /** Only for `openLaboratory`. @param {string} program */
  async start(program) {
    const { paths, congestion, seed = 1 } = this.#options;
    const { a, b } = this.namespaces;
    for (const name of [a, b]) {
      await ip('netns', 'add', name);
      // Only what is measured is on the link; and no connection learns from the one before.
      await this.#sysctl(name, 'net.ipv6.conf.all.disable_ipv6=1');
      await this.#sysctl(name, 'net.ipv6.conf.default.disable_ipv6=1');
      await this.#sysctl(name, 'net.ipv4.tcp_no_metrics_save=1');
    }
    this.#link = new Link(program, [a, b, String(paths.length), String(seed)]);
    await this.#link.ready();
    for (const [index, path] of paths.entries()) await this.set(index, { queueMs: queueMsDefault, ...path });
    for (const side of /** @type {const} */ (['a', 'b'])) {
      const inside = ['-n', this.namespaces[side]];
      await ip(...inside, 'link', 'set', 'lo', 'up');
      for (const [index, address] of this.addresses.entries()) {
        const device = `path${index}`;
        await ip(...inside, 'addr', 'add', `${address[side]}/24`, 'dev', device, 'noprefixroute');
        await ip(...inside, 'link', 'set', device, 'txqueuelen', String(deviceQueue), 'up');
        // The route says it, as a namespace's sysctl takes only what the host allows to everybody.
        const control = congestion === undefined ? [] : ['congctl', congestion];
        const route = [`10.77.${index}.0/24`, 'dev', device, 'src', address[side], ...control];
        await ip(...inside, 'route', 'add', ...route);
      }
    }
    const read = (/** @type {string} */ key) => this.#sysctl(a, '-n', `net.ipv4.${key}`);
    this.sockets = {
      congestion: congestion ?? (await read('tcp_congestion_control')),
      rmem: await read('tcp_rmem'),
      wmem: await read('tcp_wmem'),
    };
  }

  /**
   * Starts a command at one end. It is killed when the laboratory closes.
   *
   * @param {Side} side @param {string} command @param {readonly string[]} args
   * @param {import('node:child_process').SpawnOptions} [options] As of `spawn`; `stdio` may have `ipc`.
   */
  spawn(side, command, args, options = {}) {
    const inside = ['netns', 'exec', this.namespaces[side], command, ...args];
    const child = spawn('ip', inside, options);
    this.#children.add(child);
    child.on('exit', () => this.#children.delete(child));
    child.on('error', () => this.#children.delete(child));
    return child;
  }

  /**
   * Runs a command at one end and resolves to what it prints. Rejects if it fails.
   *
   * @param {Side} side @param {string} command @param {readonly string[]} args
   */
  async output(side, command, args) {
    const child = this.spawn(side, command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const text = ['', ''];
    child.stdout?.setEncoding('utf8').on('data', (chunk) => {
      text[0] += chunk;
    });
    child.stderr?.setEncoding('utf8').on('data', (chunk) => {
      text[1] += chunk;
    });
    const [code, signal] = await once(child, 'close');
    if (code !== 0) throw new Error(`${command} ended with ${code ?? signal}: ${text.join('').trim()}`);
    return text[0] ?? '';
  }

  /**
   * Drops all that is on a path and comes to it, without a word to either end.
   *
   * @param {number} path @param {Direction} [only]
   */
  async cut(path, only) {
    await this.#tell(path, only, 'cut');
  }

  /** The path carries again. @param {number} path @param {Direction} [only] */
  async mend(path, only) {
    await this.#tell(path, only, 'mend');
  }

  /**
   * Changes a path. What is on its way stays as it is; a shorter delay overtakes nothing.
   *
   * @param {number} path @param {Partial<Path>} changes @param {Direction} [only]
   */
  async set(path, changes, only) {
    const { rateMbit, delayMs, lossPercent, queueMs, queueBytes } = changes;
    const values = {
      rate: rateMbit,
      delay: delayMs,
      loss: lossPercent,
      queue: queueMs,
      'queue-bytes': queueBytes,
    };
    for (const [key, value] of Object.entries(values)) {
      if (value !== undefined) await this.#tell(path, only, `${key} ${value}`);
    }
  }

  /** @returns {Promise<Stats>} */
  async stats() {
    /** @type {Stats} */
    const stats = JSON.parse(await this.#running().ask('stats'));
    for (const [direction, side] of /** @type {const} */ ([
      ['ab', 'a'],
      ['ba', 'b'],
    ])) {
      const devices = JSON.parse(await ip('-n', this.namespaces[side], '-s', '-j', 'link', 'show'));
      for (const [index, path] of stats.paths.entries()) {
        const device = devices.find(
          (/** @type {{ ifname: string }} */ each) => each.ifname === `path${index}`,
        );
        path[direction].overflow = device?.stats64.tx.dropped ?? 0;
      }
    }
    return stats;
  }

  /**
   * Round trips from `a` to `b`, one ping after the other.
   *
   * @param {{ path?: number, count?: number, intervalMs?: number }} [options] Defaults: path 0, 50 pings,
   *   20 ms apart.
   * @returns {Promise<Ping>}
   */
  async ping({ path = 0, count = 50, intervalMs = 20 } = {}) {
    const host = this.addresses[path]?.b ?? '';
    const args = ['-n', '-c', String(count), '-i', String(intervalMs / 1000), '-W', '2', host];
    // It fails if nothing comes back, which is an answer too.
    const text = await this.output('a', 'ping', args).catch((error) => String(error));
    const times = Array.from(text.matchAll(/time=([\d.]+) ms/g), (match) => Number(match[1]));
    times.sort((x, y) => x - y);
    const at = (/** @type {number} */ share) => times[Math.ceil(times.length * share) - 1] ?? Number.NaN;
    const [, minMs = Number.NaN, meanMs = Number.NaN] = (/rtt .* = ([\d.]+)\/([\d.]+)/.exec(text) ?? []).map(
      Number,
    );
    return {
      minMs,
      meanMs,
      medianMs: at(0.5),
      p99Ms: at(0.99),
      maxMs: at(1),
      sent: count,
      received: times.length,
    };
  }

  /** Kills what runs in it, ends the link and removes the namespaces. More than once is allowed. */
  async close() {
    const children = [...this.#children];
    for (const child of children) child.kill('SIGKILL');
    await Promise.all(children.map((child) => ended(child)));
    await this.#link?.end();
    await Promise.all(Object.values(this.namespaces).map(removeNamespace));
    open.delete(this);
  }

  async [Symbol.asyncDispose]() {
    await this.close();
  }

  /** For the exit of the process, when nothing can be awaited. */
  closeNow() {
    for (const child of this.#children) child.kill('SIGKILL');
    this.#link?.kill();
    for (const name of Object.values(this.namespaces)) spawnSync('ip', ['netns', 'del', name]);
    open.delete(this);
  }

  /** @param {string} name @param {readonly string[]} args */
  async #sysctl(name, ...args) {
    return (await ip('netns', 'exec', name, 'sysctl', ...args)).trim().replaceAll('\t', ' ');
  }

  /** @param {number} path @param {Direction | undefined} only @param {string} what */
  async #tell(path, only, what) {
    const answer = await this.#running().ask(`path ${path} ${only === undefined ? '' : `${only} `}${what}`);
    if (answer !== 'ok') throw new Error(`link: ${answer}`);
  }

  #running() {
    if (this.#link === undefined) throw new Error('the laboratory is not open');
    return this.#link;
  }
}

/** Those whose process is gone, with what still runs in them. */
async function removeLeftovers() {
  const names = await readdir('/run/netns').catch(() => []);
  for (const name of names) {
    const pid = Number(new RegExp(`^${prefix}-(\\d+)-\\d+-[ab]$`).exec(name)?.[1] ?? process.pid);
    if (pid === process.pid || (await exists(`/proc/${pid}`))) continue;
    const pids = (await ip('netns', 'pids', name).catch(() => '')).split('\n').filter((line) => line !== '');
    for (const each of pids) {
      try {
        process.kill(Number(each), 'SIGKILL');
      } catch {
        // It has ended by itself.
      }
    }
    await removeNamespace(name);
  }
}

/** @param {string} name */
async function removeNamespace(name) {
  const file = `/run/netns/${name}`;
  if (!(await exists(file))) return;
  try {
    await ip('netns', 'del', name);
  } catch (error) {
    // Another laboratory that opens removes leftovers too.
    if (await exists(file)) throw error;
  }
}

/** @param {Laboratory} laboratory */
function watch(laboratory) {
  open.add(laboratory);
  if (opened > 1) return;
  process.on('exit', () => {
    for (const each of open) each.closeNow();
  });
  for (const [signal, code] of /** @type {const} */ ([
    ['SIGHUP', 129],
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])) {
    process.on(signal, () => process.exit(code));
  }
}

/** @param {readonly string[]} args */
async function ip(...args) {
  return (await run('ip', args)).stdout;
}

/** @param {string} path */
function exists(path) {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** @param {string} command */
async function inPath(command) {
  const directories = (process.env.PATH ?? '').split(delimiter);
  return (await Promise.all(directories.map((each) => exists(join(each, command))))).includes(true);
}
