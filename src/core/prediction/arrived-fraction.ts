import type { Phase } from '../../errors.ts';
import type { StreamProgress } from '../../interfaces/migration.ts';

/** How far it is at the least in a phase: content is nearly all of the way. */
const phaseShares: Partial<Readonly<Record<Phase, number>>> = {
  stun: 0.95,
  verify: 0.96,
  handover: 0.98,
  release: 0.99,
};
const contentShare = 0.95;

/** How far all of a migration is at the destination, which knows what has arrived, and not how fast the guest changes it. Never falls. */
export class ArrivedFraction {
  #fraction = 0;

  look(phase: Phase, streams: readonly StreamProgress[], done: boolean): number {
    const totalBytes = streams.reduce((sum, stream) => sum + stream.totalBytes, 0);
    const doneBytes = streams.reduce((sum, stream) => sum + Math.min(stream.doneBytes, stream.totalBytes), 0);
    const arrived = totalBytes > 0 ? (contentShare * doneBytes) / totalBytes : 0;
    this.#fraction = done ? 1 : Math.max(this.#fraction, arrived, phaseShares[phase] ?? 0);
    return this.#fraction;
  }
}
