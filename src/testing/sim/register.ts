import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { Claim, ClaimRole, ClaimValue, OwnershipRegister } from '../../interfaces/register.ts';
import { delay } from '../../util/promises.ts';
import type { ProcessTie } from './engine-process.ts';
import type { EndName, ScenarioRegisterFault } from './scenario.ts';

/** What a {@link SimulatedRegister} needs. */
export interface SimulatedRegisterOptions {
  readonly environment: Environment;
  /** How long a call takes, in ms; a claim stands after half of it. */
  readonly callMs: number;
  /** Whether both ends share it: then a claim that is on its way arrives although the process that made it died. */
  readonly shared: boolean;
  /** Told when a claim begins to stand. */
  readonly stands: (claim: Claim) => void;
}

interface Planned {
  readonly fault: ScenarioRegisterFault;
  times: number;
}

/** An ownership register that outlives the processes that use it. For one VM. */
export class SimulatedRegister {
  readonly #options: SimulatedRegisterOptions;
  readonly #claims = new Map<string, Claim>();
  #faults: Planned[] = [];

  constructor(options: SimulatedRegisterOptions) {
    this.#options = options;
  }

  /** What stands. */
  get claims(): readonly Claim[] {
    return [...this.#claims.values()];
  }

  addFault(fault: ScenarioRegisterFault): void {
    this.#faults.push({ fault, times: fault.times ?? 1 });
  }

  clearFaults(): void {
    this.#faults = [];
  }

  /** The register as a process of an end sees it. */
  handle(end: EndName, tie: ProcessTie): OwnershipRegister {
    return {
      claim: (_vmId, epoch, role, value) => tie.call(() => this.#claim(end, tie, { epoch, role, value })),
      prepare: () => tie.call(() => this.#prepare(end)),
      read: () => tie.call(() => this.#read(end)),
    };
  }

  async #claim(end: EndName, tie: ProcessTie, claim: Claim): Promise<ClaimValue> {
    const does = await this.#begin(end, 'claim', claim.value);
    // A file is not written by a process that is dead; a request to a server is carried out without it.
    if (tie.dead && !this.#options.shared) return claim.value;
    const value = does === 'fail' ? undefined : this.#standing(claim);
    await delay(this.#options.environment, this.#options.callMs / 2);
    if (value === undefined || does === 'fail-afterwards') {
      throw new MigrationError('register', `the claim of ${claim.value} failed`);
    }
    return value;
  }

  async #prepare(end: EndName): Promise<void> {
    const does = await this.#begin(end, 'prepare', undefined);
    await delay(this.#options.environment, this.#options.callMs / 2);
    if (does === 'fail' || does === 'fail-afterwards') {
      throw new MigrationError('register', 'the register could not make ready');
    }
  }

  async #read(end: EndName): Promise<readonly Claim[]> {
    const does = await this.#begin(end, 'read', undefined);
    const { claims } = this;
    await delay(this.#options.environment, this.#options.callMs / 2);
    if (does === 'fail' || does === 'fail-afterwards') {
      throw new MigrationError('register', 'the register could not be read');
    }
    return claims;
  }

  #standing(claim: Claim): ClaimValue {
    const key: `${number}.${ClaimRole}` = `${claim.epoch}.${claim.role}`;
    const first = this.#claims.get(key);
    if (first !== undefined) return first.value;
    this.#claims.set(key, Object.freeze({ ...claim }));
    this.#options.stands(claim);
    return claim.value;
  }

  /** The first half of a call, and what goes wrong with it. */
  async #begin(
    end: EndName,
    on: ScenarioRegisterFault['on'],
    value: ClaimValue | undefined,
  ): Promise<ScenarioRegisterFault['does'] | undefined> {
    const planned = this.#faults.find(
      ({ fault, times }) =>
        times > 0 &&
        fault.register === end &&
        fault.on === on &&
        (fault.value === undefined || fault.value === value),
    );
    if (planned !== undefined) planned.times--;
    const does = planned?.fault.does;
    if (does === 'hang') await new Promise<never>(() => {});
    const moreMs = does === 'delay' ? (planned?.fault.ms ?? 0) : 0;
    await delay(this.#options.environment, this.#options.callMs / 2 + moreMs);
    return does;
  }
}
