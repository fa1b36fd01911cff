/**
 * Real Linux guests under QEMU, for tests: see ../guest/workload.c for what runs inside.
 *
 * Each guest has four lines to the harness. All are unix sockets in the guest's directory; on the last three
 * it is the harness that listens and QEMU that connects, so that nothing has to be waited for by looking
 * again and again:
 *
 *   qmpPath       QMP, free for the backend under test (QEMU listens; one client at a time)
 *   monitorPath   QMP for the harness itself; QEMU's greeting on it says that all the devices are there
 *   serial        the workload's line protocol
 *   ticks         one byte every 10 ms from the running guest, by which a stun can be timed from outside; the
 *                 guest's own clock stands still while it is stopped
 *
 * A source and a destination differ in `incoming` alone and so are compatible devices by construction.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Before 9.0 QEMU loses guest writes when it migrates a TCG guest. */
const QEMU_VERSION_MIN = 9;
/** Under TCG on two busy cores a boot takes 3 to 6 s; past this the guest is not slow but stuck. */
const BOOT_MS_MAX = 60_000;
/** The longest command is `verify`, about a second; a write that hangs makes it wait. */
const COMMAND_MS_MAX = 60_000;
/** What the kernel allows in a unix socket's address, less the final zero. */
const SOCKET_PATH_BYTES_MAX = 107;
/** Enough of QEMU's messages to say why it failed. */
const STDERR_CHARS_MAX = 64 * 1024;

/** Of the console in an error: a panic's trace comes after the line that says why. */
const CONSOLE_TAIL_CHARS = 8000;

const REPOSITORY = fileURLToPath(new URL('../../../', import.meta.url));
const KERNEL = join(REPOSITORY, '.cache/guest/vmlinuz');
const INITRAMFS = join(REPOSITORY, '.cache/guest/initramfs.gz');
/** What the guest was made from, as `sha256sum` prints it. */
const STAMP = join(REPOSITORY, '.cache/guest/stamp');
const GUEST_SOURCES = ['test/qemu/guest/init', 'test/qemu/guest/workload.c'];

/** What the kernel need not do to run one program; it saves a third of the boot. */
// On a busy host the kernel finds that its timer does not tick during the moment in which it checks that, and
// gives up.
const KERNEL_ARGUMENTS =
  'console=ttyS1 quiet panic=-1 nokaslr mitigations=off cryptomgr.notests no_timer_check';

/** How the workload's one line that nobody asked for begins. */
const READY = 'ready ';

export type QemuAvailability =
  | { readonly available: true }
  | { readonly available: false; readonly why: string };

export interface DiskSpec {
  readonly file: string;
  readonly format: 'raw' | 'qcow2';
  readonly sizeBytes: number;
  /** What it takes to write at the most, in bytes a second. Default: as it is. */
  readonly writeBytesPerSecondMax?: number;
}

/** The workload's parameters; the defaults stand in ../guest/workload.c. */
export interface GuestLoad {
  /** Memory that is stamped and verified, MiB. Default 48. */
  readonly memoryMiB?: number;
  /** The part of it that is rewritten, MiB. Default 16. */
  readonly memoryHotMiB?: number;
  /** How much of it a second, MiB. Default 8. */
  readonly dirtyMiBPerSecond?: number;
  /** Disk writes a second, all disks together. Default 200. */
  readonly writesPerSecond?: number;
  /** Threads that write, each with one write outstanding. Default 4. */
  readonly writers?: number;
  /** Where on each disk the writes go: this much from its start, MiB. Default 64. */
  readonly hotMiB?: number;
  /** How much of each disk's start is written before the guest is ready, MiB. Default 16. */
  readonly fillMiB?: number;
  /** False: only writes of 8 KiB. Default true: also smaller and larger ones, and zeroes. */
  readonly mixed?: boolean;
  /**
   * True: a quarter of the writes go to the first and the last 64 KiB of each disk, by all writers, at any
   * block and over each other while they are on their way. The guest cannot know what is there then: compare
   * the images. Default false.
   */
  readonly shared?: boolean;
  readonly seed?: number;
}

export interface GuestOptions {
  /** Names the guest's files and sockets in `dir`, so two guests in one directory need two names. */
  readonly name: string;
  /** Where sockets and the console's log go; short, because a socket's path may have 107 bytes only. */
  readonly dir: string;
  readonly disks: readonly DiskSpec[];
  /** Default 256. */
  readonly memoryMiB?: number;
  /** Default 1. */
  readonly smp?: number;
  /** Default `pc`. */
  readonly machine?: string;
  readonly load?: GuestLoad;
  /** Starts with `-incoming defer`: nothing boots, the guest is what a migration brings. Default false. */
  readonly incoming?: boolean;
  /** Further arguments for QEMU; give both ends of a migration the same ones. */
  readonly extraArguments?: readonly string[];
  /**
   * A command that becomes QEMU, whose own command line is put behind it, as `ip netns exec NAME`. Default:
   * none.
   */
  readonly launcher?: readonly string[];
}

export interface GuestStats {
  readonly writes: number;
  readonly bytesWritten: number;
  readonly writeErrors: number;
  /**
   * Of a write, since boot or `reset`, counting one that is on its way. By the guest's clock, as are all of
   * these.
   */
  readonly longestMs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly pagesDirtied: number;
  /**
   * The longest silence of a 10 ms ticker. Time in which the machine was stopped is not in it: see `ticks`.
   */
  readonly tickGapMaxMs: number;
  readonly uptimeMs: number;
  /** By how much the guest's monotonic clock ever went back, in ns. It must never. */
  readonly clockBackNs: number;
}

/**
 * A block is 512 bytes. What is stale is also counted as bad: in order, but older than the last write to it.
 */
export interface GuestVerdict {
  readonly pages: number;
  readonly badPages: number;
  readonly stalePages: number;
  readonly blocks: number;
  readonly badBlocks: number;
  readonly staleBlocks: number;
  /** For people; empty if nothing is bad. */
  readonly firstBad: string;
  readonly tookMs: number;
}

export interface GuestReady {
  readonly pages: number;
  readonly blockBytes: number;
  readonly disks: readonly { readonly name: string; readonly blocks: number }[];
  readonly uptimeMs: number;
}

/** Ticks as they reached this process, on the clock of `performance.now()`. */
export interface GuestTicks {
  readonly count: number;
  readonly firstAtMs: number | undefined;
  readonly lastAtMs: number | undefined;
  /**
   * The longest time between two ticks since `resetTicks`; time that this process was too busy to read is in
   * it.
   */
  readonly gapMaxMs: number;
}

const run = promisify(execFile);

let availability: QemuAvailability | undefined;

/** Whether this machine can boot the test guest. Asked once a process. */
export function qemuAvailable(): QemuAvailability {
  availability ??= findOut();
  return availability;
}

function findOut(): QemuAvailability {
  const missing = (what: string): QemuAvailability => ({
    available: false,
    why: `${what} (npm run setup:qemu installs it on Debian and Ubuntu)`,
  });
  const { stdout, error } = spawnSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' });
  if (error !== undefined) return missing('no qemu-system-x86_64');
  const version = /version (\d+)\.(\S+)/.exec(stdout);
  if (version === null || Number(version[1]) < QEMU_VERSION_MIN) {
    return missing(`QEMU ${version?.[1] ?? '?'} is older than ${QEMU_VERSION_MIN}`);
  }
  if (spawnSync('qemu-img', ['--version']).error !== undefined) return missing('no qemu-img');
  if (![KERNEL, INITRAMFS, STAMP].every(existsSync)) return missing('no guest in .cache/guest');
  const stamp = readFileSync(STAMP, 'utf8');
  for (const source of GUEST_SOURCES) {
    const digest = createHash('sha256')
      .update(readFileSync(join(REPOSITORY, source)))
      .digest('hex');
    if (!stamp.includes(`${digest}  ${source}\n`))
      return missing(`the guest is not the one of today's ${source}`);
  }
  return { available: true };
}

/** A new directory with a short path, removed with all that is in it when it is disposed of. */
export function guestDirectory(): { readonly path: string } & AsyncDisposable {
  const path = mkdtempSync(join(tmpdir(), 'longhaul-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** Makes an empty, sparse image, instead of what may have been there, and gives back its description. */
export async function createDisk(disk: DiskSpec): Promise<DiskSpec> {
  await run('qemu-img', ['create', '-q', '-f', disk.format, disk.file, String(disk.sizeBytes)]);
  return disk;
}

/**
 * Starts QEMU, and resolves when the guest runs and says that it is ready; with `incoming`, when QEMU waits
 * for commands. On failure nothing of it is left running, and the error has what QEMU and the guest's kernel
 * said.
 */
export async function bootGuest(options: GuestOptions): Promise<Guest> {
  const guest = new Guest(options);
  try {
    await guest.start();
    return guest;
  } catch (error) {
    await guest.kill();
    const said = [guest.stderr(), guest.console()]
      .map((text) => text.trim().slice(-CONSOLE_TAIL_CHARS))
      .filter(Boolean);
    throw new Error([`guest ${options.name} did not boot: ${String(error)}`, ...said].join('\n'), {
      cause: error,
    });
  }
}

export class Guest implements AsyncDisposable {
  readonly name: string;
  readonly qmpPath: string;
  readonly monitorPath: string;
  /** Resolves when QEMU has exited, however it came to that. Never rejects. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  /** Resolves when the guest has filled its memory and disks; on a guest that came by migration, never. */
  readonly ready: Promise<GuestReady>;

  readonly #options: GuestOptions;
  readonly #consolePath: string;
  readonly #serial: LineSocket;
  readonly #monitor: LineSocket;
  readonly #ticks: TickSocket;
  readonly #setReady = withResolvers<GuestReady>();
  readonly #setExited = withResolvers<{ code: number | null; signal: NodeJS.Signals | null }>();
  #child: ChildProcess | undefined;
  #stderr = '';

  constructor(options: GuestOptions) {
    const path = (suffix: string): string => join(options.dir, `${options.name}.${suffix}`);
    this.name = options.name;
    this.qmpPath = path('qmp');
    this.monitorPath = path('mon');
    this.#options = options;
    this.#consolePath = path('console.log');
    this.#serial = new LineSocket(path('serial'));
    this.#monitor = new LineSocket(this.monitorPath);
    this.#ticks = new TickSocket(path('ticks'));
    this.ready = this.#setReady.promise;
    this.ready.catch(() => {}); // Whoever awaits it gets the error; that nobody does is no error of its own.
    this.exited = this.#setExited.promise;
    this.#serial.onUnasked = (line) => {
      if (line.startsWith(READY)) this.#setReady.resolve(JSON.parse(line.slice(READY.length)) as GuestReady);
    };
  }

  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error(`guest ${this.name} was not started`);
    return pid;
  }

  get ticks(): GuestTicks {
    return this.#ticks.seen;
  }

  /** What QEMU has said on stderr so far. */
  stderr(): string {
    return this.#stderr;
  }

  /** What the guest's kernel has said so far: nothing, unless it is in trouble. */
  console(): string {
    return existsSync(this.#consolePath) ? readFileSync(this.#consolePath, 'utf8') : '';
  }

  /** For `bootGuest`, once. */
  async start(): Promise<void> {
    const sockets = [this.#serial, this.#monitor, this.#ticks];
    for (const path of [this.qmpPath, ...sockets.map((socket) => socket.path)]) {
      if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX)
        throw new Error(`path too long for a socket: ${path}`);
    }
    await mkdir(this.#options.dir, { recursive: true });
    await Promise.all(sockets.map((socket) => socket.listen()));
    this.#spawn();
    await this.#inTime(this.#monitor.nextUnasked(), 'its monitor');
    await this.qmp('qmp_capabilities');
    if (this.#options.incoming !== true) await this.#inTime(this.ready, 'the guest');
  }

  /**
   * Sends a line to the workload and resolves to its answer. Commands queue; answers come in order. What the
   * guest was asked where it was before it was moved, it may answer here: an answer that does not begin as it
   * should is not taken.
   */
  async command(line: string, beginning = ''): Promise<string> {
    const asked = this.#serial.ask(
      `${line}\n`,
      (answer) => answer.startsWith('error') || (answer.startsWith(beginning) && !answer.startsWith(READY)),
    );
    const answer = await this.#inTime(asked, `the answer to ${line}`, COMMAND_MS_MAX);
    if (answer.startsWith('error')) throw new Error(`guest ${this.name}: ${line}: ${answer}`);
    return answer;
  }

  /** Once it resolves, what the guest was asked elsewhere has been answered. */
  async ping(): Promise<void> {
    await this.command('ping', 'pong');
  }

  async stats(): Promise<GuestStats> {
    return JSON.parse(await this.command('stats', '{"writes"')) as GuestStats;
  }

  /** The guest stops its load, reads again all that it ever wrote, compares, and goes on. */
  async verify(): Promise<GuestVerdict> {
    return JSON.parse(await this.command('verify', '{"pages"')) as GuestVerdict;
  }

  /** Starts `longestMs`, the percentiles, `tickGapMaxMs` and the harness's `ticks.gapMaxMs` again. */
  async reset(): Promise<void> {
    this.resetTicks();
    await this.command('reset', 'ok');
  }

  resetTicks(): void {
    this.#ticks.reset();
  }

  /** Resolves at the next tick, on the clock of `performance.now()`: the guest runs. */
  nextTick(): Promise<number> {
    return this.#inTime(this.#ticks.next(), 'a tick');
  }

  /** Stops the load; once it resolves, no write is on its way. */
  async pause(): Promise<void> {
    await this.command('pause', 'ok');
  }

  async resume(): Promise<void> {
    await this.command('resume', 'ok');
  }

  async setLoad(writesPerSecond: number, dirtyMiBPerSecond: number): Promise<void> {
    await this.command(`load ${writesPerSecond} ${dirtyMiBPerSecond}`, 'ok');
  }

  /** A QMP command on the harness's own monitor. Resolves to its `return`, rejects with its error. */
  async qmp(execute: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    const request = args === undefined ? { execute } : { execute, arguments: args };
    const answer = JSON.parse(
      await this.#inTime(
        this.#monitor.ask(`${JSON.stringify(request)}\n`, isQmpAnswer),
        execute,
        COMMAND_MS_MAX,
      ),
    ) as { return?: unknown; error?: { class: string; desc: string } };
    if (answer.error !== undefined)
      throw new Error(`${execute}: ${answer.error.class}: ${answer.error.desc}`);
    return answer.return;
  }

  /** QEMU's run state: `running`, `paused`, `inmigrate`, `postmigrate` and others. */
  async runState(): Promise<string> {
    return ((await this.qmp('query-status')) as { status: string }).status;
  }

  /** Tells QEMU to quit, which flushes its images, and resolves when it has. The guest is not asked. */
  async quit(): Promise<void> {
    // No answer: QEMU is gone already, or it is stuck and would not quit.
    await this.qmp('quit').catch(() => this.#child?.kill('SIGKILL'));
    await this.#end();
  }

  /** Ends QEMU at once, as a crash would. */
  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL');
    await this.#end();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }

  async #end(): Promise<void> {
    if (this.#child !== undefined) await this.exited;
    for (const socket of [this.#serial, this.#monitor, this.#ticks]) socket.close();
  }

  #spawn(): void {
    // The kernel ends QEMU should this process die without a chance to: a forgotten TCG guest takes a whole
    // core.
    const mortal = ['setpriv', '--pdeathsig', 'KILL', 'qemu-system-x86_64', ...this.#arguments()];
    const [command = '', ...args] = [...(this.#options.launcher ?? []), ...mortal];
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child = child;
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_CHARS_MAX);
    });
    const ended = (code: number | null, signal: NodeJS.Signals | null): void => {
      const error = new Error(`guest ${this.name}: QEMU exited (${signal ?? code}) ${this.#stderr.trim()}`);
      this.#setExited.resolve({ code, signal });
      this.#setReady.reject(error);
      for (const socket of [this.#serial, this.#monitor, this.#ticks]) socket.fail(error);
    };
    child.on('error', (error) => {
      this.#stderr += String(error);
      ended(null, null);
    });
    child.on('close', ended); // After the last of stderr.
  }

  #arguments(): string[] {
    const { memoryMiB = 256, smp = 1, machine = 'pc', incoming = false, extraArguments = [] } = this.#options;
    const connect = (id: string, path: string): string[] => [
      '-chardev',
      `socket,id=${id},path=${comma(path)}`,
    ];
    return [
      ...['-name', comma(this.name), '-nodefaults', '-display', 'none', '-no-user-config', '-no-reboot'],
      ...['-machine', machine, '-accel', 'tcg', '-m', String(memoryMiB), '-smp', String(smp)],
      ...['-kernel', KERNEL, '-initrd', INITRAMFS],
      ...['-append', [KERNEL_ARGUMENTS, ...loadArguments(this.#options.load ?? {})].join(' ')],
      ...['-qmp', `unix:${comma(this.qmpPath)},server=on,wait=off`],
      ...[...connect('monitor', this.monitorPath), '-mon', 'chardev=monitor,mode=control'],
      ...[...connect('serial', this.#serial.path), '-serial', 'chardev:serial'],
      ...['-chardev', `file,id=console,path=${comma(this.#consolePath)}`, '-serial', 'chardev:console'],
      ...[...connect('ticks', this.#ticks.path), '-device', 'isa-debugcon,iobase=0xe9,chardev=ticks'],
      ...this.#options.disks.flatMap(diskArguments),
      ...(incoming ? ['-incoming', 'defer'] : []),
      ...extraArguments,
    ];
  }

  /**
   * `promise`, but not for ever. QEMU's end need not be watched for: it fails the sockets, and so `promise`.
   */
  async #inTime<T>(promise: Promise<T>, what: string, msMax = BOOT_MS_MAX): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`guest ${this.name}: ${what} took more than ${msMax} ms`)),
        msMax,
      );
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  }
}

/** QEMU's option syntax ends a value at a comma; two stand for one. */
function comma(value: string): string {
  return value.replaceAll(',', ',,');
}

function diskArguments(disk: DiskSpec, index: number): string[] {
  const file = { driver: 'file', 'node-name': `disk${index}-file`, filename: disk.file };
  const group = `disk${index}-limit`;
  const limit = disk.writeBytesPerSecondMax;
  const limited = limit === undefined ? file : { driver: 'throttle', 'throttle-group': group, file };
  const blockdev = { driver: disk.format, 'node-name': `disk${index}`, file: limited };
  return [
    ...(limit === undefined ? [] : ['-object', `throttle-group,id=${group},x-bps-write=${limit}`]),
    ...['-blockdev', JSON.stringify(blockdev)],
    ...['-device', `virtio-blk-pci,id=vd${index},drive=disk${index},write-cache=on`],
  ];
}

function loadArguments(load: GuestLoad): string[] {
  const values: Record<string, number | undefined> = {
    mem_mb: load.memoryMiB,
    mem_hot_mb: load.memoryHotMiB,
    dirty_mb_s: load.dirtyMiBPerSecond,
    writes_s: load.writesPerSecond,
    writers: load.writers,
    hot_mb: load.hotMiB,
    fill_mb: load.fillMiB,
    mixed: load.mixed === undefined ? undefined : Number(load.mixed),
    shared: load.shared === undefined ? undefined : Number(load.shared),
    seed: load.seed,
  };
  return Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [`lh.${name}=${value}`],
  );
}

/** On a monitor events come between answers. */
function isQmpAnswer(line: string): boolean {
  const message = JSON.parse(line) as object;
  return 'return' in message || 'error' in message;
}

interface Resolvers<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

function withResolvers<T>(): Resolvers<T> {
  let resolve: Resolvers<T>['resolve'] = () => {};
  let reject: Resolvers<T>['reject'] = () => {};
  const promise = new Promise<T>((...functions) => {
    [resolve, reject] = functions;
  });
  return { promise, resolve, reject };
}

/** The end of a line that QEMU connects to once. */
abstract class AcceptedSocket {
  readonly path: string;
  readonly #server: Server = createServer();
  protected socket: Socket | undefined;
  protected error: Error | undefined;

  constructor(path: string) {
    this.path = path;
  }

  async listen(): Promise<void> {
    await rm(this.path, { force: true }); // Of a guest of the same name, from before.
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.path, resolve);
    });
    this.#server.once('connection', (socket) => {
      this.#server.close();
      this.socket = socket;
      // How a QEMU that ends closes its sockets says nothing; its exit does.
      socket.on('error', () => {});
      this.accepted(socket);
    });
  }

  protected abstract accepted(socket: Socket): void;

  /** Everything that is waited for here, or will be, fails with `error`. */
  fail(error: Error): void {
    this.error ??= error;
  }

  close(): void {
    this.fail(new Error(`${this.path} was closed`));
    this.#server.close();
    this.socket?.destroy();
  }
}

/** Lines of text: answers to what was asked, in order, and lines that nobody asked for. */
class LineSocket extends AcceptedSocket {
  onUnasked: (line: string) => void = () => {};
  #asked: { readonly accepts: (line: string) => boolean; readonly answer: Resolvers<string> }[] = [];
  #unsent: string[] = [];
  #partial = '';

  /** Resolves to the next line that `accepts` takes and that no earlier question is waiting for. */
  ask(text: string, accepts: (line: string) => boolean = () => true): Promise<string> {
    const answer = this.#expect(accepts);
    if (this.socket === undefined) this.#unsent.push(text);
    else this.socket.write(text);
    return answer;
  }

  nextUnasked(): Promise<string> {
    return this.#expect(() => true);
  }

  #expect(accepts: (line: string) => boolean): Promise<string> {
    if (this.error !== undefined) return Promise.reject(this.error);
    const answer = withResolvers<string>();
    this.#asked.push({ accepts, answer });
    return answer.promise;
  }

  protected accepted(socket: Socket): void {
    socket.setEncoding('latin1').on('data', (text) => this.#take(String(text)));
    for (const text of this.#unsent) socket.write(text);
    this.#unsent = [];
  }

  #take(text: string): void {
    const lines = (this.#partial + text).split('\n');
    this.#partial = lines.pop() ?? '';
    for (const raw of lines) {
      const line = raw.trimEnd();
      const [first] = this.#asked;
      if (first?.accepts(line) === true) {
        this.#asked.shift();
        first.answer.resolve(line);
      } else if (line !== '') {
        this.onUnasked(line);
      }
    }
  }

  override fail(error: Error): void {
    super.fail(error);
    for (const { answer } of this.#asked) answer.reject(error);
    this.#asked = [];
  }
}

class TickSocket extends AcceptedSocket {
  #count = 0;
  #firstAtMs: number | undefined;
  #lastAtMs: number | undefined;
  #gapMaxMs = 0;
  #waiting: Resolvers<number>[] = [];

  get seen(): GuestTicks {
    return {
      count: this.#count,
      firstAtMs: this.#firstAtMs,
      lastAtMs: this.#lastAtMs,
      gapMaxMs: this.#gapMaxMs,
    };
  }

  reset(): void {
    this.#gapMaxMs = 0;
  }

  next(): Promise<number> {
    if (this.error !== undefined) return Promise.reject(this.error);
    const tick = withResolvers<number>();
    this.#waiting.push(tick);
    return tick.promise;
  }

  protected accepted(socket: Socket): void {
    socket.on('data', (bytes) => {
      const now = performance.now();
      this.#count += bytes.length;
      this.#firstAtMs ??= now;
      if (this.#lastAtMs !== undefined) this.#gapMaxMs = Math.max(this.#gapMaxMs, now - this.#lastAtMs);
      this.#lastAtMs = now;
      for (const tick of this.#waiting.splice(0)) tick.resolve(now);
    });
  }

  override fail(error: Error): void {
    super.fail(error);
    for (const tick of this.#waiting.splice(0)) tick.reject(error);
  }
}
