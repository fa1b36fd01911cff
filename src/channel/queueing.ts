import type { ClassStatistics } from '../interfaces/migration.ts';
import { Histogram } from '../util/histogram.ts';
import { type FrameClass, frameClasses } from '../wire/frame.ts';

/** What was sent of each class, and how long it waited. */
export class Queueing {
  readonly #bytes: Record<FrameClass, number> = { mirror: 0, memory: 0, bulk: 0 };
  readonly #waits: Readonly<Record<FrameClass, Histogram>> = {
    mirror: new Histogram(),
    memory: new Histogram(),
    bulk: new Histogram(),
  };

  /** A frame has left the queue after `waitMs`. */
  left(frameClass: FrameClass, bytes: number, waitMs: number): void {
    this.#bytes[frameClass] += bytes;
    this.#waits[frameClass].add(waitMs);
  }

  get statistics(): Readonly<Record<FrameClass, ClassStatistics>> {
    const of = (frameClass: FrameClass): ClassStatistics => ({
      bytes: this.#bytes[frameClass],
      queueMsMedian: this.#waits[frameClass].quantile(0.5),
      queueMsP99: this.#waits[frameClass].quantile(0.99),
    });
    return Object.fromEntries(frameClasses.map((each) => [each, of(each)])) as Record<
      FrameClass,
      ClassStatistics
    >;
  }
}
