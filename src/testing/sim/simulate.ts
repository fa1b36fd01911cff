import { resolvePolicy } from '../../core/policy.ts';
import type { MigrationError } from '../../errors.ts';
import type { MigrationPolicy, MigrationReport } from '../../interfaces/migration.ts';
import { createVirtualEnvironment } from '../virtual-time.ts';
import type { RecoveryRecord } from './end.ts';
import type { SimulationEvent } from './event-log.ts';
import { shapeExcuses } from './excuses.ts';
import type { GuestWindow } from './guest-meter.ts';
import {
  decideIsAmple,
  guestOutruns,
  heldBytesMax,
  isModest,
  mendMsMax,
  runMsMax,
  stunIsAmple,
} from './limits.ts';
import type { Violation } from './oracle.ts';
import { diskModesOf, type EndName, type Scenario, type TimelineEntry } from './scenario.ts';
import { World } from './world.ts';

/** What {@link simulate} takes. */
export interface SimulateOptions {
  /** All chance comes from it: a safe integer. */
  readonly seed: number;
  /** What moves, and what goes wrong. */
  readonly scenario: Scenario;
  /** Whether to keep every event. Default false. */
  readonly log?: boolean;
}

/** How a simulation went. */
export interface SimulationResult {
  /** What `run()` resolved to at each end; undefined where the process died before. */
  readonly reports: Readonly<Record<EndName, MigrationReport | undefined>>;
  /** What the source was refused for, if it did not even begin: what its `createSource` threw. */
  readonly refusal: MigrationError | undefined;
  /** Every call of `recover()`, in order. */
  readonly recoveries: readonly RecoveryRecord[];
  /** The reports of the second attempt, if there was one. */
  readonly again: readonly MigrationReport[] | undefined;
  /** What the guest noticed: before (`start`), during (`migration`) and after (`after`). */
  readonly guest: readonly GuestWindow[];
  /** How often each class of action was performed: see {@link classOf}. */
  readonly performed: Readonly<Record<string, number>>;
  /** Rules that did not hold; empty if all is well. */
  readonly violations: readonly Violation[];
  /** A sum over everything that happened, 16 hexadecimal digits: the same for the same seed and scenario. */
  readonly digest: string;
  /** Every event, if they were to be kept. */
  readonly log: readonly SimulationEvent[] | undefined;
  /** Virtual time at the end, in ms. */
  readonly endMs: number;
}

/** Longer than anything waits for by itself. */
const quietMs = 300_000;

/**
 * Runs one migration in a world of its own, in virtual time, from the seed alone:
 *
 * 1. the migration, with what its timeline does;
 * 2. all is mended: dead ends are restarted, and recover until both know who owns the VM;
 * 3. progress: a VM that is still at the source is moved, undisturbed;
 * 4. the guest stops, everything is closed, and nothing may be left.
 *
 * The oracle watches from beginning to end. Rejects only if the scenario itself is out of range. One at a time in a process.
 */
export async function simulate({ seed, scenario, log = false }: SimulateOptions): Promise<SimulationResult> {
  const environment = createVirtualEnvironment(seed);
  const world = new World(environment, seed, scenario, log);
  const { oracle, ends, vm } = world;
  const unhandled = (reason: unknown) => oracle.report('unhandled', String(reason));
  process.on('unhandledRejection', unhandled);
  /** Whether it settled in time. */
  const within = async (limitMs: number, work: Promise<unknown>): Promise<boolean> => {
    let inTime = true;
    const limit = new Promise<void>((resolve) => {
      const cancel = environment.setTimer(limitMs, () => {
        inTime = false;
        resolve();
      });
      void work.finally(cancel).catch(() => {});
    });
    await environment.run(Promise.race([work, limit]));
    return inTime;
  };
  let again: readonly MigrationReport[] | undefined;
  try {
    if (!(await within(runMsMax(scenario), world.migrate()))) {
      const late = Object.values(ends).filter(({ stage }) => stage === 'migrating');
      oracle.report('settles', `not at its end in time: ${late.map(({ name }) => name).join(', ')}`);
    }
    if (scenario.timeline.length === 0) undisturbed(world);
    else if (canBeOutlasted(scenario)) outlasted(world);
    world.mend();
    if (!(await within(mendMsMax(scenario), world.settled()))) {
      oracle.report('recovers', `does not know who owns the VM: ${world.unsettled.join(', ')}`);
    }
    world.holder.guest.mark('after');
    oracle.mended();
    const owner = vm.state === 'running' || vm.state === 'paused';
    if (owner && oracle.violations.length === 0) {
      const policy = easyPolicy(scenario);
      const wanted = policy.memory === 'none' ? 'copied' : 'completed';
      if (guestOutruns(scenario)) vm.guest.stopWorkloads();
      const moving = world.migrateAgain(policy).then(
        (reports) => {
          again = reports;
        },
        (error: unknown) => oracle.report('restored', `what the engine left: ${String(error)}`),
      );
      if (!(await within(runMsMax({ ...scenario, policy }), moving))) {
        oracle.report('settles', 'the second attempt is not at its end in time');
      }
      for (const { role, outcome, error } of again ?? []) {
        if (outcome !== wanted) oracle.report('progress', `${role}: ${outcome}, ${error?.message}`);
      }
      oracle.mended();
    }
    await environment.run(environment.now() + 200);
    await within(quietMs, world.stop());
    await environment.run(environment.now() + quietMs);
    oracle.over(world.network.statistics(), environment.pendingTimers, heldBytesMax(scenario));
  } finally {
    process.off('unhandledRejection', unhandled);
  }
  for (const word of world.network.digest().match(/.{8}/g) ?? []) world.log.mix(Number.parseInt(word, 16));
  return {
    reports: { source: ends.source.report, destination: ends.destination.report },
    refusal: ends.source.refusal,
    recoveries: world.recoveries,
    again,
    guest: world.holder.guest.statistics(),
    performed: Object.fromEntries(world.performed),
    violations: oracle.violations,
    digest: world.log.digest(),
    log: world.log.events,
    endMs: environment.now(),
  };
}

/** A migration that nobody disturbs has no reason to fail, but that its guest is too fast or its policy too narrow. */
function undisturbed({ ends, oracle, scenario }: World): void {
  const { report } = ends.source;
  const moved = scenario.policy.memory === 'none' ? 'copied' : 'completed';
  const wanted = scenario.rehearse === true ? 'rehearsed' : moved;
  if (report === undefined || report.outcome === wanted) return;
  const excuses: string[] = shapeExcuses(scenario);
  if (!isModest(scenario)) excuses.push('not-converging');
  if (!stunIsAmple(scenario)) excuses.push('stun-timeout');
  const { timeoutMs, onTimeout, handover } = scenario.policy;
  if (!decideIsAmple(scenario))
    excuses.push('declined', ...(handover === 'one-flight' ? ['owner-undecided'] : []));
  // Nobody says how long it takes; and what is forced need not fit.
  if (timeoutMs !== undefined) excuses.push('timeout', ...(onTimeout === 'force' ? ['stun-timeout'] : []));
  // A greeting that is lost is repeated after a second; the source may see no more of it than that nobody waits for it any more.
  if (scenario.paths.some(({ lossProbability = 0 }) => lossProbability > 0)) {
    excuses.push('timeout');
    if (ends.destination.report?.error?.code === 'timeout') excuses.push('connection-lost');
  }
  if (excuses.includes(report.error?.code ?? '')) return;
  oracle.report('needless', `${report.outcome}: ${report.error?.code}, ${report.error?.message}`);
}

/** Nothing happens but what a channel lives through: connections that break or damage something. */
function canBeOutlasted({ timeline, policy }: Scenario): boolean {
  const { outageMsMax = 0 } = policy;
  return outageMsMax >= 120_000 && timeline.every((entry, index) => isOutlasted(entry, timeline[index + 1]));
}

/** A connection that breaks or damages something; the end of an outage, and an outage whose end follows, `next`. */
function isOutlasted({ at, do: action }: TimelineEntry, next: TimelineEntry | undefined): boolean {
  if ('reset' in action || 'resetAfterBytes' in action || 'flip' in action) return true;
  if ('mend' in action || 'lighten' in action) return true;
  if (!('cut' in action || 'darken' in action) || next === undefined) return false;
  const ends = 'cut' in action ? 'mend' in next.do : 'lighten' in next.do;
  return ends && 'phase' in at && 'phase' in next.at && at.phase === next.at.phase;
}

/** Once both ends have said their first words, a connection that is lost does not end a migration. */
function outlasted({ ends, oracle, scenario }: World): void {
  const { error, switchoverAttempts = 0 } = ends.source.report ?? {};
  if (error === undefined || error.phase === 'connect' || error.phase === 'prepare') return;
  // An outage can cost a switchover, and only so many are allowed.
  if (switchoverAttempts >= resolvePolicy(scenario.policy).switchoverAttemptsMax) return;
  // What was lost is sent again: nothing is left over that would keep a modest guest from converging.
  if (error.code === 'not-converging' && isModest(scenario)) {
    oracle.report('needless', `an outage is the end: ${error.message}`);
    return;
  }
  // A destination that has ended for a reason of its own may not be able to say so.
  const codes = [error.code, ends.destination.report?.error?.code ?? error.code];
  if (codes.some((code) => code !== 'connection-lost' && code !== 'protocol')) return;
  oracle.report('needless', `a lost connection is the end: ${error.code}, ${error.message}`);
}

/** The same disks, connections and bounds, with all the time in the world. */
function easyPolicy(scenario: Scenario): MigrationPolicy {
  const {
    policy: { timeoutMs: _, ...policy },
    hosts,
  } = scenario;
  const mayStay = hosts?.takesDisksAlone !== false && [...diskModesOf(scenario).values()].includes('copy');
  return {
    ...policy,
    ...(!mayStay && { memory: 'copy' as const }),
    slowDisk: 'throttle',
    copyWhileStunned: true,
    downtimeMsMax: 30_000,
    stunMsMax: 120_000,
    connectMsMax: 30_000,
    decideMsMax: 30_000,
    outageMsMax: 600_000,
    roundsMax: 40,
    throttleMax: 0.95,
  };
}
