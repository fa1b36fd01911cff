import type { MemoryRegion } from '../../interfaces/memory.ts';
import { PAGE_BYTES } from './migration-stream.ts';

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
    if (content === 'zero') {
      pages?.set(offset, 'zero');
      return;
    }
    let page = pages?.get(offset);
    if (page === undefined || page === 'zero') {
      page = Buffer.allocUnsafe(PAGE_BYTES);
      pages?.set(offset, page);
    }
    page.set(content);
  }

  /** Gives out what it has, in the order of their addresses, and forgets it. */
  moveTo(page: (region: number, offset: number, content: Uint8Array | 'zero') => void): void {
    for (const [region, pages] of this.#pages.entries()) {
      const offsets = [...pages.keys()].sort((a, b) => a - b);
      for (const offset of offsets) page(region, offset, pages.get(offset) ?? 'zero');
      pages.clear();
    }
  }
}
