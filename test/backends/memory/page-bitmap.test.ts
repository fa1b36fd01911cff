/**
 * Goal: the dirty marks are a set of page numbers. Method: random operations on a bitmap and on a `Set`,
 * which must agree.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PageBitmap } from '../../../src/backends/memory/page-bitmap.ts';

function pages(bitmap: PageBitmap): number[] {
  const found: number[] = [];
  for (let page = bitmap.nextSet(0); page !== -1; page = bitmap.nextSet(page + 1)) found.push(page);
  return found;
}

test('set, clear, setAll and setFrom agree with a set', () => {
  const operation = fc.tuple(fc.constantFrom('set', 'clear', 'setAll', 'setFrom'), fc.nat(199));
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 200 }),
      fc.array(operation, { maxLength: 60 }),
      (size, operations) => {
        const bitmap = new PageBitmap(size);
        let model = new Set<number>();
        for (const [what, number] of operations) {
          const page = number % size;
          if (what === 'set') {
            bitmap.set(page);
            model.add(page);
          } else if (what === 'clear') {
            bitmap.clear(page);
            model.delete(page);
          } else if (what === 'setAll' && number % 4 === 0) {
            bitmap.setAll();
            model = new Set(Array.from({ length: size }, (_, index) => index));
          } else if (what === 'setFrom') {
            const other = new PageBitmap(size);
            for (const each of [page, (page * 7) % size]) {
              other.set(each);
              model.add(each);
            }
            bitmap.setFrom(other);
          }
          expect(pages(bitmap)).toEqual([...model].sort((a, b) => a - b));
          expect(bitmap.count).toBe(model.size);
        }
      },
    ),
  );
});
