import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { OwnershipRegister } from '../../interfaces/register.ts';
import { withTimeout } from '../../util/promises.ts';

/** What a register is busy with when a migration is over is waited for no longer than this. */
const lingerMsMax = 1000;

/** Makes a register ready for a claim; one that has nothing to make ready is read, which takes about as long. */
export async function makeReady(register: OwnershipRegister, vmId: string): Promise<void> {
  await (register.prepare?.(vmId) ?? register.read(vmId));
}

/** What a call takes, in ms. */
export async function timeCall(environment: Environment, call: () => Promise<unknown>): Promise<number> {
  const beforeMs = environment.now();
  await call();
  return environment.now() - beforeMs;
}

/** Keeps one end's register ready for a claim, so that little is left to do while the guest stands still, and knows what one takes. */
export class ClaimTime {
  readonly #register: OwnershipRegister;
  readonly #environment: Environment;
  #ms: number | undefined;
  #underWay: Promise<void> | undefined;

  constructor(register: OwnershipRegister, environment: Environment) {
    this.#register = register;
    this.#environment = environment;
  }

  /** The shortest so far: one may have taken long for having connected, or for what else was done. Undefined: nothing was seen yet. */
  get ms(): number | undefined {
    return this.#ms;
  }

  /** Makes ready and looks again, unless that is under way. Nothing waits for it: should it fail, so will the claim. */
  look(vmId: string): void {
    this.#underWay ??= this.#look(vmId).finally(() => {
      this.#underWay = undefined;
    });
  }

  /** Resolves when nothing is under way any more, or it takes too long. */
  async settled(): Promise<void> {
    if (this.#underWay === undefined) return;
    const tooLong = () => new MigrationError('timeout', 'the register takes too long');
    await withTimeout(this.#environment, lingerMsMax, this.#underWay, tooLong).catch(() => {});
  }

  async #look(vmId: string): Promise<void> {
    try {
      const ms = await timeCall(this.#environment, () => makeReady(this.#register, vmId));
      this.#ms = Math.min(this.#ms ?? ms, ms);
    } catch {
      // Told by the claim.
    }
  }
}
