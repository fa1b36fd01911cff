import type { Environment } from '../interfaces/environment.ts';
import { end, type GreetedConnection } from './handshake.ts';
import { LaneCount, type LaneFigures, openMax } from './lane-count.ts';
import type { LaneSet } from './lane-set.ts';

/** After a lane could not be opened none is tried for so long. */
const redialMs = 1000;

/** What a keeper asks of its channel. */
export interface LaneSink {
  /** Opens a connection for a lane. */
  dial(index: number): Promise<GreetedConnection>;
  /** Takes it into use. */
  use(index: number, greeted: GreetedConnection): void;
  /** Whether there is no control connection, so that lanes are of no use. */
  isDown(): boolean;
  /** Whether the link is gone: lanes fail for that, and not for being too many. */
  isCut(): boolean;
}

/** Keeps as many lanes as there are to be: so many, or, where their number is automatic, as many as carry more than fewer would. At the end that dialled. */
export class LaneKeeper {
  readonly #environment: Environment;
  readonly #lanes: LaneSet;
  readonly #fixed: number | undefined;
  readonly #sink: LaneSink;
  readonly #count = new LaneCount();
  /** How many there are to be; 0: whatever there is. */
  #wanted = 0;
  #opening = 0;
  #noDialBeforeMs = 0;

  /** `fixed`: how many there are to be; undefined: automatic. */
  constructor(environment: Environment, lanes: LaneSet, fixed: number | undefined, sink: LaneSink) {
    this.#environment = environment;
    this.#lanes = lanes;
    this.#fixed = fixed;
    this.#sink = sink;
  }

  /** From now on lanes that are lost are replaced, and an automatic number follows what they carry. */
  begin(): void {
    this.#wanted = this.#fixed ?? this.#lanes.open.length;
  }

  /** Where the number is automatic: how many there are to be from now on. Returns whether some take nothing more, the youngest, and are to be closed. */
  adjust(figures: Omit<LaneFigures, 'nowMs' | 'lanes' | 'opening' | 'latestBytesPerSecond'>): boolean {
    if (this.#wanted === 0 || this.#fixed !== undefined) return false;
    const { open } = this.#lanes;
    const count = this.#count.look({
      ...figures,
      nowMs: this.#environment.now(),
      lanes: this.#wanted,
      opening: this.#opening,
      latestBytesPerSecond: open.reduce((sum, { window }) => sum + window.latestBytesPerSecond, 0),
    });
    this.#wanted = Math.max(1, count);
    const tooMany = open.slice(this.#wanted);
    for (const lane of tooMany) this.#lanes.retire(lane);
    return tooMany.length > 0;
  }

  /** Opens what is missing, some at a time: what is being done for that. */
  fill(): readonly Promise<void>[] {
    if (this.#environment.now() < this.#noDialBeforeMs) return [];
    const missing = this.#wanted - this.#lanes.open.length - this.#opening;
    const more = Math.max(0, Math.min(missing, openMax - this.#opening));
    return Array.from({ length: more }, () => this.#open());
  }

  /** One that cannot be had is done without: for a while, or, with an automatic number, until another one is worth it. */
  async #open(): Promise<void> {
    const index = this.#lanes.newIndex();
    if (index === undefined) return;
    this.#opening++;
    try {
      const greeted = await this.#sink.dial(index);
      if (this.#sink.isDown()) greeted.connection.abort();
      else if (this.#lanes.open.length < this.#wanted) this.#sink.use(index, greeted);
      else await end(greeted.connection, this.#environment);
    } catch {
      const nowMs = this.#environment.now();
      this.#noDialBeforeMs = nowMs + redialMs;
      if (this.#fixed !== undefined || this.#sink.isCut()) return;
      this.#wanted = Math.max(1, this.#wanted - 1);
      this.#count.failed(nowMs);
    } finally {
      this.#opening--;
    }
  }
}
