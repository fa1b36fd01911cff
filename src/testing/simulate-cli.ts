/** `npm run simulate`: many seeds, or one. */
import { fork } from 'node:child_process';
import { availableParallelism, constants } from 'node:os';
import { parseArgs } from 'node:util';
import { EventLog } from './sim/event-log.ts';
import type { Violation } from './sim/oracle.ts';
import { rules } from './sim/oracle.ts';
import type { Scenario } from './sim/scenario.ts';
import { outcomeOf, runSeed, shrinkSeed } from './sim/swarm.ts';

const help = `Runs migrations in simulated worlds, in virtual time, each from a seed: VM, network, policy, and what goes wrong.

  npm run simulate -- [options]

  --seeds N    how many (default 200)
  --from S     the first one (default: by the clock)
  --seed S     this one alone
  --log        with --seed: every event
  --jobs N     processes at once (default 2, or 1 where there is one core)
  --outages    the link is gone for a while in every one
  --storage    disks of every shape in every one, and what goes wrong with them
  --switchover one-flight handovers, audits, hooks, time limits, and hypervisors that cheat
  --first      stop at the first that breaks a rule
  --no-shrink  do not look for a smaller timeline
  --help       this text

How many seeds are done is to be seen on a terminal (standard error), and said when it is interrupted (SIGINT, SIGTERM).
Ends with 1 if a rule is broken; else with 130 or 143 if it was interrupted. The digest is the same for the same seeds, on
every machine.
The rules:

${Object.entries(rules)
  .map(([name, text]) => `  ${name.padEnd(12)} ${text}`)
  .join('\n')}
`;

/** What a worker says of a seed. */
interface SeedLine {
  readonly seed: number;
  readonly outcome: string;
  readonly performed: readonly string[];
  readonly digest: string;
  readonly violations: readonly Violation[];
  readonly shrunken?: Scenario;
}

interface Options {
  readonly from: number;
  readonly seeds: number;
  readonly jobs: number;
  readonly first: boolean;
  readonly shrinks: boolean;
  readonly draw: Draw;
}

/** What is to be in every seed's scenario. */
interface Draw {
  readonly outages: boolean;
  readonly storage: boolean;
  readonly switchover: boolean;
}

async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seeds: { type: 'string', default: '200' },
      from: { type: 'string' },
      seed: { type: 'string' },
      log: { type: 'boolean', default: false },
      jobs: { type: 'string' },
      outages: { type: 'boolean', default: false },
      storage: { type: 'boolean', default: false },
      switchover: { type: 'boolean', default: false },
      first: { type: 'boolean', default: false },
      'no-shrink': { type: 'boolean', default: false },
      /** Only for workers: of the seeds, each `jobs`th from this one on. */
      share: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    say(help);
    return 0;
  }
  const { outages, storage, switchover } = values;
  const draw = { outages, storage, switchover };
  if (values.seed !== undefined) return one(whole('--seed', values.seed), values.log, draw);
  const from = values.from === undefined ? Date.now() % 1_000_000_000 : whole('--from', values.from);
  const seeds = whole('--seeds', values.seeds);
  const jobs = whole('--jobs', values.jobs ?? String(Math.min(2, availableParallelism())));
  const options = {
    from,
    seeds,
    jobs: Math.max(1, jobs),
    first: values.first,
    shrinks: !values['no-shrink'],
    draw,
  };
  if (values.share === undefined) return many(options);
  return share(options, whole('--share', values.share));
}

function flagsOf(draw: Draw): readonly string[] {
  return Object.entries(draw).flatMap(([name, wanted]) => (wanted ? [`--${name}`] : []));
}

/** One seed, with its log if it is wanted. */
async function one(seed: number, log: boolean, draw: Draw): Promise<number> {
  const run = await runSeed(seed, { log, ...draw });
  const { result, scenario } = run;
  if (log) {
    say(`${JSON.stringify(scenario, undefined, 2)}\n`);
    for (const { atMs, who, what } of result.log ?? []) {
      say(`${atMs.toFixed(3).padStart(12)}  ${who.padEnd(11)}  ${what}\n`);
    }
  }
  say(
    `seed ${seed}: ${outcomeOf(result)}, ${Math.round(result.endMs)} ms of virtual time, digest ${result.digest}\n`,
  );
  if (result.violations.length === 0) return 0;
  sayBroken({ seed, ...summary(result), shrunken: await shrinkSeed(run) }, draw);
  return 1;
}

/** Many seeds, in processes of their own. */
async function many(options: Options): Promise<number> {
  const { from, seeds, jobs, first } = options;
  const lines: SeedLine[] = [];
  const stop = new AbortController();
  let interruptedBy: 'SIGINT' | 'SIGTERM' | undefined;
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      interruptedBy ??= name;
      stop.abort();
    });
  }
  say(`seeds ${from} to ${from + seeds - 1}\n`);
  const took = (line: SeedLine) => {
    if (stop.signal.aborted) return;
    lines.push(line);
    if (line.violations.length > 0) {
      progress('');
      sayBroken(line, options.draw);
      if (first) stop.abort();
    }
    progress(done(lines, seeds));
  };
  const ended = await Promise.all(
    Array.from({ length: jobs }, (_, index) => worker(options, index, took, stop.signal)),
  );
  progress('');
  sayTotals(lines);
  if (interruptedBy !== undefined) say(`${interruptedBy}: ${done(lines, seeds)}\n`);
  if (broken(lines) > 0) return 1;
  if (interruptedBy !== undefined) return 128 + constants.signals[interruptedBy];
  return ended.includes(false) ? 1 : 0;
}

function broken(lines: readonly SeedLine[]): number {
  return lines.filter(({ violations }) => violations.length > 0).length;
}

function done(lines: readonly SeedLine[], seeds: number): string {
  return `${lines.length} of ${seeds} seeds done, ${broken(lines)} broke a rule`;
}

/** Resolves to whether the worker came to its end. */
function worker(
  { from, seeds, jobs, shrinks, draw }: Options,
  index: number,
  took: (line: SeedLine) => void,
  stop: AbortSignal,
): Promise<boolean> {
  const args = ['--from', String(from), '--seeds', String(seeds), '--jobs', String(jobs)];
  const child = fork(process.argv[1] ?? '', [
    ...args,
    '--share',
    String(index),
    ...(shrinks ? [] : ['--no-shrink']),
    ...flagsOf(draw),
  ]);
  child.on('message', (line) => took(line as SeedLine));
  stop.addEventListener('abort', () => child.kill());
  return new Promise((resolve) => {
    child.on('exit', (code) => resolve(code === 0));
  });
}

/** A worker's share. */
async function share({ from, seeds, jobs, shrinks, draw }: Options, index: number): Promise<number> {
  for (let seed = from + index; seed < from + seeds; seed += jobs) {
    const run = await runSeed(seed, draw);
    const broken = run.result.violations.length > 0;
    const line = { seed, ...summary(run.result) };
    process.send?.(broken && shrinks ? { ...line, shrunken: await shrinkSeed(run) } : line);
  }
  process.disconnect?.();
  return 0;
}

function summary(result: Awaited<ReturnType<typeof runSeed>>['result']): Omit<SeedLine, 'seed'> {
  const { performed, digest, violations } = result;
  return { outcome: outcomeOf(result), performed: Object.keys(performed), digest, violations };
}

function sayBroken({ seed, violations, shrunken }: SeedLine, draw: Draw): void {
  for (const { rule, message, atMs } of violations) {
    say(`seed ${seed} breaks ${rule} at ${atMs.toFixed(1)} ms: ${message}\n`);
  }
  say(
    `  replay: npm run simulate -- --seed ${seed} --log${flagsOf(draw)
      .map((flag) => ` ${flag}`)
      .join('')}\n`,
  );
  if (shrunken === undefined) return;
  const { timeline, ...world } = shrunken;
  say(`  world: ${JSON.stringify(world)}\n  timeline: [\n`);
  for (const entry of timeline) say(`    ${JSON.stringify(entry)},\n`);
  say('  ]\n');
}

function sayTotals(lines: readonly SeedLine[]): void {
  const outcomes = new Map<string, number>();
  const classes = new Map<string, number>();
  for (const { outcome, performed } of lines) {
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    for (const one of performed) classes.set(one, (classes.get(one) ?? 0) + 1);
  }
  const list = (counts: ReadonlyMap<string, number>) =>
    [...counts]
      .sort(([, a], [, b]) => b - a)
      .map(([name, count]) => `${name} ${count}`)
      .join(', ');
  const sum = new EventLog(() => 0, false);
  for (const { digest } of [...lines].sort((a, b) => a.seed - b.seed)) sum.add('world', digest);
  say(`${lines.length} seeds: ${list(outcomes)}\n`);
  say(`what went wrong: ${list(classes)}\n`);
  say(`digest ${sum.digest()}\n`);
}

function whole(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${name} must be a whole number`);
  return value;
}

function say(text: string): void {
  process.stdout.write(text);
}

/** A line that is written over, on a terminal alone. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${text}`);
}

process.exitCode = await main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  return 2;
});
