/** Goal: what lasts is told from what is so for a moment. Method: courses of looks. */
import { expect, it } from 'vitest';
import { Lasting } from '../../src/core/lasting.ts';

it('is so after two seconds without a break, and not while the level rises', () => {
  const lasting = new Lasting();
  expect(lasting.look(0, true, 100)).toBe(false);
  expect(lasting.look(1999, true, 109)).toBe(false);
  expect(lasting.look(2000, true, 90)).toBe(true);
  expect(lasting.look(2100, false, 90)).toBe(false);
  expect(lasting.look(2200, true, 90)).toBe(false);
  expect(lasting.look(4100, true, 100)).toBe(false);
  expect(lasting.look(6000, true, 100)).toBe(false);
  expect(lasting.look(6100, true, 100)).toBe(true);
});
