/** Goal: memory that was given back is given out again, and never to two at once, whoever gives back what. Method: random takings and givings, each buffer filled with its own number. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { BufferPool } from '../../src/util/buffer-pool.ts';

it('gives out again what came back, whatever length is asked for of the same power of two', () => {
  const pool = new BufferPool(1 << 20);
  const first = pool.take(70_000);
  expect(first).toHaveLength(70_000);
  pool.giveBack(first);
  const second = pool.take(100_000);
  expect(second).toHaveLength(100_000);
  expect(second.buffer).toBe(first.buffer);
  expect(pool.take(100_000).buffer).not.toBe(first.buffer);
});

it('keeps no more than it may', () => {
  const pool = new BufferPool(100_000);
  const given = [pool.take(65_536), pool.take(65_536)];
  for (const bytes of given) pool.giveBack(bytes);
  const memory = new Set(given.map(({ buffer }) => buffer));
  const again = [pool.take(65_536), pool.take(65_536)].filter(({ buffer }) => memory.has(buffer));
  expect(again).toHaveLength(1);
});

it('gives nothing out twice, also when parts come back, or the same twice, or what is not its own', () => {
  const step = fc.oneof(
    fc.record({ take: fc.integer({ min: 1, max: 20_000 }) }),
    fc.record({ give: fc.nat(), how: fc.constantFrom('whole', 'part', 'twice', 'foreign') }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const pool = new BufferPool(64 << 10);
      const held: Buffer[] = [];
      for (const [index, one] of steps.entries()) {
        if ('take' in one) {
          held.push(pool.take(one.take).fill(index));
          continue;
        }
        const bytes = held[one.give % Math.max(1, held.length)];
        if (bytes === undefined) continue;
        if (one.how === 'part') pool.giveBack(bytes.subarray(0));
        else if (one.how === 'foreign') pool.giveBack(Buffer.alloc(5000));
        else {
          pool.giveBack(bytes);
          if (one.how === 'twice') pool.giveBack(bytes);
          held.splice(held.indexOf(bytes), 1);
        }
      }
      const memory = held.map(({ buffer }) => buffer);
      expect(new Set(memory).size).toBe(memory.length);
      for (const bytes of held) expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
    }),
  );
});
