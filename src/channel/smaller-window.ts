/** Whether a window that became smaller was a help. Round trips are long for other reasons than a queue, too, and then it only carries less. */

/** A window that is so much of what it was, for so many looks, is too small if less is carried, by more than this part of what it is less. */
const judgedShare = 0.8;
const judgedLooks = 4;
const carriedLess = 0.5;
/** What is carried is that of the window as it was so many looks before. */
export const carriedLag = 2;

/** What a look shows of a window. */
export interface WindowLook {
  /** The window, and what it was {@link carriedLag} looks before. */
  readonly bytes: number;
  readonly bytesThen: number;
  /** What was carried lately, in bytes per ms. */
  readonly bytesPerMs: number;
  /** Whether it held something up: what was carried of what there was to send says nothing. */
  readonly limited: boolean;
  /** Whether what was carried waited for lost packets: such a look does not count. */
  readonly late: boolean;
}

interface Before {
  readonly bytes: number;
  /** What arrived with it; undefined: that is still to come. */
  bytesPerMs: number | undefined;
  /** Looks since, and those at less than {@link judgedShare} of it; late ones do not count. */
  looks: number;
  smaller: number;
}

/** See the top of this file. Pure. */
export class SmallerWindow {
  #before: Before | undefined;

  /** It becomes smaller than `bytes`; once more, perhaps. */
  begin(bytes: number): void {
    this.#before ??= { bytes, bytesPerMs: undefined, looks: 0, smaller: 0 };
  }

  forget(): void {
    this.#before = undefined;
  }

  /** The next look. Returns what the window was before it became too small, if it did. */
  look({ bytes, bytesThen, bytesPerMs, limited, late }: WindowLook): number | undefined {
    const before = this.#before;
    if (before === undefined) return undefined;
    const share = bytes / before.bytes;
    if (!limited || share >= 1) this.forget();
    if (!limited || late) return undefined;
    before.looks++;
    if (before.looks === carriedLag) before.bytesPerMs = bytesPerMs;
    // A smaller window carries less in proportion. Less than that, and it is the link that has become slower: what it carried says nothing any more.
    const least = Math.min(1, bytesThen / before.bytes) * (before.bytesPerMs ?? 0);
    if (bytesPerMs < judgedShare * least) {
      this.#before = { bytes: bytesThen, bytesPerMs, looks: carriedLag, smaller: 0 };
      return undefined;
    }
    if (share > judgedShare) return undefined;
    before.smaller++;
    if (before.smaller < judgedLooks || before.bytesPerMs === undefined) return undefined;
    this.forget();
    const windowLess = 1 - bytesThen / before.bytes;
    return 1 - bytesPerMs / before.bytesPerMs > carriedLess * windowLess ? before.bytes : undefined;
  }
}
