import { type QmpClient, qmpCommandError } from './qmp.ts';
import { numberOf, objectOf } from './qmp-values.ts';

/**
 * The guest's balloon. Pages that go into it QEMU discards, which no dirty log shows: the source reads zeros then, and the destination has what was there
 * before, which the guest never reads again. So where it moved, the ends may rightly differ.
 */
export class Balloon {
  readonly #qmp: QmpClient;
  /** What the guest had outside it; undefined: there is none. */
  readonly #atFirst: number | undefined;
  #moved = false;

  private constructor(qmp: QmpClient, atFirst: number | undefined) {
    this.#qmp = qmp;
    this.#atFirst = atFirst;
    qmp.on('BALLOON_CHANGE', () => {
      this.#moved = true;
    });
  }

  /** From now on it is watched, as long as the monitor is open. Resolves to undefined where QEMU does not tell of it. */
  static async watch(qmp: QmpClient, signal?: AbortSignal): Promise<Balloon | undefined> {
    try {
      return new Balloon(qmp, await actualBytes(qmp, signal));
    } catch {
      return undefined;
    }
  }

  /** Whether it is as large as at first, and was never seen to move. False where QEMU does not tell any more. */
  async isStill(signal?: AbortSignal): Promise<boolean> {
    if (this.#moved) return false;
    // One that was plugged in later had to move to matter.
    if (this.#atFirst === undefined) return true;
    try {
      const now = await actualBytes(this.#qmp, signal);
      return now === this.#atFirst && !this.#moved;
    } catch {
      return false;
    }
  }
}

/** Undefined: there is no balloon. */
async function actualBytes(qmp: QmpClient, signal?: AbortSignal): Promise<number | undefined> {
  try {
    const { actual } = objectOf(await qmp.execute('query-balloon', undefined, { signal }), 'balloon');
    return numberOf(actual, 'balloon size');
  } catch (error) {
    if (qmpCommandError(error)?.errorClass === 'DeviceNotActive') return undefined;
    throw error;
  }
}
