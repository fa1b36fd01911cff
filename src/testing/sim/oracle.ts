/**
 * What must hold in every simulation, whatever its scenario does. Some rules are looked at with every event, some with every report, some when
 * all is mended or over. {@link rules} says what each means.
 */
import type { RecoveryReport } from '../../core/handover/recover.ts';
import type { MigrationReport } from '../../interfaces/migration.ts';
import type { Claim } from '../../interfaces/register.ts';
import { compareSimulatedVms } from './compare.ts';
import type { SimulatedBackend } from './hypervisor.ts';
import type { NetworkStatistics } from './network.ts';
import type { EndName, Scenario } from './scenario.ts';
import type { SimulatedVm } from './vm.ts';
import type { VmEvent } from './vm-events.ts';

/** Every rule, and what it asks for. */
export const rules = {
  'one-runs': 'never do both ends run the guest',
  'owner-runs':
    'a guest starts at the destination only when owner stands there, and never runs at the source then',
  equal: 'when the destination takes possession, memory, disks and device state are those of the source',
  tapped: 'a guest that runs on after a failed switchover writes nothing that no tap sees',
  restored: 'after a failure before commit the source is as it was: running if it ran, no taps, no throttle',
  truth: 'reports say who owns the VM, how the guest is and how it ended, as it is',
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

/** See the top of this file. */
export class Oracle {
  readonly violations: Violation[] = [];
  readonly #view: OracleView;
  /** Disks that were tapped when the guest was stunned last, and those of them that were not when it ran on. */
  #tapped: readonly string[] = [];
  #untapped: readonly string[] = [];
  /** Hosts on which the guest runs. */
  readonly #running = new Map<string, number>();

  constructor(view: OracleView) {
    this.#view = view;
  }

  report(rule: RuleName, message: string): void {
    if (this.violations.filter((violation) => violation.rule === rule).length >= keptMax) return;
    this.violations.push({ rule, message, atMs: this.#view.now() });
  }

  // With every event.

  vmEvent(event: VmEvent): void {
    if (event.kind === 'violation') this.report('contract', `${event.host}: ${event.message}`);
    if (event.kind === 'state') this.#stateChanged(event.host, event.state, event.before);
    if (event.kind === 'started') this.#started(event.run);
  }

  #stateChanged(host: string, state: string, before: string): void {
    if (host === 'source' && state === 'stunning') this.#tapped = this.#view.vm.tappedDisks;
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
    if (!comparison.equal) this.report('equal', comparison.summary);
  }

  /** The source goes on after a failed switchover. */
  retreated(): void {
    if (this.#untapped.length > 0)
      this.report('tapped', `it ran on without a tap on ${this.#untapped.join(', ')}`);
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
    const well = outcome === 'completed' || outcome === 'rehearsed';
    if (!well && error === undefined) say('there is no error');
    if (outcome === 'rehearsed' && owner !== 'source') say('these do not go together');
    if (error !== undefined && error.owner !== owner) say(`the error says ${error.owner}`);
    if (error?.code === 'internal') this.report('sane', `${role}: ${error.message}`);
    const blames = error?.code === 'protocol' || error?.code === 'digest-mismatch';
    if (blames && !this.#view.bytesWereHurt()) this.report('sane', `${role}: ${error.message}`);
    if (role === 'source') this.#sourceEnded(report, say);
    else this.#destinationEnded(report, say);
  }

  #sourceEnded({ outcome, owner, error }: MigrationReport, say: (what: string) => void): void {
    const { vm } = this.#view;
    const guest = error?.guest ?? 'unknown';
    const runs = vm.state === 'running';
    const lost = vm.state === 'off' || vm.state === 'gone';
    if (owner !== 'destination') {
      if (guest === 'running' && !runs) say(`the guest is said to run, and is ${vm.state}`);
      if (guest === 'paused' && runs) say('the guest is said to be paused, and runs');
      if (guest === 'lost' && !lost) say(`the guest is said to be lost, and is ${vm.state}`);
    }
    if ((outcome !== 'failed' && outcome !== 'rehearsed') || lost) return;
    const ran = this.#view.scenario.vm.paused !== true && !this.#view.operatorPaused();
    if (runs !== ran && (guest !== 'unknown' || outcome === 'rehearsed')) {
      this.report('restored', `the guest is ${vm.state}, and is said to be ${guest}`);
    }
    if (vm.tappedDisks.length > 0) this.report('restored', `taps stay on ${vm.tappedDisks.join(', ')}`);
    if (vm.throttle > 0) this.report('restored', `a throttle of ${vm.throttle} stays`);
  }

  #destinationEnded({ outcome, owner, error }: MigrationReport, say: (what: string) => void): void {
    const there = this.#view.backend.vm;
    if (outcome === 'completed' && there === undefined) say('nothing was started');
    if (outcome !== 'completed' && owner !== 'source' && error?.guest === 'running' && there === undefined) {
      say('the guest is said to run');
    }
    if (error?.guest === 'paused' && there?.state === 'running') say('the guest is said to be paused');
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
    if (network.openEnds > 0) this.report('left-open', `${network.openEnds} ends of connections are open`);
    if (pendingTimers > 0) this.report('left-open', `${pendingTimers} timers are set`);
    if (network.heldBytesPeak > heldBytesMax) {
      this.report('held', `${network.heldBytesPeak} bytes were held, ${heldBytesMax} may be`);
    }
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
