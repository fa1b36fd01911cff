import type { AuditMode, AuditReport } from '../../interfaces/migration.ts';

/** What a part of an audit came to. */
export interface AuditCounts {
  /** Units that were compared. */
  readonly units: number;
  /** Their bytes. */
  readonly bytes: number;
  /** Those of them that were drawn from all there are. */
  readonly drawn: number;
  /** Those of them that differed. */
  readonly differing: number;
}

/** Adds up what audits have compared. */
export class AuditTally {
  readonly mode: AuditMode;
  /** All units that there are. */
  #of = 0;
  #units = 0;
  #bytes = 0;
  #drawn = 0;
  #differing = 0;

  constructor(mode: AuditMode) {
    this.mode = mode;
  }

  /** Another audit begins, out of so many units. */
  begin(of: number): void {
    this.#of = of;
    this.#units = 0;
    this.#bytes = 0;
    this.#drawn = 0;
  }

  add({ units, bytes, drawn, differing }: AuditCounts): void {
    this.#units += units;
    this.#bytes += bytes;
    this.#drawn += drawn;
    this.#differing += differing;
  }

  /** Of the last audit, but for `differing`, which is of all. */
  get report(): AuditReport {
    const passed = this.#of > 0 ? 1 - Math.min(this.#drawn, this.#of) / this.#of : 1;
    return {
      mode: this.mode,
      units: this.#units,
      bytes: this.#bytes,
      differing: this.#differing,
      missChance: passed,
    };
  }
}
