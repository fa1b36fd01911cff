import type { RecoveryReport } from '../../core/handover/recover.ts';
import type { Migration } from '../../core/migration.ts';
import { asMigrationError, MigrationError, type Phase } from '../../errors.ts';
import type { MigrationReport } from '../../interfaces/migration.ts';
import { type Deferred, deferred, delay, withTimeout } from '../../util/promises.ts';
import type { EventLog } from './event-log.ts';
import type { Oracle } from './oracle.ts';
import type { SimulatedProcess } from './process.ts';
import type { EndName } from './scenario.ts';
import type { Timeline } from './timeline.ts';

/** What an end is at: it migrates, its migration is over, or it was started again; or its process is dead. */
export type EndStage = 'new' | 'migrating' | 'ended' | 'restarted' | 'dead';

/** One try of an end to learn who owns the VM. */
export interface RecoveryRecord {
  /** Which end recovered. */
  readonly end: EndName;
  /** When it ended. */
  readonly atMs: number;
  /** What it came to, or ... */
  readonly report?: RecoveryReport;
  /** ... why it failed. */
  readonly error?: MigrationError;
}

/** What is different at the two ends. */
export interface Role {
  readonly name: EndName;
  /** A process on this host, with its connections. */
  start(): SimulatedProcess;
  /** Throws what it refuses before it has touched anything. */
  migration(process: SimulatedProcess): Migration;
  /** Whether it is for `recover()` to bring the VM to where the report says that it belongs. */
  needsRecovery(process: SimulatedProcess, report: MigrationReport): boolean;
  recover(process: SimulatedProcess): Promise<RecoveryReport>;
  /** Whether a failed recovery says that there is nothing to recover. */
  nothingToRecover(error: MigrationError): boolean;
  /** Answers questions until the process is closed. */
  answer(process: SimulatedProcess): Promise<void>;
  /** The engine's process is dead: the hypervisor notices. */
  cut(): void;
  /** The host lost power. */
  loseVms(): void;
}

/** What an end tells of itself. */
export interface EndWitness {
  readonly log: EventLog;
  readonly oracle: Oracle;
  readonly timeline: Timeline;
  readonly recoveries: RecoveryRecord[];
}

/** Before an end that failed to recover tries again, in ms. */
const againMs = 500;
/** A try that takes longer hangs, and another one is made. */
const tryMsMax = 20_000;

/** One end of a migration through the lives of all its processes. */
export class SimulatedEnd {
  readonly #role: Role;
  readonly #witness: EndWitness;
  /** Whether it answers questions as soon as its run is over. */
  #answersAtOnce: boolean;
  readonly #over: Deferred<void> = deferred();
  #stage: EndStage = 'new';
  #process: SimulatedProcess | undefined;
  #report: MigrationReport | undefined;
  #refusal: MigrationError | undefined;
  #settled = false;
  #answering = false;

  constructor(role: Role, witness: EndWitness, answersAtOnce: boolean) {
    this.#role = role;
    this.#witness = witness;
    this.#answersAtOnce = answersAtOnce;
  }

  get name(): EndName {
    return this.#role.name;
  }

  get stage(): EndStage {
    return this.#stage;
  }

  /** What its run came to, unless its process died before. */
  get report(): MigrationReport | undefined {
    return this.#report;
  }

  /** Why it did not even begin, if it did not. */
  get refusal(): MigrationError | undefined {
    return this.#refusal;
  }

  /** Whether it knows who owns the VM, and has done what follows from that. */
  get settled(): boolean {
    return this.#settled;
  }

  /** Resolves when its run is over, or its process has died. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  /** Begins to migrate. */
  begin(): void {
    const process = this.#role.start();
    this.#process = process;
    this.#stage = 'migrating';
    const { log, timeline, oracle } = this.#witness;
    let migration: Migration;
    try {
      migration = this.#role.migration(process);
    } catch (error) {
      this.#refused(asMigrationError(error, 'internal'));
      return;
    }
    migration.on('phase', (phase: Phase) => {
      if (process.dead) return;
      log.add(this.name, `phase ${phase}`);
      timeline.phase(this.name, phase);
    });
    migration.on('round', ({ round, bytes, decision, throttle }) => {
      if (!process.dead)
        log.add(this.name, `round ${round}: ${bytes} bytes, ${decision}, throttle ${throttle}`);
    });
    migration.on('outage', ({ durationMs, resentBytes }) => {
      if (!process.dead) log.add(this.name, `outage of ${durationMs} ms, ${resentBytes} bytes again`);
    });
    migration.on('warning', (warning) => {
      if (process.dead) return;
      log.add(this.name, `warning, ${warning.kind} ${warning.disk ?? ''}: ${warning.message}`);
      oracle.warned(warning);
    });
    migration.on('retreat', ({ attempt, error, stunnedMs }) => {
      if (process.dead) return;
      log.add(this.name, `retreat ${attempt} after ${stunnedMs} ms: ${error.code}, ${error.message}`);
      if (this.name === 'source') oracle.retreated();
    });
    void migration.run({ signal: process.caller.signal }).then((report) => {
      if (!process.dead) this.#ended(process, report);
    });
  }

  abort(): void {
    this.#process?.caller.abort();
  }

  kill(how: 'process' | 'host'): void {
    const process = this.#process;
    process?.kill(how === 'host' ? 'silent' : 'reset');
    this.#role.cut();
    if (how === 'host') this.#role.loseVms();
    this.#process = undefined;
    this.#stage = 'dead';
    this.#settled = false;
    this.#answering = false;
    this.#over.resolve();
  }

  /** A new process does what its register says. Nothing happens while there is one. */
  restart(): void {
    if (this.#stage !== 'dead') return;
    const process = this.#role.start();
    this.#process = process;
    this.#stage = 'restarted';
    this.#witness.log.add(this.name, 'starts again');
    this.#answer(process);
    void this.#recover(process);
  }

  /** Whatever was wrong is not any more. */
  mend(): void {
    this.#answersAtOnce = true;
    this.restart();
    if (this.#process !== undefined && this.#stage === 'ended') this.#answer(this.#process);
  }

  /** Nothing has begun, so there is nothing to learn. */
  #refused(error: MigrationError): void {
    this.#stage = 'ended';
    this.#refusal = error;
    this.#settled = true;
    this.#witness.log.add(this.name, `refused: ${error.code}, ${error.message}`);
    this.#witness.oracle.refused(error);
    this.#over.resolve();
  }

  #ended(process: SimulatedProcess, report: MigrationReport): void {
    this.#stage = 'ended';
    this.#report = report;
    noteReport(this.#witness.log, report);
    this.#witness.oracle.ended(report);
    if (this.#answersAtOnce) this.#answer(process);
    if (this.#role.needsRecovery(process, report)) void this.#recover(process);
    else this.#settled = true;
    this.#over.resolve();
  }

  #answer(process: SimulatedProcess): void {
    if (this.#answering) return;
    this.#answering = true;
    void this.#role.answer(process);
  }

  async #recover(process: SimulatedProcess): Promise<void> {
    const { log, oracle, recoveries } = this.#witness;
    const { name } = this;
    while (!process.dead) {
      const record = await this.#try(process);
      if (process.dead) return;
      recoveries.push(record);
      const { report, error } = record;
      log.add(name, report === undefined ? `recover: ${error?.code}, ${error?.message}` : said(report));
      if (report !== undefined) oracle.recovered(name, report);
      const nothing = error !== undefined && this.#role.nothingToRecover(error);
      if (nothing || (report !== undefined && report.action !== 'undecided')) {
        this.#settled = true;
        return;
      }
      await delay(process.environment, againMs);
    }
  }

  async #try(process: SimulatedProcess): Promise<RecoveryRecord> {
    const common = { end: this.name, atMs: process.environment.now() };
    try {
      const late = () => new MigrationError('timeout', 'it takes too long');
      const recovering = this.#role.recover(process);
      return { ...common, report: await withTimeout(process.environment, tryMsMax, recovering, late) };
    } catch (error) {
      return { ...common, error: asMigrationError(error, 'internal') };
    }
  }
}

/** Writes down how an end's run ended. */
export function noteReport(log: EventLog, { role, outcome, owner, error }: MigrationReport): void {
  const why = error === undefined ? '' : `: ${error.code}, guest ${error.guest}: ${error.message}`;
  log.add(role, `${outcome}, owner ${owner}${why}`);
}

function said({ action, owner, epoch }: RecoveryReport): string {
  return `recover: ${action}, owner ${owner}, attempt ${epoch}`;
}
