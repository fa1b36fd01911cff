import { MigrationError } from '../../errors.ts';
import type { MemoryRegion } from '../../interfaces/memory.ts';

/**
 * Pages of which each is kept as it came last. Until the guest stands still, QEMU makes one pass after the other as fast as it is read, a few milliseconds each, and whatever
 * the guest writes all the time is in every one of them.
 */
export class NewestPages {
  readonly #pages: readonly Map<number, Buffer | 'zero'>[];

  constructor(regions: readonly MemoryRegion[]) {
    this.#pages = regions.map(() => new Map());
  }

  /** Takes a page in; the content is copied. */
  put(region: number, offset: number, content: Uint8Array | 'zero'): void {
    const pages = this.#pages[region];
    if (pages === undefined) throw new MigrationError('internal', 'a page of no region');
    const before = pages.get(offset);
    if (content === 'zero') pages.set(offset, 'zero');
    else if (before === undefined || before === 'zero') pages.set(offset, Buffer.from(content));
    else before.set(content);
  }

  /** Gives out what it has, in the order of their addresses, and forgets it. */
  moveTo(page: (region: number, offset: number, content: Uint8Array | 'zero') => void): void {
    for (const [region, pages] of this.#pages.entries()) {
      for (const [offset, content] of [...pages].sort(([a], [b]) => a - b)) {
        page(region, offset, content);
        pages.delete(offset);
      }
    }
  }
}
