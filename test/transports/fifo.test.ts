// Goal: a Fifo is an array's push, shift and unshift. Method: random operations on both.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Fifo } from '../../src/transports/fifo.ts';

const operation = fc.record({
  kind: fc.constantFrom('push', 'shift', 'unshift', 'clear'),
  times: fc.integer({ min: 1, max: 1500 }),
});

test('does what an array does', () => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 12 }), (operations) => {
      const fifo = new Fifo<number>();
      let array: number[] = [];
      let next = 0;
      for (const { kind, times } of operations) {
        for (let time = 0; time < times; time++) {
          next += 1;
          if (kind === 'push') array.push(next);
          if (kind === 'push') fifo.push(next);
          if (kind === 'unshift') array.unshift(next);
          if (kind === 'unshift') fifo.unshift(next);
          if (kind === 'shift' && fifo.shift() !== array.shift()) throw new Error('another came first');
        }
        if (kind === 'clear') array = [];
        if (kind === 'clear') fifo.clear();
        expect([fifo.length, fifo.peek()]).toEqual([array.length, array[0]]);
      }
      const rest: (number | undefined)[] = [];
      while (fifo.length > 0) rest.push(fifo.shift());
      expect(rest).toEqual(array);
      expect(fifo.shift()).toBeUndefined();
    }),
    { numRuns: 50 },
  );
});
