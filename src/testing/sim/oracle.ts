/**
 * What must hold in every simulation, whatever its scenario does. Some rules are looked at with every event, some with every report, some when
 * all is mended or over. {@link rules} says what each means.
 */
import type { RecoveryReport } from '../../core/handover/recover.ts';
import { resolvePolicy } from '../../core/policy.ts';
import type { MigrationError } from '../../errors.ts';
import type { AuditReport, MigrationReport, Warning } from '../../interfaces/migration.ts';
import type { Claim } from '../../interfaces/register.ts';
import { compareSimulatedVms } from './compare.ts';
import { hasReason, isCheat } from './excuses.ts';
import { Generations } from './generations.ts';
import { type HookName, outcomeOfHook } from './hooks.ts';
import type { SimulatedBackend } from './hypervisor.ts';
import { decideIsAmple, downtimeMsMost } from './limits.ts';
import type { NetworkStatistics } from './network.ts';
import { diskModesOf, type EndName, type Scenario } from './scenario.ts';
import type { SimulatedVm } from './vm.ts';
import type { VmEvent } from './vm-events.ts';
import type { VmFault } from './vm-faults.ts';

/** Every rule, and what it asks for. */
export const rules = {
  'one-runs': 'never do both ends run the guest',
  'owner-runs':
    'a guest starts at the destination only when owner stands there, and never runs at the source then',
  equal:
    'when the destination takes possession, memory, disks and device state are those of the source, but for what a hypervisor hid that cheats',
  audited:
    'an audit of everything lets nothing start that is not equal, whoever cheats; no audit finds a difference that is not there; and its report says what it was',
  hooks:
    'a hook is called once, in its place, and its time is bounded; only one that fails or is late is said to have',
  downtime:
    'a downtime that is reported is the time for which the guest stood still, and its parts sum up to it',
  limits:
    'a guest is slowed no harder than the policy allows, and, where nothing disturbs it and nothing is forced, stands still for little more than it allows',
  copied:
    'disks that move alone are handed over as they were at one moment at which the guest was stunned; it stays, and nothing is claimed',
  tapped: 'a guest that runs on after a failed switchover writes nothing that no tap sees',
  restored: 'after a failure before commit the source is as it was: running if it ran, no taps, no throttle',
  untouched:
    'a migration that is refused has touched nothing: no tap, no throttle, no stun, no claim, nothing prepared',
  prompt: 'a guest write waits for its own disk, and for the mirror no longer than the policy allows',
  excused: 'an error of a disk, of memory, or of a capability has its reason in the world',
  truth: 'reports say who owns the VM, how the guest is and how it ended, as it is',
  timely: 'a migration that is to end when its time is over stuns its guest no more then',
  settles: 'every run comes to its end in a time that follows from the policy',
  recovers: 'when all is mended both ends learn who owns the VM',
  somewhere: 'the guest is somewhere in the end, once, or it was lost with the host that held it',
  progress: 'when all is mended, a VM that is still at the source can be moved',
  needless: 'a migration that nothing disturbs completes',
  contract: 'the engine keeps the contracts of its plug points',
  sane: 'no error says that the library has a bug, or blames a peer that did nothing wrong',
  'left-open': 'in the end no connection is open and no timer is set',
  held: 'bytes on their way stay within what the policy allows',
  unhandled: 'no rejection is unhandled',
} as const;

/** A rule's name. */
export type RuleName = keyof typeof rules;

/** A rule that did not hold. */
export interface Violation {
  /** Which rule did not hold. */
  readonly rule: RuleName;
  /** What was seen. */
  readonly message: string;
  /** When, in virtual ms. */
  readonly atMs: number;
}

/** What the oracle looks at. */
export interface OracleView {
  readonly scenario: Scenario;
  readonly now: () => number;
  /** The VM that is to move. */
  readonly vm: SimulatedVm;
  readonly backend: SimulatedBackend;
  /** What stands in an end's register. */
  readonly claims: (end: EndName) => readonly Claim[];
  /** Whether a flipped bit, or an operation that was dropped, is a reason to blame a peer. */
  readonly bytesWereHurt: () => boolean;
  /** Whether the operator paused the guest. */
  readonly operatorPaused: () => boolean;
  /** Disks that stay, by id. */
  readonly leftDisks: readonly string[];
}

/** Violations of each rule that are kept. */
const keptMax = 3;
/** What sums of fractions of a millisecond may be off by. */
const toleranceMs = 1e-3;
/** For DONE to be sent, beside its way. */
const doneMsMax = 5;

/** See the top of this file. */
export class Oracle {
  readonly violations: Violation[] = [];
  readonly #view: OracleView;
  /** Disks that were tapped when the guest was stunned last, and those of them that were not when it ran on. */
  #tapped: readonly string[] = [];
  #untapped: readonly string[] = [];
  /** What was done to the source's VM since the attempt began. */
  #touched: string[] = [];
  /** What the attempt is to be. */
  #attempt: Scenario;
  /** What the attempt's destination was started or handed over with, if that was not equal, and a cheat may have been the reason. */
  #unequal = '';
  #hooksCalled: HookName[] = [];
  #beganAtMs = 0;
  #ended: { source?: MigrationReport; destination?: MigrationReport } = {};
  /** When the guest was stunned last, and since when it runs where it went. */
  #stunnedAtMs = 0;
  #ranAtMs: number | undefined;
  /** What the disks held when the guest was stunned last, by id, of an attempt that moves disks alone. */
  #moment: ReadonlyMap<string, Generations> | undefined;
  #wasHandedOver = false;
  readonly #struck: VmFault[] = [];
  /** Those of them in which the attempt's hypervisors cheated. */
  #cheats: VmFault[] = [];
  /** Whether a VM was lost or cut off, and every error may come of that. */
  #lost = false;
  #warned = new Set<string>();
  /** Hosts on which the guest runs. */
  readonly #running = new Map<string, number>();

  constructor(view: OracleView) {
    this.#view = view;
    this.#attempt = view.scenario;
  }

  /** Whether the attempt moves disks alone. */
  get #alone(): boolean {
    return this.#attempt.policy.memory === 'none';
  }

  report(rule: RuleName, message: string): void {
    if (this.violations.filter((violation) => violation.rule === rule).length >= keptMax) return;
    this.violations.push({ rule, message, atMs: this.#view.now() });
  }

  /** An attempt begins. */
  begins(attempt: Scenario): void {
    this.#attempt = attempt;
    this.#beganAtMs = this.#view.now();
    this.#cheats = [];
    this.#unequal = '';
    this.#hooksCalled = [];
    this.#ended = {};
    this.#ranAtMs = undefined;
    this.#touched = [];
    this.#moment = undefined;
    this.#warned = new Set();
  }

  // With every event.

  vmEvent(event: VmEvent): void {
    if (event.kind === 'fault') {
      this.#struck.push(event.fault);
      if (isCheat(event.fault)) this.#cheats.push(event.fault);
    }
    if (event.host === 'source') this.#noteTouch(event);
    if (event.kind === 'throttle' && event.fraction > resolvePolicy(this.#attempt.policy).throttleMax)
      this.report('limits', `${event.host}: a throttle of ${event.fraction}`);
    if (event.kind === 'violation') this.report('contract', `${event.host}: ${event.message}`);
    if (event.kind === 'state') this.#stateChanged(event.host, event.state, event.before);
    if (event.kind === 'started') this.#started(event.run);
  }

  #noteTouch(event: VmEvent): void {
    if (event.kind === 'tap' && event.set) this.#touched.push(`a tap on ${event.disk}`);
    if (event.kind === 'throttle' && event.fraction > 0) this.#touched.push('a throttle');
    if (event.kind === 'state' && event.state === 'stunning') this.#touched.push('a stun');
  }

  #stateChanged(host: string, state: string, before: string): void {
    if (state === 'gone' || state === 'off') this.#lost = true;
    if (host === 'source' && state === 'stunned' && this.#alone) this.#moment = this.#copiedNow();
    if (state === 'handed-over') this.#handedOver();
    if (host === 'source' && state === 'stunning') {
      this.#tapped = this.#view.vm.tappedDisks;
      this.#stunnedAtMs = this.#view.now();
      const { timeoutMs = Number.POSITIVE_INFINITY, onTimeout = 'cancel' } = this.#attempt.policy;
      const lateMs = this.#stunnedAtMs - this.#beganAtMs - timeoutMs;
      if (onTimeout === 'cancel' && lateMs > toleranceMs)
        this.report('timely', `stunned ${lateMs} ms after it`);
    }
    if (host === 'destination' && state === 'running') this.#ranAtMs ??= this.#view.now();
    if (host === 'source' && state === 'running') {
      this.#untapped = this.#tapped.filter((disk) => !this.#view.vm.tappedDisks.includes(disk));
    }
    const change = (state === 'running' ? 1 : 0) - (before === 'running' ? 1 : 0);
    if (change === 0) return;
    this.#running.set(host, (this.#running.get(host) ?? 0) + change);
    let all = 0;
    for (const count of this.#running.values()) all += count;
    if (all > 1) this.report('one-runs', `the guest runs at ${[...this.#running.keys()].join(' and ')}`);
    if (change > 0 && host === 'source' && this.#owner() === 'destination') {
      this.report('owner-runs', 'the guest runs at the source, and owner stands at the destination');
    }
    if (change > 0 && host === 'destination' && this.#owner() === 'source') {
      this.report('owner-runs', 'the guest runs at the destination, and owner does not stand');
    }
  }

  #started(run: boolean): void {
    const { vm, backend, leftDisks, scenario } = this.#view;
    const there = backend.vm;
    if (there === undefined) return;
    if (this.#owner() === 'source') this.report('owner-runs', 'it starts without the claim of owner');
    const given = this.#view.claims('source').some(({ value }) => value === 'given');
    if (!given) this.report('owner-runs', 'it starts, and the source has not given it');
    const runs = scenario.vm.paused !== true && !this.#view.operatorPaused();
    if (run !== runs) this.report('truth', `the guest ${runs ? 'ran' : 'was paused'}, and starts ${run}`);
    const comparison = compareSimulatedVms(vm, there, { exceptDisks: leftDisks });
    if (!comparison.equal) this.#differs('equal', comparison.summary);
  }

  /** A cheat is a reason; but not where all was audited, which its report tells. */
  #differs(rule: RuleName, message: string): void {
    if (this.#cheats.length === 0) this.report(rule, message);
    this.#unequal ||= message;
  }

  /** A hook is about to begin. */
  hookCalled(name: HookName): void {
    const say = (what: string) => this.report('hooks', `${name}: ${what}`);
    if (this.#hooksCalled.includes(name)) say('it was called before');
    this.#hooksCalled.push(name);
    if (this.#attempt.rehearse === true || this.#alone) say('nothing is to be started');
    if (this.#owner() !== 'destination') say('owner does not stand');
    const started = this.#view.backend.vm !== undefined;
    if (started !== (name === 'afterStart')) say(`the guest was ${started ? '' : 'not '}started`);
  }

  /** What the disks that are copied hold. */
  #copiedNow(): ReadonlyMap<string, Generations> {
    const { vm, scenario } = this.#view;
    const modes = diskModesOf(scenario);
    const copied = vm.disks.filter(({ id }) => modes.get(id) === 'copy');
    return new Map(
      copied.map(({ id, space: { generations } }) => {
        const now = new Generations(generations.size);
        now.copy(generations);
        return [id, now];
      }),
    );
  }

  #handedOver(): void {
    this.#wasHandedOver = true;
    const there = this.#view.backend.vms.findLast(({ state }) => state === 'handed-over');
    if (!this.#alone) this.report('copied', 'disks are handed over, and the VM was to move');
    if (this.#moment === undefined)
      this.report('copied', 'disks are handed over, and the guest was never stunned');
    for (const [id, was] of this.#moment ?? []) {
      const disk = there?.disks.find((candidate) => candidate.id === id);
      let blocks = disk === undefined || disk.space.badUnits.length > 0 ? 1 : 0;
      if (disk !== undefined) {
        was.differences(disk.space.generations, (from, to) => {
          blocks += to - from;
        });
      }
      if (blocks > 0)
        this.#differs('copied', `disk ${id}: ${blocks} blocks are not as they were at the stun`);
    }
  }

  /** The source goes on after a failed switchover. */
  retreated(): void {
    if (this.#untapped.length > 0)
      this.report('tapped', `it ran on without a tap on ${this.#untapped.join(', ')}`);
  }

  /** The guest is, or will be, slowed, or the migration may not end well. */
  warned({ kind, disk = '', guestBytesPerSecond, bytesPerSecond }: Warning): void {
    const say = (what: string) => this.report('truth', `a warning, ${kind} ${disk}: ${what}`);
    if (this.#warned.has(kind + disk)) say('it was told before');
    this.#warned.add(kind + disk);
    // A link counts as outrun from nine tenths of it on.
    if (!(guestBytesPerSecond > (kind === 'slow-link' ? 0.9 : 1) * bytesPerSecond))
      say(`${guestBytesPerSecond} is not more than ${bytesPerSecond}`);
    if (kind !== 'slow-disk') return;
    if (diskModesOf(this.#view.scenario).get(disk) !== 'copy') say('it is not copied');
    if (!this.#mayBeSlow()) say('the disks at the destination have no limits');
  }

  #mayBeSlow(): boolean {
    const { latencyMs, iops, bytesPerSecond, flushMs } = this.#view.scenario.hosts?.disk ?? {};
    const limited = [latencyMs, iops, bytesPerSecond, flushMs].some((limit) => limit !== undefined);
    return limited || this.#struck.some(({ point }) => point.startsWith('disk-'));
  }

  /** The source did not even begin. */
  refused(error: MigrationError): void {
    this.#untouched(`refused: ${error.code}`);
    if (!hasReason(this.#view.scenario, error.code, this.#struck)) {
      this.report('excused', `refused: ${error.code}, ${error.message}`);
    }
  }

  #untouched(how: string): void {
    if (this.#claims !== '') this.report('untouched', `${how}; ${this.#claims} stands`);
    if (this.#touched.length > 0) this.report('untouched', `${how}; there was ${this.#touched.join(', ')}`);
  }

  // With every report.

  ended(report: MigrationReport): void {
    const { role, outcome, owner, error } = report;
    const say = (what: string) => this.report('truth', `${role}, ${outcome}, owner ${owner}: ${what}`);
    const stands = this.#decision(report.epoch);
    if (owner === 'source' && stands === 'owner') say('owner stands at the destination');
    if (owner === 'destination' && stands !== 'owner') say('owner does not stand at the destination');
    if ((outcome === 'undecided') !== (owner === 'undecided')) say('these do not go together');
    if (outcome === 'completed' && owner !== 'destination') say('these do not go together');
    const well = outcome === 'completed' || outcome === 'rehearsed' || outcome === 'copied';
    if (!well && error === undefined) say('there is no error');
    const stays = outcome === 'rehearsed' || outcome === 'copied';
    if (stays && owner !== 'source') say('these do not go together');
    if (outcome === (this.#alone ? 'completed' : 'copied')) say('it was to be otherwise');
    if (outcome === 'copied') this.#copied(say);
    const claims = this.#claims;
    if (this.#alone && claims !== '') this.report('copied', `${role}, ${outcome}: ${claims} stands`);
    const hasCause = error === undefined || hasReason(this.#view.scenario, error.code, this.#struck);
    if (!hasCause && !this.#lost) this.report('excused', `${role}: ${error?.code}, ${error?.message}`);
    if (error !== undefined && error.owner !== owner) say(`the error says ${error.owner}`);
    if (error?.code === 'internal') this.report('sane', `${role}: ${error.message}`);
    const blames = error?.code === 'protocol' || error?.code === 'digest-mismatch';
    if (blames && !this.#view.bytesWereHurt()) this.report('sane', `${role}: ${error.message}`);
    this.#audited(report);
    this.#ended[role] = report;
    this.#wasDown();
    if (role === 'source') this.#sourceEnded(report, say);
    else this.#destinationEnded(report, say);
  }

  #audited({ role, outcome, audit }: MigrationReport): void {
    const say = (what: string) =>
      this.report('audited', `${role}, ${outcome}, ${JSON.stringify(audit)}: ${what}`);
    const { mode, units, bytes, differing, missChance } = audit;
    if (!(missChance >= 0 && missChance <= 1)) say('that is no chance');
    if (mode === 'off' && (units > 0 || missChance !== 1)) say('nothing was to be compared');
    if (units > 0 !== bytes > 0) say('these do not go together');
    if (differing > 0 && this.#cheats.length === 0) say('nobody cheats');
    // What could not be read was not compared, and the chance says so.
    const well = outcome === 'completed' || outcome === 'copied';
    if (well && mode === 'full' && missChance === 0 && this.#unequal !== '') say(this.#unequal);
    if (well && mode === 'full' && missChance > 0 && !this.#isUnreadable(audit))
      say('all of it could be read');
  }

  #isUnreadable({ units }: AuditReport): boolean {
    const failed = this.#struck.some(({ point, effect }) => point === 'disk-read' && effect === 'fail');
    const { vm, policy } = this.#attempt;
    const hasMemory = vm.memory.sizeBytes > 0 && policy.memory !== 'none';
    const hasDisks = [...diskModesOf(this.#attempt).values()].includes('copy');
    return failed || (units === 0 && !hasMemory && !hasDisks);
  }

  #stoodStill({ outcome, downtimeMs, downtime, switchoverAttempts }: MigrationReport): void {
    if (downtime === undefined) {
      if (outcome === 'completed' && this.#attempt.policy.memory !== 'none')
        this.report('downtime', 'no parts are told');
      return;
    }
    const { uncertaintyMs, ...parts } = downtime;
    const sumMs = Object.values(parts).reduce((sum, ms) => sum + ms, 0);
    const said = `${downtimeMs} ms, ${JSON.stringify(downtime)}, stunned ${switchoverAttempts} times`;
    // A flight that was less than it is taken to have been counts as none.
    if (sumMs < downtimeMs - toleranceMs || sumMs > downtimeMs + uncertaintyMs + toleranceMs)
      this.report('downtime', `${said}: that is ${sumMs} ms`);
  }

  /** What the source says of the downtime, and what it was; where it did not have to ask who owns the VM, as that is not to ask whether its guest runs. */
  #wasDown(): void {
    const { source, destination } = this.#ended;
    const ended = source?.outcome === 'completed' && destination?.outcome === 'completed';
    if (!ended || source.downtime === undefined || this.#ranAtMs === undefined) return;
    const { downtimeMs, downtime, switchoverAttempts } = source;
    const { uncertaintyMs } = downtime;
    const stoodMs = this.#ranAtMs - this.#stunnedAtMs;
    const aboveMs = downtimeMs - stoodMs - uncertaintyMs;
    const { paths, timeline } = this.#view.scenario;
    const isHeard = timeline.every(({ do: action }) => 'vm' in action && action.fault.point !== 'start');
    if (!isHeard || !decideIsAmple(this.#attempt)) return;
    const { lossProbability = 0, jitterMs = 0 } = paths[0] ?? {};
    const isCalm = paths.length === 1 && lossProbability + jitterMs === 0 && timeline.length === 0;
    // DONE is never there sooner. It may be on its way for longer than its part of the smallest round trip.
    const isWrong = downtimeMs < stoodMs - uncertaintyMs - toleranceMs;
    if (isWrong || (isCalm && aboveMs > doneMsMax)) {
      const said = `${downtimeMs} ms, ${JSON.stringify(downtime)}, stunned ${switchoverAttempts} times`;
      this.report('downtime', `${said}: it stood still for ${stoodMs} ms`);
    }
    const limitMs = downtimeMsMost(this.#attempt, this.#stunnedAtMs);
    if (isCalm && limitMs !== undefined && stoodMs > limitMs)
      this.report('limits', `it stood still for ${stoodMs} ms, of ${limitMs}: ${JSON.stringify(downtime)}`);
  }

  #copied(say: (what: string) => void): void {
    // Its host may have died since.
    if (!this.#wasHandedOver) say('nothing is handed over');
  }

  #sourceEnded(report: MigrationReport, say: (what: string) => void): void {
    const { outcome, owner, error, guestWriteHoldMs } = report;
    const { vm } = this.#view;
    this.#stoodStill(report);
    const early = error?.phase === 'connect' || error?.phase === 'prepare';
    if (early && outcome === 'failed') this.#untouched(`failed in ${error.phase}: ${error.code}`);
    if (guestWriteHoldMs > this.#holdMsMax) this.report('prompt', `${guestWriteHoldMs} ms are reported`);
    const guest = error?.guest ?? 'unknown';
    const runs = vm.state === 'running';
    const lost = vm.state === 'off' || vm.state === 'gone';
    if (owner !== 'destination') {
      if (guest === 'running' && !runs) say(`the guest is said to run, and is ${vm.state}`);
      if (guest === 'paused' && runs) say('the guest is said to be paused, and runs');
      if (guest === 'lost' && !lost) say(`the guest is said to be lost, and is ${vm.state}`);
    }
    const stays = outcome === 'rehearsed' || outcome === 'copied';
    if ((outcome !== 'failed' && !stays) || lost) return;
    const ran = this.#view.scenario.vm.paused !== true && !this.#view.operatorPaused();
    if (runs !== ran && (guest !== 'unknown' || stays)) {
      this.report('restored', `the guest is ${vm.state}, and is said to be ${guest}`);
    }
    if (vm.tappedDisks.length > 0) this.report('restored', `taps stay on ${vm.tappedDisks.join(', ')}`);
    if (vm.throttle > 0) this.report('restored', `a throttle of ${vm.throttle} stays`);
  }

  #destinationEnded(report: MigrationReport, say: (what: string) => void): void {
    const { outcome, owner, error } = report;
    const there = this.#view.backend.vm;
    this.#hooksEnded(report);
    const left = this.#view.backend.vms.some(({ state }) => state === 'prepared' || state === 'loaded');
    if (left && owner === 'source') this.report('untouched', `${outcome}; a prepared VM stays`);
    if (outcome === 'completed' && there === undefined) say('nothing was started');
    if (outcome !== 'completed' && owner !== 'source' && error?.guest === 'running' && there === undefined) {
      say('the guest is said to run');
    }
    if (error?.guest === 'paused' && there?.state === 'running') say('the guest is said to be paused');
  }

  /** Each hook that was called took its time, and no more than it has; and whether it failed is said where the migration did not. */
  #hooksEnded({ outcome, error, hooks = {} }: MigrationReport): void {
    const say = (what: string) =>
      this.report('hooks', `${outcome}, ${error?.code} ${error?.message}, ${JSON.stringify(hooks)}: ${what}`);
    const all = this.#attempt.hosts?.hooks ?? {};
    const failing: string[] = [];
    for (const name of ['beforeStart', 'afterStart'] as const) {
      const how = all[name];
      const tookMs = hooks[`${name}Ms`];
      const called = this.#hooksCalled.includes(name);
      if (how === undefined || called !== (tookMs !== undefined)) {
        if (how !== undefined || tookMs !== undefined) say(`${name} was ${called ? '' : 'not '}called`);
        continue;
      }
      if (outcome === 'completed' && !called) say(`${name} was not called`);
      const { ms, fails } = outcomeOfHook(how, all);
      if (called && Math.abs((tookMs ?? 0) - ms) > toleranceMs) say(`${name} takes ${ms} ms`);
      if (called && fails) failing.push(name);
    }
    if (outcome !== 'completed') return;
    if (failing.length === 0 && error !== undefined) say('no hook fails');
    if (failing.length > 0 && error?.code !== 'hook-failed') say(`${failing.join(' and ')} fails`);
    if (failing.some((name) => error?.message.includes(name) !== true))
      say(`not a word of ${failing.join(' and ')}`);
  }

  recovered(end: EndName, { action, owner, epoch }: RecoveryReport): void {
    const say = (what: string) =>
      this.report('truth', `${end}, recovered (${action}, owner ${owner}): ${what}`);
    const stands = this.#decision(epoch);
    if (owner === 'source' && stands === 'owner') say('owner stands at the destination');
    if (owner === 'destination' && stands !== 'owner') say('owner does not stand at the destination');
    const { vm, backend } = this.#view;
    const alive = vm.state !== 'off' && vm.state !== 'gone';
    const ran = this.#view.scenario.vm.paused !== true && !this.#view.operatorPaused();
    if ((action === 'resumed' || action === 'reclaimed') && alive && (vm.state === 'running') !== ran) {
      say(`the guest is ${vm.state}`);
    }
    if (action === 'started' && backend.vm === undefined) say('nothing was started');
  }

  // When all is mended, and when all is over.

  /** The guest is somewhere, once, or lost where its owner is. */
  mended(): void {
    const { vm, backend, scenario } = this.#view;
    const all = [vm, ...backend.vms];
    const mayPause = scenario.vm.paused === true || this.#view.operatorPaused();
    const lives = all.filter(({ state }) => state === 'running' || (mayPause && state === 'paused'));
    const owner = this.#owner();
    const states = all.map(({ host, state }) => `${host}: ${state}`).join(', ');
    if (lives.length > 1) this.report('somewhere', `it is there ${lives.length} times: ${states}`);
    const [one] = lives;
    if (one !== undefined) {
      if (one.host !== owner) this.report('somewhere', `the ${owner} owns it; ${states}`);
      return;
    }
    const lost = all.some(({ host, state }) => host === owner && (state === 'gone' || state === 'off'));
    if (!lost) this.report('somewhere', `it is nowhere; ${states}`);
  }

  over(network: NetworkStatistics, pendingTimers: number, heldBytesMax: number): void {
    const { longestHoldMs } = this.#view.vm;
    if (longestHoldMs > this.#holdMsMax) {
      this.report('prompt', `a guest write was held for ${longestHoldMs} ms, ${this.#holdMsMax} are allowed`);
    }
    if (network.openEnds > 0) this.report('left-open', `${network.openEnds} ends of connections are open`);
    if (pendingTimers > 0) this.report('left-open', `${pendingTimers} timers are set`);
    if (network.heldBytesPeak > heldBytesMax) {
      this.report('held', `${network.heldBytesPeak} bytes were held, ${heldBytesMax} may be`);
    }
  }

  /** What stands, but for *declined*: that can stand for an attempt that never was, if somebody asks about it. */
  get #claims(): string {
    const all = [...this.#view.claims('source'), ...this.#view.claims('destination')];
    const values = all.map(({ value }) => value).filter((value) => value !== 'declined');
    return values.join(' and ');
  }

  get #holdMsMax(): number {
    const { guestWriteHoldMsMax = 0 } = this.#view.scenario.policy;
    // Sums of fractions of a millisecond are off by less.
    return guestWriteHoldMsMax > 0 ? guestWriteHoldMsMax + 1e-6 : 0;
  }

  #decision(epoch: number): string | undefined {
    const claims = this.#view.claims('destination');
    return claims.find((claim) => claim.epoch === epoch && claim.role === 'destination')?.value;
  }

  /** Who owns it, by what stands. */
  #owner(): EndName {
    const owned = this.#view.claims('destination').some(({ value }) => value === 'owner');
    return owned ? 'destination' : 'source';
  }
}
